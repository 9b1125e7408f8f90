"""The server of ``websockets`` on asyncio."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast, serve, unix_serve
from websockets.protocol import State

from websuckets.clock import Clock
from websuckets.closing import NO_PONG
from websuckets.limits import Limits
from websuckets.socket import Door
from websuckets.transports.guard import FAREWELL_TIME
from websuckets.transports.guarded import GuardedConnection
from websuckets.transports.handshake import options_with, serve_connection
from websuckets.transports.listener import Listener, keep_secrets_out_of_logs

__all__ = ["ServerConnection", "listen"]

TEXT_FRAME: Final = 0x81
BINARY_FRAME: Final = 0x82
"""The first byte of a frame that is a whole message: RFC 6455, section 5.2."""


class _Connection(GuardedConnection):
    """Reads nothing from a peer that does not read.

    Otherwise each of its pings would leave a pong to be kept, and each sender a frame.
    """

    _task: asyncio.Task[None] | None = None  # that pings, or says farewell
    _unsent = 0  # frames, since the peer stopped reading

    async def abort(self: Any) -> None:
        self.transport.abort()
        await self.wait_closed()

    def _start(self: Any, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = self.loop.create_task(function())

    @staticmethod
    def _has_come(pong: Any) -> Callable[[], bool]:
        has_come: Callable[[], bool] = pong.done
        return has_come

    async def _drop(self: Any) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_TIME):
                await self.close(*NO_PONG)
        self.transport.abort()

    async def send(self: Any, message: Any, **keywords: Any) -> None:
        """When the peer has read what was sent before: frames are not to pile up in the buffer."""
        if self.paused:
            with self.guard.queued(message) as is_too_much:
                if is_too_much:
                    self._give_in()
                while self.paused:
                    with suppress(OSError):  # which sending itself will tell
                        await self.drain()
        if keywords or not self._write(message):
            await super().send(message, **keywords)  # type: ignore[misc]  # of ServerConnection
        elif self.paused or self.transport.is_closing():
            async with self.send_context():  # waits, and tells of a connection that is lost
                pass

    def _write(self: Any, message: Any) -> bool:
        """Write the message as a frame, if nothing but that is to be done; whether it was.

        Half of what an answer costs is how ``websockets`` sends it. This knows, of its undocumented
        parts, where it stands (``protocol``) and that nothing is left to be sent before.
        """
        if isinstance(message, str):
            first, data = TEXT_FRAME, message.encode()
        elif type(message) is bytes:
            first, data = BINARY_FRAME, message
        else:
            return False
        protocol = self.protocol
        if (
            protocol.state is not State.OPEN
            or self.transport.is_closing()
            or protocol.writes
            or protocol.extensions
            or protocol.debug
            or protocol.expect_continuation_frame
            or self.send_in_progress is not None
        ):
            return False
        size = len(data)
        if size < 126:  # RFC 6455, section 5.2
            header = bytes((first, size))
        elif size < 1 << 16:
            header = struct.pack("!BBH", first, 126, size)
        else:
            header = struct.pack("!BBQ", first, 127, size)
        self.transport.write(header + data)
        return True

    def offer(self: Any, frame: bytes) -> bool:
        """Send a text frame, if nothing has to be waited for. Whether it was sent, or nobody will
        ever take it."""
        if self.paused or self.send_in_progress is not None:
            return False
        broadcast((self,), frame, text=True)
        return True

    def send_data(self: Any) -> None:
        """``broadcast`` sends without waiting."""
        if not self.protocol.writes:  # as after most of what is read
            return
        if self.paused:
            self._unsent += 1
            frames, size = self.patience.outbox
            if self._unsent > frames or self.transport.get_write_buffer_size() > size:
                self.protocol.data_to_send()
                self._give_in()
                return
        super().send_data()  # type: ignore[misc]  # of ServerConnection

    def _abort(self: Any) -> None:
        """Leave nothing behind: else the kernel keeps for a while what the peer does not read."""
        own = self.transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):  # it may be gone already
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def _is_reading(self: Any) -> bool:
        return not (self.paused or self.recv_messages.paused)

    def _read_or_not(self: Any) -> None:
        if self._is_reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # As a protocol of asyncio:

    def connection_made(self: Any, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # of ServerConnection
        self.recv_messages.pause = self.recv_messages.resume = self._read_or_not

    def pause_writing(self: Any) -> None:
        super().pause_writing()  # type: ignore[misc]  # of ServerConnection
        self.guard.blocked()
        self._read_or_not()

    def resume_writing(self: Any) -> None:
        super().resume_writing()  # type: ignore[misc]  # of ServerConnection
        self._unsent = 0
        self.guard.unblocked()
        self._read_or_not()

    def connection_lost(self: Any, error: Exception | None) -> None:
        if self.paused:  # nobody resumes what is lost
            self.guard.unblocked()
        super().connection_lost(error)  # type: ignore[misc]  # of ServerConnection
        self.recv_messages.pause = self.recv_messages.resume = _do_nothing  # they refer to us
        if self.accepted is not None:
            self.accepted.disconnected()


def _do_nothing() -> None: ...


@asynccontextmanager
async def listen(
    door: Door,
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | None,
    port: int | None,
    limits: Limits,
    clock: Clock,
    options: dict[str, Any],
) -> AsyncIterator[Listener]:
    """Bring clients to the door, until the context is left.

    Then ``stop`` is called with what closes the port and waits until every connection is gone.
    ``options`` are the keyword arguments of ``serve`` or ``unix_serve`` of
    ``websockets.asyncio.server``, but for those that ``limits`` holds.
    """
    keep_secrets_out_of_logs()
    options = options_with(door, limits, clock, _Connection, ServerConnection, options)
    if "path" in options:
        server = await unix_serve(serve_connection, **options)
    else:
        server = await serve(serve_connection, host, port, **options)

    async def close() -> None:
        server.close(close_connections=False)
        await server.wait_closed()

    try:
        yield Listener(server.sockets, secure=options.get("ssl") is not None)
    finally:
        try:
            await stop(close)
        finally:
            server.close(close_connections=False)
