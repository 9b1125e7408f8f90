"""Nodes that share a log deliver all of its events, whatever a broker does to their messages."""

import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import rooms
import tickets
from dishka import Provider, Scope
from faulty_nodes import FaultyBroker, SharedLog, comments, nodes
from harness import errors
from tickets import NAME

from websuckets.broker import Broker, Link, Receiver
from websuckets.delivery import bounded_log, logged_delivery
from websuckets.history import MemoryLog, Position
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare positions often."""
    monkeypatch.setattr(logged_delivery, "PERIOD", 0.02)


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker()


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


async def test_messages_that_are_lost_are_read_from_the_log(
    broker: FaultyBroker, log: SharedLog, quick: None
) -> None:
    broker.fate = lambda message: []
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        for number in range(3):
            await both.ann.call("comment", number)
        assert await both.got(3) == comments(range(3))
        assert both.app._channels.counts.healed == 3


async def test_a_message_that_is_lost_is_read_when_the_next_one_comes(
    broker: FaultyBroker, log: SharedLog
) -> None:
    fates = iter([[], None, None])

    def fate(message: bytes) -> list[bytes]:
        lost = next(fates)
        return [message] if lost is None else lost

    broker.fate = fate
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        for number in range(3):
            await both.ann.call("comment", number)
        assert await both.got(3) == comments(range(3))


@pytest.mark.parametrize("seed", range(10))
async def test_order_and_number_of_messages_do_not_matter(
    broker: FaultyBroker, log: SharedLog, quick: None, seed: int
) -> None:
    chance = random.Random(seed)
    delayed: list[bytes] = []

    def fate(message: bytes) -> list[bytes]:
        delayed.extend([message] * chance.choice([0, 1, 1, 2]))
        chance.shuffle(delayed)
        now = chance.randint(0, len(delayed))
        received, delayed[:] = delayed[:now], delayed[now:]
        return received

    broker.fate = fate
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        for number in range(100):
            await both.ann.call("comment", number)
        await both.ann.call("comment", "end")
        assert await both.got(101) == comments([*range(100), "end"])


async def test_messages_that_no_node_can_have_sent_are_discarded(
    broker: FaultyBroker, log: SharedLog, quick: None
) -> None:
    broker.fate = lambda message: []
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        node = both.app._channels._running
        for message in (
            b"",
            b"\n\n\n",
            b"e\n1\n\n",
            b"e\n0\n\n{}",
            b"e\n-1\n\n{}",
            b"e\n1\n\n[]",
            b'e\n1\n\n{"event":1,"payload":null}',
            b'e\n1\n\n{"event":"x","payload":null,"id":1}',
            b'\xff\n1\n\n{"event":"x","payload":null}',
            b'{"event":"x","payload":null}',
        ):
            with pytest.raises(ValueError):
                node.receive(f"channel/{NAME}", message)
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])


async def test_a_log_that_was_away_is_read_when_it_is_back(
    broker: FaultyBroker, log: SharedLog, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    broker.fate = lambda message: []
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])
        log.is_away = True
        with pytest.raises(CommandError, match="unavailable"):
            await both.ann.call("comment", "lost")
        while not errors(caplog):
            await anyio.sleep(0.01)
        log.is_away = False
        await both.ann.call("comment", "two")
        assert await both.got(1) == comments(["two"])
    (record,) = errors(caplog)
    assert "the log of channels is away" in record.getMessage()


async def test_a_new_epoch_is_a_gap_after_which_clients_load_their_state(
    broker: FaultyBroker, log: SharedLog, quick: None
) -> None:
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])
        await log.new_epoch()
        assert await both.got(1) == [("channel gap", {"channel": NAME})]
        await both.ann.call("comment", "two")
        assert await both.got(1) == comments(["two"])


async def test_a_log_that_lost_its_last_events_begins_a_new_epoch(
    broker: FaultyBroker, log: SharedLog, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(broker, log) as both:
        epoch = (await log.position(NAME)).epoch
        await both.bob.call("watch", [NAME])
        for number in range(3):
            await both.ann.call("comment", number)
        assert await both.got(3) == comments(range(3))
        log._channels[NAME].last = 1
        log._channels[NAME].events.pop()
        log._channels[NAME].events.pop()
        assert await both.got(1) == [("channel gap", {"channel": NAME})]
        assert (await log.position(NAME)).epoch != epoch
    assert "has lost events" in errors(caplog)[0].getMessage()


async def test_events_of_a_client_that_fell_behind_a_trimmed_log_are_a_gap(
    broker: FaultyBroker, log: SharedLog
) -> None:
    async with nodes(broker, log) as both:
        await both.bob.call("watch", ["short/1"])
        broker.fate = lambda message: []
        await both.ann.call("publish", 10)
        both.app._channels._running.missed(["channel/short/1"])
        assert await both.got(1) == [("channel gap", {"channel": "short/1"})]
        broker.fate = lambda message: [message]
        await both.ann.call("publish", 1)
        assert await both.got(1) == comments([0])


async def test_nodes_that_a_broker_connects_need_one_log(broker: FaultyBroker) -> None:
    class AnotherBroker:
        async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
            await broker.run(receiver, linked)

    provider = Provider(scope=Scope.APP)
    provider.provide(AnotherBroker, provides=Broker)
    with pytest.raises(Exception, match=r"RedisProvider\(url, history=True\)"):
        async with TestClient(tickets.app(providers=[provider])):
            pass
    async with TestClient(rooms.app(providers=[provider])) as client:
        assert (await client.call("leave", "any")).event == "leave"


async def test_a_log_that_fails_is_an_incident_once_and_is_asked_again(
    broker: FaultyBroker,
    log: SharedLog,
    quick: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker.fate = lambda message: []
    asked = 0

    async def positions(channels: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < 5:
            raise KeyError("a mistake of a log")
        return await MemoryLog.positions(log, channels)

    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        monkeypatch.setattr(log, "positions", positions)
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])
    texts = [record.getMessage() for record in errors(caplog)]
    assert [text.split(":")[0].split(",")[0] for text in texts] == [
        "the log of channels is away",
        "log of channels failed",
    ]


async def test_a_log_that_does_not_answer_is_asked_again(
    broker: FaultyBroker,
    log: SharedLog,
    quick: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_log, "TIMEOUT", 0.05)
    broker.fate = lambda message: []
    asked = 0

    async def positions(channels: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            await anyio.sleep_forever()
        return await MemoryLog.positions(log, channels)

    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        monkeypatch.setattr(log, "positions", positions)
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])
    assert "the log of channels is away" in errors(caplog)[0].getMessage()


async def test_a_client_for_whom_the_log_fails_is_told_of_a_gap(
    broker: FaultyBroker,
    log: SharedLog,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with nodes(broker, log) as both:
        epoch = (await both.bob.call("watch", [NAME])).subscribed[NAME]["epoch"]
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])
        read = both.app._channels._running._delivery.pages.read
        reads = 0

        async def fail_later(channel: str, since: Position) -> Any:
            nonlocal reads
            reads += 1
            if reads == 2:
                raise KeyError("a mistake of a log")
            return await read(channel, since)

        monkeypatch.setattr(both.app._channels._running._delivery.pages, "read", fail_later)
        await both.bob.call("watch", [NAME], since={NAME: (epoch, 0)})
        assert await both.got(1) == [("channel gap", {"channel": NAME})]
        await both.ann.call("comment", "two")
        assert await both.got(1) == comments(["two"])
    assert len(errors(caplog)) == 1
