"""The store of commands that take effect once that an app gets by ``RedisProvider(once=True)``."""

import secrets

import anyio
import pytest
from dishka import AsyncContainer, make_async_container
from dishka.exceptions import NoFactoryError
from harness import app_with
from redis_server import RedisServer
from timeouts import TIMEOUT

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import ConfigurationError
from websuckets.idempotency import IdempotencyStore, StoredReply
from websuckets.redis import RedisProvider
from websuckets.redis.idempotency import RedisClaims, RedisIdempotencyStore
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

PRINT = bytes(32)


def commands() -> CommandGroup:
    """Return a command that uses the store as the framework does, within one handler."""
    group = CommandGroup()

    @group.command("once")
    async def once(
        socket: Socket, key: Payload[str], store: IdempotencyStore, again: IdempotencyStore
    ) -> str:
        assert isinstance(store, RedisIdempotencyStore)
        assert store is again
        assert store._claim is None
        reply = await store.claim("str:ann", key, PRINT)
        if reply is None:
            await store.complete(StoredReply(PRINT, f"of {socket.id}"))
            await store.settle(True)
            return "done"
        return reply.frame

    @group.command("who am i")
    async def who_am_i(socket: Socket) -> str:
        return f"of {socket.id}"

    return group


async def payload(client: TestClient, event: str, payload: object = None) -> object:
    with anyio.fail_after(TIMEOUT):
        return (await client.call(event, payload)).payload


def app_at(redis: RedisServer, prefix: str, **options: float) -> WebSuckets:
    provider = RedisProvider(redis.url, prefix=prefix, once=True, **options)
    return app_with(commands(), providers=[provider])


async def test_each_message_gets_a_store_and_all_nodes_share_their_replies(
    shared_redis: RedisServer,
) -> None:
    prefix = secrets.token_hex(8)
    async with (
        TestClient(app_at(shared_redis, prefix)) as ann,
        TestClient(app_at(shared_redis, prefix)) as again,
        TestClient(app_at(shared_redis, f"{prefix}2")) as elsewhere,
    ):
        first = await payload(ann, "who am i")
        assert await payload(ann, "once", "k") == "done"
        for client in (ann, again):
            assert await payload(client, "once", "k") == first
        assert await payload(ann, "once", "another key") == "done"
        assert await payload(elsewhere, "once", "k") == "done"


async def test_replies_are_kept_for_the_lifetime_that_the_provider_got(
    own_redis: RedisServer,
) -> None:
    async with TestClient(app_at(own_redis, "shop", once_lifetime=77)) as ann:
        assert await payload(ann, "once", "k") == "done"
        name = own_redis.command("KEYS", "{0/shop}:once:*").split(b"\r\n")[2]
        assert 0 < int(own_redis.command("PTTL", name)[1:]) <= 77_000


async def test_an_app_that_starts_again_in_its_container_goes_on_renewing(
    shared_redis: RedisServer,
) -> None:
    """The claims outlive the app, whose tasks do not."""
    provider = RedisProvider(shared_redis.url, prefix=secrets.token_hex(8), once=True)
    app = app_with(commands())
    container: AsyncContainer = make_async_container(
        *app.providers, provider, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    for key in ("a", "b"):
        async with TestClient(app) as client:
            assert await payload(client, "once", key) == "done"
            claims = await container.get(RedisClaims)
            assert claims._is_keeping
        assert not claims._is_keeping
    await container.close()


async def test_a_container_in_which_the_default_store_wins_is_refused() -> None:
    """dishka takes the last provider of a type, and the defaults of the app came last."""
    provider = RedisProvider("redis://127.0.0.1:1", once=True)
    app = app_with(commands())
    container = make_async_container(provider, *app.providers, lock_factory=lock_factory)
    setup_dishka(container, app)
    with pytest.raises(ConfigurationError, match=r"so \*app.providers stands first"):
        async with TestClient(app):
            pytest.fail("it has started")
    await container.close()


async def test_without_once_there_is_no_store_of_redis(shared_redis: RedisServer) -> None:
    container = make_async_container(RedisProvider(shared_redis.url))
    with pytest.raises(NoFactoryError):
        await container.get(RedisClaims)
    await container.close()
