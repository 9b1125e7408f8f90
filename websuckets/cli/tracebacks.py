"""Tracebacks of errors in a program, without the frames that are not the program's."""

import os
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from traceback import FrameSummary, TracebackException
from typing import Final

__all__ = ["has_frames_of_the_program", "is_raised_by_the_server", "traceback_of_the_program"]

_LEFT_OUT: Final = (
    str(Path(__file__).parent.parent / "_").removesuffix("_"),
    import_module.__code__.co_filename,
)
"""Beginnings of file names: our package, and `importlib`."""

_FROZEN: Final = "<frozen importlib"
"""Beginning of the file names that the parts of `importlib` have which are in the interpreter."""

_PYTHON: Final = os.path.join(os.path.dirname(os.__file__), "")
"""Folder of Python's own modules."""

_LIBRARIES: Final = ("anyio", "trio", "websockets")
"""Packages below our server; trio may not be installed."""

_UVLOOP: Final = "uvloop/"
"""Beginning of the names of files in uvloop, which is compiled."""


def traceback_of_the_program(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it, without our frames and `importlib`'s.

    The frames of an event loop that lead to the program are left out, too. The result has the
    errors that led to the error, and ends without a line break.
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
    stack = TracebackException.from_exception(error).stack
    return all(_is_of_the_server(frame) or not _is_of_the_program(frame) for frame in stack)


def _strip(traceback: TracebackException) -> None:
    for part in _parts(traceback):
        frames = list(filter(_is_of_the_program, part.stack))
        # Without any frame of the program, those of the server are all that tells of the place.
        part.stack[:] = list(dropwhile(_is_of_the_server, frames)) or frames


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


def _is_of_the_server(frame: FrameSummary) -> bool:
    """Tell whether a frame is Python's own, or that of a library below our server."""
    file = frame.filename
    if file.startswith(_PYTHON):  # where installed packages have a folder, too
        return "-packages" not in file.removeprefix(_PYTHON)
    return file.startswith(_UVLOOP) or any(map(file.startswith, _folders_of_the_libraries()))


def _folders_of_the_libraries() -> Iterator[str]:
    for name in _LIBRARIES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            yield os.path.join(os.path.dirname(file), "")


def _is_of_the_program(frame: FrameSummary) -> bool:
    return not (frame.filename.startswith(_FROZEN) or frame.filename.startswith(_LEFT_OUT))
