"""Session stores of every kind, for the tests that all of them must pass."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from brokers import HEARTBEAT, linked
from dishka import Provider, Scope

from websuckets.broker import Broker, MemoryBroker
from websuckets.redis import RedisProvider
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.store import RedisSessionStore
from websuckets.resuming import ResumeProvider
from websuckets.store import MemorySessionStore, SessionStore


@dataclass(frozen=True)
class Stores:
    """A kind of store.

    ``make`` takes the lifetime and the records of one user; ``providers`` let several nodes share a
    store.
    """

    make: Callable[[float, int], SessionStore]
    providers: Callable[[], list[Provider]]


@asynccontextmanager
async def in_memory(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    broker, store = MemoryBroker(), MemorySessionStore()
    shared = Provider(scope=Scope.APP)
    shared.provide(lambda: broker, provides=Broker)
    yield Stores(MemorySessionStore, lambda: [shared, ResumeProvider(store)])


@asynccontextmanager
async def in_redis(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    url = request.getfixturevalue("shared_redis").url
    prefix = secrets.token_hex(8)
    redis = RedisBroker(RedisConnection(url, HEARTBEAT), prefix)

    def make(lifetime: float, records_per_user: int) -> SessionStore:
        return RedisSessionStore(redis, lifetime, records_per_user)

    async with linked(redis):
        yield Stores(make, lambda: [RedisProvider(url, resume=True, prefix=prefix)])


STORES: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Stores]]] = {
    "memory": in_memory,
    "redis": in_redis,
}
"""Every kind of store, by name."""
