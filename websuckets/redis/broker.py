"""Broker of Redis: messages by its channels, presence in its sets, announcements in a list."""

import secrets
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import anyio
from coredis import BaseConnection
from coredis.exceptions import RedisError

from websuckets.broker import Link, Receiver
from websuckets.exc import ConfigurationError, Unavailable
from websuckets.redis.announcements import Announcements
from websuckets.redis.connection import AT_ONCE, Command, RedisConnection, answers_to, send
from websuckets.redis.malformed import MalformedCounter
from websuckets.redis.presence import Presence
from websuckets.session import UserId

__all__ = ["RedisBroker"]

VERSION: Final = b"websuckets/1"
"""Beginning of every message; any other message is discarded."""

MESSAGE: Final = b"message"
MISSED: Final = b"missed"
ANNOUNCED: Final = b"announced"
"""Kinds of messages: a published message, the news that such a message did not reach Redis, and the
news that there is an announcement to be read."""

EVERY_NODE: Final = "nodes"
"""Topic of messages from one node to all other nodes."""

MOST_WAITING: Final = 10_000
"""Number of messages that may wait to be sent to Redis; further messages are lost, as all are while
Redis is away."""

MOST_BYTES: Final = 16 * 1024 * 1024

MOST_LOST: Final = 1000
"""Number of topics whose lost messages are reported one by one; above it, all topics are."""

TIMEOUT_HEARTBEATS: Final = 3
"""Number of heartbeats to wait for the confirmation of a subscription; a lost connection is noticed
within two."""

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


@dataclass(frozen=True, slots=True)
class _Message:
    """A message that waits to be published."""

    topic: str
    kind: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class _Change:
    """A user who came or went."""

    group: str
    user_id: UserId


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
        self._prefix = f"{root}:topic:"
        self._receiver = receiver
        self._malformed = malformed
        self._presence = Presence(redis, root, malformed)
        self._id = secrets.token_hex(8).encode()
        names = (f"{root}:announced", f"{root}:announcements")
        channel = self._prefix + EVERY_NODE
        self._announcements = Announcements(redis, names, channel, receiver, malformed)
        self._connection: BaseConnection | None = None
        self._topics: dict[str, anyio.Event] = {EVERY_NODE: anyio.Event()}  # set when confirmed
        self._unconfirmed: dict[str, deque[anyio.Event]] = defaultdict(deque)
        self._waiting: deque[_Message | _Change] = deque()
        self._bytes = 0
        self._lost: set[str] = set()  # topics of messages that other nodes did not get
        self._was_away = False
        self._has_to_beat = False
        self._has_to_read = False
        self._drained: anyio.Event | None = None
        self._something_to_do = anyio.Event()

    # Methods of a `Link`:

    async def subscribe(self, topic: str) -> None:
        if topic not in self._topics:
            self._topics[topic] = anyio.Event()
            self._send_subscriptions([topic])
        if self._connection is not None:
            timeout = TIMEOUT_HEARTBEATS * self._redis.heartbeat
            with anyio.move_on_after(timeout):  # Redis may refuse the subscription
                await self._topics[topic].wait()

    def unsubscribe(self, topic: str) -> None:
        if self._topics.pop(topic, None) is not None and self._connection is not None:
            send(self._connection, b"UNSUBSCRIBE", self._prefix + topic)

    def publish(self, topic: str, message: bytes) -> None:
        if self._connection is None or not self._has_room(message):
            self._lose(topic)
        else:
            self._do(_Message(topic, MESSAGE, message))

    async def announce(self, announcement: bytes) -> None:
        await self._announcements.announce(announcement, self._head(ANNOUNCED))

    def enter(self, group: str, user_id: UserId) -> None:
        self._presence.enter(group, user_id)
        self._do(_Change(group, user_id))

    def leave(self, group: str, user_id: UserId) -> None:
        self._presence.leave(group, user_id)
        self._do(_Change(group, user_id))

    async def members(self, group: str) -> set[UserId]:
        """Return the members on other nodes; nobody while Redis is away."""
        try:
            return await self._presence.members(group)
        except (Unavailable, RedisError):
            return set()

    async def drain(self) -> None:
        """Send what waits, then remove the users of this node from Redis."""
        if self._connection is not None:
            self._drained = anyio.Event()
            self._something_to_do.set()
            await self._drained.wait()

    # Methods of a `RedisConnectionUser`:

    async def connected(self, connection: BaseConnection) -> None:
        self._connection = connection
        self._topics = {topic: anyio.Event() for topic in self._topics}
        confirmations = list(self._topics.values())
        self._send_subscriptions(list(self._topics))
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
            elif self._waiting:
                await self._send_some(self._connection)
            elif self._drained is not None:
                with self._redis.refusals.tolerated():
                    await self._presence.remove(self._connection)
                self._drained.set()
                await anyio.sleep_forever()
            else:
                self._something_to_do = anyio.Event()
                await self._something_to_do.wait()

    async def beat(self) -> None:
        self._has_to_beat = True
        self._something_to_do.set()

    def pushed(self, message: list[Any]) -> None:
        match message:
            case [b"message", channel, data]:
                self._receive(self._topic(channel), data)
            case [b"subscribe", channel, _]:
                waiting = self._unconfirmed[self._topic(channel)]
                waiting.popleft().set()
                if not waiting:
                    del self._unconfirmed[self._topic(channel)]

    def disconnected(self) -> None:
        self._connection = None
        self._was_away = True
        for event in (*self._topics.values(), *chain.from_iterable(self._unconfirmed.values())):
            event.set()
        self._unconfirmed.clear()
        for item in self._waiting:
            self._lose_item(item)
        self._waiting.clear()
        self._bytes = 0
        if self._drained is not None:
            self._drained.set()
        self.has_tried.set()

    def _send_subscriptions(self, topics: list[str]) -> None:
        """Subscribe to topics; set the events of a topic in the order of its subscriptions."""
        if self._connection is None:
            return
        for start in range(0, len(topics), AT_ONCE):
            some = topics[start : start + AT_ONCE]
            for topic in some:
                self._unconfirmed[topic].append(self._topics[topic])
            send(self._connection, b"SUBSCRIBE", *(self._prefix + topic for topic in some))

    def _do(self, item: _Message | _Change) -> None:
        """Queue an item to be sent as soon as possible; do nothing without a connection.

        The next connection writes all users of this node anew.
        """
        if self._connection is not None:
            self._waiting.append(item)
            if isinstance(item, _Message):
                self._bytes += len(item.body)
            self._something_to_do.set()

    async def _send_some(self, connection: BaseConnection) -> None:
        batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        self._bytes -= sum(len(item.body) for item in batch if isinstance(item, _Message))
        commands = [(item, command) for item in batch for command in self._commands_of(item)]
        errors: dict[_Message | _Change, RedisError] = {}
        lost = batch  # until answers come, though some of it may have arrived
        try:
            with self._redis.refusals.tolerated():
                answers = await answers_to(connection, [command for _, command in commands])
                answered = zip((item for item, _ in commands), answers, strict=True)
                errors = {item: error for item, error in answered if isinstance(error, RedisError)}
                lost = list(errors)
        finally:
            for item in lost:
                self._lose_item(item)
        for error in errors.values():
            with self._redis.refusals.tolerated():
                raise error

    def _commands_of(self, item: _Message | _Change) -> list[Command]:
        if isinstance(item, _Change):
            return self._presence.changed(item.group, item.user_id)
        return [(b"PUBLISH", self._prefix + item.topic, self._head(item.kind) + item.body)]

    def _head(self, kind: bytes) -> bytes:
        return b" ".join((VERSION, self._id, kind)) + b"\n"

    def _has_room(self, message: bytes) -> bool:
        return len(self._waiting) < MOST_WAITING and self._bytes + len(message) <= MOST_BYTES

    def _lose_item(self, item: _Message | _Change) -> None:
        if isinstance(item, _Message):
            self._lose(item.topic)
        else:
            self._presence.was_refused()

    def _lose(self, topic: str) -> None:
        """Note a lost message; other nodes are told with the next heartbeat or connection."""
        if len(self._lost) >= MOST_LOST or topic == EVERY_NODE:
            self._lost = {EVERY_NODE}
        elif EVERY_NODE not in self._lost:
            self._lost.add(topic)

    def _announce_lost(self) -> None:
        lost, self._lost = self._lost, set()
        for topic in lost:
            self._do(_Message(topic, MISSED, b""))

    def _topic(self, channel: bytes) -> str:
        return channel.decode(errors="replace").removeprefix(self._prefix)

    def _receive(self, topic: str, data: bytes) -> None:
        head, _, body = data.partition(b"\n")
        version, _, rest = head.partition(b" ")
        node, _, kind = rest.partition(b" ")
        if version != VERSION or kind not in (MESSAGE, MISSED, ANNOUNCED):
            self._malformed.found(topic)
        elif node == self._id:
            pass  # the message has been delivered here
        elif kind == ANNOUNCED:
            self._has_to_read = True
            self._something_to_do.set()
        elif kind == MISSED:
            self._receiver.missed(None if topic == EVERY_NODE else [topic])
        else:
            try:
                self._receiver.receive(topic, body)
            except ValueError:
                self._malformed.found(topic)
