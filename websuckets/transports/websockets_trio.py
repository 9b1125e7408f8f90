"""The server of ``websockets`` on trio."""

import os
import stat
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio
from websockets.http11 import SERVER
from websockets.protocol import State
from websockets.trio.server import Server, ServerConnection, serve

from websuckets.limits import Limits, seconds
from websuckets.protocol.close_codes import NO_PONG
from websuckets.protocol.transport import Acceptor
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import Propagate, spawn
from websuckets.transports.checks import checked_close
from websuckets.transports.handshake import options_with, serve_connection
from websuckets.transports.listener import Listener, hosts_of, keep_secrets_out_of_logs
from websuckets.transports.watchdog import CLOSE_FRAME_TIME
from websuckets.transports.watched import WatchedConnection

__all__ = ["ServerConnection", "listen"]


class _Connection(WatchedConnection):
    """A connection whose sends can be cancelled, and that has the `close` known from asyncio.

    A frame has to be written whole, because a client cannot parse what follows half a frame. Still
    a send can be cancelled, as on asyncio, whose transport buffers unsent data. Here ``_unwritten``
    buffers unsent data; if the sender is cancelled, a task of the connection writes the rest.
    `Limits.send_timeout` bounds that task, and no other sender writes meanwhile.
    """

    __slots__ = ()

    _attributes = (*WatchedConnection._attributes, "_turn", "_unwritten")

    propagate: Propagate
    """Function that is called with a `SystemExit` or `KeyboardInterrupt` of the program.

    The nursery of the server would raise either only after waiting for every other connection.
    """

    def _prepare(self: Any) -> None:
        super()._prepare()
        self._turn = trio.Lock()  # lock of the senders of messages
        self._unwritten = deque[bytes | memoryview]()

    async def handshake(
        self: Any,
        process_request: Any = None,
        process_response: Any = None,
        server_header: str | None = SERVER,
    ) -> None:
        try:
            await super().handshake(process_request, process_response, server_header)
        except BaseException as error:
            self.propagate(error)
            raise ConnectionAbortedError from error
        if self.response is not None and self.state is not State.OPEN:
            # The connection may have been closed just after opening, and the task that reads may
            # not have answered the close frame yet.
            with trio.move_on_after(CLOSE_FRAME_TIME):
                await self.wait_closed()
            await self.abort()

    async def serve(self: Any) -> None:
        """Serve an open connection, as the handler for ``serve``."""
        try:
            await serve_connection(self)
        except BaseException as error:
            self.propagate(error)
        # The task that reads may wait for room in its queue, and would wait for ever.
        await self.abort()

    async def abort(self: Any) -> None:
        self._stop_receiving()
        await trio.aclose_forcefully(self.stream)
        await self.close_stream()  # the task that closes the stream may have been cancelled

    def _stop_receiving(self: Any) -> None:
        super()._stop_receiving()
        if self.recv_flow_control is not None:  # a closed queue does not resume reading
            self.resume_reading()

    def pause_reading(self: Any) -> None:
        super().pause_reading()  # type: ignore[misc]  # of ServerConnection
        self.watchdog.reading_paused()

    @property
    def _file_descriptor(self: Any) -> int:
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        return int(stream.socket.fileno())

    @property
    def _is_reading(self: Any) -> bool:
        return self.recv_flow_control is None and not self.watchdog.is_blocked

    def _start(self: Any, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.nursery.start_soon(function)

    @staticmethod
    def _is_answered_by(pong: Any) -> Callable[[], bool]:
        has_come: Callable[[], bool] = pong.is_set
        return has_come

    async def _abort_after_fault(self: Any) -> None:
        with trio.move_on_after(CLOSE_FRAME_TIME):
            await self.close(*NO_PONG)
        await trio.aclose_forcefully(self.stream)

    async def _finish_closing(self: Any) -> None:
        await self.send_data()
        await self.aclose()

    async def ping(
        self: Any, data: str | bytes | None = None, *, ack_on_close: bool = False
    ) -> trio.Event:
        self._check_open()
        return await super().ping(data, ack_on_close=ack_on_close)  # type: ignore[misc, no-any-return]  # of ServerConnection

    async def close(self: Any, code: int = 1000, reason: str = "") -> None:
        await self.aclose(code, reason)

    async def aclose(self: Any, code: int = 1000, reason: str = "") -> None:
        self._check_open()
        checked_close(code, reason)
        await super().aclose(code, reason)  # type: ignore[misc]  # of ServerConnection

    async def send(self: Any, message: Any, *, text: bool | None = None) -> None:
        """Send once the peer has read what was sent before, so that memory does not fill up."""
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            with self.watchdog.queued(message) as is_too_much:
                if is_too_much and self.watchdog.is_blocked:
                    self._abort_slow_peer()
                await self._turn.acquire()
        await self._send_in_turn(message, text)

    async def reply(self: Any, text: str) -> None:
        await _acquire(self._turn)
        await self._send_in_turn(text, None)

    async def _send_in_turn(self: Any, message: Any, text: bool | None) -> None:
        """Send a message while holding the lock of the senders, and release the lock."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._unwritten:  # left by a cancelled sender
                await self._write()
            await self._send_message(message, text)
        finally:
            self._turn.release()

    def _abort(self: Any) -> None:
        self._stop_receiving()
        self.nursery.start_soon(trio.aclose_forcefully, self.stream)

    async def send_data(self: Any) -> None:
        """Write what is to be sent, in a task of the connection if this call is cancelled."""
        self._stop_receiving_if_closed()
        self._unwritten.extend(self.protocol.data_to_send())
        if self._unwritten:
            await self._write()

    async def _write(self: Any) -> None:
        if not isinstance(self.stream, trio.SocketStream):  # TLS does not report how much was sent
            written = trio.Event()
            self.nursery.start_soon(self._write_rest, written)
            await written.wait()
            return
        await _acquire(self.send_lock)
        try:
            while self._unwritten:
                await self._write_first()
        except trio.Cancelled:
            self.nursery.start_soon(self._write_rest, trio.Event())
            raise
        finally:
            self.send_lock.release()

    async def _write_rest(self: Any, written: trio.Event) -> None:
        """Write the rest, in a task that is cancelled only when the connection ends."""
        try:
            async with self.send_lock:
                while self._unwritten:
                    await self._write_first()
        except Exception as error:
            # The name before websockets 17.4 is set_recv_exc.
            remember = getattr(self, "set_connection_exc", None) or self.set_recv_exc
            remember(error)
            await trio.aclose_forcefully(self.stream)
        finally:
            written.set()

    async def _write_first(self: Any) -> None:
        """Write as much of the first piece as can be written at once."""
        data = self._unwritten[0]
        if not self.watchdog.is_blocked:
            self.watchdog.blocked()  # until the whole piece is written, by this or another task
        try:
            sent = await self._write_some(data)
        except Exception:
            self._unwritten.clear()
            self.watchdog.unblocked()
            raise
        if sent < len(data):
            self._unwritten[0] = memoryview(data)[sent:]
        else:
            self._unwritten.popleft()
            self.watchdog.unblocked()

    async def _write_some(self: Any, data: bytes | memoryview) -> int:
        """Return how many bytes were written; a cancelled call writes none."""
        if not data:  # an end of file
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _end_writing(self.stream)
            return 0
        if isinstance(self.stream, trio.SocketStream):
            sent: int = await self.stream.socket.send(data)
            return sent
        await self.stream.send_all(data)
        return len(data)

    def process_event(self: Any, event: Any) -> None:
        with suppress(EOFError):  # aborted while an answer waited to be sent
            super().process_event(event)

    async def close_stream(self: Any) -> None:
        try:
            await super().close_stream()  # type: ignore[misc]  # of ServerConnection
        finally:
            self.watchdog.stop()
        if self.handler is not None:
            self.handler.disconnected()


async def _acquire(lock: trio.Lock) -> None:
    """Acquire a lock, without a checkpoint if the lock is free; writing has a checkpoint."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()


async def _end_writing(stream: trio.abc.Stream) -> None:
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    else:
        await stream.aclose()


@asynccontextmanager
async def listen(
    acceptor: Acceptor,
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | Sequence[str] | None,
    port: int | None,
    limits: Limits,
    clock: Clock,
    options: dict[str, Any],
    propagate: Propagate,
) -> AsyncIterator[Listener]:
    """Listen, and pass clients to the acceptor, until the context is left.

    On leaving, ``stop`` is called with a function that closes the port and waits until every
    connection is closed. ``options`` are the keyword arguments of ``websockets.trio.server.serve``,
    except those that ``limits`` holds, and ``path`` for a Unix socket. ``propagate`` is called with
    an exception of a connection that ends the program.
    """
    keep_secrets_out_of_logs()
    options = options_with(
        *(acceptor, limits, clock, _Connection, ServerConnection, options),
        propagate=staticmethod(propagate),
    )
    if "listeners" not in options:
        options["listeners"] = await _open_listeners(host, port, options)
    elif host is not None or port is not None:
        raise ValueError("host and port are incompatible with listeners")
    server = _TrioServer()
    serve_there = partial(serve, _Connection.serve, **options)
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
                    await stop(server.close)
                await server.stop(limits.finalize_timeout)
        finally:
            for listener in options["listeners"]:
                listener.socket.close()


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
