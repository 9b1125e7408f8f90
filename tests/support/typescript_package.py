"""Copy of the npm package in ``clients/typescript``, with its dependencies, built."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from repository import ROOT

PACKAGE: Final = ROOT / "clients" / "typescript"
MINUTES: Final = 60


class Package:
    """A copy of the package in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = str(folder / "node_modules/node/bin/node")
        """Node of a version that the package supports, whichever is installed."""

    def run(self, *command: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command in the folder, and return what it has written and its status."""
        options = {"timeout": 4 * MINUTES, "cwd": self.folder, **options}
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", **options
        )

    def tool(self, name: str, *arguments: str, **options: Any) -> str:
        """Run a program of the dependencies; return what it has written.

        Raises `AssertionError`, with that, if it fails.
        """
        result = self.run(str(self.folder / "node_modules/.bin" / name), *arguments, **options)
        assert result.returncode == 0, f"{name} {' '.join(arguments)}\n{result.stdout}"
        return result.stdout

    def script(self, *arguments: str, **options: Any) -> str:
        """Run a program in Node; return what it has written. Raises `AssertionError`."""
        result = self.run(self.node, *arguments, **options)
        assert result.returncode == 0, f"node {' '.join(arguments)}\n{result.stdout}"
        return result.stdout


@cache
def built_in(folder: Path) -> Package:
    """Return the package, copied into the folder, with its dependencies there, and built."""
    npm = shutil.which("npm")
    assert npm is not None
    is_installed = (folder / "node_modules").is_dir() and _text(folder / "package.json") == _text(
        PACKAGE / "package.json"
    )
    for name in ("src", "test", "dist"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(PACKAGE, folder, dirs_exist_ok=True)
    package = Package(folder)
    if not is_installed:
        (folder / "package.json").unlink()
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        shutil.copy(PACKAGE / "package.json", folder)
        result = package.run(npm, "install", "--no-audit", "--no-fund", timeout=8 * MINUTES)
        if result.returncode != 0:
            (folder / "package.json").unlink()  # so that the next run tries again
            raise RuntimeError(result.stdout)
    package.tool("tsc", "-p", "tsconfig.build.json")
    return package


def built(config: pytest.Config) -> Package:
    """Return the package, which is installed once and kept beside the checkout, and built anew.

    Skips the test where Node or npm is missing.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is missing")
    assert config.cache is not None
    return built_in(config.cache.mkdir("typescript_package"))


def _text(file: Path) -> str | None:
    return file.read_text("utf-8") if file.exists() else None
