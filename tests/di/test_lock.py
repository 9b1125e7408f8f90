"""The lock of containers."""

import asyncio

import anyio
import pytest
from dishka import Provider, Scope, make_async_container

from websuckets.di import lock_factory

pytestmark = pytest.mark.anyio


class Thing: ...


async def test_an_object_is_built_once_whoever_asks_first() -> None:
    """Five tasks get one object."""
    built = []

    async def build() -> Thing:
        await anyio.sleep(0)
        built.append(Thing())
        return built[-1]

    provider = Provider(scope=Scope.APP)
    provider.provide(build)
    container = make_async_container(provider, lock_factory=lock_factory)
    got: list[Thing] = []

    async def ask() -> None:
        got.append(await container.get(Thing))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert got == built * 5
    await container.close()


async def test_waiting_tasks_get_it_in_their_order() -> None:
    """Tasks get the lock one at a time, in the order of their requests."""
    lock, order, inside = lock_factory(), [], 0

    async def work(number: int) -> None:
        nonlocal inside
        async with lock:
            inside += 1
            assert inside == 1
            await anyio.sleep(0)
            order.append(number)
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
    assert order == list(range(10))


@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.on_asyncio
async def test_a_cancelled_waiter_leaves_the_lock_to_the_next(handed_over: bool) -> None:
    """The next task gets the lock even if a cancelled task had just been given the lock."""
    lock, got = lock_factory(), []

    async def wait(name: str) -> None:
        async with lock:
            got.append(name)

    async with lock:
        first = asyncio.ensure_future(wait("first"))
        await anyio.wait_all_tasks_blocked()
        second = asyncio.ensure_future(wait("second"))
        await anyio.wait_all_tasks_blocked()
        if not handed_over:
            first.cancel()
            await anyio.wait_all_tasks_blocked()
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert got == ["second"]
    async with lock:
        pass


async def test_an_error_inside_releases_it() -> None:
    """The lock is released, and the error is raised."""
    lock = lock_factory()
    with pytest.raises(KeyError):
        async with lock:
            raise KeyError
    async with lock:
        pass
