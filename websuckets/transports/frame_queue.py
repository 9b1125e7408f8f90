"""Queue of frames in one direction, bounded by their bytes."""

from collections import deque
from typing import Final

import anyio

__all__ = ["FrameQueue"]

FRAME_OVERHEAD: Final = 100
"""Bytes that a frame takes beside its content: a ``bytes`` object and its place in a queue."""


class FrameQueue:
    """A queue of frames in one direction; adding a frame waits while the queue is full.

    ``capacity`` is the number of bytes that the frames may take. After `close`, the frames that
    wait can still be read.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self.frames: deque[str | bytes] = deque()
        """Frames that `get` returns without waiting."""
        self._has_ended = False
        self._is_reading = False
        self._waiting: list[anyio.Event] = []

    async def put(self, frame: str | bytes) -> None:
        """Add a frame when there is room; after `close`, discard the frame."""
        while not self.offer(frame) and not self._has_ended:
            await self._wait()

    def offer(self, frame: str | bytes) -> bool:
        """Add a frame if there is room now. Return whether the frame was added."""
        if self._size >= self._capacity or self._has_ended:
            return False
        self.add(frame)
        return True

    def add(self, frame: str | bytes) -> None:
        """Add a frame at once, even if the queue is full."""
        self._size += _size(frame)
        self.frames.append(frame)
        self._wake()

    async def get(self) -> str | bytes:
        """Return the next frame, to one reader at a time. Raise `anyio.EndOfStream` at the end."""
        self._is_reading = True
        try:
            while not self.frames:
                if self._has_ended:
                    raise anyio.EndOfStream
                await self._wait()
        finally:
            self._is_reading = False
        frame = self.frames.popleft()
        self._size -= _size(frame)
        self._wake()
        return frame

    @property
    def are_awaited(self) -> bool:
        """True while a reader waits for a frame."""
        return self._is_reading

    def close(self) -> None:
        """End the queue: accept no more frames."""
        self._has_ended = True
        self._wake()

    async def _wait(self) -> None:
        changed = anyio.Event()
        self._waiting.append(changed)
        await changed.wait()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed.set()


def _size(frame: str | bytes) -> int:
    return FRAME_OVERHEAD + len(frame)
