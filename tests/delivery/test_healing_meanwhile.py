"""Nodes that read their log while it changes, or while messages of other nodes come."""

import anyio
import pytest
from faulty_nodes import FaultyBroker, HeldAnswer, Nodes, SharedLog, comments, nodes
from harness import errors
from tickets import NAME
from timeouts import TIMEOUT

from websuckets.delivery import logged_delivery
from websuckets.delivery.cursors import MOST_EARLY
from websuckets.delivery.pages import PAGE
from websuckets.exc import Unavailable
from websuckets.history import Position

pytestmark = pytest.mark.anyio

GAP = "channel gap", {"channel": NAME}


@pytest.fixture(autouse=True)
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare positions when a test says so."""
    monkeypatch.setattr(logged_delivery, "PERIOD", 3600.0)


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker()


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


class Kept:
    """Messages that a broker keeps until the test lets them come."""

    def __init__(self, broker: FaultyBroker) -> None:
        self.messages: list[bytes] = []
        broker.fate = self._keep

    def _keep(self, message: bytes) -> list[bytes]:
        self.messages.append(message)
        return []


def compare(both: Nodes) -> None:
    """Have the node of bob compare its positions, as when a broker has lost messages."""
    both.app._channels._running.missed([f"channel/{NAME}"])


def receive(both: Nodes, message: bytes) -> None:
    """Have the node of bob receive a message that was kept."""
    both.app._channels._running.receive(f"channel/{NAME}", message)


def let_all_pass(broker: FaultyBroker) -> None:
    broker.fate = lambda message: [message]


async def test_what_a_message_brings_while_it_is_read_is_delivered_once(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "one")
        read = HeldAnswer(monkeypatch, log, "read")
        compare(both)
        await read.asked()
        receive(both, kept.messages[0])
        assert await both.got(1) == comments(["one"])
        read.come()
        let_all_pass(broker)
        await both.ann.call("comment", "two")
        assert await both.got(1) == comments(["two"])
        assert both.app._channels.counts.healed == 0


async def test_what_comes_early_while_earlier_events_are_read_follows_them(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "one")
        read = HeldAnswer(monkeypatch, log, "read")
        compare(both)
        await read.asked()
        let_all_pass(broker)
        await both.ann.call("comment", "two")
        read.come()
        assert await both.got(2) == comments(["one", "two"])
        assert both.app._channels.counts.healed == 1


async def test_more_lost_events_than_a_page_has_are_all_read(
    broker: FaultyBroker, log: SharedLog
) -> None:
    lost = 2 * PAGE + 1
    Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        for number in range(lost):
            await both.ann.call("comment", number)
        compare(both)
        assert await both.got(lost) == comments(range(lost))
        assert both.app._channels.counts.healed == lost


async def test_more_early_events_than_a_node_keeps_are_all_delivered(
    broker: FaultyBroker, log: SharedLog
) -> None:
    number = MOST_EARLY + 10
    kept = Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        for text in range(number):
            await both.ann.call("comment", text)
        for message in kept.messages[1:]:
            receive(both, message)
        assert await both.got(number) == comments(range(number))


async def test_events_of_an_epoch_that_ends_while_they_are_read_are_not_delivered(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap is told first: clients load a state that has these events, or has lost them."""
    Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "old")
        read = HeldAnswer(monkeypatch, log, "read")
        compare(both)
        await read.asked()
        await log.new_epoch()
        compare(both)
        assert await both.got(1) == [GAP]
        read.come()
        let_all_pass(broker)
        await both.ann.call("comment", "new")
        assert await both.got(1) == comments(["new"])


@pytest.mark.parametrize("slow", ["positions", "position"])
async def test_a_new_epoch_that_is_noticed_twice_is_one_gap(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """The comparison and the reader both notice it; the answer to one of them comes last."""
    kept = Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        for text in "one", "two":
            await both.ann.call("comment", text)
        await log.new_epoch()
        answer = HeldAnswer(monkeypatch, log, slow)
        if slow == "positions":
            compare(both)
            await answer.asked()
            receive(both, kept.messages[1])  # of the old epoch: what is before it is to be read
        else:
            receive(both, kept.messages[1])
            await answer.asked()
            compare(both)
        assert await both.got(1) == [GAP]
        answer.come()
        let_all_pass(broker)
        await both.ann.call("comment", "new")
        assert await both.got(1) == comments(["new"])


async def test_who_leaves_while_positions_are_compared_gets_nothing_more(
    broker: FaultyBroker, log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "lost")
        positions = HeldAnswer(monkeypatch, log, "positions")
        compare(both)
        await positions.asked()
        await both.bob.call("leave", NAME)
        positions.come()
        let_all_pass(broker)
        await anyio.wait_all_tasks_blocked()
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "new")
        assert await both.got(1) == comments(["new"])


async def test_a_log_that_is_away_while_a_node_reads_is_read_after_the_next_comparison(
    broker: FaultyBroker,
    log: SharedLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Kept(broker)
    async with nodes(broker, log) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "one")
        failed = anyio.Event()

        async def be_away(channel: str, since: Position, limit: int) -> None:
            failed.set()
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(log, "read", be_away)
            compare(both)
            with anyio.fail_after(TIMEOUT):
                await failed.wait()
        await anyio.wait_all_tasks_blocked()
        compare(both)
        assert await both.got(1) == comments(["one"])
    assert errors(caplog) == []


class LogThatTells(SharedLog):
    """A log that tells other nodes of events by itself."""

    @property
    def publishes_hints(self) -> bool:
        return True


async def test_nodes_are_not_told_of_events_of_which_the_log_tells_them(
    broker: FaultyBroker,
) -> None:
    kept = Kept(broker)
    async with nodes(broker, LogThatTells()) as both:
        await both.bob.call("watch", [NAME])
        await both.ann.call("comment", "one")
        assert kept.messages == []
        compare(both)
        assert await both.got(1) == comments(["one"])
