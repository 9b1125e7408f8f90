"""Pages of the logs of channels: events that are read once for all who ask for them."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from websuckets.history import EventLog, LoggedEvent, Position
from websuckets.protocol.messages import encode_logged
from websuckets.protocol.transport import Texts
from websuckets.runtime.computations import Computations

__all__ = ["PAGE", "Page", "Pages"]

PAGE: Final = 100
"""Events that are read at once, at most."""

KEPT: Final = 256
"""Pages that are kept, at most."""

KEPT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the events of all pages that are kept, at most: 4 MiB, and as much again for each form
in which they are sent."""


class Page:
    """Events that stand next to each other in the log of a channel."""

    __slots__ = ("_texts", "events", "excluded")

    def __init__(self, events: Iterable[LoggedEvent]) -> None:
        self.events: tuple[LoggedEvent, ...] = tuple(events)
        self.excluded: frozenset[str] = frozenset(e.excluded for e in self.events if e.excluded)
        """Connections that do not get all of the events."""
        self._texts: Texts | None = None

    @property
    def size(self) -> int:
        """Number of bytes of all events."""
        return sum(len(event.frame) for event in self.events)

    def texts(self, tail: bytes) -> Texts:
        """Return what clients get of the events; ``tail`` is that of their channel.

        Connections that are excluded get something else. The result is made once.
        """
        if self._texts is None:
            texts = (encode_logged(event.frame, tail, event.offset) for event in self.events)
            self._texts = Texts(tuple(texts))
        return self._texts


class _Key(NamedTuple):
    channel: str
    since: Position


class Pages:
    """Reader of the log for the clients of one node.

    Clients that come back at the same time have often seen the same: so a page is read once for all
    who ask at once, and kept for those who ask soon. Events in a log never change. A page that was
    read at the end of the log has fewer events than the log has by now, and is still right: whoever
    reads it asks for the next one.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._readings: Computations[Page] = Computations()
        self._pages: OrderedDict[_Key, Page] = OrderedDict()
        self._bytes = 0

    async def read(self, channel: str, since: Position) -> Page:
        """Return the next events behind a position, at most `PAGE`; none at the end of the log.

        Raises `HistoryLost` and `Unavailable`, as the log does.
        """
        key = _Key(channel, since)
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
            return page
        name = f"{since.epoch} {since.offset} {channel}"
        return await self._readings.result(name, lambda: self._read(key))

    def forget(self) -> None:
        """Forget all pages."""
        self._pages.clear()
        self._bytes = 0

    async def _read(self, key: _Key) -> Page:
        page = Page(await self._log.read(key.channel, key.since, PAGE))
        if page.events:
            self._keep(key, page)
        return page

    def _keep(self, key: _Key, page: Page) -> None:
        earlier = self._pages.pop(key, None)
        self._bytes += page.size - (0 if earlier is None else earlier.size)
        self._pages[key] = page
        while len(self._pages) > KEPT or self._bytes > KEPT_BYTES:
            _, removed = self._pages.popitem(last=False)
            self._bytes -= removed.size
