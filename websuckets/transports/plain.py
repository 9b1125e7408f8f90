"""A connection that has exactly the methods of `Socket`, for transports without a library of their
own."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
from websockets import CloseCode
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.http11 import Request

from websuckets.socket import ResponseHeaders
from websuckets.transports.checks import check_text, checked_close, not_sendable
from websuckets.transports.close_state import CloseState
from websuckets.transports.frame_queue import FrameQueue
from websuckets.transports.sender import Sender
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["TURN", "PlainConnection", "PlainSocket", "is_longer"]

TURN: Final = 16
"""Number of frames that a connection may take in a row before other tasks run."""


class PlainSocket:
    """The connection as handlers see it: exactly the members of `Socket`."""

    def __init__(
        self,
        connection: "PlainConnection",
        request: Request,
        remote_address: Any,
        subprotocol: str | None,
    ) -> None:
        self.id: UUID = uuid4()
        self.request: Request = request
        self.remote_address: Any = remote_address
        self.subprotocol: str | None = subprotocol
        self._connection = connection
        self._response_headers: ResponseHeaders | None = None

    @property
    def close_code(self) -> int | None:
        return self._connection.state.code

    @property
    def close_reason(self) -> str | None:
        return self._connection.state.reason

    async def send(self, message: str | bytes, *, text: bool | None = None) -> None:
        state = self._connection.state
        state.check_open()
        await self._connection.sender.send(_frame(message, text))
        # Without this checkpoint, a loop of sends would never learn that the client has left, and
        # no other task would run: servers take frames for such a client without waiting.
        await anyio.lowlevel.checkpoint()
        state.check_open()

    async def ping(self, data: str | bytes | None = None) -> Awaitable[float]:
        self._connection.state.check_open()
        return self._connection.ping()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._connection.close(code, reason)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a connection by {self._connection.transport} has no {name!r}; websuckets.Socket is "
            "what it has",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        return f"<connection {self.id} by {self._connection.transport}>"


class PlainConnection(ABC):
    """The `TransportConnection` behind a `PlainSocket`; a subclass knows how frames are carried.

    `CloseState` has who has closed, `Sender` what is sent, `FrameQueue` what was received and not
    handled yet.
    """

    closed_errors: tuple[type[Exception], ...] = (ConnectionClosed,)
    transport: str
    """Name of the transport, for error texts."""

    def __init__(
        self,
        request: Request,
        remote_address: Any,
        subprotocol: str | None,
        path: str,
        frames: FrameQueue,
        max_size: int | None,
        timeouts: PeerTimeouts,
    ) -> None:
        self.socket: PlainSocket = PlainSocket(self, request, remote_address, subprotocol)
        self.request_path: str = path
        self.has_stopped_receiving: bool = False
        self.has_exceeded_size: bool = False
        self.state: CloseState = CloseState()
        self.sender: Sender = Sender(
            *(self.socket, self.state, timeouts, self.write, self.abort_at_once)
        )
        self.ended: Callable[[], None] = lambda: None
        """Function that is called as soon as the connection is closed."""
        self._frames = frames
        self._max_size = max_size
        self._taken = 0  # since other tasks ran
        self._close_was_sent = anyio.Event()

    def open(self, ended: Callable[[], None]) -> None:
        """Allow frames to be sent, as the opening handshake was answered."""
        self.state.is_open = True
        self.ended = ended

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, as `Socket.close` does."""
        state = self.state
        if state.is_closed:
            return
        state.check_open()
        state.sent = close = checked_close(code, reason)
        self.has_stopped_receiving = True
        self._mark_closed()
        try:
            await self.send_close(close)
        finally:
            self._close_was_sent.set()

    async def wait_closed(self) -> None:
        """Wait until the close frame of this side, if any, was handed over to be sent."""
        if self.state.sent is not None:
            await self._close_was_sent.wait()

    def closed_by_peer(self, code: int | None, reason: str = "") -> None:
        """Record that the client has closed the connection, or (without a code) that it is lost.

        Do nothing if the connection is closed already.
        """
        if not self.state.is_closed:
            self.state.received = None if code is None else Close(code, reason)
            self._mark_closed()

    def _mark_closed(self) -> None:
        self.state.is_closed = True
        self.sender.stop()
        self._frames.close()
        self.ended()
        self.interrupt()

    async def arrived(self, frame: str | bytes) -> None:
        """Queue a frame that has come; wait while the queue is full."""
        if is_longer(frame, self._max_size):
            await self._close_for_size()
        await self._frames.put(frame)

    def offer_arrived(self, frame: str | bytes) -> bool:
        """Queue a frame that has come, if `arrived` would not wait. Return whether that was so."""
        return not is_longer(frame, self._max_size) and self._frames.offer(frame)

    async def _close_for_size(self) -> None:
        self.has_exceeded_size = not self.state.is_closed
        await self.close(CloseCode.MESSAGE_TOO_BIG, f"over {self._max_size} bytes")

    async def _take_turn(self) -> None:
        """Let other tasks run once in `TURN` frames, as receiving and sending may never wait."""
        self._taken += 1
        if self._taken >= TURN:
            self._taken = 0
            await anyio.lowlevel.checkpoint()

    async def _receive_queued(self) -> str | bytes:
        """Return the next frame that `arrived` has queued, as `receive` returns it."""
        try:
            frame = await self._frames.get()
        except anyio.EndOfStream:
            raise self.state.error() from None
        if self.has_stopped_receiving:
            raise self.state.error()
        return frame

    def abort_at_once(self) -> None:
        """Abort the connection without waiting."""
        self.has_stopped_receiving = True
        self.lose()

    @abstractmethod
    async def receive(self) -> str | bytes: ...

    @abstractmethod
    async def reply(self, text: str) -> None: ...

    @abstractmethod
    async def abort(self) -> None: ...

    @abstractmethod
    def lose(self) -> None:
        """Take the connection to be lost, without waiting; sends that wait for the client end."""

    @abstractmethod
    async def write(self, frame: str | bytes) -> None:
        """Send a frame; return when the connection takes more frames, or is closed."""

    @abstractmethod
    async def send_close(self, close: Close) -> None:
        """Send the close frame of a connection that is closed from now on."""

    @abstractmethod
    def ping(self) -> Awaitable[float]:
        """Send a ping. Return the wait for its pong, see `Socket.ping`."""

    @abstractmethod
    def interrupt(self) -> None:
        """End the waits for the client, as the connection has just been closed."""


def _frame(message: str | bytes, text: bool | None) -> str | bytes:
    """Return the frame of a message, ``str`` for text, as `Socket.send` sends it."""
    if isinstance(message, str):
        check_text(message)
        return message.encode() if text is False else message
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message).decode() if text else bytes(message)
    raise TypeError(not_sendable(message))


def is_longer(frame: str | bytes, size: int | None) -> bool:
    """Tell whether a frame takes more than ``size`` bytes as UTF-8."""
    if size is None:
        return False
    if len(frame) > size:
        return True
    return isinstance(frame, str) and not frame.isascii() and len(frame.encode()) > size
