"""An app as a program: commands, the addresses that its log names, and signals that end it."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue

from websuckets import CommandGroup, Socket

BOTH = (signal.SIGINT, signal.SIGTERM)


def hello_group() -> CommandGroup:
    group = CommandGroup()

    @group.command("hello")
    async def hello(socket: Socket) -> str:
        return "hello"

    return group


@contextmanager
def listening() -> Iterator["Queue[str]"]:
    """Yield the addresses on which programs listen, as their log names them."""
    urls: Queue[str] = Queue()

    def note(record: logging.LogRecord) -> bool:
        if record.msg.startswith("listening on"):
            urls.put(record.getMessage().split()[2].rstrip(","))
        return True

    logger = logging.getLogger("websuckets")
    logger.addFilter(note)
    try:
        yield urls
    finally:
        logger.removeFilter(note)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
