"""Subscriptions to channels with a history: where each begins, and what a client is told of it."""

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from websuckets.delivery.catching_up import CatchingUp
from websuckets.delivery.logged_delivery import DeliveryCounts, LoggedDelivery
from websuckets.delivery.outbox import Start
from websuckets.delivery.subscribing import Made, Subscribing
from websuckets.delivery.subscriptions import Subscriptions, gap
from websuckets.history import HistoryLost, Position
from websuckets.limits import limit_text
from websuckets.session import User, UserId
from websuckets.socket import Socket

__all__ = ["LoggedSubscriptions"]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(slots=True, eq=False)
class _Hold:
    """A subscription that is being made, by one or several messages of its connection at once.

    Messages of one connection may run side by side, and each may fail after others have succeeded.
    So none of them alone knows what to undo: the last one that fails does, if none has succeeded.

    Each of them that succeeds, and whoever was subscribed before, may have a reader of its own on
    the client. So events go on at the earliest position that any of the readers has come to.
    """

    reached: Position | None
    """Position behind which events go on while none is delivered; ``None`` for a new subscription
    whose position nobody was told."""
    makers: int = 0
    """Number of messages that are making the subscription."""
    replies: int = 0
    """Number of replies that are about to be sent, until when no event is delivered."""
    has_begun: bool = False
    """True once one of them has succeeded."""
    delivers: bool = False
    """True while events are delivered: one of them has succeeded, and no reply is to be sent."""


class LoggedSubscriptions:
    """Subscribers of the channels with a history, on one node while the app runs.

    ``most`` is `Limits.recovery`, and ``start`` starts a task.
    """

    def __init__(
        self,
        delivery: LoggedDelivery,
        subscriptions: Subscriptions,
        most: int | None,
        start: Start,
        counts: DeliveryCounts,
    ) -> None:
        self._delivery = delivery
        self._subscriptions = subscriptions
        self._most = most
        self._counts = counts
        self._catching_up = CatchingUp(
            subscriptions, delivery.cursors, delivery.pages, delivery.heal, start
        )
        self._holds: dict[tuple[UUID, str], _Hold] = {}
        """Holds by connection and channel."""
        subscriptions.ended.append(self._ended)

    async def subscribe(
        self, user: User, channel: str, owner: UserId | None, current: Subscribing | None
    ) -> Position:
        """Subscribe a connection; return the position behind which its events begin.

        In a command, which is ``current``, the events begin later. ``owner`` is that of
        `Subscriptions.subscribe`. Raises `TooManySubscriptions`, and `Unavailable`.
        """
        socket = user.socket
        is_new = self._subscriptions.subscribe(user, channel, owner, held=True)
        hold = self._hold(socket.id, channel, is_new=is_new)
        try:
            log = None if current is None else current.log
            _, position = await self._delivery.begin(channel, log)
            answer: dict[str, Any] = {"epoch": position.epoch, "offset": position.offset}
            start = None if current is None else await self._recovered(channel, position, current)
        except BaseException:
            self._take_back(socket, channel, hold)
            raise
        if current is not None and current.since is not None and channel in current.since:
            answer["recovered"] = start is not None
        if self._holds.get((socket.id, channel)) is hold:  # else it has ended meanwhile
            begins = start or position
            self._make(user, channel, hold, answer, begins, current, is_public=owner is None)
        return position

    def _make(
        self,
        user: User,
        channel: str,
        hold: _Hold,
        answer: dict[str, Any],
        start: Position,
        current: Subscribing | None,
        *,
        is_public: bool,
    ) -> None:
        """Begin a subscription at a position, or have the current message begin it."""
        # A task that a command has started, and that comes here later, waits for no reply.
        is_command = current is not None and current.holds and not current.is_over
        socket = user.socket

        def lasts() -> bool:
            return self._holds.get((socket.id, channel)) is hold

        def keep_back() -> None:
            if lasts():
                hold.replies += 1
                self._pause(socket.id, channel, hold)
                self._leave_epoch(socket.id, channel, hold, start)

        async def earlier_sent() -> None:
            await self._subscriptions.earlier_sent(socket.id)

        def tell(frame: bytes) -> None:
            self._subscriptions.send(socket.id, frame, channel)

        def begin() -> None:
            hold.replies -= is_command
            if is_public and lasts():  # not before: a command that fails changes nothing
                self._subscriptions.subscribe(user, channel, owner=None)
            goes_on = not is_command and "recovered" not in answer
            self._begin(socket, channel, hold, start, goes_on=goes_on)

        def take_back() -> None:
            self._take_back(socket, channel, hold)

        made = Made(answer, keep_back, earlier_sent, tell, begin, take_back, lasts)
        if current is not None and is_command:
            current.add(channel, made)
            return
        alone = Subscribing(socket)
        alone.add(channel, made)
        alone.begin()

    # Holds

    def _hold(self, connection: UUID, channel: str, *, is_new: bool) -> _Hold:
        """Hold a subscription that is made, maybe again, for one more maker.

        Events that come before the reply would be lost on a client that shows what the reply tells.
        """
        hold = self._holds.get((connection, channel))
        if hold is None:
            reached = None if is_new else self._stop(connection, channel)
            hold = self._holds[connection, channel] = _Hold(reached)
        hold.makers += 1
        return hold

    def _stop(self, connection: UUID, channel: str) -> Position | None:
        """Deliver no more events to a subscription; return the position that it has reached."""
        position = self._catching_up.stop(connection, channel)
        self._subscriptions.hold(connection, channel)
        return position or self._delivery.cursors[channel].position

    def _pause(self, connection: UUID, channel: str, hold: _Hold) -> None:
        """Deliver no more events, if another message has begun the delivery meanwhile."""
        if hold.delivers:
            hold.reached, hold.delivers = self._stop(connection, channel), False

    def _leave_epoch(self, connection: UUID, channel: str, hold: _Hold, start: Position) -> None:
        """Tell the readers of another epoch of a gap: they do not come to the end of theirs."""
        if hold.reached is not None and hold.reached.epoch != start.epoch:
            self._subscriptions.send(connection, gap(channel), channel)
            hold.reached = None

    def _begin(
        self, socket: Socket, channel: str, hold: _Hold, start: Position, *, goes_on: bool
    ) -> None:
        """Begin the delivery at a position; what ``goes_on`` stays where it was, if it was."""
        if not self._leave(socket.id, channel, hold):
            return
        if goes_on:
            if hold.has_begun:
                return
            start = hold.reached or start
        self._pause(socket.id, channel, hold)
        self._leave_epoch(socket.id, channel, hold, start)
        hold.reached, hold.has_begun = min(hold.reached or start, start), True
        self._subscriptions.show(socket.id, channel)
        if not hold.replies:  # else they begin it, when they are sent
            hold.delivers = True
            self._catching_up.begin(socket, channel, hold.reached)

    def _take_back(self, socket: Socket, channel: str, hold: _Hold) -> None:
        """Undo what one maker has done; the last one leaves the subscription as it was before."""
        if not self._leave(socket.id, channel, hold) or hold.makers or hold.has_begun:
            return
        if hold.reached is not None:
            self._catching_up.begin(socket, channel, hold.reached)
        elif self._subscriptions.unsubscribe(socket.id, channel):
            self._delivery.end_if_unwanted(channel)

    def _leave(self, connection: UUID, channel: str, hold: _Hold) -> bool:
        """Take note that a maker has ended; return false if the subscription had ended before."""
        if self._holds.get((connection, channel)) is not hold:
            return False
        hold.makers -= 1
        if not hold.makers:
            del self._holds[connection, channel]
        return True

    async def _recovered(
        self, channel: str, position: Position, current: Subscribing
    ) -> Position | None:
        """Return where the client of a message goes on; ``None`` if events are lost for it."""
        if current.since is None or channel not in current.since:
            return None
        since = Position(*current.since[channel])
        # With a session open, a log in the database takes no second connection, of which there may
        # be none while all clients come back.
        log = current.log if current.log is not None and current.log.is_transactional else None
        if log is None and since.epoch == position.epoch and since.offset > position.offset:
            position = await self._delivery.end_of(channel)  # this node may be behind
        is_recovered = since.epoch == position.epoch and since.offset <= position.offset
        missed = position.offset - since.offset
        if is_recovered and self._most is not None and missed > self._most:
            is_recovered = False
            text = limit_text("recovery", self._most)
            logger.debug("%s has missed %d events (%s)", current.socket.id, missed, text)
        if is_recovered and missed:
            try:
                if log is None:
                    await self._delivery.pages.read(channel, since)
                else:
                    await log.read(channel, since, 1)
            except HistoryLost:
                is_recovered = False
        if not is_recovered:
            self._counts.reloaded += 1
            return None
        self._counts.recovered += 1
        return since

    def _ended(self, user: User, channel: str) -> None:
        """Take note that a subscription has ended."""
        self._holds.pop((user.socket.id, channel), None)
        self._catching_up.stop(user.socket.id, channel)
