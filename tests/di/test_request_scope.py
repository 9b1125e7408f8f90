"""Request scopes: every finaliser runs, in time or not, cancelled or not."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from dishka import AsyncContainer, BaseScope, Provider, Scope
from dishka.exceptions import ExitError
from timeouts import TIMEOUT

from websuckets.runtime.clock import Clock
from websuckets.runtime.failures import Cancelled
from websuckets.runtime.request_scope import RequestScope, RequestScopes
from websuckets.runtime.scopes import ExitsOf
from websuckets.serving.container import build_container

pytestmark = pytest.mark.anyio


class One: ...


class Two: ...


class Three: ...


def providing(scope: BaseScope, *sources: Callable[..., Any]) -> Provider:
    provider = Provider(scope=scope)
    for source in sources:
        provider.provide(source)
    return provider


class Finalisers:
    """Three objects, each built on the one before, with a record of their finalisation."""

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


def begin() -> RequestScope:
    return RequestScopes(Clock(), finalize_timeout=1).begin(anyio.CancelScope())


async def close(
    request_scope: RequestScope, container: AsyncContainer, error: BaseException | None = None
) -> None:
    """Finalise the objects of a container, and raise the failure of finalisers."""
    failure = await request_scope.finalise(ExitsOf(container), error)
    if failure is not None:
        raise failure


async def close_in_request_scope(
    container: AsyncContainer, error: BaseException | None = None
) -> None:
    with begin() as request_scope:
        await close(request_scope, container, error)


@pytest.mark.parametrize("checkpoints", [0, 1, 3])
@pytest.mark.parametrize("error", [None, ValueError()])
async def test_finalisers_run_in_reverse_and_see_the_error(
    checkpoints: int, error: Exception | None
) -> None:
    """Finalisers with checkpoints and without run in reverse and see the error."""
    finalisers = Finalisers(checkpoints)
    await close_in_request_scope(await finalisers.scope(), error)
    assert finalisers.closed == ALL
    assert finalisers.errors == [error] * 3


@pytest.mark.parametrize("checkpoints", [0, 2])
async def test_all_run_when_some_fail(checkpoints: int) -> None:
    """The errors of all finalisers are in one group."""
    finalisers = Finalisers(checkpoints, failing=True)
    with pytest.raises(ExitError) as caught:
        await close_in_request_scope(await finalisers.scope())
    assert [str(error) for error in caught.value.exceptions] == ["three", "one"]
    assert finalisers.closed == ALL


@pytest.mark.parametrize("cancelled_before", [False, True])
@pytest.mark.parametrize("checkpoints", [0, 1, 3])
async def test_cancelling_from_outside_does_not_stop_them(
    cancelled_before: bool, checkpoints: int
) -> None:
    """A cancellation before or during the finalisers takes effect after them."""
    finalisers = Finalisers(checkpoints)
    container = await finalisers.scope()
    request_scope = begin()
    with anyio.CancelScope() as outside:
        async with anyio.create_task_group() as tasks:
            with request_scope:
                if cancelled_before:
                    outside.cancel()
                else:
                    tasks.start_soon(_cancel, outside)
                await close(request_scope, container)
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
    request_scope = begin()
    with request_scope:
        for error in (None, ValueError()):
            scope = container(scope=Scope.REQUEST)
            await scope.get(One)
            await close(request_scope, scope, error)
    assert not request_scope.is_late


@pytest.mark.parametrize("checkpoints", [0, 2])
async def test_finalisers_that_take_too_long_are_cancelled_from_outside(checkpoints: int) -> None:
    """Late finalisers are cancelled; those that need not wait finish, and the request scope is
    late."""
    finalisers = Finalisers(checkpoints, hanging="three")
    container = await finalisers.scope()
    request_scope = begin()
    request_scope.check(math.nextafter(math.inf, 0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_check_when, finalisers.waiting, request_scope)
        with request_scope:
            await request_scope.finalise(ExitsOf(container))
            assert request_scope.is_late
    assert finalisers.closed == ALL


async def test_late_finalisers_may_still_leave_scopes_that_were_entered_when_building() -> None:
    """The remaining finalisers run in the task and the scope in which they were entered."""
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
    request_scope = begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_check_when, waiting, request_scope)
        with request_scope:
            await scope.get(Two)
            await request_scope.finalise(ExitsOf(scope))
    assert request_scope.is_late


async def _check_when(event: anyio.Event, request_scope: RequestScope) -> None:
    await event.wait()
    clock = request_scope._request_scopes.clock
    for now in (0, 0.9):
        clock.now = now
        request_scope.check(now)
        assert not request_scope.is_late
    request_scope.check(1)
    assert request_scope.is_late


async def test_time_is_kept_for_all_that_is_open() -> None:
    """A clock checks open request scopes; the error of a late one has the timeout."""
    finalisers = Finalisers(hanging="three")
    request_scopes = RequestScopes(Clock(), finalize_timeout=0.01)
    container = await finalisers.scope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request_scopes.clock.run)
        with request_scopes.begin(anyio.CancelScope()) as request_scope:
            assert request_scope.lateness is None
            await request_scope.finalise(ExitsOf(container))
        tasks.cancel_scope.cancel()
    assert finalisers.closed == ALL
    assert str(request_scope.lateness) == (
        "finalisers took more than 0.01 seconds (Limits.finalize_timeout is 0.01)"
    )


@pytest.mark.on_asyncio
async def test_without_a_timeout_they_take_as_long_as_they_take() -> None:
    """`None` turns the timeout off; only asyncio's own cancellation stops a finaliser then."""
    finalisers = Finalisers(hanging="three")
    container = await finalisers.scope()

    async def close() -> None:
        with RequestScopes(Clock(), finalize_timeout=None).begin(
            anyio.CancelScope()
        ) as request_scope:
            request_scope.check(math.nextafter(math.inf, 0))
            await request_scope.finalise(ExitsOf(container))

    task = asyncio.ensure_future(close())
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
    """`Task.cancel()` ends the finaliser that it hits, and takes effect after the others have
    run."""
    finalisers = Finalisers(3, failing)
    container = await finalisers.scope()
    task = asyncio.ensure_future(close_in_request_scope(container))
    for _ in range(checkpoint):
        await asyncio.sleep(0)
    was_done = task.done()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert finalisers.started == finalisers.closed == ALL
    assert task.cancelled() != was_done


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.on_asyncio
async def test_even_after_a_fatal_error_the_others_run(
    fatal: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A fatal error is raised after the other finalisers, whose errors are logged."""
    finalisers = Finalisers(1, failing=True)

    class Last: ...

    async def last(three: Three) -> AsyncIterator[Last]:
        yield Last()
        raise fatal

    provider = providing(Scope.REQUEST, finalisers.one, finalisers.two, finalisers.three, last)
    scope = build_container([provider], [])(scope=Scope.REQUEST)
    await scope.get(Last)
    with pytest.raises(fatal):
        await close_in_request_scope(scope)
    assert finalisers.closed == ALL
    assert {type(error) for error in finalisers.errors} == {fatal}
    assert caplog.messages == ["finalisers failed"]


async def test_an_error_of_the_programs_own_is_a_failure_like_any_other() -> None:
    """An error that is not an `Exception` is raised in a group with those of other finalisers."""
    finalisers = Finalisers(1, failing=True)

    class Fatal(BaseException): ...

    class Last: ...

    async def last(three: Three) -> AsyncIterator[Last]:
        yield Last()
        raise Fatal

    provider = providing(Scope.REQUEST, finalisers.one, finalisers.two, finalisers.three, last)
    scope = build_container([provider], [])(scope=Scope.REQUEST)
    await scope.get(Last)
    with pytest.raises(BaseExceptionGroup) as caught:
        await close_in_request_scope(scope)
    assert [type(error) for error in caught.value.exceptions] == [Fatal, RuntimeError, RuntimeError]
    assert finalisers.errors == [caught.value.exceptions[0]] * 3


# Cancellations that had happened before


async def test_nothing_had_been_cancelled() -> None:
    """A request scope in which nothing has happened knows of no cancellation."""
    with begin() as request_scope:
        assert not request_scope.is_cancelled
        assert request_scope.cancelled() is Cancelled.NOTHING


@pytest.mark.parametrize("whose", ["life", "outer"])
async def test_a_cancelled_scope_around_it_has_ended_it(whose: str) -> None:
    """The `CancelScope` of a request scope counts, and so does any outer one."""
    with anyio.CancelScope() as outer, anyio.CancelScope() as life:
        with RequestScopes(Clock(), 1).begin(life) as request_scope:
            (life if whose == "life" else outer).cancel()
            assert request_scope.is_cancelled == (whose == "life")
            assert request_scope.cancelled() is Cancelled.ENDED


@pytest.mark.on_asyncio
async def test_a_cancelled_task_has_ended_it() -> None:
    """asyncio's own `Task.cancel()` counts, past every `CancelScope`."""
    found: list[Cancelled] = []

    async def run() -> None:
        with begin() as request_scope:
            try:
                await asyncio.sleep(TIMEOUT)
            finally:
                found.append(request_scope.cancelled())

    task = asyncio.ensure_future(run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert found == [Cancelled.ENDED]


async def test_what_took_too_long_has_timed_out() -> None:
    """A timeout cancels the `CancelScope` around, but does not end the connection."""
    with anyio.CancelScope() as life:
        with RequestScopes(Clock(), 1).begin(life) as request_scope:
            request_scope.due = 1
            request_scope.check(1)
            assert request_scope.is_cancelled
            assert request_scope.cancelled() is Cancelled.TIMED_OUT


async def test_being_late_is_no_cancellation() -> None:
    """Lateness cancels the scope of the finalisers, but is not a cancellation of the request
    scope."""
    with begin() as request_scope:
        request_scope._close_by = 1
        request_scope.check(0.9)
        assert not request_scope.is_late
        request_scope.check(1)
        assert request_scope.is_late
        assert request_scope.cancelled() is Cancelled.NOTHING


async def test_late_finalisers_that_also_fail_are_one_failure() -> None:
    """The errors of finalisers are told together with their being late."""
    finalisers = Finalisers(failing=True, hanging="three")
    container = await finalisers.scope()
    request_scope = begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_check_when, finalisers.waiting, request_scope)
        with request_scope:
            failure = await request_scope.finalise(ExitsOf(container))
    assert isinstance(failure, ExitError)
    assert [type(error) for error in failure.exceptions] == [RuntimeError, TimeoutError]
