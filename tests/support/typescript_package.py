"""Copy of the npm package in ``clients/typescript``, with its dependencies, built."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
def built_in(folder: Path, name: str) -> Package:
    """Return a copy of the package, built, with its dependencies.

    The dependencies are installed once in ``folder``, and the copies, which processes that run at
    the same time have each for itself, link to them by their ``name``.
    """
    with alone_in(folder):
        _install(folder)
    copy = folder / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (copy / "node_modules").symlink_to(folder / "node_modules")
    package = Package(copy)
    package.tool("tsc", "-p", "tsconfig.build.json")
    return package


def _install(folder: Path) -> None:
    """Install the dependencies, unless those of this ``package.json`` are there already."""
    settings = folder / "package.json"
    is_installed = (folder / "node_modules").is_dir() and _text(settings) == _text(
        PACKAGE / "package.json"
    )
    if not is_installed:
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        shutil.copy(PACKAGE / "package.json", settings)
        command = [_npm(), "install", "--no-audit", "--no-fund"]
        result = Package(folder).run(*command, timeout=8 * MINUTES)
        if result.returncode != 0:
            settings.unlink()  # so that the next run tries again
            raise RuntimeError(result.stdout)


def built(config: pytest.Config) -> Package:
    """Return the package, whose dependencies are installed once and kept, and which is built anew.

    Skips the test where Node or npm is missing.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is missing")
    assert config.cache is not None
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    return built_in(config.cache.mkdir("typescript_package"), worker)


RUNTIMES: Final = {"bun": "1.4.5", "deno": "2.9.6"}
"""Versions of other runtimes, which are packages of npm, each of a hundred megabytes."""


@cache
def runtime_in(folder: Path, name: str) -> str | None:
    """Return the program of another runtime, installed in the folder, or ``None`` without one."""
    program = folder / "node_modules/.bin" / name
    with alone_in(folder):
        if not program.exists():
            wanted = f"{name}@{RUNTIMES[name]}"
            command = [_npm(), "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run(
                [*command, wanted], capture_output=True, timeout=8 * MINUTES, check=False
            )
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


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time install something in a folder."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _npm() -> str:
    npm = shutil.which("npm")
    assert npm is not None
    return npm


def _text(file: Path) -> str | None:
    return file.read_text("utf-8") if file.exists() else None
