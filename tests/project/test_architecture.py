"""Layers of the package, as docs/architecture.md lists them: modules import lower layers only."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import Final

import pytest
from repository import ROOT

PACKAGE: Final = ROOT / "websuckets"
MAP: Final = ROOT / "docs" / "architecture.md"

MODULES: Final = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}


def layers() -> list[dict[str, str]]:
    """Return the files in each layer of the map with their purposes, the lowest layer first."""
    text = MAP.read_text().partition("## Layers")[2].partition("\n## ")[0]
    row = re.compile(r"^\| `([\w/]+\.py)` \| (.*) \|$", re.M)
    return [dict(row.findall(part)) for part in reversed(text.split("\n### ")[1:])]


LAYERS: Final = layers()
LAYER_OF: Final = {file: number for number, files in enumerate(LAYERS) for file in files}


def imports(file: str) -> Iterator[str]:
    """Yield the files of the package that a file imports, wherever in its text."""
    for node in ast.walk(ast.parse(MODULES[file].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE.name:
                yield file_of(name.split(".")[1:])


def file_of(parts: list[str]) -> str:
    """Return the file of a module, or of the module that a name is imported from."""
    path = "/".join(parts)
    for file in (f"{path}.py", f"{path}/__init__.py".lstrip("/")):
        if file in MODULES:
            return file
    return file_of(parts[:-1])


def package_of(file: str) -> str:
    """Return the package of a file within websuckets; a module of the root stands alone."""
    return file.partition("/")[0]


def test_every_module_is_on_the_map_once() -> None:
    listed = [file for files in LAYERS for file in files]
    assert sorted(listed) == sorted(MODULES)


def test_a_package_is_in_one_layer() -> None:
    for package in {package_of(file) for file in MODULES}:
        assert len({LAYER_OF[file] for file in MODULES if package_of(file) == package}) == 1


@pytest.mark.parametrize("file", sorted(MODULES))
def test_the_map_gives_the_purpose_that_a_module_gives(file: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[file].read_text())) or ""
    purpose = " ".join(docstring.partition("\n\n")[0].split())
    assert LAYERS[LAYER_OF[file]][file] == purpose


def test_the_map_names_no_file_that_is_not_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", MAP.read_text())
    assert {file for file in named if not file.startswith("tests/")} <= set(MODULES)


@pytest.mark.parametrize("file", sorted(MODULES))
def test_modules_import_lower_layers_and_their_own_package_only(file: str) -> None:
    for imported in imports(file):
        is_own = package_of(imported) == package_of(file)
        assert is_own or LAYER_OF[imported] < LAYER_OF[file], f"{file} imports {imported}"


def test_no_modules_import_each_other() -> None:
    TopologicalSorter({file: set(imports(file)) - {file} for file in MODULES}).prepare()


def test_only_transports_and_the_event_loop_module_know_asyncio() -> None:
    """Everything else runs on whichever event loop anyio does.

    The command line is a program of its own, which starts the event loops of others.
    """
    for file, path in MODULES.items():
        if package_of(file) not in ("transports", "cli") and file != "runtime/event_loop.py":
            assert not re.search(r"^\s*(import|from) asyncio", path.read_text(), re.M), file


MOST_LINES: Final = 250
MOST_METHODS: Final = 20

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


def classes(file: str) -> Iterator[ast.ClassDef]:
    """Yield the classes that a file defines, wherever in its text."""
    nodes = ast.walk(ast.parse(MODULES[file].read_text()))
    return (node for node in nodes if isinstance(node, ast.ClassDef))


def methods(cls: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the methods of a class: overloads, which have no code, are none."""
    return [
        node
        for node in cls.body
        if isinstance(node, FUNCTIONS)
        and not any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
    ]


def test_a_class_has_one_responsibility_of_bounded_size() -> None:
    """`WebSuckets` is what users see, and hands everything on."""
    too_large = {
        f"{file}: {cls.name}"
        for file in MODULES
        for cls in classes(file)
        if (cls.end_lineno or 0) - cls.lineno + 1 > MOST_LINES or len(methods(cls)) > MOST_METHODS
    }
    assert too_large == {"app.py: WebSuckets"}


@pytest.mark.slow
def test_methods_know_the_type_of_their_object() -> None:
    """A mixin that needs more than it has says what by its type."""
    found = {
        file
        for file in MODULES
        for cls in classes(file)
        for method in methods(cls)
        for argument in [*method.args.posonlyargs, *method.args.args][:1]
        if argument.annotation is not None and ast.unparse(argument.annotation) == "Any"
        if argument.arg == "self"
    }
    assert not found
