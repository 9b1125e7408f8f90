"""Delivery of channels with a history: from their log, in the order of offsets, each event once.

The problem: several nodes append to the log of a channel, and each has subscribers. Messages from
node to node get lost, come twice, or come in another order than that of the log; Redis goes away,
and nodes die between appending an event and telling others of it. Yet each subscriber is to get all
events in the order of their offsets.

Tried and rejected: to deliver what a broker brings, and to tell clients of gaps. Each outage of the
broker then makes all clients load their state anew, at the same time. Rejected, too: to read the
log alone. Each event would cost each node one reading, and come later.

The solution: each node has a cursor for each channel that it delivers, the offset of the last event
that its subscribers have got. An event that it appends itself, or is told of, is delivered if it is
the next one. An event at or before the cursor was delivered already. An event behind the next one
waits for a moment, because the events before it are on their way as a rule; then the node reads the
log from its cursor on. Also about once a second, and when a broker has lost messages, it compares
the positions of all its channels with the log, and reads what it does not have. So the log is the
truth, and a message from another node is a hint.

An epoch that changes, or a log that has come to less than a node has delivered already, as after
a failover that lost the last events, means that the log is another one: subscribers are told of a
gap, and load their state anew.
"""

import logging
from collections.abc import Callable
from itertools import islice
from typing import Final
from uuid import UUID

import anyio

from websuckets.broker import Link
from websuckets.delivery.cursors import Cursor
from websuckets.delivery.pages import PAGE, Pages
from websuckets.delivery.subscriptions import Subscriptions, gap
from websuckets.exc import Unavailable
from websuckets.history import (
    EventLog,
    HistoryLost,
    LoggedEvent,
    MessageLog,
    Position,
    Publication,
    decode_hint,
    encode_hint,
)
from websuckets.protocol.messages import encode_logged, encode_offset
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.jitter import uniform

__all__ = ["DeliveryCounts", "LoggedDelivery"]

logger: logging.Logger = logging.getLogger("websuckets")

PERIOD: Final = 1.0
"""Seconds between two comparisons of all positions with the log; from four fifths to six fifths of
it, drawn at random, so that nodes that started together do not ask together."""

AT_ONCE: Final = 1000
"""Channels whose positions are asked for at once, at most."""

HOLD: Final = 0.02
"""Seconds for which an event that has come early waits for the events before it."""


class DeliveryCounts:
    """Counts of what channels with a history have done, since the app was created."""

    def __init__(self) -> None:
        self.recovered: int = 0
        """Subscriptions that have got what they had missed."""
        self.reloaded: int = 0
        """Subscriptions whose client has to load its state anew."""
        self.healed: int = 0
        """Events that a node has read from the log, because nobody had told it of them."""


class LoggedDelivery:
    """Delivery of the channels with a history on one node, while the app runs.

    ``start`` starts a task of a function with arguments. ``topic`` returns the topic of a channel,
    on which nodes send hints to each other.
    """

    def __init__(
        self,
        log: EventLog,
        subscriptions: Subscriptions,
        link: Link,
        start: Callable[..., None],
        topic: Callable[[str], str],
        counts: DeliveryCounts,
    ) -> None:
        self._log = log
        self._subscriptions = subscriptions
        self._link = link
        self._start = start
        self._topic = topic
        self._counts = counts
        self.cursors: dict[str, Cursor] = {}
        """Cursors by the names of their channels; see `cursor`."""
        self.pages: Pages = Pages(log)
        self._has_to_compare = anyio.Event()
        self._is_away = False

    async def run(self, life: anyio.CancelScope) -> None:
        """Compare positions with the log again and again, until ``life`` is cancelled."""
        with life:
            while True:
                await self._wait_and_compare()

    async def _wait_and_compare(self) -> None:
        period = uniform(PERIOD * 4 / 5, PERIOD * 6 / 5) if self._log.is_shared else None
        with anyio.move_on_after(period):
            await self._has_to_compare.wait()
        self._has_to_compare = anyio.Event()
        try:
            await self._compare()
        except Exception as error:
            if not self._is_away:
                self._is_away = True
                logger.error("the log of channels is away: no events of other nodes for now")
                if not isinstance(error, Unavailable):
                    log_incident("log of channels", error)
        else:
            if self._is_away:
                self._is_away = False
                logger.warning("the log of channels is back")

    def compare_soon(self) -> None:
        """Compare positions with the log at once, because messages of nodes may be lost."""
        self._has_to_compare.set()

    # Cursors

    async def begin(
        self, channel: str, log: MessageLog | None = None, *, listens: bool = False
    ) -> tuple[Cursor, Position]:
        """Return the cursor of a channel, from which this node delivers the channel's events.

        Also returns a position that is not newer than what the caller reads afterwards; with
        ``log``, not newer than what it reads in the transaction of that log. Everything that is
        appended behind the position, by any node, is delivered. The cursor is kept until
        `end_if_unwanted`; if the caller ``listens``, at least until `end_listening`. Raises
        `Unavailable`.
        """
        cursor = self.cursors.get(channel)
        if cursor is None:
            cursor = self.cursors[channel] = Cursor(channel)
        cursor.listeners += listens
        try:
            await self._link.subscribe(self._topic(channel))
            if log is not None and log.is_transactional:
                position = await log.position(channel)
            else:
                position = cursor.position or await self._log.position(channel)
            if cursor.position is None:  # nobody else has asked meanwhile
                cursor.move(position)
                if cursor.is_behind:
                    self.heal(cursor)
        except BaseException:
            cursor.listeners -= listens
            self.end_if_unwanted(channel)
            raise
        return cursor, position

    def end_listening(self, cursor: Cursor) -> None:
        """Take note that a listener has ended."""
        cursor.listeners -= 1
        self.end_if_unwanted(cursor.channel)

    async def end_of(self, channel: str) -> Position:
        """Return the position behind the last event in the log. Raises `Unavailable`."""
        return await self._log.position(channel)

    def end_if_unwanted(self, channel: str) -> None:
        """Remove the cursor of a channel that has neither subscribers nor listeners."""
        cursor = self.cursors.get(channel)
        if (
            cursor is not None
            and not cursor.listeners
            and not self._subscriptions.has_subscribers(channel)
        ):
            del self.cursors[channel]
            self._link.unsubscribe(self._topic(channel))

    # Publishing

    async def publish(self, publication: Publication) -> None:
        """Append an event to the log, and deliver it. Raises `Unavailable`."""
        self.published(publication, await self._log.append(publication))

    def published(self, publication: Publication, position: Position) -> None:
        """Deliver an event that was appended to the log, and tell other nodes of it."""
        event = LoggedEvent(position.offset, publication.frame, publication.excluded)
        self._take(publication.channel, position.epoch, event)
        if not self._log.publishes_hints:
            topic = self._topic(publication.channel)
            self._link.publish(topic, encode_hint(position, event))

    def receive(self, channel: str, hint: bytes, check: Callable[[bytes], None]) -> None:
        """Receive the hint of another node; raise `ValueError` if no node can have made it.

        ``check`` raises that error for a frame that is not an event.
        """
        epoch, event = decode_hint(hint)
        check(event.frame)
        self._take(channel, epoch, event)

    def _take(self, channel: str, epoch: str, event: LoggedEvent) -> None:
        """Deliver an event if it is the next one; else see to it that it comes."""
        cursor = self.cursors.get(channel)
        if cursor is None:
            return
        if cursor.position is None:  # its position is being read, maybe from before this event
            cursor.is_behind = True
            return
        if epoch != cursor.position.epoch:
            self.compare_soon()
        elif event.offset == cursor.offset + 1:
            self._deliver(cursor, event)
            while (early := cursor.take_early()) is not None:
                self._deliver(cursor, early)
        elif event.offset > cursor.offset:
            cursor.keep_early(event)
            self._heal(cursor, HOLD)

    def _deliver(self, cursor: Cursor, event: LoggedEvent) -> None:
        assert cursor.position is not None
        excluded, instead = None, None
        if event.excluded:
            excluded, instead = _id_of(event.excluded), encode_offset(cursor.tail, event.offset)
        frame = encode_logged(event.frame, cursor.tail, event.offset)
        self._subscriptions.deliver(cursor.channel, frame, excluded, instead, has_history=True)
        cursor.move(Position(cursor.position.epoch, event.offset))

    # Healing

    async def _compare(self) -> None:
        cursors = iter([c for c in self.cursors.values() if c.position is not None])
        while some := list(islice(cursors, AT_ONCE)):
            before = [cursor.position for cursor in some]
            positions = await self._log.positions([cursor.channel for cursor in some])
            for cursor, was, position in zip(some, before, positions, strict=True):
                assert was is not None
                if position.epoch == was.epoch and position.offset < was.offset:
                    logger.error("the log of channels has lost events: it begins a new epoch")
                    await self._log.new_epoch()
                    self.compare_soon()
                    return
                if self.cursors.get(cursor.channel) is cursor:
                    self._compare_one(cursor, was, position)

    def _compare_one(self, cursor: Cursor, was: Position, position: Position) -> None:
        """Compare a cursor with its position in the log; ``was`` is the cursor's from before."""
        assert cursor.position is not None
        if position.epoch != was.epoch:
            if cursor.position.epoch == was.epoch:
                self._lose(cursor, position)
        elif position.offset > cursor.offset:
            self.heal(cursor)

    def _lose(self, cursor: Cursor, position: Position) -> None:
        """Go on at a position, and tell all subscribers of a gap."""
        cursor.forget_early()
        self.pages.forget()
        cursor.move(position)
        self._subscriptions.deliver(cursor.channel, gap(cursor.channel), has_history=True)

    def heal(self, cursor: Cursor) -> None:
        """Bring a cursor up to the end of the log, in a task of its own."""
        self._heal(cursor, 0)

    def _heal(self, cursor: Cursor, after: float) -> None:
        """Read the events behind a cursor in a task of its own, ``after`` so many seconds."""
        if not cursor.is_healing:
            cursor.is_healing = True
            self._start(self._read_on, cursor, after)

    async def _read_on(self, cursor: Cursor, after: float) -> None:
        try:
            if after:
                await anyio.sleep(after)
                if not cursor.has_early:  # all has come meanwhile
                    return
            while self.cursors.get(cursor.channel) is cursor and cursor.position is not None:
                position = cursor.position
                try:
                    events = await self._log.read(cursor.channel, position, PAGE)
                except HistoryLost:
                    await self._go_on_at_the_end(cursor)
                    return
                for event in events:
                    if cursor.position.epoch == position.epoch:
                        if event.offset == cursor.offset + 1:
                            self._counts.healed += 1
                            self._deliver(cursor, event)
                while (early := cursor.take_early()) is not None:
                    self._deliver(cursor, early)
                if len(events) < PAGE:
                    return
        except Unavailable:
            pass  # the next comparison finds the same
        finally:
            cursor.is_healing = False

    async def _go_on_at_the_end(self, cursor: Cursor) -> None:
        was = cursor.position
        position = await self._log.position(cursor.channel)
        if cursor.position == was and self.cursors.get(cursor.channel) is cursor:
            self._lose(cursor, position)


def _id_of(text: str) -> UUID | None:
    """Return the id of a connection, which another version of the program may have written."""
    try:
        return UUID(text)
    except ValueError:
        return None
