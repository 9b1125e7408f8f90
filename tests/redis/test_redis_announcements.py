"""Announcements and revocations reach nodes that were cut off from Redis, or their loss is told."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import rooms
from brokers import Node, linked
from redis_nodes import HEARTBEAT, LONG_TIMEOUT, app_at, broker_at
from redis_server import Proxy, RedisServer

from websuckets import Limits, WebSuckets
from websuckets.exc import Unavailable
from websuckets.redis import RedisProvider, announcements
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cut_off(own_redis: RedisServer) -> AsyncIterator[tuple[Node, Node, Proxy]]:
    """Yield a node, another one, and the proxy between the second node and Redis."""
    async with Proxy(own_redis.port).running() as proxy:
        async with linked(broker_at(own_redis.url)) as one, linked(broker_at(proxy.url)) as two:
            yield one, two, proxy


async def test_announcements_of_the_time_without_a_link_are_replayed(
    cut_off: tuple[Node, Node, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missed announcements are replayed in order, each once, page by page, without a loss."""
    monkeypatch.setattr(announcements, "AT_ONCE", 3)
    one, two, proxy = cut_off
    await one.link.announce(b"before")
    await two.until(lambda: bool(two.announcements))
    losses = two.losses
    proxy.swallow()
    expected = [b"%d" % number for number in range(7)]
    for announcement in expected:
        await one.link.announce(announcement)
    with pytest.raises(Unavailable):
        await two.link.announce(b"cannot be kept")
    proxy.let_through()
    await two.until(lambda: len(two.announcements) == 8, LONG_TIMEOUT)
    assert two.announcements == [b"before", *expected]
    assert two.losses == losses


async def test_a_hint_that_is_lost_delays_an_announcement_by_a_heartbeat(
    own_redis: RedisServer,
) -> None:
    """Run where Redis does not let nodes publish."""
    async with linked(broker_at(own_redis.url)) as one, linked(broker_at(own_redis.url)) as two:
        own_redis.command("ACL", "SETUSER", "default", "-publish")
        await one.link.announce(b"a")
        await two.until(lambda: two.announcements == [b"a"], LONG_TIMEOUT)


async def test_more_announcements_than_are_kept_are_told_as_lost(
    cut_off: tuple[Node, Node, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was away for too long reports the loss."""
    monkeypatch.setattr(announcements, "MOST", 3)
    one, two, proxy = cut_off
    losses = two.losses
    proxy.swallow()
    for number in range(5):
        await one.link.announce(b"%d" % number)
    with pytest.raises(Unavailable):
        await two.link.announce(b"noticed")
    proxy.let_through()
    await two.until(lambda: two.losses == losses + 1, LONG_TIMEOUT)
    await one.link.announce(b"next")
    await two.until(lambda: two.announcements == [b"next"])


def emptied(server: RedisServer) -> None:
    server.kill()
    server.start()


def without_the_last(server: RedisServer) -> None:
    """Remove the last announcement, like a replica that took over too early."""
    server.command("HSET", "{0/test}:announced", "count", "1")
    server.command("LTRIM", "{0/test}:announcements", "0", "0")


def with_another_last(server: RedisServer) -> None:
    """Replace the last announcement, like a replica that went on afterwards."""
    server.command("LSET", "{0/test}:announcements", "1", "another")


def without_its_list(server: RedisServer) -> None:
    server.command("SET", "{0/test}:announcements", "none")


def without_its_count(server: RedisServer) -> None:
    server.command("SET", "{0/test}:announced", "none")


@pytest.mark.parametrize(
    "loss", [emptied, without_the_last, with_another_last, without_its_list, without_its_count]
)
async def test_lost_announcements_are_noticed(
    own_redis: RedisServer, loss: Callable[[RedisServer], None]
) -> None:
    """Test each kind of loss; expect later announcements to arrive."""
    async with linked(broker_at(own_redis.url)) as one, linked(broker_at(own_redis.url)) as two:
        for number in range(2):
            await one.link.announce(b"%d" % number)
        await two.until(lambda: len(two.announcements) == 2)
        losses = two.losses
        loss(own_redis)
        await two.until(lambda: two.losses == losses + 1, LONG_TIMEOUT)
        with anyio.fail_after(LONG_TIMEOUT):
            while b"next" not in two.announcements:
                try:
                    await one.link.announce(b"next")
                except Unavailable:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.01)


async def test_malformed_announcements_are_ignored_and_counted(own_redis: RedisServer) -> None:
    """Expect the announcements that follow to arrive."""
    app = app_at(own_redis.url, prefix="test")
    async with TestClient(app) as ann, TestClient(app_at(own_redis.url, prefix="test")) as admin:
        await ann.call("enter", "ann")
        for announcement in ("nonsense", "a b\nrevoked\n[]"):
            own_redis.command("RPUSH", "{0/test}:announcements", announcement)
            own_redis.command("HINCRBY", "{0/test}:announced", "count", "1")
        await admin.call("revoke", "ann")
        await ann.wait_closed()
        assert ann.close_code == 4401
        node: Any = app._channels._node
        assert node.link._malformed.count == 2


@pytest.mark.slow
@pytest.mark.parametrize("resume", [True, False])
async def test_a_revocation_reaches_a_node_that_was_cut_off(
    own_redis: RedisServer, resume: bool
) -> None:
    """The connection is closed with and without a session store."""

    def app(url: str) -> WebSuckets:
        provider = RedisProvider(url, resume=resume, heartbeat=HEARTBEAT)
        return rooms.app(providers=[provider], limits=Limits(revocation_lag=None))

    async with Proxy(own_redis.port).running() as proxy:
        async with TestClient(app(own_redis.url)) as admin, TestClient(app(proxy.url)) as ann:
            await ann.call("enter", "ann")
            proxy.swallow()
            await admin.call("revoke", "ann")
            assert ann.close_code is None
            proxy.let_through()
            with anyio.fail_after(LONG_TIMEOUT):
                await ann.wait_closed()
            assert (ann.close_code, ann.close_reason) == (4401, "revoked")


async def test_revoking_while_redis_is_away_is_unavailable_without_a_store(
    own_redis: RedisServer,
) -> None:
    """Expect a user of this node to be revoked in any case."""
    provider = RedisProvider(own_redis.url, heartbeat=HEARTBEAT)
    async with TestClient(rooms.app(providers=[provider])) as admin, admin.connect() as ann:
        await ann.call("enter", "ann")
        own_redis.kill()
        with pytest.raises(CommandError, match="unavailable"):
            await admin.call("revoke", "ann")
        await ann.wait_closed()
        assert ann.close_code == 4401
        own_redis.start()


async def test_forgetting_while_redis_is_away_is_unavailable(own_redis: RedisServer) -> None:
    """The token is refused on this node in any case."""
    async with TestClient(app_at(own_redis.url)) as ann, ann.connect() as beside:
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        await beside.call("who am i", token="secret of ann")
        own_redis.kill()
        with pytest.raises(CommandError, match="unavailable"):
            await ann.call("forget")
        with pytest.raises(CommandError, match="unavailable"):
            await beside.call("who am i", token="secret of ann")
        own_redis.start()
