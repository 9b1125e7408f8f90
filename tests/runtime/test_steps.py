"""Awaitables whose first step is taken by hand: what is left of them is awaited as if all were."""

import asyncio
from collections.abc import Generator, Iterator
from types import coroutine
from typing import Any

import anyio
import pytest

from websuckets.runtime.steps import HAS_ENDED, rest_of, steps_of

pytestmark = pytest.mark.anyio


async def finish(awaitable: Any) -> Any:
    """Await an awaitable as the modules do that take its first step by hand."""
    steps = steps_of(awaitable)
    waits_for = next(steps, HAS_ENDED)
    return "ended at once" if waits_for is HAS_ENDED else await rest_of(steps, waits_for)


async def test_what_does_not_wait_has_ended_after_its_first_step() -> None:
    async def nothing() -> None: ...

    assert await finish(nothing()) == "ended at once"


async def test_what_waits_is_awaited_to_its_result() -> None:
    event = anyio.Event()

    async def wait() -> str:
        for _ in range(3):
            await anyio.sleep(0)
        await event.wait()
        return "result"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        tasks.start_soon(set_later, event)
        assert await finish(wait()) == "result"


async def set_later(event: anyio.Event) -> None:
    await anyio.sleep(0)
    event.set()


async def test_the_error_of_what_waits_is_raised() -> None:
    async def fail() -> None:
        await anyio.sleep(0)
        raise LookupError("a fault")

    with pytest.raises(LookupError, match="a fault"):
        await finish(fail())


async def test_a_cancellation_reaches_what_waits_which_may_wait_again() -> None:
    seen = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            seen.append("cancelled")
            raise

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish, wait())
            await anyio.sleep(0)
            scope.cancel()
    assert seen == ["cancelled"]


class Iterating:
    """An awaitable whose iterator takes neither values nor errors, as those of granian."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __await__(self) -> Generator[Any, Any, str]:
        return self  # type: ignore[return-value]  # as such awaitables do

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> None:
        self.times -= 1
        if self.times < 0:
            raise StopIteration("result")


@pytest.mark.on_asyncio
async def test_an_iterator_that_takes_nothing_is_awaited_too() -> None:
    assert await finish(Iterating(3)) == "result"


@pytest.mark.on_asyncio
async def test_a_cancellation_ends_the_wait_for_an_iterator_that_takes_nothing() -> None:
    task = asyncio.create_task(finish(Iterating(1000)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_value_of_the_event_loop_reaches_what_waits() -> None:
    steps = echo()
    waiting = rest_of(steps, next(steps))
    driver = waiting.__await__() if hasattr(waiting, "__await__") else waiting
    assert driver.send(None) == "first"
    with pytest.raises(StopIteration) as ended:
        driver.send("a value")
    assert ended.value.value == "a value"


def echo() -> Generator[str, str, str]:
    return (yield "first")


async def test_a_generator_that_can_be_awaited_is_taken_by_its_steps() -> None:
    @coroutine
    def generator() -> Generator[Any, Any, str]:
        yield from anyio.sleep(0).__await__()
        return "result"

    assert await finish(generator()) == "result"


def test_what_cannot_be_awaited_is_refused() -> None:
    with pytest.raises(AttributeError):
        steps_of(object())


@pytest.mark.parametrize("steps", [echo(), Iterating(3)], ids=["generator", "iterator"])
def test_a_wait_that_is_closed_closes_what_waits(steps: Any) -> None:
    waiting = rest_of(steps, next(steps))
    driver = waiting.__await__() if hasattr(waiting, "__await__") else waiting
    driver.send(None)
    driver.close()
    assert next(steps, HAS_ENDED) is (HAS_ENDED if isinstance(steps, Generator) else None)
