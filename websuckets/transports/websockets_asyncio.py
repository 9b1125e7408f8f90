"""The server of ``websockets`` on asyncio."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast, serve, unix_serve
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.streams import StreamReader

from websuckets.limits import Limits, OutboxCount
from websuckets.protocol.close_codes import NO_PONG
from websuckets.protocol.transport import Acceptor
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import Propagate
from websuckets.transports.checks import checked_close
from websuckets.transports.frames import binary_frame, read_text, text_frame
from websuckets.transports.handshake import options_with, serve_connection
from websuckets.transports.listener import Listener, keep_secrets_out_of_logs
from websuckets.transports.watchdog import CLOSE_FRAME_TIME
from websuckets.transports.watched import WatchedConnection

__all__ = ["ServerConnection", "listen"]

ENOUGH: Final = 64 * 1024
"""Bytes of replies that are collected before they are written, without waiting for the loop."""

AT_EOF: Final = StreamReader.at_eof.__code__
"""Code that the parser of ``websockets`` runs while waiting for the first byte of a frame."""


class _Connection(WatchedConnection):
    """A connection that reads nothing from a peer that does not read.

    Otherwise each ping of the peer would leave a pong in memory, and each sender a frame.
    """

    __slots__ = ()

    _attributes = (
        *WatchedConnection._attributes,
        *("_awaited", "_most", "_replies", "_task", "_unsent"),
    )

    def _prepare(self: Any) -> None:
        super()._prepare()
        self._task = None  # task that sends a ping or a close frame
        self._unsent = None  # count of the frames since the peer stopped reading, if any
        self._most = inf  # greatest size of a message, in bytes
        self._replies = None  # frames that are written together, in the next turn of the loop
        self._awaited = None  # future of the next text, while `_next_text` waits

    async def ping(self: Any, data: str | bytes | None = None) -> Awaitable[float]:
        self._check_open()
        return await super().ping(data)  # type: ignore[misc, no-any-return]  # of ServerConnection

    async def close(self: Any, code: int = 1000, reason: str = "") -> None:
        self._check_open()
        checked_close(code, reason)
        await super().close(code, reason)  # type: ignore[misc]  # of ServerConnection

    async def abort(self: Any) -> None:
        self._stop_receiving()
        self.transport.abort()
        await self.wait_closed()

    def _start(self: Any, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = self.loop.create_task(function())

    @staticmethod
    def _is_answered_by(pong: Any) -> Callable[[], bool]:
        has_come: Callable[[], bool] = pong.done
        return has_come

    async def _abort_after_fault(self: Any) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_FRAME_TIME):
                await self.close(*NO_PONG)
        self.transport.abort()

    async def _finish_closing(self: Any) -> None:
        self.send_data()
        await self.close()

    async def send(self: Any, message: Any, *, text: bool | None = None) -> None:
        """Send once the peer has read what was sent before, so that the buffer does not grow."""
        if self.paused:
            with self.watchdog.queued(message) as is_too_much:
                if is_too_much:
                    self._abort_slow_peer()
                await self._wait_until_read()
        if text is not None or not self._write(message):
            await self._send_message(message, text)
        elif self.paused or self.transport.is_closing():
            async with self.send_context():  # waits, and raises if the connection is lost
                pass

    async def reply(self: Any, text: str) -> None:
        """Send a reply, together with the replies to the messages that have come already."""
        if self.paused:
            await self._wait_until_read()
        if not self.recv_messages.frames.queue or not self._writes_directly:
            await self.send(text)
            return
        if self._replies is None:
            self._replies = bytearray()
            self.loop.call_soon(self._write_replies)
        self._replies += text_frame(text.encode())
        if len(self._replies) >= ENOUGH:
            self._write_replies()

    async def _wait_until_read(self: Any) -> None:
        """Wait until the peer has read enough of what was sent to it, or is lost."""
        while self.paused:
            with suppress(OSError):  # sending raises the error later
                await self.drain()

    def _write_replies(self: Any) -> None:
        """Write the replies that wait; called before anything else is written."""
        replies, self._replies = self._replies, None
        if replies and not self.transport.is_closing():
            self.transport.write(replies)

    def _write(self: Any, message: Any) -> bool:
        """Write the message as one frame, if possible. Return whether the message was written."""
        if isinstance(message, str):
            frame = text_frame(message.encode())
        elif type(message) is bytes:
            frame = binary_frame(message)
        else:
            return False
        if not self._writes_directly:
            return False
        self._write_frame(frame)
        return True

    def _write_frame(self: Any, frame: bytes) -> None:
        if self._replies is None:
            self.transport.write(frame)
        else:
            self._replies += frame
            self._write_replies()

    @property
    def _writes_directly(self: Any) -> bool:
        """True while frames can be written without ``websockets``.

        ``websockets`` costs half of an answer. This property and `_take_texts` use undocumented
        attributes of ``websockets``: the state of ``protocol``, and what is still to be sent.
        """
        protocol = self.protocol
        return not (
            protocol.state is not State.OPEN
            or self.transport.is_closing()
            or protocol.writes
            or protocol.extensions
            or protocol.debug
            or protocol.expect_continuation_frame
            or self.send_in_progress is not None
        )

    def _take_texts(self: Any, data: bytes) -> int:
        """Take the leading texts that are one frame each. Return how many bytes were taken.

        Nearly all messages of clients are such texts.
        """
        protocol = self.protocol
        if (
            protocol.state is not State.OPEN
            or protocol.extensions
            or protocol.debug
            or protocol.current_size is not None
            or not _is_between_frames(protocol)
        ):
            return 0
        at = 0
        while found := read_text(data, at, self._most):
            text, at = found
            awaited = self._awaited
            if awaited is not None and not awaited.done():
                awaited.set_result(text)
            else:
                self.recv_messages.put(Frame(Opcode.TEXT, text))
        return at

    async def receive(self: Any) -> str | bytes:
        """Return the next message; take a text in one frame without calling ``websockets``."""
        if self._lent is not None:
            await self._lent.take_back()
        messages, queue = self.recv_messages, self.recv_messages.frames.queue
        text: bytes | None = None
        if not messages.get_in_progress:
            if not queue and not messages.closed:
                text = await self._next_text()
            elif queue and queue[0].opcode is Opcode.TEXT and queue[0].fin:
                text = queue.popleft().data
                messages.maybe_resume()
        if text is not None and not self.has_stopped_receiving:
            try:
                return text.decode()
            except UnicodeDecodeError:
                self._put_back(text)
        return await super().receive()

    async def _next_text(self: Any) -> bytes | None:
        """Return the next text, which is not queued; ``None`` if something else has come."""
        self.recv_messages.get_in_progress = True  # so that nothing else can receive
        self._awaited = awaited = self.loop.create_future()
        try:
            return await awaited  # type: ignore[no-any-return]  # of a future
        except asyncio.CancelledError:
            if awaited.done() and not awaited.cancelled():  # a text came at the same moment
                self._put_back(awaited.result())
            raise
        finally:
            self.recv_messages.get_in_progress = False
            self._awaited = None

    def _put_back(self: Any, text: bytes | None) -> None:
        if text is not None:
            self.recv_messages.frames.queue.appendleft(Frame(Opcode.TEXT, text))

    def _check_queue(self: Any) -> None:
        """Wake `_next_text` if something else has come, or if the connection is lost."""
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    def offer(self: Any, frame: bytes) -> bool:
        """Send a text frame if that needs no waiting. Return whether no other try is needed.

        ``True`` also for a connection that is closed, which takes no frame any more.
        """
        if self.paused or self.send_in_progress is not None:
            return False
        if self._writes_directly:
            self._write_frame(text_frame(frame))
        else:
            broadcast((self,), frame, text=True)
        return True

    def send_data(self: Any) -> None:
        """Write what is to be sent; abort if more waits than the outbox allows.

        The check is needed here because ``broadcast`` sends without waiting.
        """
        self._stop_receiving_if_closed()
        if self._replies is not None:
            self._write_replies()
        if not self.protocol.writes:  # the case after most reads
            return
        if self.paused:
            if self._unsent is None:
                self._unsent = OutboxCount(self.timeouts.outbox)
            if not self._unsent.add(sum(map(len, self.protocol.writes))):
                self.protocol.data_to_send()
                self._abort_slow_peer()
                return
        super().send_data()  # type: ignore[misc]  # of ServerConnection

    def _abort(self: Any) -> None:
        """Abort with a TCP reset, so that the kernel does not keep what the peer does not read."""
        self._stop_receiving()
        own = self.transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):  # the socket may be closed already
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def _file_descriptor(self: Any) -> int:
        own = self.transport.get_extra_info("socket")
        return int(own.fileno())

    @property
    def _is_reading(self: Any) -> bool:
        return not (self.paused or self.recv_messages.paused)

    def _read_or_not(self: Any) -> None:
        if self._is_reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()
            self.watchdog.reading_paused()

    # Methods of ``asyncio.Protocol``:

    def connection_made(self: Any, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # of ServerConnection
        sizes = (self.protocol.max_message_size, self.protocol.max_fragment_size)
        self._most = min(size for size in (*sizes, inf) if size is not None)
        self.recv_messages.pause = self.recv_messages.resume = self._read_or_not

    def data_received(self: Any, data: bytes) -> None:
        taken = self._take_texts(data)
        if taken < len(data):
            super().data_received(data[taken:] if taken else data)  # type: ignore[misc]  # of ServerConnection
            if self.recv_messages.frames.queue:
                self._check_queue()

    def pause_writing(self: Any) -> None:
        super().pause_writing()  # type: ignore[misc]  # of ServerConnection
        self.watchdog.blocked()
        self._read_or_not()

    def resume_writing(self: Any) -> None:
        super().resume_writing()  # type: ignore[misc]  # of ServerConnection
        self._unsent = None
        self.watchdog.unblocked()
        self._read_or_not()

    def connection_lost(self: Any, exc: Exception | None) -> None:
        if self.paused:  # asyncio does not resume a lost connection
            self.watchdog.unblocked()
        self.watchdog.stop()
        super().connection_lost(exc)  # type: ignore[misc]  # of ServerConnection
        self.recv_messages.pause = self.recv_messages.resume = _do_nothing  # no cycle
        self._check_queue()
        self._replies = None
        if self.handler is not None:
            self.handler.disconnected()


def _is_between_frames(protocol: Any) -> bool:
    """Tell whether the parser of the protocol waits for the first byte of a frame."""
    parsing_frames = protocol.parser.gi_yieldfrom  # once the handshake has been parsed
    waiting = parsing_frames and parsing_frames.gi_yieldfrom
    return waiting is not None and waiting.gi_code is AT_EOF


def _do_nothing() -> None: ...


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
    connection is closed. ``options`` are the keyword arguments of ``serve`` or ``unix_serve`` of
    ``websockets.asyncio.server``, except those that ``limits`` holds. ``propagate`` is not called:
    the event loop itself raises an exception that ends the program.
    """
    keep_secrets_out_of_logs()
    options = options_with(acceptor, limits, clock, _Connection, ServerConnection, options)
    # asyncio awaits something after beginning to listen: a cancellation there would leave a server
    # to which nothing refers. So nothing is awaited between binding and the `try` below.
    starts = options.pop("start_serving", True)
    if "path" in options:
        server = await unix_serve(serve_connection, start_serving=False, **options)
    else:
        where: Any = host  # asyncio takes several hosts, too
        server = await serve(serve_connection, where, port, start_serving=False, **options)

    async def close() -> None:
        server.close(close_connections=False)
        await server.wait_closed()

    try:
        if starts:
            await server.start_serving()
        yield Listener(server.sockets, secure=options.get("ssl") is not None)
    finally:
        try:
            await stop(close)
        finally:
            server.close(close_connections=False)
