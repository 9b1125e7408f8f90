"""Tracebacks of errors, from which frames above those of the program are left out."""

from types import TracebackType
from typing import Final

from dishka.exception_base import DishkaError

from websuckets.exc import ConfigurationError

__all__ = ["begun_at_the_program", "leave_out_our_frames"]

BETWEEN: Final = ("anyio", "asyncio", "contextlib", "dishka", "importlib", "trio", "websuckets")
"""Packages between a program that starts an app and the functions that it gives to the app."""

GENERATED: Final = "<"
"""Beginning of the file names of generated functions, of dishka and `websuckets.di.resolver`."""

TOLD: Final = (ConfigurationError, DishkaError, OSError)
"""Errors whose texts name a place themselves."""


def begun_at_the_program(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame of the program; the whole one if it has none."""
    return _first_of_the_program(traceback) or traceback


def leave_out_our_frames(error: BaseException) -> None:
    """Remove the frames above those of the program from the traceback of an error.

    An error without frames of the program loses them all if its text names a place. To raise the
    error again adds the frames from there on.
    """
    first = _first_of_the_program(error.__traceback__)
    if first is not None or isinstance(error, TOLD):
        error.__traceback__ = first


def _first_of_the_program(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and _is_between(traceback):
        traceback = traceback.tb_next
    return traceback


def _is_between(traceback: TracebackType) -> bool:
    frame = traceback.tb_frame
    module: str = frame.f_globals.get("__name__") or ""
    return module.partition(".")[0] in BETWEEN or frame.f_code.co_filename.startswith(GENERATED)
