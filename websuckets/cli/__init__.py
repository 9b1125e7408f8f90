"""The command line, ``websuckets``; needs the extra ``cli``."""

import sys
from typing import Final

__all__ = ["main"]

EXTRA: Final = ("rich", "typer", "watchfiles")
"""Packages that the extra ``cli`` brings along."""


def main() -> None:
    """Run the command line with the arguments of this process, and end the process.

    Without the extra ``cli``, the process ends with exit status 1 and a line that tells how to get
    it.
    """
    try:
        from websuckets.cli.program import program
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in EXTRA:
            raise
        sys.exit(
            f"websuckets: {missing} is missing, which the command line needs: install "
            'websuckets with its extra "cli", from a checkout by: pip install ".[cli]"'
        )
    program(prog_name="websuckets")  # also for `python -m`, so that shell completion finds it
