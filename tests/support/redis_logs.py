"""Nodes that share a log of events at a Redis server of a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from brokers import HEARTBEAT, Node, linked

from websuckets.history import HistoryLost, LoggedEvent, Position, decode_hint
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.history import RedisLog


class LogNode:
    """A node of an app, with its log."""

    def __init__(self, broker: RedisBroker, receiver: Node) -> None:
        self.broker = broker
        self.receiver = receiver
        self.log = RedisLog(broker)

    async def frames(self, since: int = 0, channel: str = "c") -> list[bytes] | None:
        """Return the frames behind this offset, or ``None`` if they are lost."""
        epoch = (await self.log.position(channel)).epoch
        try:
            events = await self.log.read(channel, Position(epoch, since), 1000)
        except HistoryLost:
            return None
        return [event.frame for event in events]

    def hints(self) -> list[tuple[str, LoggedEvent]]:
        """Return the hints that the node got."""
        return [decode_hint(message) for _, message in self.receiver.got]

    def key(self, kind: str, channel: str = "c") -> str:
        return f"{self.broker.root}:{kind}:{channel}"

    @property
    def generations(self) -> str:
        return f"{self.broker.root}:epochs"

    @property
    def malformed(self) -> int:
        return self.broker.malformed.count


@asynccontextmanager
async def node_at(
    url: str, prefix: str = "test", heartbeat: float = HEARTBEAT
) -> AsyncIterator[LogNode]:
    broker = RedisBroker(RedisConnection(url, heartbeat), prefix)
    async with linked(broker) as receiver:
        yield LogNode(broker, receiver)


def number(answer: bytes) -> int:
    """Return the number with which Redis has answered."""
    assert answer.startswith(b":")
    return int(answer[1:])
