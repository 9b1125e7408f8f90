"""Buffers between the task that reads a connection and those that take what was read."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import anyio

__all__ = ["MOST", "Buffer", "ReadingGate", "Signal"]

T = TypeVar("T")

MOST: Final = 10
"""Times its size to which a buffer may grow while replies are awaited."""


class Signal:
    """Event that any number of tasks may await, again and again."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Wake up all tasks that wait at this moment."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait until `set` is called."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class ReadingGate:
    """Gate before each frame that is read: shut while a buffer is full, and no reply is awaited.

    A program that takes items slowly so makes the server wait, by the flow control of TCP. A
    program that awaits a reply between two items would wait for ever, so while it does, the gate is
    open, and buffers may grow.
    """

    def __init__(self) -> None:
        self._full: set[object] = set()
        self._awaited = 0
        self._changed = Signal()

    @property
    def is_shut(self) -> bool:
        return bool(self._full) and not self._awaited

    async def pass_through(self) -> None:
        """Wait while the gate is shut."""
        while self.is_shut:
            await self._changed.wait()

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Return a context in which a reply is awaited."""
        self._awaited += 1
        self._changed.set()
        try:
            yield
        finally:
            self._awaited -= 1

    def note(self, buffer: object, *, is_full: bool) -> None:
        """Take note of a buffer that is full, or is not any more."""
        if is_full:
            self._full.add(buffer)
        else:
            self._full.discard(buffer)
            self._changed.set()


class Buffer(Generic[T]):
    """Items in their order, which shut the gate from ``size`` of them on."""

    def __init__(self, size: int, gate: ReadingGate) -> None:
        self._size = size
        self._gate = gate
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Append an item. Return false, without doing so, if the buffer cannot grow any more."""
        if len(self._items) >= self._size * MOST:
            return False
        self._items.append(item)
        if len(self._items) == self._size:
            self._gate.note(self, is_full=True)
        return True

    def take(self) -> T:
        """Remove and return the first item. Raises `IndexError` where there is none."""
        item = self._items.popleft()
        if len(self._items) == self._size - 1:
            self._gate.note(self, is_full=False)
        return item

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()
        self._gate.note(self, is_full=False)
