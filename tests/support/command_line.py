"""The command line, run in this process or in one of its own, for a project of a test."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Final

from timeouts import TIMEOUT
from typer.testing import CliRunner

from websuckets.cli.program import program

WIDTHS: Final = ("COLUMNS", "FORCE_COLOR", "TERMINAL_WIDTH", "TTY_COMPATIBLE")
"""Variables that say how wide, and how colourful, a terminal is that is not there."""

NO_WIDTHS: Final = dict.fromkeys(WIDTHS)


class Project:
    """A directory with the files of a program."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, **files: str) -> None:
        """Write modules, by their names without ``.py``."""
        for name, text in files.items():
            self.write_file(f"{name}.py", text)

    def write_file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), "utf-8")
        return path

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in this process, which is faster, and return how it ended.

        The project has to be the current directory, as with the fixture ``project``.
        """
        client_log = logging.getLogger("websuckets.client")
        level = client_log.level
        try:
            result = CliRunner().invoke(program, arguments, prog_name="websuckets", env=NO_WIDTHS)
        finally:
            client_log.setLevel(level)  # ``call`` and ``watch`` set it for their own process
        return subprocess.CompletedProcess(
            arguments, result.exit_code, result.stdout, result.stderr
        )

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``websuckets`` in the project, in a process of its own, and return how it ended."""
        environment = {key: value for key, value in os.environ.items() if key not in WIDTHS}
        return subprocess.run(
            [sys.executable, "-m", "websuckets", *arguments],
            cwd=self.directory,
            env={**environment, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=5 * TIMEOUT,
            check=False,
        )
