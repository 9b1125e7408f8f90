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
    "source", [synchronous, plain, with_a_waiting_function_inside, Providers().method]
)
def test_a_generator_without_a_wait_never_waits(source: Callable[..., Any]) -> None:
    assert never_waits(source)


@pytest.mark.parametrize(
    "source",
    [
        *(awaiting, entering, iterating, listing, wrapper, coroutine),
        *(functools.partial(plain), Providers(), asynccontextmanager(plain)),
        without_source["made"],
    ],
)
def test_any_other_function_may_wait(source: Callable[..., Any]) -> None:
    assert not never_waits(source)
