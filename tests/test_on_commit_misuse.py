"""`OnCommit` where it cannot be used, and in the place of what it belongs to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Annotated, Any

import pytest
from dishka import FromComponent, Provider, Scope, provide
from harness import app_with, dial
from transactions import Transaction, Transactions, app_running

from websuckets import ClientEvent, CommandGroup, OnCommit, Socket
from websuckets.di import ScopeFactory
from websuckets.exc import ConfigurationError, InvalidChannel
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def transactions(journal: list[str]) -> Transactions:
    return Transactions(journal)


async def test_a_background_task_cannot_use_it_after_the_end(
    transactions: Transactions, journal: list[str]
) -> None:
    kept: list[OnCommit] = []
    async with TestClient(app_running(kept.append, transactions)) as client:
        await client.call("run")
        [on_commit] = kept
        uses: list[Callable[[], None]] = [
            lambda: on_commit(journal.append, "late"),
            lambda: on_commit.publish("news", ClientEvent("late")),
            lambda: on_commit.send_to(1, ClientEvent("late")),
        ]
        for use in uses:
            with pytest.raises(RuntimeError, match="closed already, so nothing would call"):
                use()
    assert journal == ["commit"]


@pytest.mark.on_asyncio
async def test_it_cannot_be_used_after_its_finalisers_were_interrupted(
    journal: list[str],
) -> None:
    async def transaction() -> AsyncIterator[Transaction]:
        yield Transaction()
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    kept: list[OnCommit] = []

    def run(on_commit: OnCommit) -> None:
        kept.append(on_commit)
        on_commit(journal.append, "never")

    async with (
        app_running(run, provider).serve("127.0.0.1", 0) as server,
        dial(server) as client,
    ):
        await client.send("run")
        await client.closed()
        with pytest.raises(RuntimeError, match="closed already"):
            kept[0](journal.append, "late")
    assert journal == []


async def test_what_cannot_be_an_effect_is_refused_at_once() -> None:
    async def receipt() -> None: ...

    async def items() -> AsyncIterator[int]:
        yield 1

    def more() -> Iterator[int]:
        yield 1

    problems: list[str] = []

    def run(on_commit: OnCommit) -> None:
        wrong: list[Any] = [receipt(), "name", items, partial(more)]
        for function in wrong:
            with pytest.raises(TypeError) as raised:
                on_commit(function)
            problems.append(str(raised.value))
        for use in (
            lambda: on_commit.publish("news", "event"),  # type: ignore[arg-type]
            lambda: on_commit.send_to(1, {}),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError, match="write ClientEvent"):
                use()
        for name in ("", "x" * 10_000, "\ud800"):
            with pytest.raises(InvalidChannel):
                on_commit.publish(name, ClientEvent("event"))
        assert repr(on_commit) == "OnCommit()"

    async with TestClient(app_running(run, Transactions([]))) as client:
        await client.call("run")
    assert "without calling it, not a coroutine" in problems[0]
    assert "without calling it, not a str" in problems[1]
    assert "items` (" in problems[2] and "pass a function without `yield`" in problems[2]
    assert "more` (" in problems[3]


class Below:
    def __init__(self, on_commit: OnCommit) -> None:
        self.on_commit = on_commit


class Deep:
    def __init__(self, below: Below) -> None:
        self.below = below


@pytest.mark.parametrize("hint", [OnCommit, OnCommit | None, Deep])
async def test_a_stream_cannot_have_it_in_its_own_scope(hint: Any) -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Below)
    provider.provide(Deep)
    group = CommandGroup()

    async def stream(socket: Socket, *, it: Any = None) -> AsyncIterator[int]:
        yield 1

    stream.__annotations__["it"] = hint
    if hint is OnCommit or hint is Deep:
        stream.__kwdefaults__ = None
    with pytest.raises(ConfigurationError, match=r"ScopeFactory\[tuple\[AsyncSession, OnCommit\]"):
        group.command("stream")(stream)
        async with TestClient(app_with(group, providers=[provider])):
            pass


async def test_a_stream_opens_a_scope_for_the_effects_of_each_step(
    transactions: Transactions, journal: list[str]
) -> None:
    group = CommandGroup()

    @group.command("stream")
    async def stream(
        socket: Socket, *, new_scope: ScopeFactory[tuple[Transaction, OnCommit]]
    ) -> AsyncIterator[int]:
        for number in range(2):
            async with new_scope() as (_, on_commit):
                on_commit(journal.append, f"effect {number}")
                journal.append(f"step {number}")
            yield number

    async with TestClient(app_with(group, providers=[transactions])) as client:
        assert [item.payload async for item in client.stream("stream")] == [0, 1]
    steps = [[f"step {n}", "commit", f"effect {n}"] for n in range(2)]
    assert journal == [*steps[0], *steps[1]]


async def test_a_test_may_put_another_object_in_its_place(
    transactions: Transactions, journal: list[str]
) -> None:
    class Fake:
        def __call__(self, function: Any, *arguments: Any) -> None:
            journal.append("collected")

    app = app_running(lambda on_commit: on_commit(journal.append, "never"), transactions)
    with app.override(values={OnCommit: Fake()}):
        async with TestClient(app) as client:
            await client.call("run")
    assert journal == ["collected", "commit"]


async def test_an_object_of_another_component_gets_it_by_the_name_of_the_default_one(
    journal: list[str],
) -> None:
    class Billing(Provider):
        component = "billing"
        scope = Scope.REQUEST

        @provide
        def below(self, on_commit: Annotated[OnCommit, FromComponent()]) -> Below:
            return Below(on_commit)

    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, it: Annotated[Below, FromComponent("billing")]) -> None:
        it.on_commit(journal.append, "effect")

    async with TestClient(app_with(group, providers=[Billing()])) as client:
        await client.call("run")
    assert journal == ["effect"]
