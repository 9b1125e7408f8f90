"""Stores of commands that take effect once, after any sequence of messages, beside a model."""

from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import anyio
import anyio.from_thread
import pytest
from anyio.from_thread import BlockingPortal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from idempotency_stores import PARAMETERS, Message, Nodes, Open, prepared
from timeouts import TIMEOUT

from websuckets.idempotency import StoredReply

LIFETIME = 1000.0

Name: TypeAlias = tuple[str, str]
"""Owner and key."""

NAMES: list[Name] = [("", "a"), ("str:1", "a"), ("int:1", "a")]

NODES = st.sampled_from([0, 1])

MOST_WAITING = 3
"""Messages that wait for one claim at most."""

PRINTS = [bytes([number]) * 32 for number in range(3)]


@dataclass(eq=False)
class Run:
    """A message that has claimed, or waits to."""

    message: Message
    name: Name
    reply: StoredReply | None = None  # that it has completed with
    claim: "Future[StoredReply | None]" = field(default_factory=Future)
    gone: anyio.Event = field(default_factory=anyio.Event)


class Machine(RuleBasedStateMachine):
    """A state machine of two nodes, beside a model of their claims and replies."""

    backend: ClassVar[str]
    open_nodes: ClassVar[Open]

    def __init__(self) -> None:
        super().__init__()
        self.claims: dict[Name, Run] = {}
        self.waiting: dict[Name, list[Run]] = {name: [] for name in NAMES}
        self.replies: dict[Name, StoredReply] = {}
        self.count = 0
        self.stack = ExitStack()
        self.portal: BlockingPortal = self.stack.enter_context(
            anyio.from_thread.start_blocking_portal(self.backend)
        )
        self.nodes: Nodes = self.stack.enter_context(
            self.portal.wrap_async_context_manager(type(self).open_nodes(LIFETIME))
        )

    def do(self, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async def in_time() -> Any:
            with anyio.fail_after(TIMEOUT):
                return await step(*arguments)

        return self.portal.call(in_time)

    def teardown(self) -> None:
        """Let everybody finish; each name then has its reply, or can be claimed."""
        with self.stack:
            for name in NAMES:
                while self.waiting[name]:
                    self.leave(self.waiting[name][0])
                if name in self.claims:
                    self.fail(name)
            for name in NAMES:
                for node in (0, 1):
                    self.check(node, name)

    # Steps

    @rule(node=NODES, name=st.sampled_from(NAMES))
    def claim(self, node: int, name: Name) -> None:
        """Claim; wait behind a message that has the claim."""
        if name not in self.claims:
            if not (self.nodes.is_serial and self.claims):
                self.claim_now(node, name)
        elif len(self.waiting[name]) < MOST_WAITING:
            self.begin_to_wait(node, name)

    def claim_now(self, node: int, name: Name) -> None:
        run = Run(self.nodes.both[node](), name)
        reply = self.do(run.message.claim, *name, PRINTS[0])
        assert reply == self.replies.get(name)
        if reply is None:
            self.claims[name] = run

    def begin_to_wait(self, node: int, name: Name) -> None:
        run = Run(self.nodes.both[node](), name)

        async def claim() -> StoredReply | None:
            try:
                return await run.message.claim(*name, PRINTS[0])
            finally:
                run.gone.set()

        run.claim = self.portal.start_task_soon(claim)
        self.waiting[name].append(run)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), fingerprint=st.sampled_from(PRINTS), size=st.sampled_from([0, 1, 5000]))
    def complete(self, data: st.DataObject, fingerprint: bytes, size: int) -> None:
        run = self.claims[data.draw(st.sampled_from(sorted(self.claims)))]
        if run.reply is None:
            self.count += 1
            run.reply = StoredReply(fingerprint, size * f"{self.count},")
            self.do(run.message.complete, run.reply)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Settle a message that is complete; all who wait get its reply."""
        name = data.draw(st.sampled_from(sorted(self.claims)))
        run = self.claims[name]
        if run.reply is None:
            return
        self.do(run.message.settle, True)
        del self.claims[name]
        self.replies[name] = run.reply
        for twin in self.waiting[name]:
            assert twin.claim.result(TIMEOUT) == run.reply
        self.waiting[name].clear()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        self.fail(data.draw(st.sampled_from(sorted(self.claims))))

    def fail(self, name: Name) -> None:
        self.do(self.claims.pop(name).message.settle, False)
        self.hand_over(name)

    @precondition(lambda self: self.claims and self.nodes.crash is not None)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """End the life of a message before its effect is committed."""
        name = data.draw(st.sampled_from(sorted(self.claims)))
        assert self.nodes.crash is not None
        self.do(self.nodes.crash, self.claims.pop(name).message)
        self.hand_over(name)

    def hand_over(self, name: Name) -> None:
        """Expect exactly one of those who wait to get the claim."""
        twins = self.waiting[name]
        if twins:
            done, _ = wait([twin.claim for twin in twins], TIMEOUT, FIRST_COMPLETED)
            assert [claim.result() for claim in done] == [None]
            (self.claims[name],) = (twin for twin in twins if twin.claim in done)
            twins.remove(self.claims[name])

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a message that waits."""
        runs = [run for name in NAMES for run in self.waiting[name]]
        self.leave(runs[data.draw(st.integers(0, len(runs) - 1))])

    def leave(self, run: Run) -> None:
        run.claim.cancel()
        self.do(run.gone.wait)
        self.waiting[run.name].remove(run)

    @precondition(lambda self: self.replies and not (self.nodes.is_serial and self.claims))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.replies)))
        del self.replies[name]
        self.do(self.nodes.expire, *name)

    @rule(node=NODES)
    def settle_without_a_claim(self, node: int) -> None:
        self.do(self.nodes.both[node]().settle, False)

    @precondition(lambda self: self.replies and not (self.nodes.is_serial and self.claims))
    @rule(data=st.data(), node=NODES)
    def send_again(self, data: st.DataObject, node: int) -> None:
        self.check(node, data.draw(st.sampled_from(sorted(self.replies))))

    def check(self, node: int, name: Name) -> None:
        message = self.nodes.both[node]()
        reply = self.do(message.claim, *name, PRINTS[0])
        assert reply == self.replies.get(name)
        if reply is None:
            self.do(message.settle, False)

    # Invariants

    @invariant()
    def nobody_passes_the_one_who_has_the_claim(self) -> None:
        for name, twins in self.waiting.items():
            assert not twins or name in self.claims
            assert not any(twin.claim.done() for twin in twins)
        assert not self.claims.keys() & self.replies.keys()


@pytest.fixture(params=PARAMETERS)
def open_nodes(request: pytest.FixtureRequest, anyio_backend: str) -> Open:
    """Return a function that opens two nodes."""
    return prepared(request.param, anyio_backend, request)


def run(backend: str, open_nodes: Open, examples: int) -> None:
    class Here(Machine): ...

    Here.backend, Here.open_nodes = backend, staticmethod(open_nodes)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples * settings.default.max_examples // 100,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_claims_and_replies_agree_with_a_model(anyio_backend: str, open_nodes: Open) -> None:
    run(anyio_backend, open_nodes, 50)


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_claims_and_replies_agree_with_a_model_for_longer(
    anyio_backend: str, open_nodes: Open
) -> None:
    run(anyio_backend, open_nodes, 200)
