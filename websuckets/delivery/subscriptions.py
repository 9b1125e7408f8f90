"""Subscriptions of the connections of one node to channels."""

import logging
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from websuckets.delivery.outbox import Outbox, Outboxes, gap
from websuckets.delivery.user_groups import UserGroups
from websuckets.exc import TooManySubscriptions
from websuckets.limits import limit_text
from websuckets.session import Session, User, UserId, connections_of

__all__ = ["ONLINE", "Subscriptions", "gap"]

logger: logging.Logger = logging.getLogger("websuckets")

ONLINE: Final = ""
"""Name of the group of all verified users; other groups are named as channels, never empty."""


class _Subscriber:
    """A connection with an outbox, from its first subscription or message on."""

    __slots__ = ("channels", "outbox", "user")

    def __init__(self, user: User, outbox: Outbox) -> None:
        self.user = user
        self.outbox = outbox
        self.channels: dict[str, UserId | None] = {}
        """Subscribed channels, each with its owner: the user with whom the subscription ends."""


class Subscriptions:
    """Subscriptions of the clients of a running app; a `SessionObserver` of its session.

    ``users`` are told who enters and leaves a channel. No method waits.
    """

    def __init__(
        self,
        session: Session,
        outboxes: Outboxes,
        most: int | None,
        users: UserGroups,
    ) -> None:
        self.outboxes = outboxes
        self.ended: list[Callable[[User, str], None]] = []
        """Functions that are called with subscriber and channel of a subscription that has ended,
        and is among those of the channel no more."""
        self.released: Callable[[User, str], None] = lambda user, channel: None
        """Function that is called with subscriber and channel of a subscription by `release`."""
        self._session = session
        self._most = most
        self._users = users
        self._subscribers: dict[UUID, _Subscriber] = {}
        self._channels: dict[str, dict[UUID, _Subscriber]] = {}
        """Subscribers of each channel to whom its events are delivered."""
        self._held: dict[str, dict[UUID, _Subscriber]] = {}
        """Other subscribers of channels: those who do not get live events, see `hold`."""
        self._hidden: set[tuple[UUID, str]] = set()
        """Subscriptions, by connection and channel, whose users are not in the channel yet, see
        `show`."""

    @property
    def channels(self) -> list[str]:
        """Channels with subscribers."""
        return [*self._channels, *(name for name in self._held if name not in self._channels)]

    def has_subscribers(self, channel: str) -> bool:
        """Tell whether any connection is subscribed to a channel."""
        return channel in self._channels or channel in self._held

    def subscribe(
        self, user: User, channel: str, owner: UserId | None = None, *, held: bool = False
    ) -> bool:
        """Subscribe the connection until it is gone, or until ``owner`` is not its user any more.

        A subscription without an owner never gets one. With ``held``, a new subscription begins as
        `hold` leaves it, its user enters the channel by `show`, and an earlier one keeps its owner.
        Returns false for a connection that was subscribed before. Raises `TooManySubscriptions`.
        """
        subscriber = self._subscriber(user)
        if channel in subscriber.channels:
            if owner is None and not held:
                subscriber.channels[channel] = None
            return False
        if self._most is not None and len(subscriber.channels) >= self._most:
            logger.debug(
                "%s is subscribed to too many channels (%s)",
                *(user.socket.id, limit_text("subscriptions", self._most)),
            )
            raise TooManySubscriptions
        subscriber.channels[channel] = owner
        place = self._held if held else self._channels
        place.setdefault(channel, {})[user.socket.id] = subscriber
        self._hidden.add((user.socket.id, channel))
        if not held:
            self.show(user.socket.id, channel)
        return True

    def show(self, connection: UUID, channel: str) -> None:
        """Let the user of a subscription, which cannot fail any more, enter the channel."""
        if (connection, channel) in self._hidden:
            self._hidden.discard((connection, channel))
            user = self._subscribers[connection].user
            if user.id is not None:
                self._users.enter(channel, user.id)

    def hold(self, connection: UUID, channel: str) -> None:
        """Deliver no events of a channel to a subscriber, until `release`."""
        _move(connection, channel, self._channels, self._held)

    def release(self, connection: UUID, channel: str) -> None:
        """Deliver the events of a channel to a subscriber, from the next one on."""
        _move(connection, channel, self._held, self._channels)
        self.released(self._subscribers[connection].user, channel)

    def unsubscribe(self, connection: UUID, channel: str) -> bool:
        """Unsubscribe; return whether the channel has lost its last subscriber."""
        subscriber = self._subscribers.get(connection)
        if subscriber is None or channel not in subscriber.channels:
            return False
        if subscriber.user.id is not None and (connection, channel) not in self._hidden:
            self._users.leave(channel, subscriber.user.id)
        del subscriber.channels[channel]
        return self._forget(subscriber.user, channel)

    def subscribers(self, channel: str) -> Iterator[tuple[User, bool]]:
        """Yield the subscribers of a channel, each with true if `hold` keeps events from it."""
        for place in (self._channels, self._held):
            for subscriber in place.get(channel, {}).values():
                yield subscriber.user, place is self._held

    def deliver(
        self,
        channel: str,
        frame: bytes,
        exclude: UUID | None = None,
        instead: bytes | None = None,
        *,
        has_history: bool = False,
    ) -> None:
        """Send a frame to every subscriber of a channel but ``exclude``.

        ``exclude`` gets the frame ``instead``, if there is one. Subscribers for which a frame of a
        channel that ``has_history`` gets lost are told of a gap.
        """
        told = channel if has_history else None
        for connection, subscriber in self._channels.get(channel, {}).items():
            if connection != exclude:
                subscriber.outbox.put(frame, told)
            elif instead is not None:
                subscriber.outbox.put(instead, told)

    def send(self, connection: UUID, frame: bytes, channel: str | None = None) -> None:
        """Send a frame to one connection, which has not `left` since it subscribed to a channel.

        If the frame, of a ``channel`` with a history, gets lost, the subscriber is told of a gap.
        """
        self._subscribers[connection].outbox.put(frame, channel)

    async def earlier_sent(self, connection: UUID) -> None:
        """Wait until the frames that wait now for a connection, as in `send`, have been sent."""
        await self._subscribers[connection].outbox.earlier_sent()

    def deliver_to(self, user_id: UserId, frame: bytes) -> None:
        """Send a frame to every connection of this user."""
        for user in connections_of(user_id, self._session):
            self._subscriber(user).outbox.put(frame)

    def announce_gap_to_users(self) -> None:
        """Tell every verified user that messages to that user alone may be missing."""
        frame = gap(None)
        for user in self._session.online.values():
            if user.id is not None:
                self._subscriber(user).outbox.put(frame)

    def verified(self, user: User, id: UserId) -> None:
        self._users.enter(ONLINE, id)
        for channel in self._channels_of(user):
            if (user.socket.id, channel) not in self._hidden:
                self._users.enter(channel, id)

    def demoted(self, user: User, id: UserId) -> list[str]:
        """End the subscriptions of this connection whose owner is that user.

        Return the channels that have lost their last subscriber by that.
        """
        owned = [name for name, owner in self._channels_of(user).items() if owner == id]
        empty = [name for name in owned if self.unsubscribe(user.socket.id, name)]
        self._users.leave(ONLINE, id)
        for channel in self._channels_of(user):
            if (user.socket.id, channel) not in self._hidden:
                self._users.leave(channel, id)
        return empty

    def left(self, user: User) -> list[str]:
        """Remove a connection; return the channels that have lost their last subscriber."""
        subscriber = self._subscribers.pop(user.socket.id, None)
        if subscriber is None:
            return []
        subscriber.outbox.stop()
        return [name for name in subscriber.channels if self._forget(user, name)]

    def _subscriber(self, user: User) -> _Subscriber:
        subscriber = self._subscribers.get(user.socket.id)
        if subscriber is None:
            subscriber = _Subscriber(user, Outbox(user.socket, self.outboxes))
            self._subscribers[user.socket.id] = subscriber
        return subscriber

    def _channels_of(self, user: User) -> dict[str, UserId | None]:
        subscriber = self._subscribers.get(user.socket.id)
        return {} if subscriber is None else subscriber.channels

    def _forget(self, user: User, channel: str) -> bool:
        self._hidden.discard((user.socket.id, channel))
        for place in (self._channels, self._held):
            subscribers = place.get(channel)
            if subscribers is not None:
                subscribers.pop(user.socket.id, None)
                if not subscribers:
                    del place[channel]
        for has_ended in self.ended:
            has_ended(user, channel)
        return not self.has_subscribers(channel)


def _move(
    connection: UUID,
    channel: str,
    source: dict[str, dict[UUID, _Subscriber]],
    target: dict[str, dict[UUID, _Subscriber]],
) -> None:
    """Move a subscriber of a channel from ``source``, if it is there, to ``target``."""
    subscriber = source.get(channel, {}).pop(connection, None)
    if subscriber is not None:
        target.setdefault(channel, {})[connection] = subscriber
        if not source[channel]:
            del source[channel]
