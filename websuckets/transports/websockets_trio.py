"""The server of ``websockets`` on trio."""

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio
from websockets.protocol import State
from websockets.trio.server import Server, ServerConnection, serve

from websuckets.backend import Propagate, spawn
from websuckets.clock import Clock
from websuckets.closing import NO_PONG
from websuckets.limits import Limits, seconds
from websuckets.socket import Door
from websuckets.transports.guard import FAREWELL_TIME
from websuckets.transports.guarded import GuardedConnection
from websuckets.transports.handshake import options_with, serve_connection
from websuckets.transports.listener import Listener, hosts_of, keep_secrets_out_of_logs

__all__ = ["ServerConnection", "listen"]


class _Connection(GuardedConnection):
    """Has the `close` that handlers know from asyncio, too.

    A frame leaves whole or not at all: what follows half of one would be garbage to the client. So
    sending is not cancelled once it has begun; `Limits.send_timeout` bounds it.
    """

    __slots__ = ("_turn",)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._turn = trio.Lock()

    propagate: Propagate
    """Called with a `SystemExit` or `KeyboardInterrupt` of the program.

    The nursery of the server would wait for every other connection before it raised either.
    """

    async def handshake(self: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            await super().handshake(*arguments, **keywords)
        except BaseException as error:
            self.propagate(error)
            raise ConnectionAbortedError from error
        if self.response is not None and self.state is not State.OPEN:
            with trio.move_on_after(FAREWELL_TIME):  # it may have closed what it has just opened,
                await self.discard()  # and what reads not have answered yet
            await self.abort()

    async def serve(self: Any) -> None:
        """The handler for ``serve``."""
        try:
            await serve_connection(self)
        except BaseException as error:
            self.propagate(error)
        # The task that reads for us may wait for room in its queue, and would do so for good.
        await self.abort()

    async def abort(self: Any) -> None:
        await trio.aclose_forcefully(self.stream)
        if self.recv_flow_control is not None:  # what reads waits for room, and nobody makes it
            self.resume_reading()
        await self.close_stream()  # for it may have been cancelled
        await self.discard()

    @property
    def _is_reading(self: Any) -> bool:
        return self.recv_flow_control is None and not self.guard.is_blocked

    def _start(self: Any, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.nursery.start_soon(function)

    @staticmethod
    def _has_come(pong: Any) -> Callable[[], bool]:
        has_come: Callable[[], bool] = pong.is_set
        return has_come

    async def _drop(self: Any) -> None:
        with trio.move_on_after(FAREWELL_TIME):
            await self.close(*NO_PONG)
        await trio.aclose_forcefully(self.stream)

    async def close(self: Any, code: int = 1000, reason: str = "") -> None:
        self._check_open()
        await self.aclose(code, reason)

    async def send(self: Any, message: Any, **keywords: Any) -> None:
        """When the peer has read what was sent before: frames are not to pile up in memory."""
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            with self.guard.queued(message) as is_too_much:
                if is_too_much and self.guard.is_blocked:
                    self._give_in()
                await self._turn.acquire()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await super().send(message, **keywords)
        finally:
            self._turn.release()

    def _abort(self: Any) -> None:
        self.nursery.start_soon(trio.aclose_forcefully, self.stream)

    async def send_data(self: Any) -> None:
        self.guard.blocked()
        try:
            await super().send_data()  # type: ignore[misc]  # of ServerConnection
        finally:
            self.guard.unblocked()

    def process_event(self: Any, event: Any) -> None:
        with suppress(EOFError):  # it waited to answer what it had read, and was aborted
            super().process_event(event)  # type: ignore[misc]  # of ServerConnection

    async def close_stream(self: Any) -> None:
        await super().close_stream()  # type: ignore[misc]  # of ServerConnection
        if self.accepted is not None:
            self.accepted.disconnected()


@asynccontextmanager
async def listen(
    door: Door,
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | Sequence[str] | None,
    port: int | None,
    limits: Limits,
    clock: Clock,
    options: dict[str, Any],
    propagate: Propagate,
) -> AsyncIterator[Listener]:
    """Bring clients to the door, until the context is left.

    Then ``stop`` is called with what closes the port and waits until every connection is gone.
    ``options`` are the keyword arguments of ``websockets.trio.server.serve``, but for those that
    ``limits`` holds, and ``path`` for a unix socket. ``propagate`` is called with what a connection
    ends the program with.
    """
    keep_secrets_out_of_logs()
    kind = type("_Connection", (_Connection,), {"propagate": staticmethod(propagate)})
    options = options_with(door, limits, clock, kind, ServerConnection, options)
    if "listeners" not in options:
        options["listeners"] = await _open_listeners(host, port, options)
    elif host is not None or port is not None:
        raise ValueError("host and port are incompatible with listeners")
    server = _Running()
    serve_there = partial(serve, _Connection.serve, **options)
    try:
        # No task of ours: whoever cancels us would take the server's tasks along, before they can
        # answer the last commands and shake hands with clients.
        spawn(partial(server.run, serve_there))
        await server.wait_started()
        sockets = [listener.socket for listener in options["listeners"]]
        yield Listener(sockets, secure=options.get("ssl") is not None)
    finally:
        with trio.CancelScope(shield=True):
            if server.has_started:
                await stop(server.close)
            await server.end(limits.finalize_timeout)
        for listener in options["listeners"]:
            listener.socket.close()


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

    @property
    def has_started(self) -> bool:
        return self._server is not None

    async def wait_started(self) -> None:
        """Raises what `serve` does."""
        await self._started.wait()
        if not self.has_started:
            raise self._error or trio.ClosedResourceError

    async def close(self) -> None:
        """Close the port, and wait until every connection is gone."""
        assert self._server is not None
        await self._server.aclose(close_connections=False)

    async def end(self, patience: float | None) -> None:
        """Cancel what is left. Raises what the server ended with."""
        self._scope.cancel()
        with trio.move_on_after(seconds(patience)):  # handlers may ignore it
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
    """Listen there, also where a server that is gone has left its socket, as asyncio does."""
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
