"""Nodes that claim commands that take effect once at a Redis server of a test."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import TaskGroup
from brokers import HEARTBEAT, linked
from redis_nodes import LONG_TIMEOUT

from websuckets.idempotency import StoredReply
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.idempotency import RedisClaims, RedisIdempotencyStore

PRINT, OTHER_PRINT = b"\x80" * 32, bytes(32)
REPLY, OTHER_REPLY = StoredReply(PRINT, '{"a":"é"}'), StoredReply(OTHER_PRINT, "")
OWNER, KEY = "str:an-owner-canary", "a-key-canary"


class Node:
    """A node of an app, with its claims."""

    def __init__(self, broker: RedisBroker, tasks: TaskGroup, lifetime: float) -> None:
        self.broker = broker
        self.tasks = tasks
        self.claims = RedisClaims(broker, lifetime)

    def store(self) -> RedisIdempotencyStore:
        return RedisIdempotencyStore(self.claims, self.tasks)

    async def claimed(self, key: str = KEY) -> RedisIdempotencyStore:
        """Return a new store that has the claim."""
        store = self.store()
        with anyio.fail_after(LONG_TIMEOUT):
            assert await store.claim(OWNER, key, PRINT) is None
        return store

    async def completed(self) -> RedisIdempotencyStore:
        store = await self.claimed()
        await store.complete(REPLY)
        return store

    async def found(self) -> StoredReply | None:
        """Return the reply that a message gets; give back a claim."""
        store = self.store()
        with anyio.fail_after(LONG_TIMEOUT):
            reply = await store.claim(OWNER, KEY, PRINT)
        await store.settle(False)
        return reply

    def name(self, key: str = KEY) -> str:
        return self.claims.claim(OWNER, key).name


@asynccontextmanager
async def node_at(
    url: str, prefix: str = "test", heartbeat: float = HEARTBEAT, lifetime: float = 1000.0
) -> AsyncIterator[Node]:
    broker = RedisBroker(RedisConnection(url, heartbeat), prefix)
    async with linked(broker), anyio.create_task_group() as tasks:
        yield Node(broker, tasks, lifetime)
        tasks.cancel_scope.cancel()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name == "websuckets"
    ]
