"""Tracebacks of errors, from which the frames above those of the program are left out."""

from types import TracebackType
from typing import Final

__all__ = ["begun_at_the_program", "leave_out_our_frames"]

_OURS: Final = ("websuckets", "dishka")
"""Packages between the program that starts an app and the functions that it gives to the app."""


def begun_at_the_program(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames of ours and of dishka at its beginning.

    Return the whole traceback if it has no other frames.
    """
    first = traceback
    while first is not None and _is_ours(first):
        first = first.tb_next
    return traceback if first is None else first


def leave_out_our_frames(error: BaseException) -> None:
    """Remove the traceback of an error that we or dishka raised.

    To raise the error again begins another traceback, without frames that tell users nothing.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None and _is_ours(last):
        error.__traceback__ = None


def _is_ours(traceback: TracebackType) -> bool:
    frame = traceback.tb_frame
    module = frame.f_globals.get("__name__", "") or ""
    return module.partition(".")[0] in _OURS or frame.f_code.co_filename.startswith(GENERATED)


GENERATED: Final = "<dependencies of "
"""Beginning of the names that functions have which `websuckets.di.resolver` writes."""
