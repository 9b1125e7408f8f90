"""Nodes notice the loss of Redis, tell their subscribers of it, and reconnect by themselves."""

import enum
import importlib
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import rooms
from brokers import HEARTBEAT, Node, linked
from coredis.exceptions import ConnectionError as NotConnected
from coredis.exceptions import RedisError
from harness import errors
from ports import free_port
from redis_server import Proxy, RedisServer
from timeouts import TIMEOUT

from websuckets.exc import ConfigurationError
from websuckets.redis import RedisProvider, unsent
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.errors import Refusals
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

LONG_TIMEOUT = 3 * TIMEOUT
"""Seconds for an operation that takes several heartbeats on a busy machine."""


def broker_at(url: str, heartbeat: float = 0.5) -> RedisBroker:
    return RedisBroker(RedisConnection(url, heartbeat), "test")


async def come_through(one: Node, two: Node, body: bytes) -> None:
    """Publish on one node until the other receives the event, which may take several attempts."""
    with anyio.fail_after(LONG_TIMEOUT):
        while ("a", body) not in two.got:
            one.link.publish("a", body)
            await anyio.sleep(0.05)


def client_kill(server: RedisServer) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")


def restart(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("fault", [client_kill, restart])
async def test_a_lost_connection_is_made_anew_and_its_gap_is_told(
    own_redis: RedisServer, fault: Callable[[RedisServer], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Subscriptions and users are restored without a call of the program."""
    one_broker, two_broker = (broker_at(own_redis.url) for _ in range(2))
    async with linked(one_broker) as one, linked(two_broker) as two:
        await two.link.subscribe("a")
        two.link.enter("", "ann")
        fault(own_redis)
        for node in (one, two):
            await node.until(node.has_lost_its_link, LONG_TIMEOUT)
        await come_through(one, two, b"[1]")
        with anyio.fail_after(LONG_TIMEOUT):
            while await one.link.members("") != {"ann"}:
                await anyio.sleep(0.01)
    assert "Redis is away" in caplog.text
    assert "Redis is back" in caplog.text


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.go_on()


@contextmanager
def swallowing(proxy: Proxy) -> Iterator[None]:
    proxy.swallow()
    try:
        yield
    finally:
        proxy.let_through()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stopped", "black hole"])
async def test_a_link_that_only_looks_alive_is_noticed(own_redis: RedisServer, fault: str) -> None:
    """No call waits longer than the fault takes to be noticed, and late data does no harm."""
    async with Proxy(own_redis.port).running() as proxy:
        url = proxy.url if fault == "black hole" else own_redis.url
        async with linked(broker_at(own_redis.url)) as one, linked(broker_at(url)) as two:
            await two.link.subscribe("a")
            with stopped(own_redis) if fault == "stopped" else swallowing(proxy):
                with anyio.fail_after(LONG_TIMEOUT):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(two.link.subscribe, "b")
                        assert await two.link.members("") == set()
                two.link.publish("a", b"[0]")  # is lost
            await two.until(two.has_lost_its_link, LONG_TIMEOUT)
            await come_through(one, two, b"[1]")


@pytest.mark.slow
async def test_who_misses_what_was_lost_on_the_way_to_redis_is_told(own_redis: RedisServer) -> None:
    """The subscribers of the lost topics get a gap, and of all if more than `MOST_LOST` were
    lost."""
    async with Proxy(own_redis.port).running() as proxy:
        steady = broker_at(own_redis.url, HEARTBEAT)
        async with linked(steady) as one, linked(broker_at(proxy.url)) as two:
            for topic in ("a", "b"):
                await one.link.subscribe(topic)
            for most, told in ((1, [["a"]]), (unsent.MOST_LOST + 1, [["a"], None])):
                two.gaps.clear()
                with swallowing(proxy):
                    await two.link.subscribe(f"noticed {most}")
                    for number in range(most):
                        two.link.publish("a" if number == 0 else f"c{number}", b"[0]")
                    two.link.publish("a", b"[0]")
                await one.until(lambda told=told: one.gaps == told, LONG_TIMEOUT)  # type: ignore[misc]
                await two.until(two.has_lost_its_link, LONG_TIMEOUT)
            assert one.got == []


async def test_what_is_on_its_way_when_the_link_is_lost_is_lost(own_redis: RedisServer) -> None:
    """An event on its way may have arrived, so it is not sent again; its subscribers get a gap."""
    async with Proxy(own_redis.port).running() as proxy:
        steady = broker_at(own_redis.url, HEARTBEAT)
        async with linked(steady) as one, linked(broker_at(proxy.url)) as two:
            for topic in ("a", "b"):
                await one.link.subscribe(topic)
            proxy.swallow()
            two.link.publish("a", b"[0]")
            two.link.enter("", "ann")
            await anyio.wait_all_tasks_blocked()  # for the answer
            two.link.publish("b", b"[0]")
            with anyio.fail_after(LONG_TIMEOUT):
                await two.link.subscribe("noticed")
            proxy.let_through()
            await one.until(lambda: ["a"] in one.gaps and ["b"] in one.gaps, LONG_TIMEOUT)
            assert one.got in ([], [("a", b"[0]")])


async def test_more_than_can_wait_is_lost_and_told(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events beyond `MOST_WAITING` are lost like those published while Redis is away."""
    monkeypatch.setattr(unsent, "MOST_WAITING", 10)
    async with (
        linked(broker_at(shared_redis.url)) as one,
        linked(broker_at(shared_redis.url)) as two,
    ):
        await two.link.subscribe("a")
        for number in range(20):
            one.link.publish("a", b"[%d]" % number)
        await two.until(lambda: ["a"] in two.gaps)
        assert two.got == [("a", b"[%d]" % number) for number in range(10)]


async def test_an_app_starts_without_redis(caplog: pytest.LogCaptureFixture) -> None:
    """An app without Redis starts, serves its own clients, and stops."""
    provider = RedisProvider(f"redis://127.0.0.1:{free_port()}", heartbeat=0.5)
    async with TestClient(rooms.app(providers=[provider])) as client:
        await client.call("enter", "ann")
        await client.call("join", "a")
        await client.call("publish", {"channel": "a", "what": 1})
        assert (await client.receive()).payload == 1
        assert (await client.call("members", "a")).payload == ["ann"]
        await client.call("leave", "a")
    (error,) = errors(caplog)
    assert error.message.startswith("Redis is away")


async def test_a_gap_is_an_event_on_the_channel(own_redis: RedisServer) -> None:
    """A gap is an event that tells clients to load their data anew."""
    app = rooms.app(providers=[RedisProvider(own_redis.url, heartbeat=0.5)])
    async with TestClient(app) as ann, ann.connect() as bob:
        await ann.call("join", "a")
        await bob.call("enter", "bob")
        client_kill(own_redis)
        for client, channel in ((ann, "a"), (bob, None)):
            gap = await client.receive(LONG_TIMEOUT)
            assert (gap.event, gap.payload) == ("channel gap", {"channel": channel})


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"nonsense",
        b'{"event": "news"}',
        b"websuckets/2 abc message\n{}",
        b"websuckets/1 abc other\n{}",
        b"websuckets/1 abc message\n[]",
        b'websuckets/1 abc message\n{"event": 1, "payload": 1}',
        b'websuckets/1 abc message\n{"event": "news", "payload": NaN}',
        b'websuckets/1 abc message\n{"event": "news", "payload": 1, "id": 1}',
        b"websuckets/1 abc message\n\x80\x04N.",
    ],
)
@pytest.mark.parametrize("topic", ["channel/a", "users"])
async def test_malformed_messages_are_ignored_and_counted(
    shared_redis: RedisServer, message: bytes, topic: str
) -> None:
    """No client gets a malformed message, and no client is disturbed."""
    prefix = f"{message!r} {topic}"
    provider = RedisProvider(shared_redis.url, prefix=prefix)
    app = rooms.app(providers=[provider])
    async with TestClient(app) as client:
        await client.call("enter", "ann")
        await client.call("join", "a")
        shared_redis.command("PUBLISH", f"{{0/{prefix}}}:topic:{topic}", message)
        if topic == "users":
            shared_redis.command(
                "PUBLISH",
                f"{{0/{prefix}}}:topic:users",
                b'websuckets/1 a message\n[]\n{"event":"a","payload":null}',
            )
        count = 1 + (topic == "users")
        own = b'websuckets/1 a message\n{"event":"end","payload":null}'
        shared_redis.command("PUBLISH", f"{{0/{prefix}}}:topic:channel/a", own)
        assert (await client.receive()).event == "end"
        node: Any = app._channels._node
        assert node.link._malformed.count == count


class Prefix(str, enum.Enum):  # noqa: UP042  # of a StrEnum, the value is in an f-string, too
    OF_THE_SHOP = "shop"


async def test_a_prefix_may_be_a_member_of_an_enum(shared_redis: RedisServer) -> None:
    """Names in Redis begin with the value of the member, on every node and in every tool."""
    provider = RedisProvider(shared_redis.url, prefix=Prefix.OF_THE_SHOP)
    async with TestClient(rooms.app(providers=[provider])) as client:
        await client.call("enter", "ann")
        await client.call("join", "a")
        names = shared_redis.command("PUBSUB", "CHANNELS", "{0/shop}:*")
        assert b"{0/shop}:topic:channel/a" in names


async def test_malformed_keys_are_not_users(
    shared_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed user is ignored and counted; a key of another kind stops nothing."""
    prefix = secrets.token_hex(8)
    redis = RedisBroker(RedisConnection(shared_redis.url, 0.2), prefix)
    for users in (b"nonsense", b"true", b"[]", b'"bob"'):
        shared_redis.command("SADD", f"{redis.root}:users:other:a", users)
    shared_redis.command("SADD", f"{redis.root}:nodes", "other", b"\xff")
    shared_redis.command("SET", f"{redis.root}:node:other", "1")
    async with linked(redis) as node:
        assert await node.link.members("a") == {"bob"}
        assert redis.malformed.count >= 3  # a heartbeat finds the name of a node, too
        shared_redis.command("SET", f"{redis.root}:users:other:b", "no set")
        assert await node.link.members("b") == set()
        shared_redis.command("SET", f"{redis.root}:nodes", "no set")
        with anyio.fail_after(LONG_TIMEOUT):
            while redis.redis.refusals.count < 3:
                await anyio.sleep(0.01)
        assert "Redis refuses" in caplog.text
        node.link.enter("c", "ann")
        await node.link.subscribe("a")
    assert node.gaps == []


async def test_a_node_that_is_dead_is_cleared_away(shared_redis: RedisServer) -> None:
    """The users of a dead node are not counted any more, and its keys are deleted."""
    redis = RedisBroker(RedisConnection(shared_redis.url, 0.2), secrets.token_hex(8))
    shared_redis.command("SADD", f"{redis.root}:nodes", "name")
    shared_redis.command("SADD", f"{redis.root}:groups:name", "a")
    shared_redis.command("SADD", f"{redis.root}:users:name:a", '"bob"')
    async with linked(redis) as node:
        assert await node.link.members("a") == set()
        with anyio.fail_after(LONG_TIMEOUT):
            while b"name" in shared_redis.command("KEYS", f"{redis.root}:*"):
                await anyio.sleep(0.01)
    left = shared_redis.command("KEYS", f"{redis.root}:*")  # the node has deleted its own keys, too
    assert left.split()[2:] == [f"{redis.root}:announced".encode()]


async def test_a_node_that_was_forgotten_says_again_who_is_there(
    shared_redis: RedisServer,
) -> None:
    """A node writes its presence again after a long stop of Redis, or when its keys are gone."""
    prefix = secrets.token_hex(8)
    redis, another = (RedisBroker(RedisConnection(shared_redis.url, 0.2), prefix) for _ in range(2))
    async with linked(redis) as one, linked(another) as two:
        one.link.enter("a", "ann")
        while await two.link.members("a") != {"ann"}:
            await anyio.sleep(0.01)
        for key in shared_redis.command("KEYS", f"{redis.root}:*").split(b"\r\n"):
            if key.startswith(redis.root.encode()):
                shared_redis.command("DEL", key)
        with anyio.fail_after(LONG_TIMEOUT):
            while await two.link.members("a") != {"ann"}:
                await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "heartbeat"),
    [
        ("localhost", 1),
        (6379, 1),
        ("redis://", 1),
        ("redis://localhost:canary", 1),
        ("redis://localhost:99999", 1),
        ("redis://user:1#canary@localhost", 1),
        ("redis://localhost", 0),
    ],
)
def test_what_is_no_redis_is_told(url: Any, heartbeat: float) -> None:
    """A wrong URL or heartbeat is refused before the app starts."""
    with pytest.raises(ConfigurationError, match="RedisProvider") as caught:
        RedisProvider(url, heartbeat=heartbeat)
    assert "canary" not in str(caught.value)


def test_the_client_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package to install if the client of Redis is missing."""
    for name in [name for name in sys.modules if name.startswith("websuckets.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.raises(ImportError, match='extra "redis"'):
        importlib.import_module("websuckets.redis")


class Witness:
    """A user of a connection that counts the losses of the connection."""

    key = "any"

    def __init__(self) -> None:
        self.losses = 0

    async def connected(self, connection: Any) -> None: ...

    async def use(self) -> None: ...

    async def beat(self) -> None: ...

    def pushed(self, message: list[Any]) -> None: ...

    def disconnected(self) -> None:
        self.losses += 1


async def test_it_is_tried_again_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The connection is tried again until Redis answers; only the first failure is logged."""
    witness = Witness()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(RedisConnection(f"redis://127.0.0.1:{free_port()}", 0.5).run, witness)
        with anyio.fail_after(LONG_TIMEOUT):
            while witness.losses < 3:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    (error,) = errors(caplog)
    assert "nobody listens" in error.message


async def test_messages_that_just_end_are_a_failure() -> None:
    """The client was seen to end the messages without an error when its connection was killed."""

    class Silent:
        @property
        async def push_messages(self) -> AsyncIterator[list[Any]]:
            for message in ([b"pong"], []):
                yield message

    connection: Any = Silent()
    with pytest.raises(NotConnected, match="have ended"):
        await RedisConnection("redis://localhost", 1)._listen(connection, Witness())


def refuse(server: RedisServer, *rules: str) -> None:
    """Take rights away from the default user."""
    server.command("ACL", "SETUSER", "default", *rules)


async def test_an_app_starts_where_redis_refuses_subscriptions(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The app serves its own clients, as without Redis, and logs the reason."""
    refuse(own_redis, "resetchannels")
    provider = RedisProvider(own_redis.url, heartbeat=0.1)
    with anyio.fail_after(LONG_TIMEOUT):
        async with TestClient(rooms.app(providers=[provider])) as client:
            await client.call("enter", "ann")
            await client.call("join", "a")
            await client.call("publish", {"channel": "a", "what": 1})
            assert (await client.receive()).payload == 1
    assert "Redis is away" in caplog.text
    assert "it refuses subscriptions: NOPERM" in caplog.text


async def test_a_channel_that_redis_refuses_keeps_nobody_waiting(own_redis: RedisServer) -> None:
    """The subscriber gets the events of its own node."""
    async with linked(broker_at(own_redis.url, 0.2)) as node:
        refuse(own_redis, "resetchannels", "&{0/test}:topic:a")
        with anyio.fail_after(LONG_TIMEOUT):
            await node.link.subscribe("refused")


async def test_what_redis_refuses_to_publish_is_told_when_it_can_be(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The gap is sent once Redis accepts it, and the log has no content of the event."""
    async with linked(broker_at(own_redis.url)) as one, linked(broker_at(own_redis.url)) as two:
        await two.link.subscribe("a")
        refuse(own_redis, "-publish")
        one.link.publish("a", b"canary")
        with anyio.fail_after(LONG_TIMEOUT):
            while "Redis refuses" not in caplog.text:
                await anyio.sleep(0.01)
        refuse(own_redis, "+publish")
        await two.until(lambda: ["a"] in two.gaps, LONG_TIMEOUT)
        assert two.got == []
    assert "canary" not in caplog.text


def test_errors_of_redis_quote_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The log of an unknown command does not quote its arguments, as the error of Redis does."""
    refusals = Refusals()
    with refusals.tolerated():
        raise RedisError("unknown command 'PUBLISH', with args beginning with: 'canary'")
    assert "PUBLISH" in caplog.text
    assert "canary" not in caplog.text


async def test_who_unsubscribes_from_what_is_not_confirmed_waits_no_longer_than_the_link(
    own_redis: RedisServer,
) -> None:
    """A subscriber that waits for the confirmation waits no longer than the connection, either."""
    async with linked(broker_at(own_redis.url, 0.5)) as node:
        own_redis.pause()
        with anyio.fail_after(LONG_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(node.link.subscribe, "a")
                await anyio.wait_all_tasks_blocked()
                node.link.unsubscribe("a")
        own_redis.go_on()
        await node.until(node.has_lost_its_link, LONG_TIMEOUT)


@pytest.mark.parametrize("key", ["nodes", "users", "groups", "alien"])
async def test_users_are_known_whatever_others_write(own_redis: RedisServer, key: str) -> None:
    """Data of another kind is ignored, and lost data is written anew."""
    async with (
        linked(broker_at(own_redis.url, 0.2)) as one,
        linked(broker_at(own_redis.url, 0.2)) as two,
    ):
        two.link.enter("a", "ann")
        if key == "nodes":
            own_redis.command("DEL", "{0/test}:nodes")
        elif key == "users":
            own_redis.command("SET", "{0/test}:node:other", "1")
            own_redis.command("SADD", "{0/test}:nodes", "other")
            own_redis.command("SET", "{0/test}:users:other:a", "none")
        elif key == "groups":
            own_redis.command("SADD", "{0/test}:nodes", "dead")
            own_redis.command("SET", "{0/test}:groups:dead", "none")
        else:
            own_redis.command("SADD", "{0/test}:nodes", b"\xff")
        with anyio.fail_after(LONG_TIMEOUT):
            while await one.link.members("a") != {"ann"}:
                await anyio.sleep(0.01)
            while own_redis.command("SCARD", "{0/test}:nodes") != (
                b":3\r\n" if key == "users" else b":2\r\n"
            ):
                await anyio.sleep(0.01)


async def test_a_node_ends_though_redis_does_not_answer(own_redis: RedisServer) -> None:
    """The node ends without waiting; other nodes find out by themselves that it has gone."""
    async with linked(broker_at(own_redis.url, 0.2)) as node:
        node.link.enter("a", "ann")
        own_redis.pause()
    own_redis.go_on()
