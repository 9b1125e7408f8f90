"""The server of ``websockets`` on trio."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import Server, ServerConnection, serve

from websuckets.limits import Limits
from websuckets.socket import Accepted, Wire
from websuckets.transports.handshake import Handshake, options_with, serve_connection
from websuckets.transports.listener import Listener, keep_secrets_out_of_logs

__all__ = ["ServerConnection", "listen"]


class _Connection(Handshake):
    """Has the `close` that handlers know from asyncio, too.

    A frame whose sending was cancelled may have left in part. What follows it would be garbage to
    the client, so the connection ends there.
    """

    def wire(self: Any) -> Wire:
        return Wire(
            self,
            receive=self.recv,
            discard=self.discard_frames,
            abort=self.abort,
            closed_errors=(ConnectionClosed,),
        )

    async def abort(self: Any) -> None:
        await trio.aclose_forcefully(self.stream)
        await self.discard_frames()

    async def close(self: Any, code: int = 1000, reason: str = "") -> None:
        await self.aclose(code, reason)

    async def send(self: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            await super().send(*arguments, **keywords)  # type: ignore[misc]  # of ServerConnection
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)
            raise


async def _serve_connection(connection: Any) -> None:
    await serve_connection(connection)
    # The task that reads for us may wait for room in its queue, and would do so for good.
    await connection.abort()


@asynccontextmanager
async def listen(
    accept: Callable[[Wire], Accepted],
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | None,
    port: int | None,
    limits: Limits,
    options: dict[str, Any],
) -> AsyncIterator[Listener]:
    """Drive what ``accept`` gives for each client, until the context is left.

    Then nobody is accepted any more, and ``stop`` is called with what waits until every connection
    is gone. ``options`` are the keyword arguments of ``websockets.trio.server.serve``, but for
    those that ``limits`` holds, and ``path`` for a unix socket.
    """
    keep_secrets_out_of_logs()
    options = options_with(limits, accept, _Connection, ServerConnection, options)
    if "path" in options:
        options["listeners"] = [await _unix_listener(options.pop("path"))]
    running = _Running()
    # No task of ours: whoever cancels us would take the server's tasks along, before they can
    # answer the last commands and shake hands with clients.
    trio.lowlevel.spawn_system_task(
        running.run, partial(serve, _serve_connection, port, host=host, **options)
    )
    server = await running.wait_started()
    try:
        sockets = [listener.socket for listener in server.listeners]
        yield Listener(sockets, secure=options.get("ssl") is not None)
    finally:
        closed = trio.Event()

        async def close() -> None:
            await server.aclose(close_connections=False)
            closed.set()

        with trio.CancelScope(shield=True):
            trio.lowlevel.spawn_system_task(close)
            await trio.lowlevel.checkpoint()  # lets it begin: nobody is accepted any more
            await stop(closed.wait)
            await running.end()


class _Running:
    """A server in its own task; what goes wrong with starting it is told to who waits for that."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._started = trio.Event()
        self._ended = trio.Event()
        self._server: Server | None = None
        self._error: Exception | None = None

    async def run(self, serve: Callable[..., Awaitable[None]]) -> None:
        try:
            with self._scope:
                await serve(task_status=self)
        except Exception as error:
            self._error = error
        finally:
            self._started.set()
            self._ended.set()

    def started(self, server: Server) -> None:
        """As trio's ``task_status``."""
        self._server = server
        self._started.set()

    async def wait_started(self) -> Server:
        """Raises what `serve` does."""
        await self._started.wait()
        if self._server is None:
            raise self._error or trio.ClosedResourceError
        return self._server

    async def end(self) -> None:
        self._scope.cancel()
        await self._ended.wait()
        if self._error is not None:
            raise self._error


async def _unix_listener(path: str | os.PathLike[str]) -> trio.SocketListener:
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(os.fspath(path))
    socket.listen()
    return trio.SocketListener(socket)
