"""Caches of every kind, for the tests that all of them must pass."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest
from brokers import HEARTBEAT, linked

from websuckets.cache import JsonCache, MemoryCache
from websuckets.redis.broker import RedisBroker
from websuckets.redis.cache import RedisCache
from websuckets.redis.connection import RedisConnection

Caches: TypeAlias = tuple[JsonCache, JsonCache]
"""Caches of two nodes that share their values."""


@asynccontextmanager
async def in_memory(request: pytest.FixtureRequest) -> AsyncIterator[Caches]:
    cache = MemoryCache()
    yield cache, cache


@asynccontextmanager
async def in_redis(request: pytest.FixtureRequest) -> AsyncIterator[Caches]:
    url = request.getfixturevalue("shared_redis").url
    prefix = secrets.token_hex(8)
    one, two = (RedisBroker(RedisConnection(url, HEARTBEAT), prefix) for _ in range(2))
    async with linked(one), linked(two):
        yield RedisCache(one), RedisCache(two)


CACHES: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Caches]]] = {
    "memory": in_memory,
    "redis": in_redis,
}
"""Every kind of cache, by name."""
