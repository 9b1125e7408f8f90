"""Containers: what they provide, and that every finaliser runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Generic, NewType, TypeVar

import anyio
import pytest
from dishka import AnyOf, AsyncContainer, BaseScope, FromComponent, Has, Provider, Scope
from dishka.exceptions import ExitError

from websuckets.di.container import Work, build_container, close, scopes_of

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class One: ...


class Two: ...


class Three: ...


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None: ...


Name = NewType("Name", str)


def providing(scope: BaseScope, *sources: Callable[..., Any], component: str = "") -> Provider:
    provider = Provider(scope=scope, component=component)
    for source in sources:
        provider.provide(source)
    return provider


async def test_in_which_scope_something_is_provided() -> None:
    """Plain types, NewTypes, generics, aliases, decorated ones and those of components."""

    def both() -> AnyOf[Two, Three]:
        return Two()  # type: ignore[return-value]

    def decorate(one: One) -> One:
        return one

    def repository() -> Repository[T]: ...  # type: ignore[empty-body]

    def name() -> Name:
        return Name("")

    app = providing(Scope.APP, One)
    app.decorate(decorate)

    class Conditional: ...

    class AliasOfConditional: ...

    conditional = Provider()
    conditional.provide(Conditional, scope=Scope.REQUEST)
    conditional.provide(Conditional, scope=Scope.SESSION, when=Has(One))
    conditional.alias(Conditional, provides=AliasOfConditional)
    container = build_container(
        [
            conditional,
            app,
            providing(Scope.SESSION, both),
            providing(Scope.REQUEST, repository),
            providing(Scope.ACTION, name),
            providing(Scope.RUNTIME, One, component="billing"),
        ],
        [],
    )
    billing = FromComponent("billing")
    for hint, scopes in {
        One: {Scope.APP},
        Annotated[One, "doc"]: {Scope.APP},
        Two: {Scope.SESSION},
        Three: {Scope.SESSION},
        Repository[int]: {Scope.REQUEST},
        Name: {Scope.ACTION},
        Annotated[One, billing]: {Scope.RUNTIME},
        Annotated[Two, billing]: set(),
        int: set(),
        Conditional: {Scope.SESSION, Scope.REQUEST},
        AliasOfConditional: {Scope.SESSION, Scope.REQUEST},
    }.items():
        assert scopes_of(container, hint) == scopes, hint
    await container.close()


class Finalisers:
    """Three things, each built on the one before; writes down when each is finalised."""

    def __init__(self, checkpoints: int = 0, failing: bool = False, hanging: str = "") -> None:
        self.opened: list[str] = []
        self.started: list[str] = []
        self.closed: list[str] = []
        self.errors: list[BaseException | None] = []
        self.checkpoints = checkpoints
        self.failing = failing
        self.hanging = hanging
        self.waiting = anyio.Event()

    async def _close(self, name: str, error: BaseException | None) -> None:
        self.started.append(name)
        self.errors.append(error)
        try:
            for _ in range(self.checkpoints):
                await anyio.lowlevel.checkpoint()
            if name == self.hanging:
                self.waiting.set()
                await anyio.sleep_forever()
        finally:
            self.closed.append(name)
        if self.failing:
            raise RuntimeError(name)

    async def one(self) -> AsyncIterator[One]:
        self.opened.append("one")
        await self._close("one", (yield One()))

    def two(self, one: One) -> Iterator[Two]:
        self.opened.append("two")
        error = yield Two()
        self.started.append("two")
        self.errors.append(error)
        self.closed.append("two")

    async def three(self, two: Two) -> AsyncIterator[Three]:
        self.opened.append("three")
        await self._close("three", (yield Three()))

    async def scope(self) -> AsyncContainer:
        container = build_container([providing(Scope.REQUEST, self.one, self.two, self.three)], [])
        scope = container(scope=Scope.REQUEST)
        await scope.get(Three)
        assert self.opened == ["one", "two", "three"]
        return scope


ALL = ["three", "two", "one"]


async def close_in_work(container: AsyncContainer, error: BaseException | None = None) -> None:
    work = Work()
    with work.scope:
        await work.close(container, error)


@pytest.mark.parametrize("checkpoints", [0, 1, 3])
@pytest.mark.parametrize("error", [None, ValueError()])
async def test_finalisers_run_in_reverse_and_see_the_error(
    checkpoints: int, error: Exception | None
) -> None:
    """Whether they wait for something or not."""
    finalisers = Finalisers(checkpoints)
    await close_in_work(await finalisers.scope(), error)
    assert finalisers.closed == ALL
    assert finalisers.errors == [error] * 3


@pytest.mark.parametrize("checkpoints", [0, 2])
async def test_all_run_when_some_fail(checkpoints: int) -> None:
    """Their errors come together."""
    finalisers = Finalisers(checkpoints, failing=True)
    with pytest.raises(ExitError) as caught:
        await close_in_work(await finalisers.scope())
    assert [str(error) for error in caught.value.exceptions] == ["three", "one"]
    assert finalisers.closed == ALL


@pytest.mark.parametrize("cancelled_before", [False, True])
@pytest.mark.parametrize("checkpoints", [0, 1, 3])
async def test_cancelling_from_outside_does_not_stop_them(
    cancelled_before: bool, checkpoints: int
) -> None:
    """Neither before they start, nor while they run; it takes effect afterwards."""
    finalisers = Finalisers(checkpoints)
    container = await finalisers.scope()
    work = Work()
    with anyio.CancelScope() as outside:
        async with anyio.create_task_group() as tasks:
            with work.scope:
                if cancelled_before:
                    outside.cancel()
                else:
                    tasks.start_soon(_cancel, outside)
                await work.close(container)
                assert finalisers.started == finalisers.closed == ALL
                await anyio.sleep(0)
                await anyio.lowlevel.checkpoint()
                finalisers.closed.append("too far")
    assert finalisers.closed == ALL
    assert outside.cancelled_caught


async def _cancel(scope: anyio.CancelScope) -> None:
    scope.cancel()


async def test_a_finaliser_may_leave_scopes_that_were_entered_when_building() -> None:
    """A task group or a timeout around a `yield` is left in the scope that it was entered in."""

    async def one() -> AsyncIterator[One]:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                yield One()
                tasks.cancel_scope.cancel()

    container = build_container([providing(Scope.REQUEST, one)], [])
    work = Work()
    with work.scope:
        for error in (None, ValueError()):
            scope = container(scope=Scope.REQUEST)
            await scope.get(One)
            await work.close(scope, error)
    assert not work.scope.cancelled_caught


@pytest.mark.parametrize("checkpoints", [0, 2])
async def test_finalisers_that_take_too_long_are_cancelled_from_outside(checkpoints: int) -> None:
    """After so many ticks; those that need not wait finish, and the work is of no more use."""
    finalisers = Finalisers(checkpoints, hanging="three")
    container = await finalisers.scope()
    work = Work()
    work.tick(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tick_when, finalisers.waiting, work)
        with work.scope:
            await work.close(container)
            assert work.is_late
    assert finalisers.closed == ALL


async def test_late_finalisers_may_still_leave_scopes_that_were_entered_when_building() -> None:
    """Those that are left run where they were entered."""
    waiting = anyio.Event()

    async def one() -> AsyncIterator[One]:
        async with anyio.create_task_group() as tasks:
            yield One()
            tasks.cancel_scope.cancel()

    async def two(one: One) -> AsyncIterator[Two]:
        yield Two()
        waiting.set()
        await anyio.sleep_forever()

    container = build_container([providing(Scope.REQUEST, one, two)], [])
    scope = container(scope=Scope.REQUEST)
    work = Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tick_when, waiting, work)
        with work.scope:
            await scope.get(Two)
            await work.close(scope)
    assert work.is_late


async def _tick_when(event: anyio.Event, work: Work) -> None:
    await event.wait()
    for _ in range(3):
        assert not work.scope.cancel_called
        work.tick(2)
    assert work.scope.cancel_called


async def test_a_container_of_its_own_is_closed_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """Past the timeout, with an error in the log."""
    finalisers = Finalisers(hanging="three")
    await close(await finalisers.scope(), timeout=0.01)
    assert finalisers.closed == ALL
    assert caplog.records[-1].levelno == logging.ERROR
    assert caplog.messages[-1] == "finalisers took more than 0.01 seconds and were cancelled"


@pytest.mark.on_asyncio
async def test_without_a_timeout_they_take_as_long_as_they_take() -> None:
    """`None` turns the limit off; only asyncio's own cancellation is left to stop them."""
    finalisers = Finalisers(hanging="three")
    container = await finalisers.scope()
    task = asyncio.ensure_future(close(container, timeout=None))
    await finalisers.waiting.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert finalisers.closed == ALL


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("checkpoint", range(1, 8))
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_does_not_keep_the_others_from_running(
    times: int, checkpoint: int, failing: bool
) -> None:
    """`Task.cancel()` passes shields: the one it hits ends there, the rest run, then it goes on."""
    finalisers = Finalisers(3, failing)
    container = await finalisers.scope()
    task = asyncio.ensure_future(close_in_work(container))
    for _ in range(checkpoint):
        await asyncio.sleep(0)
    was_done = task.done()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert finalisers.started == finalisers.closed == ALL
    assert task.cancelled() != was_done


class Fatal(BaseException): ...


@pytest.mark.parametrize("fatal", [Fatal, GeneratorExit, asyncio.CancelledError])
async def test_even_after_a_fatal_error_the_others_run(
    fatal: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on when they are done; what then fails is logged."""
    finalisers = Finalisers(1, failing=True)

    class Last: ...

    async def last(three: Three) -> AsyncIterator[Last]:
        yield Last()
        raise fatal

    provider = providing(Scope.REQUEST, finalisers.one, finalisers.two, finalisers.three, last)
    scope = build_container([provider], [])(scope=Scope.REQUEST)
    await scope.get(Last)
    with pytest.raises(fatal):
        await close_in_work(scope)
    assert finalisers.closed == ALL
    assert caplog.messages == ["finalisers failed"]
