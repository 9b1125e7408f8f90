"""Generated TypeScript clients: they compile, and reject what the server would reject."""

import json
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
