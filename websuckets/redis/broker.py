"""Broker of Redis: messages by its channels, presence in its sets, announcements in a list."""

from collections.abc import Callable
from typing import Any, Final

import anyio
from coredis import BaseConnection
from coredis.exceptions import RedisError

from websuckets.broker import Link, Receiver
from websuckets.exc import ConfigurationError, Unavailable
from websuckets.redis.announcements import Announcements
from websuckets.redis.connection import RedisConnection
from websuckets.redis.malformed import MalformedCounter
from websuckets.redis.messages import ANNOUNCED, EVERY_NODE, MESSAGE, MISSED, Envelope
from websuckets.redis.presence import Presence
from websuckets.redis.told_users import ToldUsers
from websuckets.redis.topics import Topics
from websuckets.redis.unsent import Change, Message, Unsent
from websuckets.session import UserId

__all__ = ["RedisBroker"]

TIME_TO_DRAIN: Final = 2.0
"""Seconds in which a node that stops can drain."""


class RedisBroker:
    """A broker that connects all nodes that use the same Redis, database and prefix.

    The broker lives as long as the container. ``root`` begins the name of every key and channel.
    The number of the database is a part of ``root``, because channels of Redis belong to no
    database; the braces of ``root`` keep all keys of an app on one server of a cluster.
    """

    def __init__(self, redis: RedisConnection, prefix: str) -> None:
        self.redis = redis
        self.root: str = f"{{{redis.database}/{prefix}}}"
        self.malformed: MalformedCounter = MalformedCounter()

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        """Run the broker, as `Broker.run` says; tell the link of each connection and each loss.

        Raises `ConfigurationError` where the first attempt to connect shows one.
        """
        node = _RedisLink(self.redis, self.root, receiver, self.malformed)
        life = anyio.CancelScope(shield=True)  # so that a node that stops can drain

        async def keep() -> None:
            with life:
                try:
                    await self.redis.run(node)
                except ConfigurationError as mistake:
                    node.mistake = mistake

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep)
            try:
                await node.has_tried.wait()
                if node.mistake is None:
                    linked(node)
                    await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(TIME_TO_DRAIN, shield=True):
                    await node.drain()
                life.cancel()
        assert node.mistake is not None  # without a mistake, only cancelling ends the task
        raise node.mistake


class _RedisLink:
    """One node's link: it lives as long as the app runs, with and without a connection."""

    def __init__(
        self, redis: RedisConnection, root: str, receiver: Receiver, malformed: MalformedCounter
    ) -> None:
        self.has_tried = anyio.Event()
        """Set once there was a connection, or the first attempt to connect has failed."""
        self.mistake: ConfigurationError | None = None
        """Error that tells why there can never be a connection."""
        self.key: str = f"{root}:nodes"
        self._redis = redis
        self._receiver = receiver
        self._malformed = malformed
        self._topics = Topics(root, redis.heartbeat)
        self._envelope = Envelope()
        self._told = ToldUsers(redis, root, malformed, receiver.presence, self._topics.channel)
        self._presence = Presence(redis, root, malformed, self._told)
        self._unsent = Unsent(redis, self._topics, self._envelope, self._presence)
        names = (f"{root}:announced", f"{root}:announcements")
        channel = self._topics.channel(EVERY_NODE)
        self._announcements = Announcements(redis, names, channel, receiver, malformed)
        self._connection: BaseConnection | None = None
        self._was_away = False
        self._has_to_beat = False
        self._has_to_read = False
        self._drained: anyio.Event | None = None
        self._something_to_do = anyio.Event()

    # Methods of a `Link`:

    async def subscribe(self, topic: str) -> None:
        await self._topics.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics.unsubscribe(topic)

    def publish(self, topic: str, message: bytes) -> None:
        if self._connection is None or not self._unsent.has_room(message):
            self._unsent.lose(topic)
        else:
            self._send(Message(topic, MESSAGE, message))

    async def announce(self, announcement: bytes) -> None:
        await self._announcements.announce(announcement, self._envelope.head(ANNOUNCED))

    def enter(self, group: str, user_id: UserId) -> None:
        self._presence.enter(group, user_id)
        self._send(Change(group, user_id))

    def leave(self, group: str, user_id: UserId) -> None:
        self._presence.leave(group, user_id)
        self._send(Change(group, user_id))

    async def members(self, group: str) -> set[UserId]:
        """Return the members on other nodes; nobody while Redis is away."""
        try:
            return await self._presence.members(group)
        except (Unavailable, RedisError):
            return set()

    async def present(self, group: str) -> set[UserId]:
        try:
            return await self._told.present(group)
        except RedisError:
            raise Unavailable from None

    async def drain(self) -> None:
        """Send waiting messages, then remove the users of this node from Redis."""
        if self._connection is not None:
            self._drained = anyio.Event()
            self._something_to_do.set()
            await self._drained.wait()

    # Methods of a `RedisConnectionUser`:

    async def connected(self, connection: BaseConnection) -> None:
        self._connection = connection
        confirmations = self._topics.connected(connection)
        with self._redis.refusals.tolerated():
            # Subscriptions that Redis refuses show in the answers.
            await self._presence.begin(connection)
        for event in confirmations:
            await event.wait()
        with self._redis.refusals.tolerated():
            await self._announcements.read(connection)
        if self._was_away:
            self._receiver.missed(None)
        self._announce_lost()
        self.has_tried.set()

    async def use(self) -> None:
        while True:
            assert self._connection is not None
            if self._has_to_beat:
                self._has_to_beat = False
                self._has_to_read = True
                self._announce_lost()
                with self._redis.refusals.tolerated():
                    await self._presence.beat(self._connection)
            elif self._has_to_read:
                self._has_to_read = False
                with self._redis.refusals.tolerated():
                    await self._announcements.read(self._connection)
            elif self._told.pause == 0:
                with self._redis.refusals.tolerated():
                    await self._told.settle(self._connection)
            elif self._unsent:
                await self._unsent.send_some(self._connection)
            elif self._drained is not None:
                with self._redis.refusals.tolerated():
                    await self._presence.remove(self._connection)
                self._drained.set()
                await anyio.sleep_forever()
            else:
                self._something_to_do = anyio.Event()
                with anyio.move_on_after(self._told.pause):
                    await self._something_to_do.wait()

    async def beat(self) -> None:
        self._has_to_beat = True
        self._something_to_do.set()

    def pushed(self, message: list[Any]) -> None:
        match message:
            case [b"message", channel, data]:
                self._receive(self._topics.topic(channel), data)
            case [b"subscribe", channel, _]:
                self._topics.confirmed(channel)

    def disconnected(self) -> None:
        self._connection = None
        self._was_away = True
        self._topics.disconnected()
        self._unsent.lose_all()
        if self._drained is not None:
            self._drained.set()
        self.has_tried.set()

    def _send(self, item: Message | Change) -> None:
        """Queue an item to be sent as soon as possible; do nothing without a connection.

        The next connection writes all users of this node anew.
        """
        if self._connection is not None:
            self._unsent.add(item)
            self._something_to_do.set()

    def _announce_lost(self) -> None:
        """Tell other nodes of lost messages, with the next heartbeat or connection."""
        for topic in self._unsent.take_lost():
            self._send(Message(topic, MISSED, b""))

    def _receive(self, topic: str, data: bytes) -> None:
        try:
            opened = self._envelope.open(data)
            if opened is not None:  # or else the message has been delivered here
                self._take(topic, *opened)
        except ValueError:
            self._malformed.found(topic)

    def _take(self, topic: str, kind: bytes, body: bytes) -> None:
        if kind == ANNOUNCED:
            self._has_to_read = True
            self._something_to_do.set()
        elif kind == MISSED:
            self._receiver.missed(None if topic == EVERY_NODE else [topic])
        else:
            self._receiver.receive(topic, body)
