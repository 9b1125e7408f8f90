"""What an app does only when it is the program itself: it shows its log and minds signals."""

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import anyio

__all__ = ["console_logging", "told_to_stop"]


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


async def told_to_stop() -> None:
    """Wait for SIGINT or SIGTERM. Afterwards both do again what they did before.

    Where signals cannot be received, outside of the main thread and on Windows, it waits until it
    is cancelled.
    """
    with ExitStack() as stack:
        receiver = anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM)
        try:
            signals = stack.enter_context(receiver)
        except (NotImplementedError, RuntimeError, ValueError):
            await anyio.sleep_forever()
        else:
            await anext(aiter(signals))
