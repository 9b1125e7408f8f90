"""Listeners: iterators over the events of a channel with a history, for handlers and tasks."""

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from websuckets.delivery.cursors import Cursor
from websuckets.delivery.logged_delivery import LoggedDelivery
from websuckets.exc import Unavailable
from websuckets.history import HistoryLost, LoggedEvent, Position
from websuckets.protocol.events import AnyEvent

__all__ = ["Listener"]

PAUSE: Final = 1.0
"""Seconds until a log that cannot be reached is asked again."""


class Listener:
    """An iterator over the events of one channel, in their order, each once, without an end.

    The events are those behind the position ``since``, or those that come once the first one is
    asked for. Nothing is kept in memory for a slow reader but one page: what the reader has not
    come to is read from the log. ``read`` makes an event of a frame. A listener that nobody refers
    to any more has ended, so that a loop may be left at any time.
    """

    def __init__(
        self,
        delivery: LoggedDelivery,
        channel: str,
        since: Position | None,
        read: Callable[[bytes], AnyEvent],
    ) -> None:
        self._delivery = delivery
        self._channel = channel
        self._position = since
        self._read = read
        self._cursor: Cursor | None = None
        self._page: deque[LoggedEvent] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent:
        """Return the next event, once there is one.

        Raises `HistoryLost` when the log does not keep the next event, and `Unavailable` if the log
        cannot be reached at the beginning; later, the listener waits for the log.
        """
        if self._cursor is None:
            self._cursor = await self._delivery.begin(self._channel, listens=True)
            weakref.finalize(self, self._delivery.end_listening, self._cursor)
        while not self._page:
            await self._read_page(self._cursor)
        event = self._page.popleft()
        assert self._position is not None
        self._position = Position(self._position.epoch, event.offset)
        return self._read(event.frame)

    async def _read_page(self, cursor: Cursor) -> None:
        """Read what the node has delivered behind the position, or wait until it has."""
        assert cursor.position is not None
        if self._position is None:
            self._position = cursor.position
        if self._position.epoch != cursor.position.epoch:
            raise HistoryLost(f"the log of {self._channel!r:.80} is another one")
        if self._position == cursor.position:
            await cursor.moved()
            return
        with suppress(Unavailable):
            self._page.extend(await self._delivery.pages.read(self._channel, self._position))
        if not self._page:  # the log is away, or this node is behind
            await cursor.moved_or(PAUSE)

    def __repr__(self) -> str:
        return f"Listener({self._channel!r:.80})"
