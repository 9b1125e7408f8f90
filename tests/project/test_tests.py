"""Test modules are short, stand under the name of the package that they test, and hold tests."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from repository import ROOT, SUPPORT

TESTS: Final = ROOT / "tests"
PACKAGE: Final = ROOT / "websuckets"
TYPING: Final = TESTS / "typing"

MODULES: Final = sorted(TESTS.rglob("*.py"))
TEST_MODULES: Final = [path for path in MODULES if path.name.startswith("test_")]

MOST_LINES: Final = 600
PROGRAMS: Final = {TESTS / "chaos.py"}
"""Modules that are run by themselves, and by a test module named like them."""

LEAST_WORDS: Final = 3
"""Words in the name of a test, without ``test``: fewer name a topic, but state no expectation."""


def name_of(path: Path) -> str:
    """Return the path of a module or folder within the folder of tests."""
    return path.relative_to(TESTS).as_posix()


@cache
def collected_from(path: Path) -> list[str]:
    """Return the names of the functions that pytest collects from a module."""
    return list(functions_in(ast.parse(path.read_text()).body))


def functions_in(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names of test functions, with those in classes of tests."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test"):
                yield node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from functions_in(node.body)


def test_no_module_of_the_tests_has_more_than_600_lines() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_folders_of_test_modules_are_named_like_packages() -> None:
    packages = {
        path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")
    }
    folders = {name_of(path.parent) for path in TEST_MODULES}
    assert folders - packages - {"project", "typing", "typescript", "support"} == set()


def test_every_module_beside_the_helpers_holds_tests() -> None:
    """A `conftest.py` holds fixtures, and the folder `typing` holds files for type checkers."""
    elsewhere = [
        path
        for path in MODULES
        if path.name != "conftest.py"
        and not path.is_relative_to(SUPPORT)
        and not path.is_relative_to(TYPING)
        and path not in PROGRAMS
    ]
    assert {name_of(path) for path in elsewhere if path not in TEST_MODULES} == set()
    assert {name_of(path) for path in TEST_MODULES if not collected_from(path)} == set()


def test_names_of_tests_have_enough_words_to_state_an_expectation() -> None:
    short = {
        f"{name_of(path)}::{test}"
        for path in TEST_MODULES
        for test in collected_from(path)
        if len(test.removeprefix("test_").split("_")) < LEAST_WORDS
    }
    assert short == set()
