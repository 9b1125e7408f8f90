"""Containers: what they provide, and that every finaliser runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Generic, NewType, TypeVar

import anyio
import pytest
from dishka import AnyOf, AsyncContainer, BaseScope, FromComponent, Provider, Scope
from dishka.exceptions import ExitError

from websuckets.di.container import build_container, finalize, scope_of

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
    container = build_container(
        [
            app,
            providing(Scope.SESSION, both),
            providing(Scope.REQUEST, repository),
            providing(Scope.ACTION, name),
            providing(Scope.RUNTIME, One, component="billing"),
        ],
        [],
    )
    assert {
        "plain": scope_of(container, One),
        "annotated": scope_of(container, Annotated[One, "doc"]),
        "first of two": scope_of(container, Two),
        "second of two": scope_of(container, Three),
        "generic": scope_of(container, Repository[int]),
        "new type": scope_of(container, Name),
        "component": scope_of(container, Annotated[One, FromComponent("billing")]),
        "another component": scope_of(container, Annotated[Two, FromComponent("billing")]),
        "nothing": scope_of(container, int),
    } == {
        "plain": Scope.APP,
        "annotated": Scope.APP,
        "first of two": Scope.SESSION,
        "second of two": Scope.SESSION,
        "generic": Scope.REQUEST,
        "new type": Scope.ACTION,
        "component": Scope.RUNTIME,
        "another component": None,
        "nothing": None,
    }
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


@pytest.mark.parametrize("checkpoints", [0, 1, 3])
@pytest.mark.parametrize("error", [None, ValueError()])
async def test_finalisers_run_in_reverse_and_see_the_error(
    checkpoints: int, error: Exception | None
) -> None:
    """Whether they wait for something or not."""
    finalisers = Finalisers(checkpoints)
    await finalize(await finalisers.scope(), error, timeout=5)
    assert finalisers.closed == ALL
    assert finalisers.errors == [error] * 3


@pytest.mark.parametrize("checkpoints", [0, 2])
async def test_all_run_when_some_fail(checkpoints: int) -> None:
    """Their errors come together."""
    finalisers = Finalisers(checkpoints, failing=True)
    with pytest.raises(ExitError) as caught:
        await finalize(await finalisers.scope(), timeout=5)
    assert [str(error) for error in caught.value.exceptions] == ["three", "one"]
    assert finalisers.closed == ALL


@pytest.mark.parametrize("cancelled_before", [False, True])
@pytest.mark.parametrize("checkpoints", [0, 1, 3])
async def test_a_cancelled_scope_does_not_stop_them(
    cancelled_before: bool, checkpoints: int
) -> None:
    """Neither cancelled before they start, nor while they run."""
    finalisers = Finalisers(checkpoints)
    container = await finalisers.scope()
    with anyio.CancelScope() as cancel:
        if cancelled_before:
            cancel.cancel()
            await finalize(container, timeout=5, cancelled=True)
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_soon, cancel)
                await finalize(container, timeout=5)
    assert finalisers.started == finalisers.closed == ALL


async def _cancel_soon(cancel: anyio.CancelScope) -> None:
    cancel.cancel()


async def test_one_that_hangs_is_cancelled_at_the_deadline_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With an error in the log; those that need not wait finish."""
    finalisers = Finalisers(hanging="three")
    await finalize(await finalisers.scope(), timeout=0.01)
    assert finalisers.closed == ALL
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "finalisers took more than 0.01 seconds and were cancelled",
    )


async def test_without_a_timeout_they_take_as_long_as_they_take() -> None:
    """`None` turns the limit off; only asyncio's own cancellation is left to stop them."""
    finalisers = Finalisers(hanging="three")
    container = await finalisers.scope()
    task = asyncio.ensure_future(finalize(container, timeout=None))
    await finalisers.waiting.wait()
    task.cancel()
    await asyncio.wait([task])
    assert finalisers.closed == ALL


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("checkpoint", range(1, 8))
@pytest.mark.parametrize("failing", [False, True])
async def test_asyncios_own_cancellation_does_not_keep_the_others_from_running(
    times: int, checkpoint: int, failing: bool
) -> None:
    """`Task.cancel()` passes shields: the one it hits ends there, the rest run, then it goes on."""
    finalisers = Finalisers(3, failing)
    container = await finalisers.scope()
    task = asyncio.ensure_future(finalize(container, timeout=5))
    for _ in range(checkpoint):
        await asyncio.sleep(0)
    was_done = task.done()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert finalisers.started == finalisers.closed == ALL
    assert was_done or task.cancelled() or failing


async def test_the_error_of_a_finaliser_that_starts_a_scope_is_not_lost() -> None:
    """A cancellation and an error at once: the cancellation wins, the error is its context."""
    finalisers = Finalisers(hanging="three", failing=True)
    container = await finalisers.scope()
    task = asyncio.ensure_future(finalize(container, timeout=5))
    await finalisers.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert finalisers.closed == ALL
    assert isinstance(caught.value.__context__, ExitError)
