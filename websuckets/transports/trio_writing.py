"""Writing on trio: each frame whole, also if its sender is cancelled.

A client cannot parse what follows half a frame, so a frame has to be written whole. Still a send
can be cancelled, as on asyncio, whose transport buffers unsent data. Here ``_unwritten`` buffers
unsent data; if the sender is cancelled, a task of the connection writes the rest.
`Limits.send_timeout` bounds that task, and no other sender writes meanwhile.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
from websockets.trio.server import ServerConnection

from websuckets.transports.watched import WatchedConnection

__all__ = ["WritingConnection", "acquire"]

if TYPE_CHECKING:

    class _Base(WatchedConnection, ServerConnection):
        set_recv_exc: Callable[[Exception], None]  # before websockets 17.4

else:
    _Base = WatchedConnection


class WritingConnection(_Base):
    """A connection that writes the data that ``websockets`` gives it."""

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_socket", "_unwritten")

    _socket: trio.socket.SocketType | None
    """Socket to write to; ``None`` behind TLS, which does not report how much was sent."""
    _unwritten: deque[bytes | memoryview]

    def _prepare(self) -> None:
        super()._prepare()
        self._socket = self.stream.socket if isinstance(self.stream, trio.SocketStream) else None
        self._unwritten = deque()

    async def send_data(self) -> None:
        """Write the data, in a task of the connection if this call is cancelled."""
        self._stop_receiving_if_closed()
        self._unwritten.extend(self.protocol.data_to_send())
        if self._unwritten:
            await self._write()

    async def _write(self) -> None:
        if self._socket is None:
            written = trio.Event()
            self.nursery.start_soon(self._write_rest, written)
            await written.wait()
            return
        await acquire(self.send_lock)
        try:
            while self._unwritten:
                await self._write_first()
        except trio.Cancelled:
            self.nursery.start_soon(self._write_rest, trio.Event())
            raise
        finally:
            self.send_lock.release()

    async def _write_rest(self, written: trio.Event) -> None:
        """Write the rest, in a task that is cancelled only when the connection ends."""
        try:
            async with self.send_lock:
                while self._unwritten:
                    await self._write_first()
        except Exception as error:
            self._remember(error)
            await trio.aclose_forcefully(self.stream)
        finally:
            written.set()

    def _remember(self, error: Exception) -> None:
        """Let the error be the cause of the `ConnectionClosed` that senders and receivers get."""
        remember: Any = getattr(self, "set_connection_exc", None) or self.set_recv_exc
        remember(error)

    async def _write_first(self) -> None:
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

    async def _write_some(self, data: bytes | memoryview) -> int:
        """Return how many bytes were written; a cancelled call writes none."""
        if not data:  # an end of file
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _end_writing(self.stream)
            return 0
        if self._socket is not None:
            return await self._socket.send(data)
        await self.stream.send_all(data)
        return len(data)


async def acquire(lock: trio.Lock) -> None:
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
