"""A connection that has exactly the methods of `Socket`, for transports without a library of their
own."""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
from websockets import CloseCode
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close
from websockets.http11 import Request

from websuckets.socket import ResponseHeaders
from websuckets.transports.checks import check_text, checked_close
from websuckets.transports.handshake import NOT_OPEN
from websuckets.transports.watchdog import PeerFault, PeerTimeouts, PeerWatchdog

__all__ = ["Frames", "PlainSocket", "closed_error"]

logger: logging.Logger = logging.getLogger("websuckets")

TURN: Final = 16
"""Number of frames that a connection may take in a row before other tasks run."""

FRAME_OVERHEAD: Final = 100
"""Bytes that a frame takes beside its content: a ``bytes`` object and its place in a queue."""

HEALTHY: Final = (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)
"""Close codes that ``websockets`` does not count as errors."""


class Frames:
    """A queue of frames in one direction; adding a frame waits while the queue is full.

    ``capacity`` is the number of bytes that the frames may take. After `close`, the frames that
    wait can still be read.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._frames: deque[str | bytes] = deque()
        self._has_ended = False
        self._is_reading = False
        self._waiting: list[anyio.Event] = []

    async def put(self, frame: str | bytes) -> None:
        """Add a frame when there is room; after `close`, discard the frame."""
        while not self.offer(frame) and not self._has_ended:
            await self._wait()

    def offer(self, frame: str | bytes) -> bool:
        """Add a frame if there is room now. Return whether the frame was added."""
        if self._size >= self._capacity or self._has_ended:
            return False
        self._size += _size(frame)
        self._frames.append(frame)
        self._wake()
        return True

    async def get(self) -> str | bytes:
        """Return the next frame, to one reader at a time. Raise `anyio.EndOfStream` at the end."""
        self._is_reading = True
        try:
            while not self._frames:
                if self._has_ended:
                    raise anyio.EndOfStream
                await self._wait()
        finally:
            self._is_reading = False
        frame = self._frames.popleft()
        self._size -= _size(frame)
        self._wake()
        return frame

    @property
    def are_there(self) -> bool:
        """True while `get` would return a frame without waiting."""
        return bool(self._frames)

    @property
    def are_awaited(self) -> bool:
        """True while a reader waits for a frame."""
        return self._is_reading

    def close(self) -> None:
        """End the queue: accept no more frames."""
        self._has_ended = True
        self._wake()

    async def _wait(self) -> None:
        changed = anyio.Event()
        self._waiting.append(changed)
        await changed.wait()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed.set()


def _size(frame: str | bytes) -> int:
    return FRAME_OVERHEAD + len(frame)


class PlainSocket(ABC):
    """The server's side of a connection: a `Socket`, and the `TransportConnection` to it."""

    closed_errors: tuple[type[Exception], ...] = (ConnectionClosed,)
    transport: str
    """Name of the transport, for error texts."""

    def __init__(
        self,
        request: Request,
        remote_address: Any,
        frames: Frames,
        max_size: int | None,
        timeouts: PeerTimeouts,
        path: str,
    ) -> None:
        self.id: UUID = uuid4()
        self.request: Request = request
        self.remote_address: Any = remote_address
        self.subprotocol: str | None = None
        self.ended: Callable[[], None] = lambda: None
        """Function that is called as soon as the connection is closed."""
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Function that is called with a failure of the server itself."""
        self.request_path: str = path
        # The watchdog sends no pings: the server below does, if any.
        self._watchdog = PeerWatchdog(timeouts, self._on_fault)
        self._frames = frames
        self._max_size = max_size
        self._taken = 0
        self._is_open = False
        self._received: Close | None = None
        self._sent: Close | None = None
        self._is_closed = False
        self.has_stopped_receiving: bool = False
        self._response_headers: ResponseHeaders | None = None
        self._close_was_sent = anyio.Event()

    @property
    def socket(self) -> "PlainSocket":
        return self

    @property
    def close_code(self) -> int | None:
        return int(self._closed_with.code) if self._is_closed else None

    @property
    def close_reason(self) -> str | None:
        return self._closed_with.reason if self._is_closed else None

    async def send(self, message: str | bytes, *, text: bool | None = None) -> None:
        await self._send_message(message, text)
        # Without this checkpoint, a loop of sends would never learn that the client has left, and
        # no other task would run: servers take what is sent to such a client without waiting.
        await anyio.lowlevel.checkpoint()
        self._check_open()

    async def _send_message(self, message: str | bytes, text: bool | None) -> None:
        self._check_open()
        if isinstance(message, str):
            check_text(message)
            frame: str | bytes = message.encode() if text is False else message
        elif isinstance(message, bytes | bytearray | memoryview):
            frame = bytes(message).decode() if text else bytes(message)
        else:
            raise TypeError(f"send() takes str or bytes, not {type(message).__name__}")
        if self._watchdog.is_blocked:
            with self._watchdog.queued(frame) as is_too_much:
                if is_too_much:
                    logger.info(
                        "%s does not read what is sent to it, and more is: aborted", self.id
                    )
                    self._abort_and_log()
                    raise self._closed_error()
                await self._send_watched(frame)
        else:
            await self._send_watched(frame)

    async def _send_watched(self, frame: str | bytes) -> None:
        self._watchdog.blocked()
        try:
            await self._send(frame)
        finally:
            self._watchdog.unblocked()

    async def ping(self, data: str | bytes | None = None) -> Awaitable[float]:
        self._check_open()
        return self._pong()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self._is_closed:
            return
        self._check_open()
        self._sent = close = checked_close(code, reason)
        self.has_stopped_receiving = True
        self._closed()
        try:
            await self._close(close)
        finally:
            self._close_was_sent.set()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a connection by {self.transport} has no {name!r}; websuckets.Socket is what it has",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        return f"<connection {self.id} by {self.transport}>"

    def open(self) -> None:
        """Allow frames to be sent, as the opening handshake was answered."""
        self._is_open = True

    async def arrived(self, frame: str | bytes) -> None:
        """Queue a frame that has come; wait while the queue is full."""
        if self._is_too_long(frame):
            await self._close_for_size()
        await self._frames.put(frame)

    def offer_arrived(self, frame: str | bytes) -> bool:
        """Queue a frame that has come, if `arrived` would not wait. Return whether that was so."""
        return not self._is_too_long(frame) and self._frames.offer(frame)

    def _is_too_long(self, frame: str | bytes) -> bool:
        return self._max_size is not None and _is_longer(frame, self._max_size)

    async def _close_for_size(self) -> None:
        await self.close(CloseCode.MESSAGE_TOO_BIG, f"over {self._max_size} bytes")

    def closed_by_peer(self, code: int | None, reason: str = "") -> None:
        """Record that the client has closed the connection, or (without a code) that it is lost."""
        if not self._is_closed:
            self._received = None if code is None else Close(code, reason)
            self._closed()

    def _on_fault(self, fault: PeerFault) -> None:
        assert fault is PeerFault.STALLED
        logger.info("%s does not read what is sent to it: aborted", self.id)
        self._abort_and_log()

    def _abort_and_log(self) -> None:
        self.has_stopped_receiving = True
        self.abort_at_once()

    async def wait_closed(self) -> None:
        """Wait until the close frame of this side, if any, was handed over to be sent."""
        if self._sent is not None:
            await self._close_was_sent.wait()

    async def receive(self) -> str | bytes:
        await self._yield_to_others()
        return await self._receive_queued()

    async def _yield_to_others(self) -> None:
        """Let other tasks run once in `TURN` frames, as receiving and replying may never wait."""
        self._taken += 1
        if self._taken % TURN == 0:
            await anyio.lowlevel.checkpoint()

    async def _receive_queued(self) -> str | bytes:
        try:
            frame = await self._frames.get()
        except anyio.EndOfStream:
            raise self._closed_error() from None
        if self.has_stopped_receiving:
            raise self._closed_error()
        return frame

    def failed(self, error: BaseException) -> None:
        self.on_failure(error)

    async def reply(self, text: str) -> None:
        self._check_open()
        await self._send_watched(text)
        self._check_open()

    async def reply_beside(self, text: str) -> None:
        await PlainSocket.reply(self, text)
        await anyio.lowlevel.checkpoint()  # as in `send`

    @abstractmethod
    async def abort(self) -> None: ...

    @abstractmethod
    def abort_at_once(self) -> None:
        """Abort the connection without waiting; sends that wait for the client end."""

    @abstractmethod
    async def _send(self, frame: str | bytes) -> None: ...

    @abstractmethod
    def _pong(self) -> Awaitable[float]: ...

    @abstractmethod
    async def _close(self, close: Close) -> None: ...

    def _closed(self) -> None:
        self._is_closed = True
        self._watchdog.stop()
        self._frames.close()
        self.ended()

    @property
    def _closed_with(self) -> Close:
        return self._received or self._sent or Close(CloseCode.ABNORMAL_CLOSURE, "")

    def _check_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()
        if not self._is_open:
            raise RuntimeError(NOT_OPEN)

    def _closed_error(self) -> ConnectionClosed:
        return closed_error(self._received, self._sent)


def closed_error(received: Close | None, sent: Close | None) -> ConnectionClosed:
    """Return the error of ``websockets`` for a connection that either side has closed."""
    close = received or sent
    is_healthy = close is not None and close.code in HEALTHY
    return (ConnectionClosedOK if is_healthy else ConnectionClosedError)(received, sent)


def _is_longer(frame: str | bytes, size: int) -> bool:
    """Tell whether a frame takes more than ``size`` bytes as UTF-8."""
    if len(frame) > size:
        return True
    return isinstance(frame, str) and not frame.isascii() and len(frame.encode()) > size
