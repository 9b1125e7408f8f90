"""Documents as the official parser of AsyncAPI reads them: https://github.com/asyncapi/parser-js"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from awkward_registry import app as awkward
from harness import EXAMPLES, load

from websuckets import WebSuckets

pytestmark = pytest.mark.heavy

PARSER: Final = Path(__file__).parents[1] / "support" / "asyncapi_parser"
HINT: Final = 2
"""Severity from which on a diagnostic is information, and no warning."""

MINUTES: Final = 60


def documents() -> dict[str, Any]:
    """Return the document of each example, and of an app that is awkward, by name."""
    found = {"awkward": awkward.asyncapi()}
    for file in sorted(EXAMPLES.glob("*.py")):
        if file.stem.startswith("test_"):
            continue
        apps = [app for app in vars(load(file.stem)).values() if isinstance(app, WebSuckets)]
        assert apps, f"{file.name} has no app"
        found[file.stem] = apps[-1].asyncapi()
    return found


@pytest.fixture
def parser(pytestconfig: pytest.Config) -> Path:
    """Return a directory with the parser, which is installed once and kept beside the checkout."""
    if shutil.which("node") is None or (npm := shutil.which("npm")) is None:
        pytest.skip("node or npm is missing")
    cache = pytestconfig.cache
    assert cache is not None
    directory: Path = cache.mkdir("asyncapi_parser")
    for file in PARSER.iterdir():
        shutil.copy(file, directory)
    if not (directory / "node_modules" / "@asyncapi" / "parser").is_dir():
        install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(
            [*install, "--no-package-lock"], cwd=directory, check=True, timeout=5 * MINUTES
        )
    return directory


@pytest.mark.timeout(8 * MINUTES)
def test_the_official_parser_finds_nothing_wrong(parser: Path) -> None:
    """Expect neither an error nor a warning, and the operations of the document."""
    expected = documents()
    texts = {name: json.dumps(document) for name, document in expected.items()}
    result = subprocess.run(
        ["node", "parse.mjs"],
        cwd=parser,
        input=json.dumps(texts),
        capture_output=True,
        encoding="utf-8",
        timeout=2 * MINUTES,
        check=True,
    )
    found = json.loads(result.stdout)
    wrong = {
        name: [d for d in parsed["diagnostics"] if d["severity"] < HINT]
        for name, parsed in found.items()
    }
    assert wrong.keys() == expected.keys() and not any(wrong.values()), wrong
    for name, document in expected.items():
        assert sorted(found[name]["operations"]) == sorted(document["operations"])


@pytest.mark.timeout(8 * MINUTES)
def test_the_official_parser_finds_what_is_wrong(parser: Path) -> None:
    """Expect that the parser looks at the document: a reference that leads nowhere is found."""
    document = awkward.asyncapi()
    del document["components"]["schemas"]["Awkward-Input"]
    result = subprocess.run(
        ["node", "parse.mjs"],
        cwd=parser,
        input=json.dumps({"wrong": json.dumps(document)}),
        capture_output=True,
        encoding="utf-8",
        timeout=2 * MINUTES,
        check=True,
    )
    (parsed,) = json.loads(result.stdout).values()
    assert any(d["severity"] < HINT for d in parsed["diagnostics"])
