"""Connections without a network, for tests: both ends live in one event loop."""

from collections.abc import Awaitable, Generator
from typing import Any, Final

import anyio
import anyio.lowlevel
from websockets import CloseCode
from websockets.frames import Close
from websockets.http11 import Request

from websuckets.connections.admission import join_cookies
from websuckets.exc import HandshakeRefused
from websuckets.protocol.transport import Acceptor
from websuckets.socket import Socket, path_of, sent_headers
from websuckets.transports.close_state import closed_error
from websuckets.transports.frame_queue import FrameQueue
from websuckets.transports.opening import Opening
from websuckets.transports.plain import PlainConnection
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["MemoryClient"]

CAPACITY: Final = 1024 * 1024
"""Bytes buffered in either direction before the sender waits, as a network buffers some."""

REMOTE_ADDRESS: Final = ("127.0.0.1", 0)

ABNORMAL: Final = Close(CloseCode.ABNORMAL_CLOSURE, "")


class MemoryClient:
    """The client's end of one connection, from the opening handshake on."""

    def __init__(
        self, request: Request, acceptor: Acceptor, max_size: int | None, timeouts: PeerTimeouts
    ) -> None:
        self.closed: Close | None = None
        """Close code and reason, of whichever side closed the connection; ``None`` until then."""
        self.has_closed: anyio.Event = anyio.Event()
        self.gone: anyio.Event = anyio.Event()
        """Event that is set when the server has finished with the connection."""
        self.note: str | None = None
        """Note that is added to errors of `send` and `offer` on a closed connection."""
        self._frames = FrameQueue(CAPACITY)
        self._acceptor = acceptor
        self._server = _MemoryConnection(request, self, acceptor, max_size, timeouts)
        self._answered = anyio.Event()
        self._refusal: HandshakeRefused | None = None
        self._error: BaseException | None = None

    @property
    def socket(self) -> Socket:
        """The server's end."""
        return self._server.socket

    async def wait_open(self) -> None:
        """Wait for the end of the opening handshake. Raise `HandshakeRefused` if it was refused."""
        await self._answered.wait()
        self.raise_failure()
        if self._refusal is not None:
            raise self._refusal

    async def send(self, frame: str | bytes) -> None:
        """Send a frame; wait while the server has too many frames to read.

        Raise ``websockets.exceptions.ConnectionClosed`` once the connection is closed.
        """
        if not isinstance(frame, str | bytes):
            raise TypeError(f"a frame is str or bytes, not {type(frame).__name__}")
        self._check_open()
        await self._server.arrived(frame)

    def offer(self, frame: str) -> bool:
        """Send a frame if that needs no waiting. Return whether the frame was sent.

        Raise ``websockets.exceptions.ConnectionClosed`` once the connection is closed.
        """
        self._check_open()
        return self._server.offer_arrived(frame)

    def post(self, frame: str) -> None:
        """Send a short frame without waiting, even if the server has too many frames to read.

        Do nothing once the connection is closed.
        """
        if self.closed is None:
            self._server.add_arrived(frame)

    async def receive(self) -> str | bytes:
        """Return the next frame. After the last frame raise the same error as `send`."""
        try:
            return await self._frames.get()
        except anyio.EndOfStream:
            raise self._closed_error(self.closed or ABNORMAL) from None

    def close(self, code: int | None, reason: str = "") -> None:
        """Close the connection; without a code, lose it as if the client had crashed."""
        self._server.closed_by_peer(code, reason)
        self.close_with(ABNORMAL if code is None else Close(code, reason))

    def raise_failure(self) -> None:
        """Raise the failure of the server itself, if there was any."""
        if self._error is not None:
            raise self._error

    async def serve(self) -> None:
        """Run the connection handler of the acceptor until it returns. Raise nothing."""
        try:
            async with Opening(self._acceptor) as opening:
                self._refusal = await opening.ask(self._server)
                if self._refusal is not None:
                    return
                handler = opening.opened()
            sent_headers(self._server.socket)
            self._server.open(handler.disconnected)
            self._answered.set()
            await handler.serve()
        except BaseException as error:
            self.fail(error)
        finally:
            self.close(None)  # does nothing if it is closed already
            self._answered.set()
            self.gone.set()

    # For the server's end:

    async def deliver(self, frame: str | bytes) -> None:
        await self._frames.put(frame)

    def close_with(self, close: Close) -> None:
        self.closed = self.closed or close
        self.has_closed.set()
        self._frames.close()

    def fail(self, error: BaseException) -> None:
        self._error = self._error or error

    def _check_open(self) -> None:
        if self.closed is not None:
            error = self._closed_error(self.closed)
            if self.note is not None:
                error.add_note(self.note)
            raise error

    def _closed_error(self, close: Close) -> BaseException:
        return self._error or closed_error(received=close, sent=None)


class _MemoryConnection(PlainConnection):
    transport = "memory"

    def __init__(
        self,
        request: Request,
        client: MemoryClient,
        acceptor: Acceptor,
        max_size: int | None,
        timeouts: PeerTimeouts,
    ) -> None:
        join_cookies(request.headers)
        address = acceptor.address_of(REMOTE_ADDRESS, request.headers)
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol")).split(",")
        subprotocol = acceptor.subprotocol(name.strip() for name in offered)
        frames, path = FrameQueue(CAPACITY), path_of(request)
        super().__init__(request, address, subprotocol, path, frames, max_size, timeouts)
        self._client = client

    def add_arrived(self, frame: str) -> None:
        self._frames.add(frame)

    async def receive(self) -> str | bytes:
        await self._take_turn()
        return await self._receive_queued()

    async def reply(self, text: str) -> None:
        await self.sender.reply(text)
        # On asyncio, anyio cancels a task that waits. Were a stream to send as fast as its client
        # takes the items, the client would not be seen to wait, and would miss its timeouts.
        await anyio.lowlevel.checkpoint()

    async def abort(self) -> None:
        self.abort_at_once()

    def lose(self) -> None:
        self._client.close(None)

    def failed(self, error: BaseException) -> None:
        self._client.fail(error)

    async def write(self, frame: str | bytes) -> None:
        await self._client.deliver(frame)

    def ping(self) -> Awaitable[float]:
        return _Pong()

    async def send_close(self, close: Close) -> None:
        self._client.close_with(close)

    def interrupt(self) -> None:
        """Do nothing: `MemoryClient.close_with` ends the queue for which senders wait."""


class _Pong:
    """A pong that has already been received."""

    def __await__(self) -> Generator[Any, Any, float]:
        yield from ()
        return 0.0
