"""An app that is the program itself: console log, signals, end of the process."""

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

import anyio

from websuckets.runtime.event_loop import ASYNCIO_ENDS, event_loop_has_ended, threadsafe
from websuckets.serving.signals import STDERR, listen, stop_listening

__all__ = ["Program", "console_logging"]

logger: logging.Logger = logging.getLogger("websuckets")

TIME_TO_SAY: Final = 1
"""Seconds that writing to the log may take before the process is ended in any case."""

PYTHON_ENDS: Final = getattr(threading, "_shutdown", ASYNCIO_ENDS)
"""Function in which Python waits for threads at exit; the function has no public name."""


@contextmanager
def console_logging(*, shows_process: bool = False) -> Iterator[None]:
    """Show the server's log on stderr, in a program that has not set up logging.

    ``shows_process`` puts the number of the process into each line, where several processes log.
    """
    logger = logging.getLogger("websuckets")
    if logger.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    process = " [%(process)d]" if shows_process else ""
    lines = f"%(asctime)s{process} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(lines))
    level = logger.level
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Program:
    """An app that is the program itself, from its start to its end; used as a context.

    SIGINT and SIGTERM stop the app. Until the app has started the signals cancel ``starting``, the
    cancel scope of all that is done in the context. ``time_to_stop`` is the number of seconds that
    the app may take to stop; after that the process is ended with exit code 1, if the context was
    not left, or if the event loop or Python itself cannot end because of a thread that runs.
    Outside of the main thread no signals are received, and nothing is ended.
    """

    def __init__(self, starting: anyio.CancelScope, time_to_stop: float) -> None:
        self._starting: anyio.CancelScope | None = starting
        self._time_to_stop = time_to_stop
        self._what_runs: Callable[[], str] = str
        self._has_signal = anyio.Event()
        self._has_left = False
        self._stop_in_loop = threadsafe(self._stop)
        self._loop_has_ended = event_loop_has_ended()

    def __enter__(self) -> Self:
        self._listens = listen(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._has_left = True
        if self._listens:
            stop_listening(self)

    async def wait_for_signal(self, time_to_stop: float, what_runs: Callable[[], str]) -> None:
        """Wait for a signal, once the app has started.

        If the process has to be ended, ``what_runs`` gives the log the names of running commands.
        """
        self._time_to_stop, self._what_runs = time_to_stop, what_runs
        self._starting = None
        await self._has_signal.wait()

    def exit(self) -> None:
        """End the process with exit code 1."""
        # Writing to the log may wait for ever, for a lock that is held or a pipe that nobody reads.
        faulthandler.dump_traceback_later(TIME_TO_SAY, exit=True, file=STDERR)
        with console_logging():
            logger.critical("%s: ending the process", self._what_does_not_end())
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1)

    def _what_does_not_end(self) -> str:
        main = threading.main_thread()
        others = [t.name for t in threading.enumerate() if not t.daemon and t is not main]
        threads = f", threads that run: {', '.join(others)}" if others else ""
        return f"something does not end{self._what_runs()}{threads}"

    # Called where signals are received:

    def stop(self) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            self._stop_in_loop()

    def time_to_stop(self) -> float:
        return self._time_to_stop

    def time_is_over(self) -> None:
        is_stuck = not self._has_left
        if not self._loop_has_ended():
            is_stuck = is_stuck or _main_thread_is_in(ASYNCIO_ENDS)
        if is_stuck or _main_thread_is_in(PYTHON_ENDS):
            self.exit()

    def _stop(self) -> None:
        logger.info("stopping")
        self._has_signal.set()
        if self._starting is not None:
            self._starting.cancel()


def _main_thread_is_in(function: Any) -> bool:
    """Tell whether the main thread runs the function, or waits in it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None
