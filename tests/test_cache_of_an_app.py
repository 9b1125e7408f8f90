"""The cache that an app provides, and the cache in memory, which is the default."""

import secrets
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, make_async_container
from harness import app_with
from redis_server import RedisServer
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import AppTasks, CommandGroup, Payload, WebSuckets
from websuckets.cache import Cache, MemoryCache
from websuckets.di import lock_factory, setup_dishka
from websuckets.redis import RedisProvider
from websuckets.redis.cache import RedisCache
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

LONG = 1000.0


async def answer(client: TestClient, event: str, payload: str) -> Any:
    """Return the payload of the reply, or the name of the error."""
    try:
        return (await client.call(event, payload)).payload
    except CommandError as error:
        return error.error


def counting_group() -> tuple[CommandGroup, list[str]]:
    """Return commands that use the cache, and the list of what was loaded."""
    group, loaded = CommandGroup(), list[str]()

    @group.command("load")
    async def load(socket: ServerConnection, name: Payload[str], cache: Cache) -> str:
        async def value() -> str:
            loaded.append(name)
            return name.upper()

        return await cache.get_or_set(name, value, LONG)

    @group.command("peek")
    async def peek(socket: ServerConnection, name: Payload[str], cache: Cache) -> str | None:
        return await cache.get(name, str)

    return group, loaded


async def test_handlers_hooks_and_tasks_share_the_cache_of_the_app() -> None:
    group, loaded = counting_group()
    app = app_with(group)
    was_set = anyio.Event()

    @app.on_startup
    async def fill(cache: Cache, tasks: AppTasks) -> None:
        await cache.set("hook", "of a hook", LONG)

        async def fill_later() -> None:
            await cache.set("task", "of a task", LONG)
            was_set.set()

        tasks.start_soon(fill_later)

    async with TestClient(app) as ann:
        with anyio.fail_after(TIMEOUT):
            await was_set.wait()
        assert await answer(ann, "peek", "hook") == "of a hook"
        assert await answer(ann, "peek", "task") == "of a task"
        async with ann.connect() as bob:
            assert [await answer(client, "load", "a") for client in (ann, bob)] == ["A", "A"]
    assert loaded == ["a"]


async def test_a_cache_is_made_only_where_something_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, shared_redis: RedisServer
) -> None:
    made: list[type] = []
    for cls in (MemoryCache, RedisCache):
        init = cls.__init__

        def counted(self: Any, *arguments: Any, init: Any = init, **options: Any) -> None:
            made.append(type(self))
            init(self, *arguments, **options)

        monkeypatch.setattr(cls, "__init__", counted)
    plain = CommandGroup()

    @plain.command("ping")
    async def ping(socket: ServerConnection) -> str:
        return "pong"

    redis = RedisProvider(shared_redis.url, prefix=secrets.token_hex(8))
    for group, providers, expected in (
        (plain, [], []),
        (plain, [redis], []),
        (counting_group()[0], [], [MemoryCache]),
        (counting_group()[0], [redis], [RedisCache]),
    ):
        made.clear()
        async with TestClient(app_with(group, providers=providers)) as client:
            if group is plain:
                await client.call("ping")
            else:
                await answer(client, "load", "a")
        assert made == expected


async def test_a_cache_of_the_program_takes_the_place_of_any_other(
    shared_redis: RedisServer,
) -> None:
    group, loaded = counting_group()
    cache = MemoryCache()
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: cache, provides=Cache)
    redis = RedisProvider(shared_redis.url, prefix=secrets.token_hex(8))
    for providers in ([provider], [redis, provider]):
        async with TestClient(app_with(group, providers=providers)) as client:
            assert await answer(client, "load", "a") == "A"
    assert loaded == ["a"]
    app = app_with(group)
    with app.override(values={Cache: cache}):
        async with TestClient(app) as client:
            assert await answer(client, "peek", "a") == "A"


async def test_a_container_of_the_program_has_the_cache_too() -> None:
    group, _ = counting_group()
    app = WebSuckets()
    app.include_command_group(group)
    container = make_async_container(*app.providers, lock_factory=lock_factory)
    setup_dishka(container, app)
    async with TestClient(app) as client:
        assert await answer(client, "load", "a") == "A"
    assert await (await container.get(Cache)).get("a", str) == "A"
    await container.close()


async def test_with_redis_the_cache_is_that_of_all_nodes(shared_redis: RedisServer) -> None:
    prefix = secrets.token_hex(8)
    group, loaded = counting_group()
    one, two = (
        app_with(group, providers=[RedisProvider(shared_redis.url, prefix=prefix)])
        for _ in range(2)
    )
    async with TestClient(one) as ann, TestClient(two) as bob:
        assert [await answer(client, "load", "a") for client in (ann, bob)] == ["A", "A"]
    assert loaded == ["a"]


async def test_a_strict_cache_is_an_option_of_the_provider(own_redis: RedisServer) -> None:
    """The client gets the error `unavailable`; without the option, the value is loaded."""
    for strict, reply in ((True, "unavailable"), (False, "A")):
        group, _ = counting_group()
        redis = RedisProvider(own_redis.url, strict_cache=strict, heartbeat=0.2)
        own_redis.kill()
        async with TestClient(app_with(group, providers=[redis])) as client:
            assert await answer(client, "load", "a") == reply
        own_redis.start()


# The cache in memory


async def test_the_value_that_was_not_used_for_longest_makes_room() -> None:
    cache = MemoryCache(entries=3)
    for key in ("a", "b", "c"):
        await cache.set(key, key, LONG)
    assert await cache.get("a", str) == "a"
    await cache.set("b", "B", LONG)
    await cache.set("d", "d", LONG)
    assert [await cache.get(key, str) for key in "abcd"] == ["a", "B", None, "d"]
    for number in range(100):
        await cache.get_or_set(str(number), lambda: text("x"), LONG, type=str)
    assert repr(cache) == "MemoryCache(3 of 3)"


async def text(value: str) -> str:
    return value


@pytest.mark.parametrize("entries", [0, -1, 1.5, float("inf"), "10"])
def test_a_cache_in_memory_needs_a_number_of_entries(entries: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MemoryCache(entries)
