"""Nodes and apps at a Redis server of a test, with heartbeats short enough to wait for several."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import pytest
import rooms
from ports import free_port
from redis_server import RedisServer, find_binary, running
from timeouts import TIMEOUT

from websuckets import Limits, WebSuckets
from websuckets.redis import RedisProvider
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.store import key_of

LONG_TIMEOUT = 3 * TIMEOUT
"""Seconds for an operation that takes several heartbeats on a busy machine."""

HEARTBEAT = 0.2

ANN = key_of("ann's")


def broker_at(url: str, prefix: str = "test") -> RedisBroker:
    return RedisBroker(RedisConnection(url, HEARTBEAT), prefix)


def app_at(url: str, **options: Any) -> WebSuckets:
    provider = RedisProvider(url, resume=True, heartbeat=HEARTBEAT, **options)
    return rooms.app(providers=[provider], limits=Limits(revocation_lag=None))


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds."""
    with anyio.fail_after(LONG_TIMEOUT):
        while not condition():
            await anyio.sleep(0.01)


@contextmanager
def servers(*options: tuple[str, ...]) -> Iterator[list[RedisServer]]:
    """Start one server for each of these options."""
    binary = find_binary()
    if binary is None:
        pytest.skip("no redis-server is installed")
    with ExitStack() as stack:
        yield [stack.enter_context(running(binary, *given)) for given in options]


@contextmanager
def cluster() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Start two servers, each of which has one half of the slots."""
    options = [("--cluster-enabled", "yes", "--cluster-port", str(free_port())) for _ in range(2)]
    with servers(*options) as (one, two):
        one.command("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        two.command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        bus = two.command("CONFIG", "GET", "cluster-port").split()[-1]
        one.command("CLUSTER", "MEET", "127.0.0.1", str(two.port), bus)
        for server in (one, two):
            for _ in range(600):
                if b"cluster_state:ok" in server.command("CLUSTER", "INFO"):
                    break
                time.sleep(0.05)  # no server reports when the cluster is ready
        yield one, two
