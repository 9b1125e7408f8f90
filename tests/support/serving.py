"""Servers of an app on every transport: on loopback and free ports, in the test's event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import uvicorn
from harness import Client, on_trio
from timeouts import TIMEOUT

from websuckets import WebSuckets
from websuckets.app import Server
from websuckets.runtime.event_loop import spawn
from websuckets.serving.lifecycle import RunningApp
from websuckets.testing import TestClient

Serving = Callable[[WebSuckets], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def by_websockets(app: WebSuckets) -> AsyncIterator[Server]:
    async with app.serve("127.0.0.1", 0) as server:
        yield server


@asynccontextmanager
async def by_uvicorn(app: WebSuckets, ws: Any) -> AsyncIterator[Server]:
    async with uvicorn_running(app.asgi, ws=ws, lifespan="off") as server:
        async with app.lifespan():  # it ends before the server, as in a host with more to serve
            yield server


@asynccontextmanager
async def uvicorn_running(app: Any, port: int = 0, **options: Any) -> AsyncIterator[Server]:
    """Serve any ASGI application, on the given port or on a free one."""
    listener = listening_socket(port)
    server = Uvicorn(uvicorn.Config(app, log_config=None, **options))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield address_of(listener)
    finally:
        server.stop()
        await task


class Uvicorn(uvicorn.Server):
    """A server that stops at once: uvicorn itself checks every 0.1 s whether it should stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not self.should_exit:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)
            await self.on_tick(0)


@asynccontextmanager
async def by_hypercorn(app: WebSuckets) -> AsyncIterator[Server]:
    listener = listening_socket()
    address = address_of(listener)
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    serve: Any = hypercorn.trio.serve if on_trio() else hypercorn.asyncio.serve
    host = mounted(app)
    stopping, stopped = anyio.Event(), anyio.Event()

    async def run() -> None:
        await serve(host, config, shutdown_trigger=stopping.wait)
        stopped.set()

    task = spawn(run)  # not in a task group: clients come and go in another order
    try:
        async with app.lifespan():
            yield address
    finally:
        stopping.set()
        await stopped.wait()
        del task


async def accepting(address: Server) -> None:
    """Wait until a server listens at this address."""
    with anyio.fail_after(TIMEOUT):
        while True:
            with suppress(OSError):
                async with await anyio.connect_tcp("127.0.0.1", address.port):
                    return
            await anyio.sleep(0.01)


def mounted(app: WebSuckets) -> Any:
    """Return a host that does not pass start and stop on to the app."""

    async def host(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app.asgi(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return host


def listening_socket(port: int = 0) -> socket.socket:
    """Return a socket that queues clients until the server takes it over."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of an earlier server
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def address_of(listener: socket.socket) -> Server:
    port = listener.getsockname()[1]
    return Server(port, (f"ws://127.0.0.1:{port}",))


class InMemory:
    """A substitute for the address of a server, for an app in memory."""

    def __init__(self, app: WebSuckets, running: RunningApp) -> None:
        self._app = app
        self._running = running

    @asynccontextmanager
    async def dial(self, additional_headers: Any = ()) -> AsyncIterator[Client]:
        client = TestClient(self._app, headers=additional_headers)
        client._running = self._running
        async with client:
            yield MemoryClient(client, self)


@asynccontextmanager
async def in_memory(app: WebSuckets) -> AsyncIterator[InMemory]:
    async with app._embedded(5) as running:  # without a connection
        yield InMemory(app, running)


class MemoryClient(Client):
    def __init__(self, client: TestClient, server: Any) -> None:
        super().__init__(SimpleNamespace(send=client.send_frame), server)
        self.client = client

    async def receive_frame(self) -> str | bytes:
        return await self.client.receive_frame()

    @property
    def response_headers(self) -> Any:
        return self.client.response_headers

    async def vanish(self) -> None:
        await self.client.abort()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.client.close(code, reason)

    async def closed(self) -> tuple[int | None, str | None]:
        await self.client.wait_closed()
        return self.client.close_code, self.client.close_reason


SERVINGS: dict[str, tuple[str, Serving]] = {
    "websockets": ("asyncio trio", by_websockets),
    "memory": ("asyncio trio", in_memory),
    "uvicorn, websockets-sansio": ("asyncio", partial(by_uvicorn, ws="websockets-sansio")),
    "uvicorn, wsproto": ("asyncio", partial(by_uvicorn, ws="wsproto")),
    "hypercorn": ("asyncio trio", by_hypercorn),
}
"""Ways in which an app can be served, each with its event loops."""

HEAVY: frozenset[tuple[str, str]] = frozenset(
    {("uvicorn, wsproto", "asyncio"), ("hypercorn", "asyncio"), ("app.run", "trio")}
)
"""Servers, and programs that stop, with their event loop, that are tested with the heavy tests.

Each transport is tested on each event loop without them: two other servers use the ASGI transport.
"""
