"""Presence on nodes at one Redis: arrivals and departures are told once, whatever fails."""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
import rooms
from brokers import linked
from harness import Client, dial
from nodes import node_process
from ports import free_port
from redis_nodes import HEARTBEAT, LONG_TIMEOUT, broker_at
from redis_server import RedisServer

from websuckets import Limits, WebSuckets
from websuckets.broker import PRESENCE, PresenceRules
from websuckets.redis import RedisProvider
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

HALL = rooms.hall(id=1)

GRACE = 1
"""Seconds in which a busy machine does a lot."""

RULES = PresenceRules(0, lambda group: group == "a")


def app_at(url: str, grace: float = GRACE, heartbeat: float = HEARTBEAT) -> WebSuckets:
    provider = RedisProvider(url, heartbeat=heartbeat)
    limits = Limits(presence_grace=grace)
    return rooms.app(providers=[provider], limits=limits, channels=[rooms.hall])


async def come(client: TestClient, name: str) -> None:
    await client.call("enter", name)
    await client.call("join", HALL)


async def told(client: TestClient, number: int) -> list[tuple[str, str]]:
    """Return of whom a client is told next; gaps, of which it is told, too, do not count."""
    changes: list[tuple[str, str]] = []
    while len(changes) < number:
        event = await client.receive(LONG_TIMEOUT)
        if event.event != "channel gap":
            changes += changes_in(event.event, event.payload)
    return changes


def changes_in(event: str, payload: Any) -> list[tuple[str, str]]:
    assert event == "presence"
    changes = [("joined", id) for id in payload["joined"]]
    return [*changes, *(("left", id) for id in payload["left"])]


def lose_connections(server: RedisServer) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")


def restart(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [lose_connections, restart])
async def test_an_outage_of_redis_tells_only_of_who_has_left(
    own_redis: RedisServer, fault: Callable[[RedisServer], None]
) -> None:
    """Nodes enter their users anew, and a grace later each departure is told once on each node."""
    one, two = app_at(own_redis.url), app_at(own_redis.url)
    async with TestClient(one) as ann, TestClient(two) as bob, bob.connect() as eve:
        await come(ann, "ann")
        for client, name in ((bob, "bob"), (eve, "eve")):
            await come(client, name)
            assert await told(ann, 1) == [("joined", name)]
        assert await told(bob, 1) == [("joined", "eve")]
        fault(own_redis)
        await eve.close()
        for client in (ann, bob):
            assert await told(client, 1) == [("left", "eve")]
        async with bob.connect() as zoe:
            await come(zoe, "zoe")
            for client in (ann, bob):
                assert await told(client, 1) == [("joined", "zoe")]
        for client in (ann, bob):
            assert await told(client, 1) == [("left", "zoe")]


async def test_who_comes_while_redis_is_away_is_told_when_it_is_back(
    own_redis: RedisServer,
) -> None:
    """Also those whom a node found when it started without Redis."""
    own_redis.kill()
    one, two = app_at(own_redis.url), app_at(own_redis.url)
    async with TestClient(one) as ann, TestClient(two) as bob:
        await come(ann, "ann")
        await come(bob, "bob")
        assert (await ann.call("members", HALL)).payload == ["ann"]
        own_redis.start()
        assert await told(ann, 1) == [("joined", "bob")]
        assert await told(bob, 1) == [("joined", "ann")]
        await bob.call("leave", HALL)
        assert await told(ann, 1) == [("left", "bob")]


async def test_members_are_those_of_the_node_when_redis_goes_away_before_it_answers(
    own_redis: RedisServer,
) -> None:
    one, two = app_at(own_redis.url), app_at(own_redis.url)
    async with TestClient(one) as ann, TestClient(two) as bob:
        await come(ann, "ann")
        assert (await bob.call("members", HALL)).payload == ["ann"]
        own_redis.pause()
        async with anyio.create_task_group() as tasks:
            members: list[Any] = []

            async def ask() -> None:
                members.append((await bob.call("members", HALL, timeout=LONG_TIMEOUT)).payload)

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            own_redis.kill()
        assert members == [[]]


async def test_members_are_those_of_the_node_when_a_key_in_redis_is_of_another_kind(
    own_redis: RedisServer,
) -> None:
    """The next heartbeat, before which somebody removes the key again, is far away."""
    one, two = (app_at(own_redis.url, heartbeat=60) for _ in range(2))
    async with TestClient(one) as ann, TestClient(two) as bob:
        await come(ann, "ann")
        assert (await bob.call("members", HALL)).payload == ["ann"]
        (key,) = re.findall(rb"\S+:nodes", own_redis.command("KEYS", "*:nodes"))
        own_redis.command("RENAME", key, "kept")
        own_redis.command("SET", key, "alien")
        assert (await bob.call("members", HALL)).payload == []
        own_redis.command("RENAME", "kept", key)
        assert (await bob.call("members", HALL)).payload == ["ann"]


def has_got(node: Any, number: int) -> Callable[[], bool]:
    """Return a condition that holds once a node has got so many messages."""
    return lambda: len(node.got) >= number


async def test_users_of_a_name_without_a_heartbeat_are_told_to_have_left(
    shared_redis: RedisServer,
) -> None:
    """The one of two nodes that removes them tells; users who are elsewhere, too, stay."""
    prefix = f"dead {free_port()}"
    root = broker_at(shared_redis.url, prefix).root
    dead = "0123456789abcdef"
    async with (
        linked(broker_at(shared_redis.url, prefix), RULES) as one,
        linked(broker_at(shared_redis.url, prefix), RULES) as two,
    ):
        for node in (one, two):
            await node.link.subscribe(f"{PRESENCE}a")
        one.link.enter("a", "ann")
        joined = (f"{PRESENCE}a", b'{"joined":["ann"],"left":[]}')
        await two.until(lambda: two.got == [joined])
        command = shared_redis.command
        nodes = command("HGET", f"{root}:told:a", '"ann"').split()[1].decode()
        command("HSET", f"{root}:told:a", '"ann"', f"{dead}{nodes}", '"bob"', dead)
        command("SADD", f"{root}:users:{dead}:a", '"ann"', '"bob"', "alien")
        command("SADD", f"{root}:groups:{dead}", "a")
        command("SADD", f"{root}:nodes", dead)
        left = (f"{PRESENCE}a", b'{"joined":[],"left":["bob"]}')
        for node in (one, two):
            await node.until(has_got(node, 2), LONG_TIMEOUT)
        two.link.enter("a", "end")
        for node in (one, two):
            await node.until(has_got(node, 3))
            assert node.got[:2] == [joined, left]
            assert await node.link.present("a") == {"ann", "end"}
    keys = shared_redis.command("KEYS", f"{root}:*")
    assert dead.encode() not in keys


@pytest.mark.parametrize("kind", ["told", "leaving", "users", "groups"])
async def test_who_comes_is_told_whatever_others_write(own_redis: RedisServer, kind: str) -> None:
    """Data that no node has written is removed, and stops nothing."""
    async with (
        linked(broker_at(own_redis.url), RULES) as one,
        linked(broker_at(own_redis.url), RULES) as two,
    ):
        await two.link.subscribe(f"{PRESENCE}a")
        if kind == "leaving":
            own_redis.command("ZADD", "{0/test}:leaving", "0", "alien", "0", b'"ann"\n\xff')
            own_redis.command("ZADD", "{0/test}:leaving", "0", b"[]\na")
        elif kind == "told":
            own_redis.command("HSET", "{0/test}:told:a", "alien", "", "[]", "alien")
            assert await one.link.present("a") == set()
            own_redis.command("DEL", "{0/test}:told:a")
            own_redis.command("SET", "{0/test}:told:a", "alien")
            assert await one.link.present("a") == set()
        else:
            own_redis.command("SADD", "{0/test}:nodes", "dead")
            own_redis.command("SADD", "{0/test}:groups:dead", "a")
            own_redis.command("SET", "{0/test}:users:dead:a", "alien")
            if kind == "groups":
                own_redis.command("SET", "{0/test}:groups:dead", "alien")
        one.link.enter("a", "ann")
        await two.until(lambda: len(two.got) == 1, LONG_TIMEOUT)
        one.link.leave("a", "ann")
        await two.until(lambda: len(two.got) == 2, LONG_TIMEOUT)
        assert [message for _, message in two.got] == [
            b'{"joined":["ann"],"left":[]}',
            b'{"joined":[],"left":["ann"]}',
        ]
        with anyio.fail_after(LONG_TIMEOUT):
            while own_redis.command("ZCARD", "{0/test}:leaving") != b":0\r\n":
                await anyio.sleep(0.01)
            while own_redis.command("SISMEMBER", "{0/test}:nodes", "dead") != b":0\r\n":
                await anyio.sleep(0.01)


async def test_users_whose_record_is_lost_leave_nevertheless(own_redis: RedisServer) -> None:
    """A hash that somebody has deleted keeps no departure from being told."""
    async with (
        linked(broker_at(own_redis.url), RULES) as one,
        linked(broker_at(own_redis.url), RULES) as two,
    ):
        await two.link.subscribe(f"{PRESENCE}a")
        one.link.enter("a", "ann")
        await two.until(lambda: len(two.got) == 1)
        own_redis.command("DEL", "{0/test}:told:a")
        one.link.leave("a", "ann")
        await two.until(lambda: len(two.got) == 2)
        assert two.got[-1][1] == b'{"joined":[],"left":["ann"]}'


async def test_users_of_a_node_that_nobody_remembers_leave(own_redis: RedisServer) -> None:
    """A node that asks who is there removes them, as of nodes that another version has removed."""
    nodes = "0123456789abcdef" * 2
    async with linked(broker_at(own_redis.url), RULES) as one:
        await one.link.subscribe(f"{PRESENCE}a")
        own_redis.command("HSET", "{0/test}:told:a", '"bob"', nodes)
        one.link.enter("a", "ann")
        await one.until(lambda: len(one.got) == 1)
        name = own_redis.command("HGET", "{0/test}:told:a", '"ann"').split()[1].decode()
        own_redis.command("HSET", "{0/test}:told:a", '"eve"', f"{nodes[:16]}{name}")
        assert await one.link.present("a") == {"ann", "bob", "eve"}
        await one.until(lambda: len(one.got) == 2)
        assert one.got[-1][1] == b'{"joined":[],"left":["bob"]}'
        assert await one.link.present("a") == {"ann", "eve"}


async def test_who_comes_and_leaves_while_memory_is_full_is_told_afterwards(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each user is told of once, as soon as Redis takes the change."""
    async with (
        linked(broker_at(own_redis.url), RULES) as one,
        linked(broker_at(own_redis.url), RULES) as two,
    ):
        await two.link.subscribe(f"{PRESENCE}a")
        for user in ("ann", "eve"):
            one.link.enter("a", user)
        await two.until(lambda: len(two.got) == 2)
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        one.link.leave("a", "ann")
        one.link.enter("a", "bob")
        with anyio.fail_after(LONG_TIMEOUT):
            while "Redis refuses" not in caplog.text:
                await anyio.sleep(0.01)
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        await two.until(lambda: len(two.got) == 4, LONG_TIMEOUT)
        assert await two.link.present("a") == {"bob", "eve"}
        one.link.leave("a", "eve")
        await two.until(lambda: len(two.got) == 5, LONG_TIMEOUT)
        assert sorted(message for _, message in two.got[2:]) == [
            b'{"joined":["bob"],"left":[]}',
            b'{"joined":[],"left":["ann"]}',
            b'{"joined":[],"left":["eve"]}',
        ]


# Processes ----------------------------------------------------------------------------------------


@asynccontextmanager
async def users(server: Any, names: Iterable[str]) -> AsyncIterator[None]:
    """Have users in the channel for as long as the context lasts, or until the node is killed."""
    async with AsyncExitStack() as stack:
        for name in names:
            client = await stack.enter_async_context(dial(server))
            stack.push_async_callback(client.vanish)
            await client.call("enter", payload=name, id=1)
            await client.send("join", payload=HALL, id=2)
            while "id" not in await client.receive():
                pass
        yield


async def heard(client: Client, number: int) -> list[tuple[str, str]]:
    changes: list[tuple[str, str]] = []
    with anyio.fail_after(LONG_TIMEOUT):
        while len(changes) < number:
            frame = await client.receive()
            changes += changes_in(frame["event"], frame["payload"])
    return changes


@pytest.mark.heavy
async def test_each_user_of_a_killed_node_leaves_once(
    own_redis: RedisServer, anyio_backend_name: str
) -> None:
    """Two nodes see the death of a third one; who is also on another node, or comes back, stays."""
    names = [f"user {number}" for number in range(20)]
    async with AsyncExitStack() as stack:
        one, two, dying = [
            await stack.enter_async_context(
                node_process(own_redis.url, anyio_backend_name, 1, grace=5)
            )
            for _ in range(3)
        ]
        watchers = [await stack.enter_async_context(dial(node.server)) for node in (one, two)]
        for watcher in watchers:
            await watcher.call("join", payload=HALL, id=1)
        async with users(dying.server, [*names, "ann", "bob"]), users(two.server, ["ann"]):
            for watcher in watchers:
                joined = await heard(watcher, len(names) + 2)
                assert joined == [("joined", name) for name in [*names, "ann", "bob"]]
            dying.kill()
            async with users(one.server, ["bob"]):
                for watcher in watchers:
                    left = await heard(watcher, len(names))
                    assert sorted(left) == sorted(("left", name) for name in names)
                async with users(two.server, ["end"]):
                    for watcher in watchers:
                        assert await heard(watcher, 1) == [("joined", "end")]
                    members = await watchers[0].call("members", payload=HALL, id=1)
                    assert members["payload"] == ["ann", "bob", "end"]
