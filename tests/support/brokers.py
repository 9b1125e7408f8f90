"""Brokers of every kind, for the tests that all of them must pass."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest
from timeouts import TIMEOUT

from websuckets.broker import Broker, Link, MemoryBroker, PresenceRules
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection

HEARTBEAT = 5
"""Seconds between heartbeats: longer than a busy machine delays anything."""

Make = Callable[[], Broker]
"""A function that returns a broker for a node."""


class Node:
    """A record of what came to a node; a `Receiver`."""

    link: Link

    def __init__(self, presence: PresenceRules | None = None) -> None:
        self.presence = presence
        self.got: list[tuple[str, bytes]] = []
        self.gaps: list[list[str] | None] = []
        self.announcements: list[bytes] = []
        self.losses = 0
        self._changed = anyio.Event()

    def receive(self, topic: str, message: bytes) -> None:
        self.got.append((topic, message))
        self._changed.set()

    def missed(self, topics: Iterable[str] | None) -> None:
        self.gaps.append(None if topics is None else sorted(topics))
        self._changed.set()

    def announced(self, announcement: bytes) -> None:
        self.announcements.append(announcement)
        self._changed.set()

    def missed_announcements(self) -> None:
        self.losses += 1
        self._changed.set()

    def has_lost_its_link(self) -> bool:
        """Tell whether the link was lost, perhaps more often than once, and nothing else."""
        return bool(self.gaps) and not any(self.gaps)

    async def until(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Wait until the record makes this condition true."""
        with anyio.fail_after(timeout):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()


@asynccontextmanager
async def linked(broker: Broker, presence: PresenceRules | None = None) -> AsyncIterator[Node]:
    """Yield a node that is linked for as long as the context lasts."""
    node = Node(presence)
    started = anyio.Event()

    def told(link: Link) -> None:
        node.link = link
        started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(broker.run, node, told)
        await started.wait()
        yield node
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def in_memory(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    broker = MemoryBroker()
    yield lambda: broker


@asynccontextmanager
async def by_redis(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    url = request.getfixturevalue("shared_redis").url
    prefix = secrets.token_hex(8)
    yield lambda: RedisBroker(RedisConnection(url, HEARTBEAT), prefix)


BROKERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Make]]] = {
    "memory": in_memory,
    "redis": by_redis,
}
"""Every kind of broker, by name."""
