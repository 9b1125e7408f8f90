"""Errors of a program as the command line tells them: on standard error, with exit status 1."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Final, NoReturn

from dishka.exception_base import DishkaError

from websuckets.cli.loading import LoadError
from websuckets.cli.tracebacks import is_raised_by_the_server, traceback_of_the_program
from websuckets.exc import ConfigurationError

__all__ = ["FAILED", "failures_told", "inspecting", "serving"]

FAILED: Final = 1
"""Exit status of a command that failed; 2, of typer, is that of a command that is written wrongly.
"""


@contextmanager
def failures_told() -> Iterator[None]:
    """Return a context that tells why an app cannot start, and ends this process with status 1.

    A `LoadError`, a `ConfigurationError` and an error of dishka are reports that name places
    themselves: they are told without a traceback.
    """
    try:
        yield
    except (LoadError, ConfigurationError, DishkaError) as error:
        _end_with("\n".join([str(error), *getattr(error, "__notes__", ())]))


@contextmanager
def inspecting() -> Iterator[None]:
    """Return a context like `failures_told`, in which the program prints to standard error.

    Standard output is for what the command line itself prints, which others may parse.
    """
    with failures_told(), redirect_stdout(sys.stderr):
        yield


@contextmanager
def serving() -> Iterator[None]:
    """Return a context like `failures_told`, in which the program runs.

    A port or a file that cannot be opened is told without a traceback, too, and any other error by
    the frames of the program, such as those of its hooks.
    """
    try:
        with failures_told():
            yield
    except Exception as error:
        told = isinstance(error, OSError) and is_raised_by_the_server(error)
        _end_with(str(error) if told else traceback_of_the_program(error))


def _end_with(text: str) -> NoReturn:
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(FAILED)
