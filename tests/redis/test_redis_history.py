"""The log of Redis for events of channels: hints, lost answers, keys that end, foreign data."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from dishka import make_async_container
from dishka.exceptions import NoFactoryError
from event_logs import publication
from harness import app_with
from redis_logs import LogNode, node_at, number
from redis_nodes import LONG_TIMEOUT, cluster, until
from redis_server import Proxy, RedisServer, find_binary, running
from timeouts import TIMEOUT

from websuckets import CommandGroup, Socket
from websuckets.exc import Unavailable
from websuckets.history import EventLog, History, HistoryLost, LoggedEvent, Position
from websuckets.redis import RedisProvider, history
from websuckets.redis.connection import ConnectionLost
from websuckets.redis.history import RedisLog
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

WEEK = 7 * 86_400_000
"""Milliseconds."""


@pytest.fixture
async def nodes(shared_redis: RedisServer) -> AsyncIterator[tuple[LogNode, LogNode]]:
    prefix = secrets.token_hex(8)
    async with node_at(shared_redis.url, prefix) as one, node_at(shared_redis.url, prefix) as two:
        yield one, two


@pytest.fixture
async def node(own_redis: RedisServer) -> AsyncIterator[LogNode]:
    async with node_at(own_redis.url) as node:
        yield node


# Hints


async def test_an_event_and_its_hint_come_by_one_step(nodes: tuple[LogNode, LogNode]) -> None:
    """Expect the hint on both nodes, in the order of the events, and none for other channels."""
    here, there = nodes
    for each in (here, there):
        await each.receiver.link.subscribe("channel/c\n é")
    frames = ['{"event":"é"}', "", "\n\n", "x" * 100_000]
    for frame in frames:
        end = await here.log.append(publication(frame, "c\n é", excluded="connection"))
        await here.log.append(publication(frame, "another"))
    await here.receiver.until(lambda: len(here.receiver.got) == len(frames))
    await there.receiver.until(lambda: len(there.receiver.got) == len(frames))
    for each in nodes:
        assert {topic for topic, _ in each.receiver.got} == {"channel/c\n é"}
        assert each.hints() == [
            (end.epoch, LoggedEvent(offset, frame.encode(), "connection"))
            for offset, frame in enumerate(frames, 1)
        ]
        assert each.malformed == 0


async def test_a_publication_that_is_appended_again_has_one_hint(
    nodes: tuple[LogNode, LogNode],
) -> None:
    here, there = nodes
    await there.receiver.link.subscribe("channel/c")
    first = publication("1")
    for each in (here, there, here):
        await each.log.append(first)
    await here.log.append(publication("2"))
    await there.receiver.until(lambda: len(there.hints()) >= 2)
    assert [event.frame for _, event in there.hints()] == [b"1", b"2"]


async def test_a_log_of_redis_is_shared_and_tells_other_nodes(
    nodes: tuple[LogNode, LogNode],
) -> None:
    log: EventLog = nodes[0].log
    assert log.is_shared
    assert log.publishes_hints


async def test_a_user_of_redis_without_the_right_to_publish_appends_all_the_same(
    own_redis: RedisServer,
) -> None:
    own_redis.command("ACL", "SETUSER", "node", "on", ">pw", "~*", "&*", "+@all", "-publish")
    async with node_at(f"redis://node:pw@127.0.0.1:{own_redis.port}") as node:
        await node.log.append(publication("{}"))
        assert await node.frames() == [b"{}"]


# Lost answers


class Thief(Proxy):
    """A link that steals answers to what was appended, and then ends the connection."""

    def __init__(self, port: int, thefts: int) -> None:
        super().__init__(port)
        self.thefts = thefts

    async def _connect(self, client: Any) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", self._to) as server:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry, client, server, tasks.cancel_scope)
                tasks.start_soon(self._carry_answers, server, client, tasks.cancel_scope)

    async def _carry_answers(self, server: Any, client: Any, both: anyio.CancelScope) -> None:
        try:
            while True:
                data = await server.receive()
                if self.thefts and b"*3\r\n:0\r\n$16\r\n" in data:
                    self.thefts -= 1
                    both.cancel()
                await client.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            both.cancel()


async def test_an_event_whose_answer_was_lost_is_appended_once(own_redis: RedisServer) -> None:
    """Expect its position, and one hint on other nodes."""
    async with (
        Thief(own_redis.port, 1).running() as thief,
        node_at(thief.url) as here,
        node_at(own_redis.url) as there,
    ):
        await there.receiver.link.subscribe("channel/c")
        with anyio.fail_after(LONG_TIMEOUT):
            positions = [await here.log.append(publication(str(count))) for count in range(3)]
        assert [position.offset for position in positions] == [1, 2, 3]
        assert await there.frames() == [b"0", b"1", b"2"]
        await there.receiver.until(lambda: len(there.hints()) >= 3)
        assert [event.frame for _, event in there.hints()] == [b"0", b"1", b"2"]
        assert here.receiver.gaps == [None]  # it has lost its connection


async def test_an_event_is_tried_again_for_some_time_only(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect an error, though the log has the event; once, when the publisher tries again."""
    monkeypatch.setattr(history, "TIME_TO_RETRY", 0.5)
    thief = Thief(own_redis.port, 1000)
    async with (
        thief.running(),
        node_at(thief.url) as here,
        node_at(own_redis.url) as there,
    ):
        one = publication("{}")
        with anyio.fail_after(LONG_TIMEOUT):
            with pytest.raises(Unavailable):
                await here.log.append(one)
            assert await there.frames() == [b"{}"]
            thief.thefts = 0
            await until(lambda: here.broker.redis._connection is not None)
            assert (await here.log.append(one)).offset == 1
        assert await there.frames() == [b"{}"]


async def test_an_event_that_redis_had_not_appended_before_the_loss_is_appended_then(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while Redis makes all writes wait."""
    monkeypatch.setattr(history, "TIME_TO_RETRY", LONG_TIMEOUT)
    async with node_at(own_redis.url) as node:
        position = await node.log.position("c")
        client = await node.broker.redis.ask(b"CLIENT", b"ID")
        own_redis.command("CLIENT", "PAUSE", "60000", "WRITE")
        got: list[Position] = []

        async def append() -> None:
            got.append(await node.log.append(publication("{}")))

        with anyio.fail_after(LONG_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append)
                while b"blocked_clients:1" not in own_redis.command("INFO", "clients"):
                    await anyio.sleep(0.01)
                own_redis.command("CLIENT", "KILL", "ID", str(client))
                await until(lambda: node.broker.redis._connection is None)
                own_redis.command("CLIENT", "UNPAUSE")
        assert got == [Position(position.epoch, 1)]
        assert await node.frames() == [b"{}"]


async def test_a_node_that_is_not_connected_refuses_at_once(
    node: LogNode, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, so nothing is tried again."""
    own_redis.kill()
    await until(lambda: node.broker.redis._connection is None)
    asks, ask = [], node.broker.redis.ask

    async def counted(*command: Any) -> Any:
        asks.append(command)
        return await ask(*command)

    monkeypatch.setattr(node.broker.redis, "ask", counted)
    with pytest.raises(Unavailable) as caught:
        await node.log.append(publication("{}"))
    assert not isinstance(caught.value, ConnectionLost)
    assert len(asks) == 1


# Losses of Redis, and data that it keeps


async def test_a_log_that_redis_has_lost_begins_a_new_epoch(
    node: LogNode, own_redis: RedisServer
) -> None:
    for command in ("FLUSHALL", "FLUSHDB"):
        before = await node.log.append(publication("old"))
        own_redis.command(command)
        for offset in (0, 1):
            with pytest.raises(HistoryLost):
                await node.log.read("c", before._replace(offset=offset), 10)
        after = await node.log.append(publication("new"))
        assert after.offset == 1
        assert after.epoch != before.epoch
        assert await node.frames() == [b"new"]


async def test_a_server_that_has_forgotten_all_scripts_learns_them_again(
    node: LogNode, own_redis: RedisServer
) -> None:
    for count in range(1, 4):
        assert (await node.log.append(publication("{}"))).offset == count
        own_redis.command("SCRIPT", "FLUSH")
        assert len(await node.frames() or []) == count
        own_redis.command("SCRIPT", "FLUSH")


async def test_a_log_outlives_a_server_that_is_killed_where_redis_keeps_a_file() -> None:
    binary = find_binary()
    if binary is None:
        pytest.skip("no redis-server is installed")
    with running(binary, "--appendonly", "yes", "--appendfsync", "always") as redis:
        async with node_at(redis.url) as node:
            end = await node.log.append(publication("before"))
            redis.kill()
            await until(lambda: node.broker.redis._connection is None)
            redis.start()
            await until(lambda: node.broker.redis._connection is not None)
            assert await node.log.position("c") == end
            assert await node.log.append(publication("after")) == end._replace(offset=2)
            assert await node.frames() == [b"before", b"after"]


async def test_an_append_for_which_there_is_no_memory_changes_nothing(
    node: LogNode, own_redis: RedisServer
) -> None:
    await node.log.append(publication("1"))
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    one = publication("2")
    for channel in ("c", "d"):
        with pytest.raises(Unavailable):
            await node.log.append(publication("{}", channel))
    with pytest.raises(Unavailable):
        await node.log.append(one)
    with pytest.raises(Unavailable):  # a new epoch needs memory, too
        await node.log.position("d")
    assert await node.frames() == [b"1"]
    own_redis.command("CONFIG", "SET", "maxmemory", "0")
    assert (await node.log.append(one)).offset == 2
    assert (await node.log.position("d")).offset == 0
    assert await node.frames() == [b"1", b"2"]


# Keys, and when they end


async def test_keys_begin_with_the_root_and_end_by_themselves(
    node: LogNode, own_redis: RedisServer
) -> None:
    one = publication("{}", history=History(seconds=100))
    await node.log.append(one)
    names = {node.key("log"), node.key("events"), node.key("published", f"{one.id}:c")}
    found = set(own_redis.command("KEYS", "*").decode().split("\r\n")[2::2])
    assert names < found
    assert all(name.startswith("{0/test}:") for name in found)
    assert 90_000 < number(own_redis.command("PTTL", node.key("events"))) <= 100_000
    left = number(own_redis.command("PTTL", node.key("log")))
    assert 2 * WEEK < left <= 2 * WEEK + 100_000
    left = number(own_redis.command("PTTL", node.key("published", f"{one.id}:c")))
    assert 290_000 < left <= 300_000


@pytest.mark.parametrize("seconds", [1e-9, 1e12, 1e300])
async def test_a_history_may_be_as_short_or_as_long_as_it_likes(
    nodes: tuple[LogNode, LogNode], seconds: float
) -> None:
    here, _ = nodes
    kept = History(size=10**30, seconds=seconds)
    positions = [await here.log.append(publication("{}", history=kept)) for _ in range(3)]
    assert [position.offset for position in positions] == [1, 2, 3]
    if seconds > 1:
        assert await here.frames() == [b"{}"] * 3


async def test_the_epoch_of_a_channel_that_is_asked_for_never_ends(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer
) -> None:
    """Expect the hash to be renewed when a week is left, and not each time."""
    here, _ = nodes
    position = await here.log.position("c")
    key = here.key("log")
    assert number(shared_redis.command("PTTL", key)) > 2 * WEEK - 60_000
    shared_redis.command("PEXPIRE", key, str(WEEK + 600_000))
    assert list(await here.log.positions(["c"])) == [position]
    assert number(shared_redis.command("PTTL", key)) <= WEEK + 600_000
    for command in (("PEXPIRE", key, str(WEEK - 1)), ("PERSIST", key)):
        shared_redis.command(*command)
        assert list(await here.log.positions(["c"])) == [position]
        assert number(shared_redis.command("PTTL", key)) > 2 * WEEK - 60_000


async def test_many_old_events_are_lost_at_once_and_removed_bit_by_bit(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer
) -> None:
    """One append must not keep Redis busy for long."""
    here, there = nodes
    for _ in range(50):
        await here.log.append(publication("old"))
    stream = here.key("events")
    shared_redis.command("DEL", stream)
    for offset in range(1, 51):  # of 1970
        shared_redis.command("XADD", stream, f"{offset}-5", "excluded", "", "frame", "old")
    assert await here.frames(49) is None
    for left in (31, 12, 1 + 2):
        with pytest.MonkeyPatch.context() as patch:
            script = history.APPEND.replace(f"1, {history.OLD_AT_ONCE} do", "1, 20 do")
            assert script != history.APPEND
            patch.setattr(history, "APPEND", script)
            await here.log.append(publication("new"))
        assert number(shared_redis.command("XLEN", stream)) == left
        assert await there.frames(49) is None
        assert set(await there.frames(50) or []) == {b"new"}


async def test_a_hash_that_is_gone_begins_a_new_epoch_without_the_events_of_the_old_one(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer
) -> None:
    here, there = nodes
    for asks_first in (False, True):
        for _ in range(3):
            before = await here.log.append(publication("old"))
        shared_redis.command("DEL", here.key("log"))
        if asks_first:
            position = await there.log.position("c")
            assert position.offset == 0
            assert await there.frames() == []
        after = await there.log.append(publication("new"))
        assert after.offset == 1
        assert after.epoch != before.epoch
        if asks_first:
            assert after.epoch == position.epoch
        assert await here.frames() == [b"new"]
        assert (here.malformed, there.malformed) == (0, 0)


async def test_apps_with_another_prefix_know_nothing_of_each_other(
    shared_redis: RedisServer,
) -> None:
    prefix = secrets.token_hex(8)
    async with (
        node_at(shared_redis.url, prefix) as one,
        node_at(shared_redis.url, f"{prefix}2") as two,
    ):
        end = await one.log.append(publication("{}"))
        assert (await two.log.position("c")).offset == 0
        await two.log.new_epoch()
        assert await one.log.position("c") == end


# Servers


@pytest.mark.slow
async def test_a_log_works_in_a_cluster() -> None:
    with cluster() as (one, two):
        async with node_at(one.url, "a") as here, node_at(two.url, "a") as there:
            with anyio.fail_after(LONG_TIMEOUT):
                await there.receiver.link.subscribe("channel/{b}")
                for count in range(1, 4):
                    end = await here.log.append(publication("{}", "{b}"))
                    assert end.offset == count
                assert await there.log.position("{b}") == end
                positions = await there.log.positions(["{b}", "c", "{d}"])
                assert [position.offset for position in positions] == [3, 0, 0]
                assert await there.frames(1, "{b}") == [b"{}", b"{}"]
                await there.receiver.until(lambda: len(there.hints()) == 3)
                await there.log.new_epoch()
                assert (await here.log.position("{b}")).offset == 0


# Provider


async def test_an_app_gets_the_log_by_the_provider(shared_redis: RedisServer) -> None:
    prefix = secrets.token_hex(8)
    group = CommandGroup()

    @group.command("tell")
    async def tell(socket: Socket, *, log: EventLog) -> int:
        assert isinstance(log, RedisLog)
        return (await log.append(publication("{}"))).offset

    def app() -> Any:
        provider = RedisProvider(shared_redis.url, prefix=prefix, history=True)
        return app_with(group, providers=[provider])

    async with TestClient(app()) as ann, TestClient(app()) as bob:
        with anyio.fail_after(TIMEOUT):
            for offset, client in enumerate((ann, bob, ann), 1):
                assert (await client.call("tell")).payload == offset


async def test_without_history_there_is_no_log_of_redis(shared_redis: RedisServer) -> None:
    container = make_async_container(RedisProvider(shared_redis.url))
    with pytest.raises(NoFactoryError):
        await container.get(EventLog)
    await container.close()
