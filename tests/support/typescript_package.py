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


RUNTIMES: Final = {"bun": "1.4.5", "deno": "2.9.6"}
"""Versions of other runtimes, which are packages of npm, each of a hundred megabytes."""


@cache
def runtime_in(folder: Path, name: str) -> str | None:
    """Return the program of another runtime, installed in the folder, or ``None`` without one."""
    npm = shutil.which("npm")
    assert npm is not None
    program = folder / "node_modules/.bin" / name
    if not program.exists():
        wanted = f"{name}@{RUNTIMES[name]}"
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), wanted]
        subprocess.run(command, capture_output=True, timeout=8 * MINUTES, check=False)
    if not program.exists():
        return None
    found = subprocess.run([program, "--version"], capture_output=True, check=False)
    return str(program) if found.returncode == 0 else None


def runtime(config: pytest.Config, name: str) -> str:
    """Return the program of another runtime, which is installed once and kept.

    Skips the test where this machine cannot run the program.
    """
    assert config.cache is not None
    found = runtime_in(config.cache.mkdir(f"typescript_{name}"), name)
    if found is None:
        pytest.skip(f"{name} cannot be installed from npm, or does not run here")
    return found


def _text(file: Path) -> str | None:
    return file.read_text("utf-8") if file.exists() else None
