"""Effects: their order, failures, deadline and cancellation, without an app."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from harness import errors

from websuckets.exc import ClientError
from websuckets.runtime.effects import Effects

pytestmark = pytest.mark.anyio

LONG = 30.0
SHORT = 0.05


def failures(caplog: pytest.LogCaptureFixture) -> list[BaseException]:
    """Return the errors of all incidents in the log."""
    return [record.exc_info[1] for record in errors(caplog) if record.exc_info]  # type: ignore[misc]


async def sleep_for_ever() -> None:
    await anyio.sleep_forever()


class Step:
    """A callable object, and one with a method."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    async def __call__(self, entry: str) -> None:
        self.journal.append(f"called {entry}")

    def method(self, entry: str) -> None:
        self.journal.append(f"method {entry}")


async def test_functions_of_every_kind_run_in_their_order(journal: list[str]) -> None:
    async def waits(entry: str, *, times: int) -> None:
        await anyio.lowlevel.checkpoint()
        journal.append(f"{entry} {times}")

    effects = Effects()
    effects.add(waits, "async", times=2)
    effects.add(journal.append, "sync")
    effects.add(partial(waits, "partial", times=1))
    effects.add(Step(journal), "object")
    effects.add(Step(journal).method, "bound")
    effects.add(lambda: waits("lambda", times=3))
    await effects.run("'test'", LONG)
    assert journal == ["async 2", "sync", "partial 1", "called object", "method bound", "lambda 3"]


async def test_effects_that_an_effect_adds_run_last(journal: list[str]) -> None:
    effects = Effects()
    effects.add(lambda: effects.add(journal.append, "added"))
    effects.add(journal.append, "second")
    await effects.run("'test'", None)
    assert journal == ["second", "added"]


class OwnError(BaseException): ...


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("broken"),
        ClientError("refused"),
        OwnError(),
        ExceptionGroup("several", [ValueError("one"), ClientError("two")]),
        BaseExceptionGroup("mixed", [ValueError("one"), GeneratorExit()]),
    ],
    ids=repr,
)
async def test_an_effect_that_fails_is_an_incident_and_stops_no_other(
    failure: BaseException, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise failure

    effects = Effects()
    effects.add(fail)
    effects.add(journal.append, "after")
    await effects.run("'order'", LONG)
    assert journal == ["after"]
    assert failures(caplog) == [failure]
    [record] = errors(caplog)
    assert "fail` (" in record.getMessage()
    assert "of 'order' failed, incident" in record.getMessage()


@pytest.mark.parametrize(
    "end",
    [KeyboardInterrupt, SystemExit, GeneratorExit, lambda: BaseExceptionGroup("", [SystemExit()])],
)
async def test_an_effect_that_ends_the_program_leaves_the_others_to_the_log(
    end: Callable[[], BaseException], journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def exit() -> None:
        raise end()

    effects = Effects()
    effects.add(exit)
    effects.add(journal.append, "after")
    with pytest.raises((KeyboardInterrupt, SystemExit, GeneratorExit, BaseExceptionGroup)):
        await effects.run("'order'", LONG)
    assert journal == []
    [failure] = failures(caplog)
    assert str(failure).endswith("came before effects: not called: `list.append`")
    with pytest.raises(RuntimeError, match="closed already"):
        effects.add(journal.append, "later")


async def test_an_effect_that_ends_the_program_last_leaves_nothing_to_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def exit() -> None:
        raise SystemExit

    effects = Effects()
    effects.add(exit)
    with pytest.raises(SystemExit):
        await effects.run("'order'", LONG)
    assert errors(caplog) == []


async def test_effects_that_hang_are_cancelled_and_all_that_are_left_are_named(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    effects = Effects()
    effects.add(journal.append, "before")
    effects.add(sleep_for_ever)
    effects.add(Step(journal), "never")
    await effects.run("'order'", SHORT)
    assert journal == ["before"]
    [failure] = failures(caplog)
    assert isinstance(failure, TimeoutError)
    assert "more than Limits.finalize_timeout, which is 0.05 seconds" in str(failure)
    assert "sleep_for_ever` (" in str(failure)
    assert "Step.__call__` (" in str(failure)


async def test_the_error_of_an_effect_that_is_cancelled_late_is_told(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def turns_it_into_an_error() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cancelled")

    effects = Effects()
    effects.add(turns_it_into_an_error)
    effects.add(journal.append, "never")
    await effects.run("'order'", SHORT)
    assert journal == []
    error, late = failures(caplog)
    assert isinstance(error, ValueError)
    assert isinstance(late, TimeoutError)


async def test_an_effect_that_blocks_the_event_loop_takes_the_time_of_the_others(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    effects = Effects()
    effects.add(time.sleep, 2 * SHORT)
    effects.add(journal.append, "never")
    await effects.run("'order'", SHORT)
    assert journal == []
    [failure] = failures(caplog)
    assert isinstance(failure, TimeoutError)


async def test_effects_that_add_each_other_without_end_are_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    effects = Effects()

    def again() -> None:
        effects.add(again)

    effects.add(again)
    await effects.run("'order'", SHORT)
    [failure] = failures(caplog)
    assert isinstance(failure, TimeoutError)


async def test_effects_run_though_the_task_is_cancelled_around_them(journal: list[str]) -> None:
    async def waits() -> None:
        await anyio.lowlevel.checkpoint()
        journal.append("waited")

    effects = Effects()
    effects.add(waits)
    effects.add(journal.append, "second")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await effects.run("'order'", LONG)
        journal.append("not cancelled yet")
        await anyio.lowlevel.checkpoint()
        journal.append("never")
    assert journal == ["waited", "second", "not cancelled yet"]


async def test_a_cancel_scope_of_an_effect_is_a_matter_of_that_effect(journal: list[str]) -> None:
    async def gives_up() -> None:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()

    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sleep_for_ever)
            tasks.cancel_scope.cancel()

    effects = Effects()
    effects.add(gives_up)
    effects.add(group)
    effects.add(journal.append, "after")
    await effects.run("'order'", LONG)
    assert journal == ["after"]


@pytest.mark.on_asyncio
async def test_an_effect_that_waits_for_a_cancelled_task_is_an_incident(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def waits_for_a_cancelled_task() -> None:
        task = asyncio.create_task(asyncio.sleep(LONG))
        task.cancel()
        await task

    async def waits_for_several() -> None:
        raise BaseExceptionGroup("", [asyncio.CancelledError(), asyncio.CancelledError()])

    effects = Effects()
    effects.add(waits_for_a_cancelled_task)
    effects.add(waits_for_several)
    effects.add(journal.append, "after")
    await effects.run("'order'", LONG)
    assert journal == ["after"]
    assert len(failures(caplog)) == 2


@pytest.mark.on_asyncio
async def test_an_incident_is_not_taken_for_a_cancellation_that_the_task_has_survived(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def waits_for_a_cancelled_task() -> None:
        task = asyncio.create_task(asyncio.sleep(LONG))
        task.cancel()
        await task

    async def main() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            journal.append("survived")
        effects = Effects()
        effects.add(waits_for_a_cancelled_task)
        await effects.run("'order'", LONG)
        journal.append("after")

    await asyncio.create_task(main())
    assert journal == ["survived", "after"]
    assert len(failures(caplog)) == 1


async def run_and_be_cancelled(add: Callable[[Effects, Any], None], timeout: float) -> Any:
    """Run effects in a task that ``add`` can cancel; return the task, which has ended."""
    effects = Effects()
    task = asyncio.create_task(effects.run("'order'", timeout))
    add(effects, task)
    await asyncio.wait([task])
    return task


@pytest.mark.on_asyncio
async def test_a_cancellation_by_asyncio_is_raised_when_the_other_effects_have_run(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def add(effects: Effects, task: Any) -> None:
        async def is_hit() -> None:
            task.cancel()
            await asyncio.sleep(LONG)

        effects.add(is_hit)
        effects.add(asyncio.sleep, 0)
        effects.add(journal.append, "after")

    task = await run_and_be_cancelled(add, LONG)
    assert task.cancelled()
    assert journal == ["after"]
    [record] = errors(caplog)
    assert "is_hit` (" in record.getMessage()


@pytest.mark.on_asyncio
async def test_a_cancellation_by_asyncio_at_the_deadline_is_raised(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def add(effects: Effects, task: Any) -> None:
        async def is_hit() -> None:
            time.sleep(2 * SHORT)
            task.cancel()
            await asyncio.sleep(LONG)

        effects.add(is_hit)
        effects.add(journal.append, "never")

    task = await run_and_be_cancelled(add, SHORT)
    assert task.cancelled()
    assert journal == []
    [failure] = failures(caplog)
    assert isinstance(failure, TimeoutError)
    assert "is_hit` (" in str(failure)


async def test_nothing_can_be_added_after_the_end(journal: list[str]) -> None:
    effects = Effects()
    await effects.run("'order'", LONG)
    with pytest.raises(RuntimeError, match=r"scope has closed already, .*; use it before"):
        effects.add(journal.append, "late")
    discarded = Effects()
    discarded.add(journal.append, "forgotten")
    discarded.discard()
    with pytest.raises(RuntimeError, match="scope has closed already"):
        discarded.add(journal.append, "late")
    await discarded.run("'order'", LONG)
    assert journal == []
