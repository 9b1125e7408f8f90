"""Subscriptions of the connections of one node to channels."""

from collections import Counter
from collections.abc import Callable
from typing import Final
from uuid import UUID

from websuckets.delivery.outbox import Outbox, Outboxes
from websuckets.exc import TooManySubscriptions
from websuckets.protocol.messages import ClientEvent
from websuckets.session import Session, User, UserId, connections_of

__all__ = ["ONLINE", "Subscriptions"]

ONLINE: Final = ""
"""The group of every verified user; the others are named as their channels, which have names."""


class _Subscriber:
    """A connection with an outbox, from its first subscription or message on."""

    __slots__ = ("channels", "outbox", "user")

    def __init__(self, user: User, outbox: Outbox) -> None:
        self.user = user
        self.outbox = outbox
        self.channels: dict[str, UserId | None] = {}
        """Subscribed channels, each with the user whose end also ends the subscription."""


class Subscriptions:
    """Who of a running app's clients is subscribed to what; a `SessionObserver` of its session.

    ``present`` and ``absent`` are told, by group and id, of users of whom the first connection
    came into a group, and the last one left it. Nothing here ever waits.
    """

    def __init__(
        self,
        session: Session,
        outboxes: Outboxes,
        most: int | None,
        present: Callable[[str, UserId], None],
        absent: Callable[[str, UserId], None],
    ) -> None:
        self.outboxes = outboxes
        self._session = session
        self._most = most
        self._present = present
        self._absent = absent
        self._subscribers: dict[UUID, _Subscriber] = {}
        self._channels: dict[str, dict[UUID, _Subscriber]] = {}
        self._groups: dict[str, Counter[UserId]] = {}

    @property
    def channels(self) -> list[str]:
        """Those with subscribers."""
        return list(self._channels)

    def subscribe(self, user: User, channel: str, owner: UserId | None = None) -> None:
        """Subscribe the connection until it is gone, or until ``owner`` is not its user any more.

        A subscription that has no owner keeps none. Raises `TooManySubscriptions`.
        """
        subscriber = self._subscriber(user)
        if channel in subscriber.channels:
            if owner is None:
                subscriber.channels[channel] = None
            return
        if self._most is not None and len(subscriber.channels) >= self._most:
            raise TooManySubscriptions
        subscriber.channels[channel] = owner
        self._channels.setdefault(channel, {})[user.socket.id] = subscriber
        if user.id is not None:
            self._enter(channel, user.id)

    def unsubscribe(self, connection: UUID, channel: str) -> bool:
        """Whether the channel has lost its last subscriber."""
        subscriber = self._subscribers.get(connection)
        if subscriber is None or channel not in subscriber.channels:
            return False
        del subscriber.channels[channel]
        if subscriber.user.id is not None:
            self._exit(channel, subscriber.user.id)
        return self._forget(connection, channel)

    def deliver(self, channel: str, frame: bytes, exclude: UUID | None = None) -> None:
        """Send it to every subscriber but one."""
        for connection, subscriber in self._channels.get(channel, {}).items():
            if connection != exclude:
                subscriber.outbox.put(frame)

    def deliver_to(self, user_id: UserId, frame: bytes) -> None:
        """Send it to every connection of this user."""
        for user in connections_of(user_id, self._session):
            self._subscriber(user).outbox.put(frame)

    def announce_gap(self) -> None:
        """Tell every subscriber of every channel, and every verified user, what may be missed."""
        for channel in self._channels:
            self.announce_gap_in(channel)
        self.announce_gap_to_users()

    def announce_gap_to_users(self) -> None:
        """Tell every verified user that something may have been sent to them alone."""
        frame = _gap(None)
        for user in self._session.online.values():
            if user.id is not None:
                self._subscriber(user).outbox.put(frame)

    def announce_gap_in(self, channel: str) -> None:
        """Tell its subscribers that something may have been published that they did not get."""
        self.deliver(channel, _gap(channel))

    def members(self, group: str) -> set[UserId]:
        """The users who are in it on this node."""
        return set(self._groups.get(group, ()))

    def verified(self, user: User, id: UserId) -> None:
        self._enter(ONLINE, id)
        for channel in self._channels_of(user):
            self._enter(channel, id)

    def demoted(self, user: User, id: UserId) -> list[str]:
        """End what this connection subscribed to as that user.

        Return the channels that have lost their last subscriber by that.
        """
        owned = [name for name, owner in self._channels_of(user).items() if owner == id]
        empty = [name for name in owned if self.unsubscribe(user.socket.id, name)]
        self._exit(ONLINE, id)
        for channel in self._channels_of(user):
            self._exit(channel, id)
        return empty

    def left(self, user: User) -> list[str]:
        """The channels that have lost their last subscriber by that."""
        subscriber = self._subscribers.pop(user.socket.id, None)
        if subscriber is None:
            return []
        subscriber.outbox.stop()
        return [name for name in subscriber.channels if self._forget(user.socket.id, name)]

    def _subscriber(self, user: User) -> _Subscriber:
        subscriber = self._subscribers.get(user.socket.id)
        if subscriber is None:
            subscriber = _Subscriber(user, Outbox(user.socket, self.outboxes))
            self._subscribers[user.socket.id] = subscriber
        return subscriber

    def _channels_of(self, user: User) -> dict[str, UserId | None]:
        subscriber = self._subscribers.get(user.socket.id)
        return {} if subscriber is None else subscriber.channels

    def _forget(self, connection: UUID, channel: str) -> bool:
        subscribers = self._channels[channel]
        del subscribers[connection]
        if not subscribers:
            del self._channels[channel]
        return not subscribers

    def _enter(self, group: str, id: UserId) -> None:
        users = self._groups.setdefault(group, Counter())
        users[id] += 1
        if users[id] == 1:
            self._present(group, id)

    def _exit(self, group: str, id: UserId) -> None:
        users = self._groups[group]
        users[id] -= 1
        if not users[id]:
            del users[id]
            self._absent(group, id)
        if not users:
            del self._groups[group]


def _gap(channel: str | None) -> bytes:
    return ClientEvent("channel gap", {"channel": channel}).encode()
