"""Clients that catch up on a node that is behind, or whose log changes meanwhile."""

from typing import Any

import anyio
import pytest
from faulty_nodes import FaultyBroker, HeldAnswer, SharedLog, comments, frame_of, nodes
from harness import Gate
from tickets import NAME
from timeouts import TIMEOUT

from websuckets.delivery import catching_up
from websuckets.delivery.pages import Page
from websuckets.exc import Unavailable
from websuckets.history import History, Position, Publication
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

GAP = "channel gap", {"channel": NAME}


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker()


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "PAUSE", 0.02)


async def got(client: TestClient, count: int) -> list[Any]:
    with anyio.fail_after(TIMEOUT):
        return [await frame_of(client) for _ in range(count)]


async def test_a_client_that_is_ahead_of_its_node_waits_for_the_node(
    broker: FaultyBroker, log: SharedLog
) -> None:
    broker.fate = lambda message: []
    async with nodes(broker, log) as both:
        epoch = (await both.bob.call("watch", [NAME])).subscribed[NAME]["epoch"]
        for number in range(3):
            await both.ann.call("comment", number)
        async with both.bob.connect() as carol:
            reply = await carol.call("watch", [NAME], since={NAME: (epoch, 3)})
            assert reply.subscribed[NAME]["recovered"]
            assert await both.got(3) == comments(range(3))
            await both.bob.call("comment", "new")
            assert await got(carol, 1) == comments(["new"])


async def test_an_epoch_that_ends_before_the_reply_is_a_gap(
    broker: FaultyBroker, log: SharedLog
) -> None:
    gate = Gate()
    async with nodes(broker, log, gate=gate) as both:
        await both.bob.call("watch", [NAME])
        async with both.bob.connect() as carol, anyio.create_task_group() as tasks:
            tasks.start_soon(carol.call, "watch slowly", NAME)
            await gate.reached.wait()
            await log.new_epoch()
            both.app._channels._running.missed([f"channel/{NAME}"])
            assert await both.got(1) == [GAP]
            gate.opened.set()
            assert await got(carol, 1) == [GAP]


async def test_events_that_are_trimmed_before_the_reply_are_a_gap(
    broker: FaultyBroker, log: SharedLog
) -> None:
    gate = Gate()
    async with nodes(broker, log, gate=gate) as both, anyio.create_task_group() as tasks:
        tasks.start_soon(both.bob.call, "watch slowly", "short/1")
        await gate.reached.wait()
        await both.ann.call("publish", 10)
        gate.opened.set()
        assert await both.got(1) == [("channel gap", {"channel": "short/1"})]
        await both.ann.call("publish", 1)
        assert await both.got(1) == comments([0])


async def test_a_log_that_is_away_or_short_of_events_is_asked_again(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(broker, log) as both:
        epoch = (await both.bob.call("watch", [NAME])).subscribed[NAME]["epoch"]
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])
        read, asked = log.read, 0

        async def read_in_the_end(channel: str, since: Position, limit: int) -> Any:
            nonlocal asked
            asked += 1
            if asked <= 2:  # the first one is of the command itself
                return []
            if asked == 3:
                raise Unavailable
            return await read(channel, since, limit)

        monkeypatch.setattr(log, "read", read_in_the_end)
        await both.bob.call("watch", [NAME], since={NAME: (epoch, 0)})
        assert await both.got(1) == comments(["one"])
        assert asked == 4


async def test_a_second_channel_joins_the_first_one(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(broker, log) as both:
        first = (await both.bob.call("watch", [NAME, "short/1"])).subscribed
        await both.ann.call("publish", 3)
        assert len(await both.got(6)) == 6
        gate = Gate()
        pages = both.app._channels._running._delivery.pages
        read, asked = pages.read, 0

        async def read_slowly(channel: str, since: Position) -> Page:
            nonlocal asked
            asked += 1
            if asked == 2:
                await gate()
            return await read(channel, since)

        monkeypatch.setattr(pages, "read", read_slowly)
        await both.bob.call("watch", [NAME], since={NAME: (first[NAME]["epoch"], 0)})
        await gate.reached.wait()
        since = {"short/1": (first["short/1"]["epoch"], 1)}
        await both.bob.call("watch", ["short/1"], since=since)
        gate.opened.set()
        assert await both.got(5) == [*comments(range(3)), *comments([1, 2])]


async def test_who_leaves_while_large_events_come_gets_no_more_of_them(
    broker: FaultyBroker, log: SharedLog
) -> None:
    async with nodes(broker, log) as both:
        epoch = (await both.bob.call("watch", [NAME])).subscribed[NAME]["epoch"]
        await both.bob.call("leave", NAME)
        for number in range(40):
            await both.ann.call("comment", f"{number}" * 30_000)
        await both.bob.send("watch", [NAME], id=1, since={NAME: (epoch, 0)})
        await anyio.wait_all_tasks_blocked()  # for the client, which reads nothing yet
        await both.bob.send("leave", NAME, id=2)
        await both.bob.send("comment", "end", id=3)
        await anyio.wait_all_tasks_blocked()
        frames = []
        with anyio.fail_after(TIMEOUT):
            while not frames or frames[-1].id != 3:
                frames.append(await both.bob.receive())
        offsets = [frame.offset for frame in frames if frame.offset is not None]
        assert offsets == list(range(1, len(offsets) + 1))
        assert 0 < len(offsets) < 40
        assert both.app._channels._running._delivery.cursors == {}


@pytest.mark.parametrize("name", [NAME, "short/1"])
async def test_who_leaves_while_the_log_is_read_gets_neither_events_nor_a_gap(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The log has all ten events of the one channel, and the last five of the other."""
    gate = Gate()
    async with nodes(broker, log, gate=gate) as both:
        await both.bob.send("watch slowly", name, id=1)
        await gate.reached.wait()
        await both.ann.call("publish", 10)
        read = HeldAnswer(monkeypatch, log, "read")
        gate.opened.set()
        assert (await both.bob.receive()).subscribed[name]["offset"] == 0
        await read.asked()
        await both.bob.call("leave", name)
        read.come()
        await anyio.wait_all_tasks_blocked()
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "new")
        assert await both.got(1) == comments(["new"])


async def test_an_event_that_comes_while_the_position_is_read_is_not_lost(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with nodes(broker, log) as both, anyio.create_task_group() as tasks:

        async def read_slowly(channel: str) -> Position:
            position = await SharedLog.position(log, channel)
            await gate()
            return position

        monkeypatch.setattr(log, "position", read_slowly)
        tasks.start_soon(both.bob.call, "watch", [NAME])
        await gate.reached.wait()
        await both.ann.call("comment", "one")
        gate.opened.set()
        assert await both.got(1) == comments(["one"])


async def test_an_excluded_connection_of_another_version_excludes_nobody(
    broker: FaultyBroker, log: SharedLog
) -> None:
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        frame = b'{"event":"commented","payload":{"text":1}}'
        await log.append(Publication(NAME, History(), frame, "not an id"))
        both.app._channels._running.missed([f"channel/{NAME}"])
        assert await both.got(1) == comments([1])
