"""Messages and changes of presence that wait to be sent to Redis, and messages that were lost."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from coredis import BaseConnection
from coredis.exceptions import RedisError

from websuckets.redis.connection import AT_ONCE, Command, RedisConnection, answers_to
from websuckets.redis.messages import EVERY_NODE, Envelope
from websuckets.redis.presence import Presence
from websuckets.redis.topics import Topics
from websuckets.session import UserId

__all__ = ["Change", "Message", "Unsent"]

MOST_WAITING: Final = 10_000
"""Number of messages that may wait to be sent to Redis; further messages are lost, as all are while
Redis is away."""

MOST_BYTES: Final = 16 * 1024 * 1024

MOST_LOST: Final = 1000
"""Number of topics whose lost messages are reported one by one; above it, all topics are."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits to be published."""

    topic: str
    kind: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """A user who came or went."""

    group: str
    user_id: UserId


class Unsent:
    """Queue of messages of one node, and topics whose messages did not reach other nodes."""

    def __init__(
        self, redis: RedisConnection, topics: Topics, envelope: Envelope, presence: Presence
    ) -> None:
        self._redis = redis
        self._topics = topics
        self._envelope = envelope
        self._presence = presence
        self._waiting: deque[Message | Change] = deque()
        self._bytes = 0
        self._lost: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def has_room(self, body: bytes) -> bool:
        """Tell whether a message with this body may wait, too."""
        return len(self._waiting) < MOST_WAITING and self._bytes + len(body) <= MOST_BYTES

    def add(self, item: Message | Change) -> None:
        """Add an item to the end of the queue."""
        self._waiting.append(item)
        self._bytes += _size_of(item)

    async def send_some(self, connection: BaseConnection) -> None:
        """Send the first items; raise the connection's errors, and errors that end its use."""
        batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        self._bytes -= sum(map(_size_of, batch))
        commands = [(item, command) for item in batch for command in self._commands_of(item)]
        errors: dict[Message | Change, RedisError] = {}
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

    def lose(self, topic: str) -> None:
        """Note a lost message; other nodes are told of the result of `take_lost`."""
        if len(self._lost) >= MOST_LOST or topic == EVERY_NODE:
            self._lost = {EVERY_NODE}
        elif EVERY_NODE not in self._lost:
            self._lost.add(topic)

    def lose_all(self) -> None:
        """Remove every item from the queue, and note the lost messages."""
        for item in self._waiting:
            self._lose_item(item)
        self._waiting.clear()
        self._bytes = 0

    def take_lost(self) -> set[str]:
        """Return the topics of lost messages, `EVERY_NODE` for all topics, and forget them."""
        lost, self._lost = self._lost, set()
        return lost

    def _commands_of(self, item: Message | Change) -> list[Command]:
        if isinstance(item, Change):
            return self._presence.changed(item.group, item.user_id)
        message = self._envelope.head(item.kind) + item.body
        return [(b"PUBLISH", self._topics.channel(item.topic), message)]

    def _lose_item(self, item: Message | Change) -> None:
        if isinstance(item, Message):
            self.lose(item.topic)
        else:
            self._presence.was_refused()


def _size_of(item: Message | Change) -> int:
    return len(item.body) if isinstance(item, Message) else 0
