"""Logs of the events of channels, after any sequence of calls, beside a model."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import anyio.from_thread
import pytest
from anyio.from_thread import BlockingPortal
from event_logs import LOGS, Nodes, Open, prepared
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sql_databases import POSTGRES
from timeouts import TIMEOUT

from websuckets.history import History, HistoryLost, LoggedEvent, Position, Publication

CHANNELS = {
    "a": History(size=3, seconds=1000),
    "a/b": History(size=1000, seconds=1000),
    "b": History(size=1000, seconds=500),
    "\x00": History(size=1, seconds=500),
}

REMEMBERED = 300
"""Seconds for which a publication that is appended again is known, by a log that knows any."""

NODES = st.sampled_from([0, 1])
NAMES = st.sampled_from(sorted(CHANNELS))


@dataclass
class Channel:
    """The log of a channel as it has to be."""

    epoch: str | None = None
    """Epoch, or ``None`` if nobody has asked for it yet."""
    events: list[LoggedEvent] = field(default_factory=list)
    """All events of the epoch."""
    ends: list[int] = field(default_factory=list)
    """Second at which each event is too old."""


class Machine(RuleBasedStateMachine):
    """A state machine of two nodes, beside a model of their log."""

    backend: ClassVar[str]
    open_nodes: ClassVar[Open]

    def __init__(self) -> None:
        super().__init__()
        self.channels = {name: Channel() for name in CHANNELS}
        self.epochs: list[str] = []
        """Epochs that are over."""
        self.sent: list[tuple[int, Publication, Position]] = []
        """Publications that may be known still, each with its time and position."""
        self.now = 0
        self.stack = ExitStack()
        self.portal: BlockingPortal
        self.nodes: Nodes

    @initialize()
    def begin(self) -> None:
        portal = anyio.from_thread.start_blocking_portal(self.backend)
        self.portal = self.stack.enter_context(portal)
        opened = self.portal.wrap_async_context_manager(type(self).open_nodes())
        self.nodes = self.stack.enter_context(opened)

    def teardown(self) -> None:
        """Read all, by both nodes."""
        with self.stack:
            for name in CHANNELS:
                for node in (0, 1):
                    self.position(node, name)
                    for since in range(-1, len(self.channels[name].events) + 2):
                        self.check(node, name, since, 1000)

    def do(self, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async def in_time() -> Any:
            with anyio.fail_after(TIMEOUT):
                return await step(*arguments)

        return self.portal.call(in_time)

    # Steps

    @rule(
        node=NODES,
        name=NAMES,
        frame=st.one_of(st.text(max_size=20), st.just("x" * 70_000)),
        excluded=st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=5),
        times=st.integers(1, 4),
    )
    def append(self, node: int, name: str, frame: str, excluded: str, times: int) -> None:
        channel, history = self.channels[name], CHANNELS[name]
        for _ in range(times):
            publication = Publication(name, history, frame.encode(), excluded)
            position = self.do(self.nodes.both[node].append, publication)
            offset = len(channel.events) + 1
            self.expect(name, position, offset)
            channel.events.append(LoggedEvent(offset, publication.frame, excluded))
            channel.ends.append(self.now + int(history.seconds))
            self.sent.append((self.now, publication, position))
        self.do(self.nodes.trim, name)

    @precondition(lambda self: self.sent and self.nodes.knows_repetitions)
    @rule(node=NODES, data=st.data())
    def append_again(self, node: int, data: st.DataObject) -> None:
        _, publication, position = data.draw(st.sampled_from(self.sent))
        assert self.do(self.nodes.both[node].append, publication) == position

    @rule(node=NODES, name=NAMES)
    def position(self, node: int, name: str) -> None:
        position = self.do(self.nodes.both[node].position, name)
        self.expect(name, position, len(self.channels[name].events))

    @rule(node=NODES, names=st.lists(NAMES, unique=True))
    def positions(self, node: int, names: list[str]) -> None:
        positions = self.do(self.nodes.both[node].positions, names)
        for name, position in zip(names, positions, strict=True):
            self.expect(name, position, len(self.channels[name].events))

    def expect(self, name: str, position: Position, offset: int) -> None:
        """Expect a position; learn the epoch if it is new."""
        channel = self.channels[name]
        if channel.epoch is None:
            assert position.epoch not in self.epochs
            channel.epoch = position.epoch
        assert position == Position(channel.epoch, offset)

    @rule(node=NODES, name=NAMES, behind=st.integers(-2, 8), limit=st.integers(1, 5))
    def read(self, node: int, name: str, behind: int, limit: int) -> None:
        """Read from near the head, or from ahead of it."""
        self.check(node, name, len(self.channels[name].events) - behind, limit)

    @precondition(lambda self: self.epochs)
    @rule(node=NODES, name=NAMES, data=st.data())
    def read_what_is_over(self, node: int, name: str, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(self.epochs))
        for since in (0, len(self.channels[name].events)):
            with pytest.raises(HistoryLost):
                self.do(self.nodes.both[node].read, name, Position(epoch, since), 10)

    @rule(seconds=st.sampled_from([200, 600, 1100]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.sent = [sent for sent in self.sent if self.now - sent[0] < REMEMBERED]
        self.do(self.nodes.pass_time, seconds)
        for name in CHANNELS:
            self.do(self.nodes.trim, name)

    @rule(node=NODES)
    def new_epoch(self, node: int) -> None:
        self.do(self.nodes.both[node].new_epoch)
        self.epochs += [channel.epoch for channel in self.channels.values() if channel.epoch]
        self.channels = {name: Channel() for name in CHANNELS}
        self.sent = []

    def check(self, node: int, name: str, since: int, limit: int) -> None:
        """Read; expect a page, or that it is lost."""
        channel = self.channels[name]
        start = Position(channel.epoch or "", since)
        kept = len([end for end in channel.ends if end > self.now])
        kept = min(kept, CHANNELS[name].size)
        last = len(channel.events)
        if channel.epoch is None or not last - kept <= since <= last:
            with pytest.raises(HistoryLost):
                self.do(self.nodes.both[node].read, name, start, limit)
        else:
            page = self.do(self.nodes.both[node].read, name, start, limit)
            assert list(page) == channel.events[since:][:limit]

    # Invariants

    @invariant()
    def an_epoch_is_never_used_again(self) -> None:
        assert not {channel.epoch for channel in self.channels.values()} & {*self.epochs}


@pytest.fixture(params=[name for name in LOGS if name not in POSTGRES])
def open_nodes(request: pytest.FixtureRequest, anyio_backend: str) -> Open:
    """Return a function that opens two nodes."""
    return prepared(request.param, anyio_backend, request)


def run(backend: str, open_nodes: Open, examples: int) -> None:
    class Here(Machine): ...

    Here.backend, Here.open_nodes = backend, staticmethod(open_nodes)
    assert settings.default is not None
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples * settings.default.max_examples // 100,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_log_agrees_with_a_model(anyio_backend: str, open_nodes: Open) -> None:
    run(anyio_backend, open_nodes, 50)


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_a_log_agrees_with_a_model_for_longer(anyio_backend: str, open_nodes: Open) -> None:
    run(anyio_backend, open_nodes, 100)
