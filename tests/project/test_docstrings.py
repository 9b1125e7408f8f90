"""Docstrings and comments are plain English, and public functions state what a caller must know."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any

import pytest
from repository import ROOT

PACKAGE = ROOT / "websuckets"

PUBLIC = [
    "websuckets",
    *(f"websuckets.{path.stem}" for path in sorted(PACKAGE.glob("[a-z]*.py"))),
    "websuckets.client",
    "websuckets.di",
    "websuckets.redis",
    "websuckets.sql",
]
"""Modules that the documentation imports."""

FIRST_WORDS = re.compile(r"(What|Who|Whose|Whether|The same|As|Of|How|That of)\b")
RESULT = re.compile(r"\b(return|yield|tell|true if|await)", re.IGNORECASE)


@cache
def docstrings() -> list[tuple[str, str]]:
    """Return each docstring of the package with its place; those of attributes are among them."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            body = getattr(node, "body", None)
            for statement in body if isinstance(body, list) else ():
                match statement:
                    case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                        found.append((f"{path.relative_to(PACKAGE)}:{line}", text))
    return found


@cache
def prose() -> list[tuple[str, str]]:
    """Return docstrings and comments of the package with their places."""
    found = docstrings().copy()
    for path in sorted(PACKAGE.rglob("*.py")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.COMMENT:
                found.append((f"{path.relative_to(PACKAGE)}:{token.start[0]}", token.string))
    return found


def public_functions() -> Iterator[Any]:
    """Yield a test parameter for each function and method that programs may call."""
    seen = set()
    for module in map(importlib.import_module, PUBLIC):
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if id(thing) in seen or not getattr(thing, "__module__", "").startswith("websuckets"):
                continue
            seen.add(id(thing))
            if isinstance(thing, FunctionType):
                yield pytest.param(None, thing, id=name)
            elif inspect.isclass(thing):
                for attribute, value in vars(thing).items():
                    function = getattr(value, "__func__", value)
                    if isinstance(function, FunctionType) and not attribute.startswith("_"):
                        yield pytest.param(thing, function, id=f"{name}.{attribute}")


@cache
def protocols() -> list[type]:
    """Return the protocols of public modules, whose methods are documented there alone."""
    modules = map(importlib.import_module, PUBLIC)
    things = [thing for module in modules for thing in vars(module).values()]
    return [thing for thing in things if inspect.isclass(thing) and is_protocol(thing)]


def is_protocol(thing: type) -> bool:
    return bool(getattr(thing, "_is_protocol", False))


def methods_of(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def documentation(owner: type | None, function: FunctionType) -> str:
    """Return the docstring of a function, or that of the protocol's method that it implements."""
    own = inspect.getdoc(inspect.unwrap(function))
    if own or owner is None:
        return own or ""
    for protocol in protocols():
        method = vars(protocol).get(function.__name__)
        if method is not None and all(hasattr(owner, name) for name in methods_of(protocol)):
            return inspect.getdoc(method) or ""
    return ""


def test_a_docstring_begins_with_a_verb_or_a_kind_of_thing() -> None:
    wrong = [place for place, text in docstrings() if FIRST_WORDS.match(text.strip())]
    assert len(docstrings()) > 1000
    assert wrong == []


def test_docstrings_and_comments_name_things_by_nouns() -> None:
    """The word "what" stands for a noun less than 3 times in 1,000 words."""
    words = sum(len(text.split()) for _, text in prose())
    places = [
        place for place, text in prose() for _ in re.findall(r"\bwhat\b", text, re.IGNORECASE)
    ]
    assert len(places) / words < 0.003, places


def test_docstrings_and_comments_negate_verbs() -> None:
    """They say "is not a", rather than "is no"."""
    assert [place for place, text in prose() if re.search(r"\bis\s+no\b", text)] == []


@pytest.mark.parametrize(("owner", "function"), list(public_functions()))
def test_a_public_function_states_its_arguments_and_its_result(
    owner: type | None, function: FunctionType
) -> None:
    text = documentation(owner, function)
    signature = inspect.signature(inspect.unwrap(function))
    names = [name for name in signature.parameters if name not in ("self", "cls")]
    assert text, "there is no docstring"
    assert [name for name in names if not re.search(rf"\b{name.strip('_')}\b", text)] == []
    if signature.return_annotation not in (None, "None", inspect.Signature.empty):
        assert RESULT.search(text), text
