"""What an app does only when it is the program itself: it shows its log, minds signals, ends."""

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import anyio

__all__ = ["LastResort", "StopSignals", "console_logging"]

logger: logging.Logger = logging.getLogger("websuckets")


@contextmanager
def console_logging() -> Iterator[None]:
    """Show what the server says on stderr, in a program that has not set up logging."""
    logger = logging.getLogger("websuckets")
    if logger.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class StopSignals:
    """SIGINT and SIGTERM, from `receive` until the first; then both do what they did before.

    Where signals cannot be received, outside of the main thread and on Windows, none comes. It is
    used as a context.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._signals: AsyncIterator[signal.Signals] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def receive(self) -> None:
        """From now on."""
        receiver = anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM)
        with suppress(NotImplementedError, RuntimeError, ValueError):
            self._signals = self._stack.enter_context(receiver)

    async def wait(self) -> None:
        """Until one has come."""
        if self._signals is None:
            await anyio.sleep_forever()
        else:
            await anext(self._signals)
            self._stack.close()


class LastResort:
    """Ends the process when it has been told to stop and cannot, because of what ignores that.

    Event loops wait for every task, and for good if one ignores its cancellation or does not even
    let the loop go on. Used as a context, around what is to end.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_signal(self) -> None:
        """From now on another signal ends the process, whatever else may handle it."""
        with suppress(ValueError):  # only the main thread receives them
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, signal.SIG_DFL)

    def after(self, seconds: float, what_runs: Callable[[], str]) -> None:
        """From now on there is so much time to leave the context; the log says ``what_runs``."""
        if seconds < threading.TIMEOUT_MAX:
            self._timer = threading.Timer(seconds, lambda: self.now(what_runs()))
            self._timer.daemon = True
            self._timer.start()

    def now(self, what_runs: str) -> None:
        """With exit code 1."""
        logger.critical("something ignores its cancellation%s: ending the process", what_runs)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1)
