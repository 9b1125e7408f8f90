"""Tests that a command cancelled at any of its checkpoints has everything opened finalised."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from dishka import Provider, Scope, provide
from harness import app_with, dial, on_trio
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, WebSuckets
from websuckets.app import Server
from websuckets.commands.dispatcher import Dispatcher
from websuckets.di import provide_context
from websuckets.runtime.request_scope import RequestScope

pytestmark = pytest.mark.anyio

MOST = 100
"""Number of checkpoints that no command of these tests has."""


class Visit: ...


class Outer: ...


class Middle: ...


class Inner: ...


@dataclass
class Ledger:
    """A record of what was opened and finalised, in order, of a message and of its connection."""

    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    visit_closed: anyio.Event = field(default_factory=anyio.Event)

    async def open(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.opened.append(name)

    async def close(self, name: str) -> None:
        try:
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self.interrupted.append(name)
            raise
        finally:
            self.closed.append(name)
            if name == "visit":
                self.visit_closed.set()


class Things(Provider):
    """Providers of each kind, each built on the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()

    @provide(scope=Scope.SESSION)
    async def visit(self) -> AsyncIterator[Visit]:
        ledger = self.ledger
        await ledger.open("visit")
        yield Visit()
        await ledger.close("visit")

    @provide(scope=Scope.REQUEST)
    async def outer(self, visit: Visit) -> AsyncIterator[Outer]:
        ledger = self.ledger
        await ledger.open("outer")
        yield Outer()
        await ledger.close("outer")

    @provide(scope=Scope.REQUEST)
    def middle(self, outer: Outer) -> Iterator[Middle]:
        ledger = self.ledger
        ledger.opened.append("middle")
        yield Middle()
        ledger.closed.append("middle")

    @asynccontextmanager
    async def inner(self, middle: Middle) -> AsyncIterator[Inner]:
        ledger = self.ledger
        await ledger.open("inner")
        try:
            yield Inner()
        finally:
            await ledger.close("inner")


class Steps:
    """An awaitable that awaits another, and acts when that is about to wait for the n-th time."""

    def __init__(self, awaited: Awaitable[Any], at: set[int], act: Callable[[], None]) -> None:
        self.awaited = awaited
        self.at = at
        self.act = act
        self.taken = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self.awaited.__await__()
        step, given = steps.send, None
        while True:
            try:
                trap = step(given)
            except StopIteration as end:
                return end.value
            self.taken += 1
            if self.taken in self.at:
                self.act()
            try:
                step, given = steps.send, (yield trap)
            except BaseException as error:
                step, given = steps.throw, error


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def app(things: Things) -> WebSuckets:
    group = CommandGroup()

    @group.command("command")
    async def command(socket: ServerConnection, *, inner: Inner) -> str:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await socket.send('"half"')
        return "done"

    @group.command("stream")
    async def stream(socket: ServerConnection, *, inner: Inner) -> AsyncIterator[int]:
        for number in range(2):
            await anyio.lowlevel.checkpoint()
            yield number

    @group.command("ping")
    async def ping(socket: ServerConnection) -> str:
        return "pong"

    return app_with(group, providers=[things, provide_context(things.inner)])


def cancelling_at(at: set[int], natively: bool, monkeypatch: pytest.MonkeyPatch) -> list[Steps]:
    """Have each command cancelled at its n-th checkpoint; yield the steps that it takes."""
    taken: list[Steps] = []

    def stepping(awaited: Awaitable[Any], request_scope: RequestScope) -> Steps:
        def cancel() -> None:
            if natively:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            else:
                request_scope._life.cancel()

        taken.append(Steps(awaited, at, cancel))
        return taken[-1]

    answer = Dispatcher.answer

    async def stepping_answer(
        self: Any, call: Any, peer: Any, request_scope: RequestScope, begun: Any = None
    ) -> Any:
        answering = answer(self, call, peer, request_scope, begun)
        if call[0].event == "ping":
            return await answering
        return await stepping(answering, request_scope)

    monkeypatch.setattr(Dispatcher, "answer", stepping_answer)
    return taken


async def run(server: Server, name: str) -> None:
    """Call the command on a connection of its own, until it has ended somehow."""
    async with dial(server) as client:
        await client.send(name, id=1)
        try:
            while True:
                reply = await client.receive()
                if isinstance(reply, dict) and "more" not in reply:
                    break
        except ConnectionClosed:
            pass


@pytest.mark.parametrize("name", ["command", "stream"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("natively", [False, True])
async def test_whatever_was_opened_is_finalised_in_reverse(
    app: WebSuckets,
    things: Things,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    times: int,
    natively: bool,
) -> None:
    """Test each checkpoint, until the command gets through; others are served meanwhile."""
    if natively and on_trio():
        pytest.skip("trio has no cancellation but that of scopes")
    async with app.serve("127.0.0.1", 0) as server, dial(server) as other:
        for n in range(1, MOST):
            ledger = things.ledger = Ledger()
            with pytest.MonkeyPatch.context() as patch:
                taken = cancelling_at({n, n + 1} if times == 2 else {n}, natively, patch)
                await run(server, name)
                if "visit" in ledger.opened:
                    with anyio.fail_after(TIMEOUT):
                        await ledger.visit_closed.wait()
            assert ledger.closed == ledger.opened[::-1], f"cancelled at {n}"
            # asyncio's own cancellation ends the finaliser that it hits
            assert len(ledger.interrupted) <= (times if natively else 0), f"cancelled at {n}"
            assert (await other.call("ping"))["payload"] == "pong"
            if taken[0].taken < n:
                break
        assert 10 < n < MOST
        assert ledger.opened == ["visit", "outer", "middle", "inner"]
    errors = [r for r in caplog.records if r.name == "websuckets" and r.levelno >= logging.ERROR]
    # a native cancellation of a stream's task ends its connection with 1011
    assert bool(errors) == (natively and name == "stream")
