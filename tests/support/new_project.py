"""Projects that `websuckets new` writes, and programs that run in them."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from repository import ROOT
from timeouts import TIMEOUT

FILES: Final = {
    ".dockerignore",
    ".gitignore",
    "Dockerfile",
    "README.md",
    "deploy/help-desk.service",
    "deploy/nginx.conf",
    "help_desk/__init__.py",
    "help_desk/accounts.py",
    "help_desk/database.py",
    "help_desk/main.py",
    "help_desk/models.py",
    "help_desk/settings.py",
    "help_desk/tickets.py",
    "pyproject.toml",
    "tests/conftest.py",
    "tests/test_accounts.py",
    "tests/test_tickets.py",
}
"""Files of a project help-desk."""


def files(directory: Path) -> dict[str, str]:
    """Return the texts of all files in a directory by their paths within it."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_text() for path in paths}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program that imports the package of this checkout."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))
    }
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """Run a program, and return its output; fail with the output if the program fails."""
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@contextmanager
def running(*command: str | Path, cwd: Path, until: str, **more: str) -> Iterator[None]:
    """Run a program meanwhile, from the line of its log that contains ``until``."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    log: list[str] = []
    try:
        for line in process.stdout:
            log.append(line)
            if until in line:
                break
        else:
            pytest.fail("".join(log))
        reader = threading.Thread(target=lambda: log.extend(process.stdout or ()))
        reader.start()  # so that the process never waits for a reader of its log
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0, "".join(log)
        reader.join(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
