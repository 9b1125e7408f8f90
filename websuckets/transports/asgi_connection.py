"""A connection of an ASGI server: the base of both kinds, and the kind for any event loop.

An ASGI server tells an application that the client has left by an event, behind all messages that
the client sent before. So a task of the connection, `read`, takes events for as long as the
connection lasts, also while a command runs. `QueuedConnection` puts what that task takes into a
queue, from which the task that serves receives; it needs nothing but anyio. On asyncio
`asgi_asyncio.DirectConnection` takes its place, which does without the queue as a rule.
"""

import logging
from abc import abstractmethod
from collections.abc import Awaitable
from typing import Any, Final, NoReturn

import anyio
from websockets import CloseCode
from websockets.frames import Close

from websuckets.protocol.transport import Acceptor
from websuckets.socket import sent_headers
from websuckets.transports.asgi_events import (
    AsgiEvent,
    AsgiReceive,
    AsgiScope,
    AsgiSend,
    encoded,
    path_within,
    request_of,
)
from websuckets.transports.frame_queue import FrameQueue
from websuckets.transports.plain import PlainConnection
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["DISCONNECT", "AsgiConnection", "QueuedConnection", "event_of"]

logger: logging.Logger = logging.getLogger("websuckets")

READ_AHEAD: Final = 64 * 1024
"""Bytes of commands that wait for the running command; the ASGI server holds back the rest."""

CLOSE_TIMEOUT: Final = 10
"""Seconds in which a client may take its close frame: the default of ``websockets``."""

SILENCE: Final = 1
SILENCE_AFTER_DEPARTURE: Final = 0.01
"""Seconds without a frame after the close, until no more frames are expected.

``SILENCE_AFTER_DEPARTURE`` is for a client that is known to have left, but whose earlier frames may
still come.
"""

ABORT_TIMEOUT: Final = 1
"""Seconds in which a client may take its close frame when its connection is aborted."""

DISCONNECT: Final[AsgiEvent] = {"type": "websocket.disconnect"}
"""Event that stands for an error of the server, which is not asked for more."""


class AsgiConnection(PlainConnection):
    """A connection of an ASGI server, without the ways in which it receives and sends frames."""

    transport = "ASGI"

    def __init__(
        self,
        scope: AsgiScope,
        receive: AsgiReceive,
        send: AsgiSend,
        acceptor: Acceptor,
        max_size: int | None,
        timeouts: PeerTimeouts,
    ) -> None:
        request, client = request_of(scope), scope.get("client")
        address = acceptor.address_of(None if client is None else tuple(client), request.headers)
        subprotocol = acceptor.subprotocol(scope.get("subprotocols") or ())
        frames, path = FrameQueue(READ_AHEAD), path_within(scope)
        super().__init__(request, address, subprotocol, path, frames, max_size, timeouts)
        self._asgi_receive = receive
        self._asgi_send = send
        self._reading = anyio.CancelScope()
        self._is_receiving = False
        self._is_gone = False
        """True once the server has reported that the client has left."""
        self._has_received = anyio.Event()
        """Event that is set when the last receive ends after the connection was closed."""

    @abstractmethod
    async def read(self) -> None:
        """Take events from the server until either side closes, in a task beside that which serves.

        A connection that is closed notices all the same whether the client has left.
        """

    def accept_event(self) -> AsgiEvent:
        """Return the event that opens the connection; after it, no header can be added."""
        event: dict[str, Any] = {"type": "websocket.accept"}
        if self.socket.subprotocol is not None:
            event["subprotocol"] = self.socket.subprotocol
        if headers := sent_headers(self.socket):
            event["headers"] = encoded(headers)
        return event

    async def discard_frames(self) -> None:
        """Discard frames that the client still sends, after the close.

        Until that is done, hypercorn 0.18 does not notice that the client has answered our close
        frame or has left.
        """
        await self._stop_receiving()
        end = anyio.current_time() + CLOSE_TIMEOUT
        is_over = was_silent = False
        while not is_over and anyio.current_time() < end:
            was_gone = self._is_gone
            with anyio.move_on_after(self._silence) as waiting:
                is_over = await self._next_frame() is None and was_gone
            if waiting.cancelled_caught:
                # Silence says nothing while the event loop is held up: frames may be there already.
                # So short a silence as that of a client that has left has to come twice.
                is_silent = anyio.current_time() < waiting.deadline + self._silence
                is_over = is_silent and (was_silent or not was_gone)
                was_silent = is_silent

    @property
    def _silence(self) -> float:
        """Seconds without a frame until no more frames are expected."""
        return SILENCE_AFTER_DEPARTURE if self._is_gone else SILENCE

    async def abort(self) -> None:
        """Close the connection, with little time for the close frame, as ASGI cannot abort."""
        with anyio.move_on_after(ABORT_TIMEOUT, shield=True):
            await self.close(CloseCode.INTERNAL_ERROR, "")

    def lose(self) -> None:
        """Treat the connection as lost; the server may still wait, as ASGI cannot abort."""
        self.closed_by_peer(None)

    def ping(self) -> NoReturn:
        raise RuntimeError("ping(): an ASGI application cannot; its server sends pings by itself")

    async def send_close(self, close: Close) -> None:
        await self._stop_receiving()  # granian 2.8 does not close while a task receives
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await self._send_event(
                {"type": "websocket.close", "code": int(close.code), "reason": close.reason}
            )

    def failed(self, error: BaseException) -> None: ...

    # For both kinds:

    async def _read_one(self) -> None:
        frame = await self._next_frame()
        if frame is not None:
            await self.arrived(frame)

    async def _next_frame(self) -> str | bytes | None:
        """Return the next frame from the server, or ``None`` once the client has left."""
        self._is_receiving = True
        event: AsgiEvent
        try:
            event = await self._asgi_receive()
        except Exception as error:
            self._lost(error)
            event = DISCONNECT
        finally:
            self._is_receiving = False
            if self.state.is_closed:
                self._has_received.set()
        return self._frame_of(event)

    def _frame_of(self, event: AsgiEvent) -> str | bytes | None:
        """Return the frame of an event; ``None`` for an event that tells that the client left."""
        if event["type"] == "websocket.disconnect":
            self._is_gone = True
            self.closed_by_peer(event.get("code"), event.get("reason") or "")
            return None
        text: str | None = event.get("text")
        data: bytes | None = event.get("bytes")
        return data if text is None else text

    async def _stop_receiving(self) -> None:
        """Cancel the task that receives, if any, and wait for its end."""
        if self._is_receiving:
            self._reading.cancel()
            with anyio.CancelScope(shield=True):
                await self._has_received.wait()

    async def _send_event(self, event: AsgiEvent) -> None:
        try:
            await self._asgi_send(event)
        except Exception as error:
            self._lost(error)

    async def _complete(self, sending: Awaitable[None]) -> None:
        """Await the rest of what `_send_event` does at once."""
        try:
            await sending
        except Exception as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Take an error of the server to mean that the client has left.

        By the specification the error is an `OSError`; uvicorn and hypercorn raise other errors for
        a client that broke the protocol.
        """
        self.lose()
        logger.debug("the ASGI server lost %s: %s", self.socket.id, type(error).__name__)


class QueuedConnection(AsgiConnection):
    """A connection on any event loop: one task takes the events, another receives the messages."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sending: set[anyio.CancelScope] = set()

    async def read(self) -> None:
        with self._reading:
            while not self.state.is_closed:
                await self._read_one()

    async def receive(self) -> str | bytes:
        await self._take_turn()
        return await self._receive_queued()

    async def reply(self, text: str) -> None:
        await self.sender.reply(text)

    async def write(self, frame: str | bytes) -> None:
        # A frame is sent whole or not at all: on trio, a cancelled hypercorn sends half a frame.
        with anyio.CancelScope(shield=True) as sending:
            self._sending.add(sending)
            try:
                await self._send_event(event_of(frame))
            finally:
                self._sending.discard(sending)

    def interrupt(self) -> None:
        for sending in self._sending:
            sending.cancel()


def event_of(frame: str | bytes) -> AsgiEvent:
    """Return the event that sends a frame."""
    return {"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame}
