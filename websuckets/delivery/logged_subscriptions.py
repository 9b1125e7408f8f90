"""Subscriptions to channels with a history: where each begins, and what a client is told of it."""

import logging
from dataclasses import replace
from typing import Any

from websuckets.delivery.catching_up import CatchingUp
from websuckets.delivery.logged_delivery import DeliveryCounts, LoggedDelivery
from websuckets.delivery.outbox import Start
from websuckets.delivery.subscribing import Made, Subscribing
from websuckets.delivery.subscriptions import Subscriptions
from websuckets.history import HistoryLost, Position
from websuckets.limits import limit_text
from websuckets.session import User, UserId
from websuckets.socket import Socket

__all__ = ["LoggedSubscriptions"]

logger: logging.Logger = logging.getLogger("websuckets")


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
        try:
            log = None if current is None else current.log
            _, position = await self._delivery.begin(channel, log)
            answer: dict[str, Any] = {"epoch": position.epoch, "offset": position.offset}
            start = None if current is None else await self._recovered(channel, position, current)
        except BaseException:
            if is_new and self._subscriptions.unsubscribe(socket.id, channel):
                self._delivery.end_if_unwanted(channel)
            raise
        if current is not None and current.since is not None and channel in current.since:
            answer["recovered"] = start is not None
        if self._subscriptions.is_subscribed(socket.id, channel):  # else it has ended meanwhile
            self._make(socket, channel, is_new, answer, start or position, current)
        return position

    def _make(
        self,
        socket: Socket,
        channel: str,
        is_new: bool,
        answer: dict[str, Any],
        start: Position,
        current: Subscribing | None,
    ) -> None:
        """Begin a subscription at a position, or have the current message begin it."""

        def tell(frame: bytes) -> None:
            self._subscriptions.send(socket.id, frame)

        def begin() -> None:
            if self._subscriptions.is_subscribed(socket.id, channel):
                self._catching_up.begin(socket, channel, start)

        def take_back() -> None:
            if self._subscriptions.unsubscribe(socket.id, channel):
                self._delivery.end_if_unwanted(channel)

        made = Made(answer, tell, begin, take_back)
        if current is not None and current.holds:
            current.add(channel, made if is_new else self._set_back(socket, channel, made))
            return
        if not is_new:
            is_set_back = "recovered" in answer
            made = (
                self._set_back(socket, channel, made)
                if is_set_back
                else replace(made, begin=_nothing)
            )
        alone = Subscribing(socket)
        alone.add(channel, made)
        alone.begin()

    def _set_back(self, socket: Socket, channel: str, made: Made) -> Made:
        """Hold a subscription that is made again, until it begins at another position.

        Events that come before the reply would be lost on a client that shows what the reply tells.
        """
        cursor = self._delivery.cursors[channel]
        before = self._catching_up.stop(socket.id, channel) or cursor.position
        assert before is not None
        self._subscriptions.hold(socket.id, channel)

        def take_back() -> None:
            if self._subscriptions.is_subscribed(socket.id, channel):
                self._catching_up.begin(socket, channel, before)

        return replace(made, take_back=take_back)

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
        self._catching_up.stop(user.socket.id, channel)


def _nothing() -> None:
    pass
