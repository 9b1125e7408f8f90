"""Behaviour of the transport on trio alone."""

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
from websuckets.protocol.transport import TransportConnection
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import propagate
from websuckets.transports.websockets_trio import _TrioServer, listen

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def test_a_server_that_breaks_down_tells_who_ends_it() -> None:
    """The failure of a server is raised when the server is ended, so that it is not overlooked."""

    async def serve(task_status: Any) -> None:
        task_status.started("server")
        raise RuntimeError("broken")

    running = _TrioServer()
    trio.lowlevel.spawn_system_task(running.run, serve)
    await running.wait_started()
    assert running.has_started
    with pytest.raises(RuntimeError, match="broken"):
        await running.stop(1)


class Served:
    """A connection handler for a connection that was admitted."""

    def __init__(
        self,
        transport: TransportConnection,
        serve: Callable[[TransportConnection], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._serve = serve

    async def opening(self) -> None: ...

    async def serve(self) -> None:
        await self._serve(self._transport)

    async def not_opened(self) -> None: ...

    def disconnected(self) -> None: ...


class Acceptor:
    """An acceptor that admits every connection."""

    def __init__(self, serve: Callable[[TransportConnection], Awaitable[None]]) -> None:
        self._serve = serve

    has_subprotocols = False

    def subprotocol(self, offered: Any) -> None: ...

    def address_of(self, peer: Any, headers: Any) -> Any:
        return peer

    def accept(self, transport: TransportConnection) -> Served:
        return Served(transport, self._serve)


@asynccontextmanager
async def listening(serve: Callable[[TransportConnection], Awaitable[None]]) -> AsyncIterator[str]:
    """Yield the URL of a server that serves its clients with ``serve``."""

    async def stop(wait_closed: Any, hand_over: Any = None) -> None:
        await wait_closed()

    acceptor: Any = Acceptor(serve)
    where = ("127.0.0.1", 0)
    async with listen(acceptor, stop, *where, Limits(), Clock(), {}, propagate) as listener:
        yield listener.urls[0]


async def test_an_error_of_the_framework_closes_only_that_connection() -> None:
    """`websockets` closes the connection with 1011."""

    async def fail(transport: TransportConnection) -> None:
        raise RuntimeError("broken")

    async with listening(fail) as url:
        for _ in range(2):
            async with connect(url) as connection:
                with pytest.raises(ConnectionClosedError):
                    await connection.recv()
                assert connection.close_code == 1011


async def break_stream(transport: TransportConnection) -> None:
    connection: Any = transport.socket
    await connection.close_stream()


async def abort(transport: TransportConnection) -> None:
    await transport.abort()


@pytest.mark.parametrize("end", [break_stream, abort])
async def test_a_connection_ends_though_its_queue_of_messages_is_full(
    end: Callable[[TransportConnection], Awaitable[None]],
) -> None:
    """Close a connection whose reading task waits for room in the queue, which nobody reads any
    more."""
    ended = trio.Event()

    async def serve(transport: TransportConnection) -> None:
        connection: Any = transport.socket
        while connection.recv_flow_control is None:
            await trio.sleep(0.001)
        await end(transport)
        ended.set()

    async with listening(serve) as url, connect(url) as connection:
        with suppress(ConnectionClosedError):
            for _ in range(100):
                await connection.send("one of many")
        with anyio.fail_after(TIMEOUT):
            await ended.wait()
