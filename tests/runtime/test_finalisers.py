"""Which generators are known to wait for nothing when their scope ends."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest

from websuckets.runtime.finalisers import never_waits


def synchronous() -> Iterator[int]:
    yield 1


async def plain() -> AsyncIterator[int]:
    with nullcontext():
        yield 1


async def with_a_waiting_function_inside() -> AsyncIterator[Any]:
    async def wait() -> None:
        await anyio.sleep(0)

    yield wait


async def awaiting() -> AsyncIterator[int]:
    yield 1
    await anyio.sleep(0)


async def entering() -> AsyncIterator[int]:
    async with anyio.create_task_group():
        yield 1


async def iterating() -> AsyncIterator[int]:
    async for item in plain():
        yield item


async def listing() -> AsyncIterator[list[int]]:
    yield [item async for item in plain()]


async def one() -> int:
    return 1


async def with_a_default() -> AsyncIterator[Any]:
    def number(value: int = await one()) -> int:
        return value

    yield number


async def with_a_decorator() -> AsyncIterator[Any]:
    @(await decorator())
    def number() -> int:
        return 1

    yield number


async def decorator() -> Callable[[Any], Any]:
    return lambda function: function


async def with_a_base() -> AsyncIterator[Any]:
    class Number(await base()):  # type: ignore[misc]  # known when it is run
        pass

    yield Number


async def base() -> Any:
    return object


@functools.wraps(plain)
def wrapper(*arguments: Any) -> AsyncIterator[int]:
    return awaiting()


async def coroutine() -> None: ...


class Providers:
    async def method(self) -> AsyncIterator[int]:
        yield 1

    async def __call__(self) -> AsyncIterator[int]:
        yield 1


without_source: dict[str, Any] = {}
exec("async def made():\n    yield 1\n", without_source)


@pytest.mark.parametrize(
    "source",
    [
        *(synchronous, plain, with_a_waiting_function_inside, Providers().method),
        without_source["made"],
    ],
)
def test_a_generator_without_a_wait_never_waits(source: Callable[..., Any]) -> None:
    assert never_waits(source)


@pytest.mark.parametrize(
    "source",
    [
        *(awaiting, entering, iterating, listing, wrapper, coroutine),
        *(with_a_default, with_a_decorator, with_a_base),
        *(functools.partial(plain), Providers(), asynccontextmanager(plain)),
    ],
)
def test_any_other_function_may_wait(source: Callable[..., Any]) -> None:
    assert not never_waits(source)
