"""Pages of the logs of channels: events that are read once for all who ask for them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from websuckets.history import EventLog, LoggedEvent, Position
from websuckets.runtime.computations import Computations

__all__ = ["PAGE", "Pages"]

PAGE: Final = 100
"""Events that are read at once, at most."""

KEPT: Final = 256
"""Pages that are kept, at most."""

KEPT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the events of all pages that are kept, at most: 8 MiB."""

Events: TypeAlias = tuple[LoggedEvent, ...]


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
        self._readings: Computations[Events] = Computations()
        self._pages: OrderedDict[_Key, Events] = OrderedDict()
        self._bytes = 0

    async def read(self, channel: str, since: Position) -> Events:
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

    async def _read(self, key: _Key) -> Events:
        page = tuple(await self._log.read(key.channel, key.since, PAGE))
        if page:
            self._keep(key, page)
        return page

    def _keep(self, key: _Key, page: Events) -> None:
        self._bytes += _size_of(page) - _size_of(self._pages.pop(key, ()))
        self._pages[key] = page
        while len(self._pages) > KEPT or self._bytes > KEPT_BYTES:
            _, removed = self._pages.popitem(last=False)
            self._bytes -= _size_of(removed)


def _size_of(page: Sequence[LoggedEvent]) -> int:
    return sum(len(event.frame) for event in page)
