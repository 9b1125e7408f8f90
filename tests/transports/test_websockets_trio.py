"""What is of trio alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import trio
from harness import connect
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosedError

from websuckets import Limits
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import propagate
from websuckets.socket import Wire
from websuckets.transports.websockets_trio import _Running, listen

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def test_a_server_that_breaks_down_tells_who_ends_it() -> None:
    """It must not go unseen that nobody was served any more."""

    async def serve(task_status: Any) -> None:
        task_status.started("server")
        raise RuntimeError("broken")

    running = _Running()
    trio.lowlevel.spawn_system_task(running.run, serve)
    await running.wait_started()
    assert running.has_started
    with pytest.raises(RuntimeError, match="broken"):
        await running.end(1)


class Served:
    """Stands for an app that has let a client in."""

    def __init__(self, wire: Wire, serve: Callable[[Wire], Awaitable[None]]) -> None:
        self._wire = wire
        self._serve = serve

    async def opening(self) -> None: ...

    async def serve(self) -> None:
        await self._serve(self._wire)

    async def discard(self) -> None: ...

    def disconnected(self) -> None: ...


class Door:
    """Lets everybody in."""

    def __init__(self, serve: Callable[[Wire], Awaitable[None]]) -> None:
        self._serve = serve

    def subprotocol(self, offered: Any) -> None: ...

    def address_of(self, peer: Any, headers: Any) -> Any:
        return peer

    def accept(self, wire: Wire) -> Served:
        return Served(wire, self._serve)


@asynccontextmanager
async def listening(serve: Callable[[Wire], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a server that serves its clients so."""

    async def stop(wait_closed: Any) -> None:
        await wait_closed()

    door: Any = Door(serve)
    where = ("127.0.0.1", 0)
    async with listen(door, stop, *where, Limits(), Clock(), {}, propagate) as listener:
        yield listener.urls[0]


async def test_an_error_of_the_framework_closes_only_that_connection() -> None:
    """With 1011, by `websockets`."""

    async def fail(wire: Wire) -> None:
        raise RuntimeError("broken")

    async with listening(fail) as url:
        for _ in range(2):
            async with connect(url) as connection:
                with pytest.raises(ConnectionClosedError):
                    await connection.recv()
                assert connection.close_code == 1011


async def break_stream(wire: Wire) -> None:
    connection: Any = wire.socket
    await connection.close_stream()


async def abort(wire: Wire) -> None:
    await wire.abort()


@pytest.mark.parametrize("end", [break_stream, abort])
async def test_a_connection_ends_though_its_queue_of_messages_is_full(
    end: Callable[[Wire], Awaitable[None]],
) -> None:
    """End it while its reading task waits for room in the queue, which nobody makes any more."""
    ended = trio.Event()

    async def serve(wire: Wire) -> None:
        connection: Any = wire.socket
        while connection.recv_flow_control is None:
            await trio.sleep(0.001)
        await end(wire)
        ended.set()

    async with listening(serve) as url, connect(url) as connection:
        with suppress(ConnectionClosedError):
            for _ in range(100):
                await connection.send("one of many")
        with anyio.fail_after(TIMEOUT):
            await ended.wait()
