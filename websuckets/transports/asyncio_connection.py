"""A connection of ``websockets`` on asyncio, with a bound for frames that wait to be read."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection, broadcast

from websuckets.limits import OutboxCount
from websuckets.protocol.close_codes import NO_PONG
from websuckets.transports.checks import checked_close
from websuckets.transports.watchdog import CLOSE_FRAME_TIME
from websuckets.transports.watched import WatchedConnection

__all__ = ["AsyncioConnection"]

if TYPE_CHECKING:

    class _Base(WatchedConnection, ServerConnection): ...

else:
    _Base = WatchedConnection


class AsyncioConnection(_Base):
    """A connection that reads nothing from a peer that does not read.

    Otherwise each ping of the peer would leave a pong in memory, and each sender a frame. Messages
    are received and sent by the documented methods of ``ServerConnection``.
    """

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_task", "_unsent")

    _task: asyncio.Task[None]
    """Task that sends a ping or a close frame; kept here, as the event loop does not keep it."""
    _unsent: OutboxCount | None
    """Number of frames since the peer stopped reading."""

    _is_answered = staticmethod(asyncio.Future[float].done)

    def _prepare(self) -> None:
        super()._prepare()
        self._unsent = None
        # An empty deque, as ``websockets`` declares it, takes 700 bytes more for each client.
        waiters: Any = []
        self.drain_waiters = waiters

    async def ping(self, data: Any = None) -> Awaitable[float]:
        self._check_open()
        pong: Awaitable[float] = await super().ping(data)
        return pong

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._check_open()
        checked_close(code, reason)
        await super().close(code, reason)

    async def abort(self) -> None:
        self._stop_receiving()
        self.transport.abort()
        await self.wait_closed()

    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = self.loop.create_task(function())

    async def _abort_after_fault(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_FRAME_TIME):
                await self.close(*NO_PONG)
        self.transport.abort()

    async def _finish_closing(self) -> None:
        self.send_data()
        await self.close()

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        """Send once the peer has read earlier frames, so that the buffer does not grow."""
        if self.paused:
            with self.watchdog.queued(message) as is_too_much:
                if is_too_much:
                    self._abort_slow_peer()
                await self._wait_until_read()
        await self._send_message(message, text)

    async def reply(self, text: str) -> None:
        if self.paused:
            await self._wait_until_read()
        await self.send(text)

    async def _wait_until_read(self) -> None:
        """Wait until the peer has read enough of the sent frames, or is lost."""
        while self.paused:
            with suppress(OSError):  # sending raises the error later
                await self.drain()

    def offer(self, frame: bytes) -> bool:
        """Send a text frame if that needs no waiting. Return whether no other try is needed.

        ``True`` also for a connection that is closed, which takes no frame any more.
        """
        if self.paused or self.send_in_progress is not None:
            return False
        broadcast((self,), frame, text=True)
        return True

    def send_data(self) -> None:
        """Send outgoing data; abort instead if more waits already than the outbox allows.

        The check is needed here because ``broadcast`` sends without waiting.
        """
        self._stop_receiving_if_closed()
        if not self.protocol.writes:  # the case after most reads
            return
        if self.paused:
            if self._unsent is None:
                self._unsent = OutboxCount(self.timeouts.outbox)
            if not self._unsent.add(sum(map(len, self.protocol.writes))):
                self.protocol.data_to_send()
                self._abort_slow_peer()
                return
        super().send_data()

    def _abort(self) -> None:
        """Abort with a TCP reset, so that the kernel does not keep data for the peer."""
        self._stop_receiving()
        own = self.transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):  # the socket may be closed already
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def _file_descriptor(self) -> int:
        own = self.transport.get_extra_info("socket")
        return int(own.fileno())

    @property
    def _is_reading(self) -> bool:
        return not (self.paused or self.recv_messages.paused)

    def _read_or_not(self) -> None:
        if self._is_reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()
            self.watchdog.reading_paused()

    # Methods of ``asyncio.Protocol``:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.pause = self.recv_messages.resume = self._read_or_not

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watchdog.blocked()
        self._read_or_not()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = None
        self.watchdog.unblocked()
        self._read_or_not()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.paused:  # asyncio does not resume a lost connection
            self.watchdog.unblocked()
        self.watchdog.stop()
        super().connection_lost(exc)
        self.recv_messages.pause = self.recv_messages.resume = _do_nothing  # no cycle
        if self.connection_handler is not None:
            self.connection_handler.disconnected()


def _do_nothing() -> None: ...
