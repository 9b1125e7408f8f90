"""Cursors: the places up to which one node has delivered the events of its channels."""

from typing import Final

import anyio

from websuckets.history import LoggedEvent, Position
from websuckets.protocol.messages import logged_tail

__all__ = ["Cursor"]

MOST_EARLY: Final = 128
"""Events of one channel that are kept until those before them have come, at most: they are then
delivered at once, behind a page of the log, and must not be more than an outbox holds."""


class Cursor:
    """Cursor of one channel, for as long as anybody on this node wants its events."""

    __slots__ = (
        "_early",
        "_moved",
        "channel",
        "is_behind",
        "is_healing",
        "listeners",
        "position",
        "tail",
    )

    def __init__(self, channel: str) -> None:
        self.channel: str = channel
        self.tail: bytes = logged_tail(channel)
        """Part of each frame, by `logged_tail`."""
        self.position: Position | None = None
        """Position behind the last event that was delivered; ``None`` until it is known."""
        self.is_behind: bool = False
        """True once an event has come while the position was not known."""
        self.is_healing: bool = False
        """True while missed events are read from the log."""
        self.listeners: int = 0
        """Number of listeners, of which a cursor is kept also without a subscriber."""
        self._early: dict[int, LoggedEvent] = {}
        self._moved: anyio.Event | None = None

    @property
    def offset(self) -> int:
        """Offset of the last event that was delivered."""
        return 0 if self.position is None else self.position.offset

    def move(self, position: Position) -> None:
        """Take note that the events up to a position have been delivered, or are lost."""
        self.position = position
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    async def moved(self) -> None:
        """Wait until the cursor moves."""
        if self._moved is None:
            self._moved = anyio.Event()
        await self._moved.wait()

    async def moved_or(self, seconds: float) -> None:
        """Wait until the cursor moves, for so many seconds at most."""
        with anyio.move_on_after(seconds):
            await self.moved()

    @property
    def has_early(self) -> bool:
        """True if events have come before those that stand before them."""
        return bool(self._early)

    def keep_early(self, event: LoggedEvent) -> None:
        """Keep an event until those before it have come, or let the log keep it alone."""
        if len(self._early) < MOST_EARLY:
            self._early[event.offset] = event

    def take_early(self) -> LoggedEvent | None:
        """Return the next event, if it has come already; forget those that are delivered."""
        if not self._early:
            return None
        found = self._early.pop(self.offset + 1, None)
        if found is None:
            for offset in [offset for offset in self._early if offset <= self.offset]:
                del self._early[offset]
        return found

    def forget_early(self) -> None:
        """Forget events that have come early, because their epoch is over."""
        self._early.clear()
