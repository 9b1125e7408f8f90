"""Detection of code that blocks an event loop, while it does, and of the command that ran it.

A handler that calls a blocking function holds up every client, and nothing else tells: the clock of
the app stands still meanwhile (see `websuckets.runtime.clock`), so nothing is late. The code can be
named only while it runs. So a task of each app notes the time every `STEP` seconds, and a thread,
one for all apps of the process, compares: where the last note is too old, the thread looks at what
the thread of the event loop executes, and logs it. A command costs nothing: its name is found in
the frames on the stack.

A time that is measured afterwards, in the event loop alone, was rejected: it would tell how long
the loop was blocked, and not by what. So was a message to the event loop that it has to answer,
which costs a wake-up of a thread each way.

Code in C that does not release the interpreter, as a regular expression, stops this thread, too;
the thread then finds that it was itself late, and cannot tell such code from a process that was
suspended: it says nothing.
"""

import logging
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Final

import anyio

__all__ = ["report_blocked_loop"]

logger: logging.Logger = logging.getLogger("websuckets")

BLOCKED: Final = 0.5
"""Seconds without a step of the event loop that are reported."""

STEP: Final = 0.1
"""Seconds between two notes of the time, and between two looks at them."""

NOT_THE_PROGRAMS: Final = tuple(
    str(path)
    for path in (
        Path(__file__).parent.parent,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)
"""Beginnings of the files of this package, of Python, and of installed packages."""

CommandOf = Callable[[FrameType], str | None]
"""Function that returns the name of the command which a frame runs; ``None`` for other frames."""


async def report_blocked_loop(command_of: CommandOf) -> None:
    """Log what blocks the running event loop for more than `BLOCKED` seconds; never returns.

    ``command_of`` is called in another thread.
    """
    loop = _Loop(threading.get_ident(), command_of)
    _monitor.add(loop)
    try:
        while True:
            loop.stepped_at = monotonic()
            await anyio.sleep(STEP)
    finally:
        _monitor.remove(loop)


class _Loop:
    """An event loop, and the time of its last step."""

    def __init__(self, thread: int, command_of: CommandOf) -> None:
        self.thread = thread
        self.command_of = command_of
        self.stepped_at = monotonic()
        self.is_reported = False

    def check(self) -> None:
        """Report the loop if it is blocked, once each time."""
        if monotonic() - self.stepped_at < STEP + BLOCKED:
            self.is_reported = False
        elif not self.is_reported:
            self.is_reported = True
            logger.warning(
                "the event loop has been blocked for more than %g seconds%s: all clients wait; "
                "let a thread run what blocks, `await anyio.to_thread.run_sync(function)`",
                BLOCKED,
                self._by_what(),
            )

    def _by_what(self) -> str:
        frames = list(_frames(sys._current_frames().get(self.thread)))
        own = [frame for frame in frames if not _is_foreign(frame)]
        place = next(iter(own or frames), None)
        command = next(filter(None, map(self.command_of, frames)), None)
        by = "" if command is None else f" by the command {command!r}"
        if place is None:
            return by
        return (
            f"{by}, in {place.f_code.co_name} ({place.f_code.co_filename}, line {place.f_lineno})"
        )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frame, and those that have called it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_foreign(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith(NOT_THE_PROGRAMS) or name.startswith("<frozen")


class _Monitor:
    """The thread that looks at the event loops, for as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: set[_Loop] = set()
        self._thread: threading.Thread | None = None

    def add(self, loop: _Loop) -> None:
        with self._lock:
            self._loops.add(loop)
            if self._thread is None or not self._thread.is_alive():  # as in a process that forked
                self._thread = threading.Thread(
                    target=self._run, name="websuckets loop monitor", daemon=True
                )
                self._thread.start()

    def remove(self, loop: _Loop) -> None:
        with self._lock:
            self._loops.discard(loop)

    def _run(self) -> None:
        looked_at = monotonic()
        while True:
            sleep(STEP)
            was_late = monotonic() - looked_at > STEP + BLOCKED / 2
            looked_at = monotonic()
            with self._lock:
                if not self._loops:
                    self._thread = None
                    return
                loops = list(self._loops)
            if not was_late:  # else the whole process may have stood still
                for loop in loops:
                    loop.check()


_monitor: Final = _Monitor()
