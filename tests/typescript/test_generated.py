"""Generated TypeScript clients: they compile, and reject what the server would reject."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from awkward_registry import app as awkward
from harness import EXAMPLES, load
from repository import ROOT
from typescript_package import Package

from websuckets import WebSuckets
from websuckets.client_generation import read_document, typescript_client

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600), pytest.mark.on_asyncio]

STRICT: Final = {
    "compilerOptions": {
        "target": "ES2022",
        "module": "NodeNext",
        "lib": ["ES2023", "DOM"],
        "types": [],
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "noUncheckedIndexedAccess": True,
        "noUnusedLocals": True,
        "noUnusedParameters": True,
        "erasableSyntaxOnly": True,
        "isolatedModules": True,
        "verbatimModuleSyntax": True,
        "noEmit": True,
    },
    "include": ["*.ts"],
}

TYPES: Final = ROOT / "tests" / "typescript" / "types.ts"


def source_of(app: WebSuckets) -> str:
    document: Any = json.loads(json.dumps(app.asyncapi()))
    return str(typescript_client(read_document(document)))


def folder_in(package: Package, name: str) -> Path:
    """Return an empty folder within the package, where its own name is that of the package."""
    folder = package.folder / "generated" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    (folder / "tsconfig.json").write_text(json.dumps(STRICT))
    return folder


def test_clients_of_all_examples_and_of_the_awkward_app_compile(package: Package) -> None:
    folder = folder_in(package, "examples")
    (folder / "awkward.ts").write_text(source_of(awkward))
    for file in EXAMPLES.glob("*.py"):
        if not file.stem.startswith("test_"):
            app = [one for one in vars(load(file.stem)).values() if isinstance(one, WebSuckets)][-1]
            (folder / f"{file.stem}.ts").write_text(source_of(app))
    assert len(list(folder.glob("*.ts"))) > 5
    package.tool("tsc", "-p", str(folder))


def test_types_reject_what_the_server_would_reject(package: Package) -> None:
    """Expect an error at each line that is said to be wrong, and no other one."""
    folder = folder_in(package, "types")
    (folder / "awkward.ts").write_text(source_of(awkward))
    (folder / "board.ts").write_text(source_of(load("board").app))
    text = TYPES.read_text()
    assert text.count("@ts-expect-error") > 5
    (folder / "types.ts").write_text(text)
    package.tool("tsc", "-p", str(folder))


def test_a_client_is_written_and_checked_by_the_command_line(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "websuckets", "client", "typescript"]
    document = tmp_path / "asyncapi.json"
    document.write_text(json.dumps(load("board").app.asyncapi()))
    file = tmp_path / "api.ts"
    app = ["board:app", "--app-dir", str(EXAMPLES)]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*program, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert run(*app, "-o", str(file)).returncode == 0
    assert "export class Api" in file.read_text()
    assert run("--from", str(document), "-o", str(file), "--check").returncode == 0
    file.write_text(file.read_text().replace("noteAdd = ", "noteAdded = "))
    checked = run(*app, "-o", str(file), "--check")
    assert checked.returncode == 1
    assert "new: Api.noteAdd\ngone: Api.noteAdded\n" in checked.stderr
