"""History of channels: logs of the events that were published, from which clients catch up.

A channel that is declared with a `History` has a log. Each event that is published to the channel
gets the next offset: 1, 2, 3 and so on, without a gap. Offsets are counted within an epoch, a
random text for one life of the channel's log: when the log is lost, or restored from a copy, the
epoch changes, and no offset of the old epoch means anything any more.

The log is the truth. What one node tells another by a broker only makes delivery fast: each node
reads from the log what it was not told.
"""

import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from websuckets.clock import SYSTEM_CLOCK, WallClock

__all__ = [
    "EventLog",
    "History",
    "HistoryLost",
    "LoggedEvent",
    "MemoryLog",
    "MessageLog",
    "PlainMessageLog",
    "Position",
    "Publication",
    "decode_hint",
    "encode_hint",
    "in_order",
]

CHANNELS: Final = 100_000
"""Channels that one process keeps in its memory, at most."""

BYTES: Final = 64 * 1024 * 1024
"""Bytes of all events that one process keeps in its memory, at most: 64 MiB."""

OVERHEAD: Final = 256
"""Bytes that are counted for each event beside its text: the objects, and their places."""

LONGEST_OFFSET: Final = 18
"""Digits of an offset in a hint, at most: as many as 64 bits hold in any case."""


@dataclass(frozen=True, slots=True)
class History:
    """The events of a channel that are kept: the last ``size`` of them, each for ``seconds``.

    Raises `ValueError` for a ``size`` that is not a whole number of at least 1, and for ``seconds``
    that are not a number above 0.
    """

    size: int = 1000
    seconds: float = 86_400

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"History(size={self.size!r}): it is a whole number, at least 1")
        if type(self.seconds) not in (int, float) or not 0 < self.seconds < float("inf"):
            raise ValueError(f"History(seconds={self.seconds!r}): it is a number above 0")


class Position(NamedTuple):
    """A place in the log of a channel: right behind the event with this offset."""

    epoch: str
    """Random text that names one life of the channel's log."""
    offset: int
    """Offset of the last event before this place; 0 before the first event."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event in the log of a channel."""

    offset: int
    frame: bytes = field(repr=False)
    """The event as a JSON text: ``{"event": ..., "payload": ...}``."""
    excluded: str = ""
    """Id of the connection that does not get the event; empty if all get it."""


@dataclass(frozen=True, slots=True)
class Publication:
    """An event that is to be appended to the log of a channel."""

    channel: str
    """Name of the channel."""
    history: History
    frame: bytes = field(repr=False)
    """The event as in `LoggedEvent`."""
    excluded: str = ""
    """Connection as in `LoggedEvent`."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Random text that tells this publication from others, in case that it is sent twice."""


class HistoryLost(LookupError):
    """Error of a log that does not have all events behind a position any more."""


class EventLog(Protocol):
    """Log of the events of all channels with a history (APP scope).

    An app uses the log that its container provides, or else a `MemoryLog`. The names of channels
    are valid, and of any number. Methods raise `Unavailable` if the log cannot be reached.
    """

    @property
    def is_shared(self) -> bool:
        """True if other processes append to this log, too; its `positions` are then polled."""
        ...

    @property
    def publishes_hints(self) -> bool:
        """True if `append` tells other nodes of the event by itself, in the form of `encode_hint`.

        Otherwise the app tells them by the `Link`.
        """
        ...

    async def append(self, publication: Publication) -> Position:
        """Append the event of a ``publication``; return the position behind the event.

        Events that the channel does not keep any more are removed, sooner or later. Raises
        `Unavailable` if it is not known that the log has the event, which it may have nevertheless.
        """
        ...

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        """Return the first ``limit`` events of ``channel`` behind ``since``, or all of them.

        Raises `HistoryLost` if the log has another epoch, does not keep the next event any more, or
        has not come to the position yet.
        """
        ...

    async def position(self, channel: str) -> Position:
        """Return the position behind the last event of a channel.

        An event that is appended later, by any node, comes behind this position. Of a channel
        without any event, the offset is 0, and the epoch that of the events to come.
        """
        ...

    async def positions(self, channels: Sequence[str]) -> Sequence[Position]:
        """Return the `position` of each of these channels, a thousand at most, in their order."""
        ...

    async def new_epoch(self) -> None:
        """Begin a new epoch for every channel, so that all clients load their state anew.

        For operators who have restored the data of the log from a copy.
        """
        ...


class MessageLog(Protocol):
    """Log as one message uses it (REQUEST scope).

    A log in the database of the program works through the session of the handler, so that an event
    exists if and only if its transaction commits, and so that a position is not newer than what the
    handler reads.
    """

    @property
    def is_transactional(self) -> bool:
        """True if `append` writes in the transaction of the handler.

        Otherwise `append` is not called: the app appends to the `EventLog` after the commit.
        """
        ...

    @property
    def has_committed(self) -> bool:
        """True once what `append` has written is committed."""
        ...

    async def append(self, publications: Sequence[Publication]) -> Sequence[Position]:
        """Append ``publications`` as the last thing before the commit; return their positions.

        The caller gives the events of all channels at once, in the order of `in_order`.
        """
        ...

    async def position(self, channel: str) -> Position:
        """Return the position behind the last event of a channel, as `EventLog.position` does.

        What the handler reads from now on is not older than the position.
        """
        ...

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        """Return the first ``limit`` events of ``channel`` behind the position ``since``.

        Raises `HistoryLost` as `EventLog.read` does. A log in the database of the program takes no
        second connection beside that of the handler.
        """
        ...


class PlainMessageLog:
    """Log of a message that has nothing to do with the transaction of the handler."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    @property
    def is_transactional(self) -> bool:
        return False

    @property
    def has_committed(self) -> bool:
        return False

    async def append(self, publications: Sequence[Publication]) -> Sequence[Position]:
        raise NotImplementedError("events are appended after the commit")

    async def position(self, channel: str) -> Position:
        return await self._log.position(channel)

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        return await self._log.read(channel, since, limit)


class _Kept(NamedTuple):
    """An event, and the time in seconds since the epoch of clocks at which it is removed."""

    event: LoggedEvent
    end: float


@dataclass(slots=True)
class _MemoryChannel:
    """The log of one channel."""

    epoch: str = field(default_factory=lambda: secrets.token_hex(8))
    last: int = 0
    events: deque[_Kept] = field(default_factory=deque)
    bytes: int = 0


class MemoryLog:
    """A log in the memory of one process, which ends with the process.

    At most ``channels`` channels are kept, and ``size`` bytes of events; past either bound, the
    channel that nobody has published to or asked for the longest is forgotten, and begins with a
    new epoch when it is used again. ``clock`` is the clock by which events grow old.
    """

    def __init__(
        self, *, clock: WallClock = SYSTEM_CLOCK, channels: int = CHANNELS, size: int = BYTES
    ) -> None:
        self._clock = clock
        self._most_channels = channels
        self._most_bytes = size
        self._bytes = 0
        self._channels: OrderedDict[str, _MemoryChannel] = OrderedDict()
        """Channels, the one that was not used for the longest first."""

    @property
    def is_shared(self) -> bool:
        return False

    @property
    def publishes_hints(self) -> bool:
        return False

    async def append(self, publication: Publication) -> Position:
        log = self._log(publication.channel)
        log.last += 1
        event = LoggedEvent(log.last, publication.frame, publication.excluded)
        log.events.append(_Kept(event, self._clock.time() + publication.history.seconds))
        self._count(log, _size_of(event))
        while len(log.events) > publication.history.size:
            self._remove_first(log)
        self._forget_others()
        return Position(log.epoch, log.last)

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        log = self._log(channel)
        self._forget_others()
        first = log.last - len(log.events)  # offset of the last event that is not kept
        if since.epoch != log.epoch or not first <= since.offset <= log.last:
            raise HistoryLost(f"events of {channel!r:.80} are not kept any more")
        start = since.offset - first
        return [log.events[at].event for at in range(start, min(start + limit, len(log.events)))]

    async def position(self, channel: str) -> Position:
        log = self._log(channel)
        self._forget_others()
        return Position(log.epoch, log.last)

    async def positions(self, channels: Sequence[str]) -> Sequence[Position]:
        return [await self.position(channel) for channel in channels]

    async def new_epoch(self) -> None:
        self._channels.clear()
        self._bytes = 0

    def _log(self, channel: str) -> _MemoryChannel:
        """Return the log of a channel, without events that are too old, as the last one used."""
        log = self._channels.get(channel)
        if log is None:
            log = self._channels[channel] = _MemoryChannel()
        self._channels.move_to_end(channel)
        now = self._clock.time()
        while log.events and log.events[0].end <= now:
            self._remove_first(log)
        return log

    def _forget_others(self) -> None:
        """Forget the channels that are too many, but not the one that was used last."""
        while len(self._channels) > 1 and (
            len(self._channels) > self._most_channels or self._bytes > self._most_bytes
        ):
            _, log = self._channels.popitem(last=False)
            self._bytes -= log.bytes

    def _remove_first(self, log: _MemoryChannel) -> None:
        self._count(log, -_size_of(log.events.popleft().event))

    def _count(self, log: _MemoryChannel, size: int) -> None:
        log.bytes += size
        self._bytes += size

    def __repr__(self) -> str:
        return f"MemoryLog({len(self._channels)} channels)"


def _size_of(event: LoggedEvent) -> int:
    return len(event.frame) + OVERHEAD


def in_order(publications: Iterable[Publication]) -> list[Publication]:
    """Return publications by the names of their channels, those of one channel in their order.

    Two transactions that append in this order do not wait for each other.
    """
    return sorted(publications, key=lambda publication: publication.channel)


def encode_hint(position: Position, event: LoggedEvent) -> bytes:
    """Return the text by which a node tells others of an event, which is right before a position.

    Neither the epoch nor the connection that is excluded may have a line break. A log that tells
    other nodes by itself writes the same form.
    """
    parts = (position.epoch.encode(), b"%d" % event.offset, event.excluded.encode(), event.frame)
    return b"\n".join(parts)


def decode_hint(body: bytes) -> tuple[str, LoggedEvent]:
    """Return the epoch and the event of a hint, whose text is ``body``.

    Raises `ValueError` for a text that no node has written.
    """
    epoch, offset, excluded, frame = body.split(b"\n", 3)
    if not epoch or not offset.isdigit() or not 0 < len(offset) <= LONGEST_OFFSET:
        raise ValueError("not a hint of a node")
    number = int(offset)
    if number == 0:
        raise ValueError("not a hint of a node: offsets begin with 1")
    return epoch.decode(), LoggedEvent(number, frame, excluded.decode())
