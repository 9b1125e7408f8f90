"""The cache of Redis: leases, foreign data, and a server that is away or dies."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import anyio
import pytest
from brokers import HEARTBEAT, linked
from harness import Gate
from redis_nodes import LONG_TIMEOUT, until
from redis_server import Proxy, RedisServer
from timeouts import TIMEOUT

from websuckets.exc import Unavailable
from websuckets.redis import cache as cache_of_redis
from websuckets.redis.broker import RedisBroker
from websuckets.redis.cache import RedisCache
from websuckets.redis.connection import RedisConnection

pytestmark = pytest.mark.anyio

LONG = 1000.0
SHORT_LEASE = 0.3


async def one() -> int:
    return 1


async def two() -> int:
    return 2


def broker_at(url: str, prefix: str = "test", heartbeat: float = HEARTBEAT) -> RedisBroker:
    """Return the broker of a node, for which no busy machine looks like a lost connection."""
    return RedisBroker(RedisConnection(url, heartbeat), prefix)


@pytest.fixture
async def nodes(shared_redis: RedisServer) -> AsyncIterator[tuple[RedisCache, RedisCache]]:
    """Yield caches of two nodes."""
    prefix = secrets.token_hex(8)
    async with AsyncExitStack() as stack:
        caches = []
        for _ in range(2):
            broker = broker_at(shared_redis.url, prefix)
            await stack.enter_async_context(linked(broker))
            caches.append(RedisCache(broker))
        yield caches[0], caches[1]


def names(cache: RedisCache, key: str) -> tuple[str, str]:
    return f"{cache._root}:cache:{key}", f"{cache._root}:computing:{key}"


# Leases


async def test_a_node_that_dies_while_it_computes_blocks_others_for_a_lease_at_most(
    nodes: tuple[RedisCache, RedisCache],
    shared_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that has died renews nothing: its lease is written here as Redis would keep it."""
    cache, _ = nodes
    _, lease = names(cache, "key")
    shared_redis.command("SET", lease, "a node that died", "PX", "300")
    with anyio.fail_after(TIMEOUT):
        assert await cache.get_or_set("key", one, LONG) == 1
    assert shared_redis.command("EXISTS", lease) == b":0\r\n"
    assert await cache.get("key", int) == 1


async def test_a_node_that_computes_for_longer_than_a_lease_renews_it(
    nodes: tuple[RedisCache, RedisCache],
    shared_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Expect the lease to be prolonged, by the same owner, while the other node waits."""
    monkeypatch.setattr(cache_of_redis, "LEASE", 2)
    here, there = nodes
    gate = Gate()
    got: list[int] = []

    async def slow() -> int:
        await gate()
        return 1

    async def ask(cache: RedisCache, factory: object) -> None:
        got.append(await cache.get_or_set("key", factory, LONG))  # type: ignore[arg-type]

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, here, slow)
            await gate.reached.wait()
            tasks.start_soon(ask, there, two)
            _, lease = names(here, "key")
            owner = shared_redis.command("GET", lease)
            before = after = shared_redis.command("PTTL", lease)
            while int(after[1:]) <= int(before[1:]):
                await anyio.sleep(0.01)
                before, after = after, shared_redis.command("PTTL", lease)
            assert shared_redis.command("GET", lease) == owner
            gate.opened.set()
    assert got == [1, 1]


async def test_the_result_of_a_node_that_has_lost_its_lease_is_not_kept(
    nodes: tuple[RedisCache, RedisCache],
    shared_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease of another node stays, whatever it is, and is not renewed."""
    monkeypatch.setattr(cache_of_redis, "LEASE", 0.03)
    cache, other = nodes
    _, lease = names(cache, "key")

    async def while_another_takes_over() -> int:
        shared_redis.command("SET", lease, "another node", "PX", "60000")
        await anyio.sleep(0.05)  # in which the lease would be renewed
        return 1

    async def fail() -> int:
        await while_another_takes_over()
        raise LookupError

    assert await cache.get_or_set("key", while_another_takes_over, LONG) == 1
    assert await other.get("key", int) is None
    shared_redis.command("DEL", lease)
    with pytest.raises(LookupError):
        await cache.get_or_set("key", fail, LONG)
    assert shared_redis.command("GET", lease) == b"$12\r\nanother node\r\n"


@pytest.mark.slow
async def test_a_node_that_is_cut_off_while_it_computes_neither_blocks_others_nor_replaces_theirs(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect its own callers to get its result, and the result of the other node to stay."""
    monkeypatch.setattr(cache_of_redis, "LEASE", SHORT_LEASE)
    proxy = Proxy(own_redis.port)
    gate = Gate()
    got: list[int] = []

    async def slow() -> int:
        await gate()
        return 1

    async with proxy.running():
        cut_off, healthy = broker_at(proxy.url, heartbeat=1), broker_at(own_redis.url)
        cache = RedisCache(cut_off)

        async def ask() -> None:
            got.append(await cache.get_or_set("key", slow, LONG))

        async with linked(cut_off) as node, linked(healthy):
            with anyio.fail_after(LONG_TIMEOUT):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask)
                    await gate.reached.wait()
                    proxy.swallow()
                    assert await RedisCache(healthy).get_or_set("key", two, LONG) == 2
                    await until(lambda: cut_off.redis._connection is None)
                    proxy.let_through()
                    await node.until(lambda: bool(node.gaps), LONG_TIMEOUT)
                    gate.opened.set()
            assert got == [1]
            assert await cache.get("key", int) == 2


async def test_those_who_wait_on_another_node_try_themselves_where_a_factory_fails(
    nodes: tuple[RedisCache, RedisCache], shared_redis: RedisServer
) -> None:
    here, there = nodes
    gate = Gate()
    got: list[int] = []

    async def fail() -> int:
        await gate()
        raise LookupError

    async def ask_and_fail() -> None:
        with pytest.raises(LookupError):
            await here.get_or_set("key", fail, LONG)

    async def ask() -> None:
        got.append(await there.get_or_set("key", two, LONG))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_and_fail)
            await gate.reached.wait()
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
    assert got == [2]


async def test_a_caller_that_is_cancelled_while_another_node_computes_leaves_nothing(
    nodes: tuple[RedisCache, RedisCache], shared_redis: RedisServer
) -> None:
    cache, _ = nodes
    _, lease = names(cache, "key")
    shared_redis.command("SET", lease, "another node", "PX", "60000")
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(cache.get_or_set, "key", one, LONG))
            await until(lambda: cache._computations._running)
            tasks.cancel_scope.cancel()
    assert cache._computations._running == {}
    assert shared_redis.command("GET", lease) == b"$12\r\nanother node\r\n"
    shared_redis.command("DEL", lease)
    assert await cache.get_or_set("key", one, LONG) == 1


async def test_a_lease_that_was_given_to_a_cancelled_caller_is_released(
    nodes: tuple[RedisCache, RedisCache],
    shared_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, _ = nodes
    _, lease = names(cache, "key")
    gate = Gate()
    ask = cache._ask

    async def slow_answer(*command: object) -> object:
        answer = await ask(*command)
        if cache_of_redis.ACQUIRE in command:
            await gate()
        return answer

    monkeypatch.setattr(cache, "_ask", slow_answer)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(cache.get_or_set, "key", one, LONG))
            await gate.reached.wait()
            assert shared_redis.command("EXISTS", lease) == b":1\r\n"
            tasks.cancel_scope.cancel()
    assert shared_redis.command("EXISTS", lease) == b":0\r\n"


# Foreign data


@pytest.mark.parametrize("text", [b"", b"\x80\x04N.", b"{", b'"1', b"\xff" * 1000, b"[1]"])
async def test_foreign_bytes_are_a_miss_that_is_counted(
    nodes: tuple[RedisCache, RedisCache], shared_redis: RedisServer, text: bytes
) -> None:
    cache, other = nodes
    value, _ = names(cache, "key")
    shared_redis.command("SET", value, text)
    assert await cache.get("key", int) is None
    assert cache.misfits == 1
    assert await cache.get_or_set("key", one, LONG) == 1
    assert await other.get("key", int) == 1


async def test_foreign_bytes_that_come_in_between_are_replaced(
    nodes: tuple[RedisCache, RedisCache], shared_redis: RedisServer
) -> None:
    """Test bytes that are not there when the value is read, but when the lease is acquired."""
    cache, _ = nodes
    value, lease = names(cache, "key")
    shared_redis.command("SET", lease, "another node", "PX", "60000")
    got: list[int] = []

    async def ask() -> None:
        got.append(await cache.get_or_set("key", one, LONG))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: cache._computations._running)
            shared_redis.command("SET", value, b"\x80")
            shared_redis.command("DEL", lease)
    assert got == [1]
    assert cache.misfits == 1


async def test_keys_of_another_kind_are_replaced(
    nodes: tuple[RedisCache, RedisCache], shared_redis: RedisServer
) -> None:
    cache, _ = nodes
    value, lease = names(cache, "key")
    for command in (("HSET", value, "a", "b"), ("RPUSH", lease, "a")):
        shared_redis.command(*command)
    assert await cache.get("key", int) is None
    assert cache.misfits == 1
    assert await cache.get_or_set("key", one, LONG) == 1
    assert await cache.get("key", int) == 1
    shared_redis.command("DEL", value)
    shared_redis.command("HSET", value, "a", "b")
    await cache.set("key", 2, LONG)
    assert await cache.get("key", int) == 2


async def test_all_keys_end_by_themselves_and_begin_with_the_prefix(own_redis: RedisServer) -> None:
    broker = broker_at(own_redis.url, "shop")
    async with linked(broker):
        cache = RedisCache(broker)
        await cache.set("a", 1, LONG)
        await cache.get_or_set("b", one, LONG)
        for key in ("a", "b"):
            value, _ = names(cache, key)
            assert value == f"{{0/shop}}:cache:{key}"
            assert 0 < int(own_redis.command("PTTL", value)[1:]) <= 1000 * LONG


# Redis away


async def test_while_redis_is_away_there_is_no_value_and_each_node_computes(
    own_redis: RedisServer,
) -> None:
    broker = broker_at(own_redis.url)
    cache = RedisCache(broker)
    assert await cache.get_or_set("key", one, LONG) == 1  # the app has not started
    async with linked(broker):
        await cache.set("key", 1, LONG)
        own_redis.kill()
        await until(lambda: broker.redis._connection is None)
        assert await cache.get("key", int) is None
        assert await cache.get_or_set("key", two, LONG) == 2
        await cache.set("key", 3, LONG)
        await cache.delete("key")
        assert await cache.get("key", int) is None


async def test_a_strict_cache_says_that_redis_is_away(own_redis: RedisServer) -> None:
    broker = broker_at(own_redis.url)
    cache = RedisCache(broker, strict=True)
    async with linked(broker):
        assert await cache.get_or_set("key", one, LONG) == 1
        own_redis.kill()
        await until(lambda: broker.redis._connection is None)
        for call in (
            cache.get("key", int),
            cache.set("key", 2, LONG),
            cache.delete("key"),
            cache.get_or_set("key", two, LONG),
        ):
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable):
            await cache._compute("key", _unused, LONG, bool)


async def _unused() -> bytes:
    raise AssertionError("it computed")


@pytest.mark.slow
async def test_values_that_could_not_be_changed_are_removed_when_redis_is_back(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is lost rather than the server, which keeps the old values."""
    monkeypatch.setattr(cache_of_redis, "MOST_OVERDUE", 2)
    proxy = Proxy(own_redis.port)
    async with proxy.running():
        broker = broker_at(proxy.url, heartbeat=1)
        cache = RedisCache(broker)
        async with linked(broker) as node:
            for key in ("set", "deleted", "cancelled", "kept"):
                await cache.set(key, 1, LONG)
            own_redis.command("SET", names(cache, "forgotten")[0], "1")
            proxy.swallow()
            await until(lambda: broker.redis._connection is None)
            await cache.delete("forgotten")
            await cache.set("set", 2, LONG)
            await cache.delete("deleted")
            assert len(cache._overdue) == 2
            proxy.let_through()
            await node.until(lambda: bool(node.gaps), LONG_TIMEOUT)
            assert await cache.get("kept", int) == 1
            assert not cache._overdue
            assert await cache.get("set", int) is None
            assert await cache.get("deleted", int) is None
            assert await cache.get("forgotten", int) == 1  # one more than are remembered


async def test_a_change_that_was_cancelled_is_removed_later(
    nodes: tuple[RedisCache, RedisCache], shared_redis: RedisServer
) -> None:
    """Nobody knows whether Redis has done it."""
    cache, other = nodes
    await cache.set("key", 1, LONG)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await cache.set("key", 2, LONG)
    assert await cache.get("key", int) is None
    assert await other.get("key", int) is None


async def test_a_removal_that_another_failed_change_has_renewed_is_repeated(
    nodes: tuple[RedisCache, RedisCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = nodes
    key = cache._names("key")
    ask, gate, removed = cache._redis.ask, Gate(), []

    async def slow_answer(*command: object) -> object:
        answer = await ask(*command)
        removed.append(command)
        await gate()
        return answer

    monkeypatch.setattr(cache._redis, "ask", slow_answer)
    cache._overdue[key] = object()
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache._remove_overdue)
            await gate.reached.wait()
            cache._overdue[key] = object()
            gate.opened.set()
    assert removed == [(b"DEL", *key)] * 2
    assert cache._overdue == {}


async def test_a_redis_that_dies_while_a_value_is_computed_is_no_error(
    own_redis: RedisServer,
) -> None:
    """The result is not kept; the next who asks computes it, and that one is."""
    broker = broker_at(own_redis.url)
    cache = RedisCache(broker)

    async def and_kill() -> int:
        own_redis.kill()
        await until(lambda: broker.redis._connection is None)
        return 1

    async def kill_and_fail() -> int:
        await and_kill()
        raise LookupError

    async with linked(broker) as node:
        assert await cache.get_or_set("key", and_kill, LONG) == 1
        own_redis.start()
        await node.until(lambda: bool(node.gaps), LONG_TIMEOUT)
        assert await cache.get_or_set("key", two, LONG) == 2
        assert await cache.get("key", int) == 2
        with pytest.raises(LookupError):
            await cache.get_or_set("other", kill_and_fail, LONG)


async def test_a_redis_that_is_lost_while_another_node_computes_makes_the_node_compute(
    own_redis: RedisServer,
) -> None:
    broker = broker_at(own_redis.url)
    cache = RedisCache(broker)
    got: list[int] = []

    async def ask() -> None:
        got.append(await cache.get_or_set("key", one, LONG))

    async with linked(broker):
        own_redis.command("SET", names(cache, "key")[1], "another node", "PX", "60000")
        with anyio.fail_after(LONG_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await until(lambda: cache._computations._running)
                own_redis.kill()
    assert got == [1]


async def test_a_full_redis_is_like_one_that_is_away(own_redis: RedisServer) -> None:
    """Redis refuses what needs memory, and answers the rest."""
    broker = broker_at(own_redis.url)
    cache = RedisCache(broker)
    async with linked(broker):
        await cache.set("kept", 1, LONG)
        await cache.set("key", 1, LONG)
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        await cache.set("key", 2, LONG)
        assert await cache.get("kept", int) == 1
        assert await cache.get("key", int) is None
        assert await cache.get_or_set("key", two, LONG) == 2
        await cache.delete("kept")
        assert await cache.get("kept", int) is None
