"""Functions of a program that a client calls with events, one after the other."""

import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final

from websuckets.client.buffers import Buffer, ReadingGate, Signal
from websuckets.client.frames import Frame
from websuckets.client.validation import Reader

__all__ = ["Listener", "Listeners"]

Listener = Callable[[Any], Awaitable[None] | None]
"""Function, async or not, of the payload of an event."""

logger: Final = logging.getLogger("websuckets.client")


class Listeners:
    """Functions by the names of their events, and the events that wait for them."""

    def __init__(self, size: int, gate: ReadingGate) -> None:
        self._functions: dict[str, list[tuple[Listener, Reader]]] = {}
        self._events: Buffer[Frame] = Buffer(size, gate)
        self._has_events = Signal()
        self._has_overflowed = False

    def add(self, event: str, function: Listener, read: Reader) -> Callable[[], None]:
        """Call a function with the payload of each event of this name; return its removal."""
        entry = (function, read)
        functions = self._functions.setdefault(event, [])
        functions.append(entry)

        def remove() -> None:
            if entry in functions:
                functions.remove(entry)

        return remove

    def put(self, frame: Frame) -> None:
        """Let the functions be called with an event."""
        if not self._functions.get(str(frame.name)):
            return
        if self._events.put(frame):
            self._has_events.set()
        elif not self._has_overflowed:
            self._has_overflowed = True
            logger.error("events are lost: their functions are slower than the events come")

    async def run(self) -> None:
        """Call functions until the task is cancelled; log their errors."""
        while True:
            while not len(self._events):
                await self._has_events.wait()
            frame = self._events.take()
            for function, read in list(self._functions.get(str(frame.name), ())):
                try:
                    result = function(read(str(frame.name), frame.payload))
                    if isawaitable(result):
                        await result
                except Exception:
                    logger.exception("a function for the event %r failed", frame.name)
