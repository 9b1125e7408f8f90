"""Helpers of the tests: a running app, and clients that talk to it over real sockets."""

import json
import logging
import runpy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
import trio
import websockets.asyncio.client
import websockets.trio.client
from repository import EXAMPLES
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, WebSuckets
from websuckets.app import Server


class Client:
    """A connection to a running app."""

    def __init__(self, connection: Any, server: Server) -> None:
        self.connection = connection
        self.server = server

    async def send(self, event: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"event": event, **fields}))

    async def receive(self) -> Any:
        """Return the next frame as JSON."""
        return json.loads(await self.receive_frame())

    async def receive_frame(self) -> str | bytes:
        with anyio.fail_after(TIMEOUT):
            frame: str | bytes = await self.connection.recv()
            return frame

    @property
    def response_headers(self) -> Any:
        """Headers of the answer to the opening handshake."""
        return self.connection.response.headers

    async def vanish(self) -> None:
        """Abort the connection like a client that crashes."""
        if isinstance(self.connection, websockets.trio.client.ClientConnection):
            await trio.aclose_forcefully(self.connection.stream)
            with suppress(ConnectionClosed):  # the reading task may wait for room
                while True:
                    await self.connection.recv()
        else:
            self.connection.transport.abort()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if isinstance(self.connection, websockets.trio.client.ClientConnection):
            await self.connection.aclose(code, reason)
        else:
            await self.connection.close(code, reason)

    async def call(self, event: str, **fields: Any) -> Any:
        """Send a command and return the next frame."""
        await self.send(event, **fields)
        return await self.receive()

    async def closed(self) -> tuple[int | None, str | None]:
        """Return the close code and reason, once the connection is closed."""
        with anyio.fail_after(TIMEOUT):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason

    @asynccontextmanager
    async def another(self) -> AsyncIterator["Client"]:
        async with dial(self.server) as client:
            yield client


@asynccontextmanager
async def dial(server: Any, **options: Any) -> AsyncIterator[Client]:
    if not isinstance(server, Server):  # an app in memory has no address
        async with server.dial(**options) as client:
            yield client
        return
    async with connect(server.urls[0], **options) as connection:
        yield Client(connection, server)


async def in_another_loop(function: Callable[..., Any], *args: Any) -> Any:
    """Run the function, async or not, in an event loop of its own, in a thread."""

    async def main() -> Any:
        result = function(*args)
        return await result if isawaitable(result) else result

    run = partial(anyio.run, main, backend="trio" if on_trio() else "asyncio")
    return await anyio.to_thread.run_sync(run)


def connect(url: str, **options: Any) -> Any:
    """Return the client of `websockets` for the running event loop; a context manager."""
    client = websockets.trio.client if on_trio() else websockets.asyncio.client
    return client.connect(url, proxy=None, **options)


async def unix_client(path: str) -> Any:
    """Return the client of `websockets` at a unix socket; a context manager."""
    if not on_trio():
        return websockets.asyncio.client.unix_connect(path)
    stream = await trio.open_unix_socket(path)
    return connect("ws://localhost", stream=stream)


async def get(server: Server, path: str) -> int:
    """Return the status with which a GET request is answered."""
    # Reading the certificates of authorities takes longer than all the rest.
    async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
        return int((await http.get(f"http://127.0.0.1:{server.port}{path}")).status_code)


class Gate:
    """A gate at which a handler waits until the test opens it."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


async def until(journal: list[str], entry: str, timeout: float = TIMEOUT) -> None:
    """Wait until the journal has this entry."""
    with anyio.fail_after(timeout):
        while entry not in journal:
            await anyio.sleep(0.001)


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the log records that an operator would be woken up for."""
    return [r for r in caplog.records if r.name == "websuckets" and r.levelno >= logging.ERROR]


def on_trio() -> bool:
    return trio.lowlevel.in_trio_run()


@asynccontextmanager
async def talk(app: WebSuckets, **options: Any) -> AsyncIterator[Client]:
    """Serve the app, and yield a client, for as long as the context lasts."""
    async with app.serve("127.0.0.1", 0, **options) as server, dial(server) as client:
        yield client


def app_with(*groups: CommandGroup, **arguments: Any) -> WebSuckets:
    app = WebSuckets(**arguments)
    for group in groups:
        app.include_command_group(group)
    return app


def load(name: str) -> Any:
    """Return a fresh copy of an example: no state is shared between tests."""
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))
