"""Tracebacks of errors in a program, without the frames that are not the program's."""

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from traceback import FrameSummary, TracebackException, walk_tb
from types import FrameType
from typing import Final

__all__ = ["has_frames_of_the_program", "is_raised_by_the_server", "traceback_of_the_program"]

_LEFT_OUT: Final = (
    str(Path(__file__).parent.parent / "_").removesuffix("_"),
    import_module.__code__.co_filename,
)
"""Beginnings of file names: our package, and `importlib`."""

_FROZEN: Final = "<frozen importlib"
"""Beginning of the file names that the parts of `importlib` have which are in the interpreter."""

_SERVER: Final = ("anyio", "trio", "uvloop", "websockets", "websuckets")
"""Packages of a server."""

_PYTHON: Final = os.path.dirname(os.__file__)
"""Folder of Python's own modules; installed packages may stand in a folder within it."""


def traceback_of_the_program(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it, without our frames and `importlib`'s.

    The result has the errors that led to the error, too, and ends without a line break.
    """
    traceback = TracebackException.from_exception(error)
    _strip(traceback)
    lines = traceback.format() if _shows_places(traceback) else traceback.format_exception_only()
    return "".join(lines).rstrip("\n")


def has_frames_of_the_program(error: BaseException) -> bool:
    """Tell whether the error passed through code of the program on its way."""
    return any(map(_is_of_the_program, TracebackException.from_exception(error).stack))


def is_raised_by_the_server(error: BaseException) -> bool:
    """Tell whether the error passed through a server alone: ours, and the libraries below it."""
    return all(map(_is_of_the_server, [frame for frame, _ in walk_tb(error.__traceback__)]))


def _strip(traceback: TracebackException) -> None:
    for part in _parts(traceback):
        part.stack[:] = filter(_is_of_the_program, part.stack)


def _shows_places(traceback: TracebackException) -> bool:
    """Return false for an error without any frame, as a `SyntaxError`, which tells its place."""
    return any(part.stack for part in _parts(traceback))


def _parts(traceback: TracebackException) -> Iterable[TracebackException]:
    """Return an error with those that led to it, and those that it groups."""
    parts = [traceback]
    for part in parts:  # which becomes longer meanwhile
        others = (part.__cause__, part.__context__, *(part.exceptions or ()))
        parts.extend(other for other in others if other is not None)
    return parts


def _is_of_the_server(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    if package in _SERVER:
        return True
    file = frame.f_code.co_filename  # a program may have a module with the name of one of Python's
    return file.startswith(_PYTHON) and "-packages" not in file.removeprefix(_PYTHON)


def _is_of_the_program(frame: FrameSummary) -> bool:
    return not (frame.filename.startswith(_FROZEN) or frame.filename.startswith(_LEFT_OUT))
