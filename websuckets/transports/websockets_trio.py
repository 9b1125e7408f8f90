"""The server of ``websockets`` on trio."""

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio
from websockets.trio.server import Server, ServerConnection, serve

from websuckets.limits import Limits, seconds
from websuckets.protocol.transport import Acceptor
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import Propagate, spawn
from websuckets.transports.handshake import options_with
from websuckets.transports.listener import (
    Listener,
    StopConnections,
    hosts_of,
    keep_secrets_out_of_logs,
)
from websuckets.transports.shared_sockets import SharedSockets, hand_over
from websuckets.transports.trio_fast_path import FastTrioConnection

__all__ = ["CONNECTION", "ServerConnection", "listen"]

CONNECTION = FastTrioConnection
"""Class whose methods come before those of ``ServerConnection``; `TrioConnection` works, too."""


@asynccontextmanager
async def listen(
    acceptor: Acceptor,
    stop: StopConnections,
    host: str | Sequence[str] | None,
    port: int | None,
    limits: Limits,
    clock: Clock,
    options: dict[str, Any],
    propagate: Propagate,
) -> AsyncIterator[Listener]:
    """Listen, and pass clients to the acceptor, until the context is left.

    On leaving, ``stop`` is called; see `StopConnections`. ``options`` are the keyword arguments of
    ``websockets.trio.server.serve``, except those that ``limits`` holds, ``path`` for a Unix
    socket, and ``shared_sockets``. ``propagate`` is called with an exception of a connection that
    ends the program.
    """
    keep_secrets_out_of_logs()
    shared: SharedSockets | None = options.get("shared_sockets")
    options = options_with(
        *(acceptor, limits, clock, CONNECTION, ServerConnection, options),
        propagate=staticmethod(propagate),
    )
    shared_listeners: list[_SharedListener] = []
    if shared is not None:
        shared_listeners += map(_SharedListener, shared.sockets)
        options["listeners"] = shared_listeners
    elif "listeners" not in options:
        options["listeners"] = await _open_listeners(host, port, options)
    elif host is not None or port is not None:
        raise ValueError("host and port are incompatible with listeners")
    server = _TrioServer()
    handler: Any = CONNECTION.serve
    serve_there = partial(serve, handler, **options)
    try:
        # Not a child task: cancelling the caller would cancel the server's tasks too, before those
        # tasks can answer the last commands and finish the closing handshakes.
        spawn(partial(server.run, serve_there))
        await server.wait_started()
        sockets = [listener.socket for listener in options["listeners"]]
        yield Listener(sockets, secure=options.get("ssl") is not None)
    finally:
        try:
            with trio.CancelScope(shield=True):
                if server.has_started:
                    make_way = None
                    if shared is not None and shared.has_successor:
                        make_way = partial(_hand_over, shared_listeners, shared)
                    await stop(server.close, make_way)
                await server.stop(limits.finalize_timeout)
        finally:
            for listener in options["listeners"]:
                listener.socket.close()


async def _hand_over(listeners: Sequence["_SharedListener"], shared: SharedSockets) -> None:
    """Stop accepting clients, without closing the server, and await handshakes under way."""
    for listener in listeners:
        listener.stop_accepting()
    await hand_over(shared)


class _SharedListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that can stop to accept clients while the server goes on."""

    def __init__(self, shared: socket.socket) -> None:
        self.socket = trio.socket.from_stdlib_socket(shared)  # ``websockets`` logs its name
        self._listener = trio.SocketListener(self.socket)
        self._accepting = trio.CancelScope()
        self._has_stopped = False

    async def accept(self) -> trio.SocketStream:
        with trio.CancelScope() as self._accepting:
            if not self._has_stopped:
                return await self._listener.accept()
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await self._listener.aclose()

    def stop_accepting(self) -> None:
        self._has_stopped = True
        self._accepting.cancel()


class _TrioServer:
    """A server in a task of its own; `wait_started` raises the error if starting fails."""

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
        """Take the server, as trio's ``task_status``."""
        self._server = server
        self._started.set()

    @property
    def has_started(self) -> bool:
        return self._server is not None

    async def wait_started(self) -> None:
        """Wait until the server listens. Raise the error of `serve`, if any."""
        await self._started.wait()
        if not self.has_started:
            raise self._error or trio.ClosedResourceError

    async def close(self) -> None:
        """Close the port, and wait until every connection is closed."""
        assert self._server is not None
        await self._server.aclose(close_connections=False)

    async def stop(self, timeout: float | None) -> None:
        """Cancel the server and its connections. Raise the error that ended the server, if any."""
        self._scope.cancel()
        with trio.move_on_after(seconds(timeout)):  # handlers may ignore the cancellation
            await self._ended.wait()
        if self._error is not None:
            raise self._error


async def _open_listeners(
    host: str | Sequence[str] | None, port: int | None, options: dict[str, Any]
) -> list[trio.SocketListener]:
    """Listen at a path, or at the port of each host."""
    backlog = options.pop("backlog", None)
    if "path" in options:
        return [await _unix_listener(os.fspath(options.pop("path")), backlog)]
    assert port is not None
    listeners: list[trio.SocketListener] = []
    try:
        for each in hosts_of(host):
            listeners += await trio.open_tcp_listeners(port, host=each, backlog=backlog)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _unix_listener(path: str, backlog: int | None) -> trio.SocketListener:
    """Listen at a path, even if a former server has left its socket there, as asyncio does."""
    with suppress(FileNotFoundError):
        if not path.startswith("\0") and stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    own = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        await own.bind(path)
        own.listen(*() if backlog is None else (backlog,))
    except BaseException:
        own.close()
        raise
    return trio.SocketListener(own)
