"""WebSocket connections of an ASGI server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, NoReturn, TypeAlias, TypeVar
from urllib.parse import quote

import anyio
from websockets import CloseCode
from websockets.datastructures import Headers
from websockets.frames import Close
from websockets.http11 import Request

from websuckets.connections.admission import join_cookies
from websuckets.exc import HandshakeRefused
from websuckets.limits import Limits
from websuckets.protocol.transport import Acceptor, ConnectionHandler, HttpResponse
from websuckets.runtime.event_loop import on_trio
from websuckets.socket import sent_headers
from websuckets.transports.plain import Frames, PlainSocket
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["AsgiReceive", "AsgiScope", "AsgiSend", "path_within", "send_response", "serve_asgi"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("websuckets")

# Types of the ASGI specification: https://asgi.readthedocs.io/en/stable/specs/www.html
AsgiScope: TypeAlias = MutableMapping[str, Any]
AsgiReceive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiSend: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

READ_AHEAD: Final = 64 * 1024
"""Bytes of commands that wait for the running command; the ASGI server holds back the rest."""

TIME_TO_READ_ON: Final = 0.05
"""Seconds after which the reading task reads on, if a command then runs."""

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


async def serve_asgi(
    scope: AsgiScope,
    receive: AsgiReceive,
    send: AsgiSend,
    acceptor: Acceptor,
    limits: Limits,
    timeouts: PeerTimeouts,
) -> None:
    """Answer the opening handshake, and run the connection handler until the client has left."""
    await receive()  # "websocket.connect"
    kind = _AsgiSocket if on_trio() else _AsyncioSocket
    socket = kind(scope, receive, send, acceptor, limits.message_size, timeouts)
    handler = acceptor.accept(socket)
    try:
        refusal = await handler.opening()
        if refusal is None:
            await send(socket.accept_message())
    except BaseException:
        await handler.not_opened()
        raise
    if refusal is not None:
        await handler.not_opened()
        await _refuse(refusal, scope, send)
        return
    socket.open()
    socket.ended = handler.disconnected
    await _serve(handler, socket)


async def _serve(handler: ConnectionHandler, socket: "_AsgiSocket") -> None:
    """Serve the connection, and read meanwhile, to notice that the client has left."""
    error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, handler, socket)
        try:
            await handler.serve()
            await socket.wait_closed()  # another task may be closing the connection
            await socket.discard_frames()
        except BaseException as raised:
            error = raised
        socket.closed_by_peer(None)  # does nothing if the connection is closed already
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _read(handler: ConnectionHandler, socket: "_AsgiSocket") -> None:
    try:
        await socket.read()
    except anyio.get_cancelled_exc_class():
        if socket.close_code is None:  # cancelled by the server, which nothing else reports
            socket.closed_by_peer(None)
            handler.cancel()
        raise


class _AsgiSocket(PlainSocket):
    transport = "ASGI"
    _shields_frames = True

    def __init__(
        self,
        scope: AsgiScope,
        receive: AsgiReceive,
        send: AsgiSend,
        acceptor: Acceptor,
        max_size: int | None,
        timeouts: PeerTimeouts,
    ) -> None:
        request, client = _request(scope), scope.get("client")
        address = acceptor.address_of(None if client is None else tuple(client), request.headers)
        frames = Frames(READ_AHEAD)
        super().__init__(request, address, frames, max_size, timeouts, path_within(scope))
        self.subprotocol = acceptor.subprotocol(scope.get("subprotocols") or ())
        self._asgi_receive = receive
        self._asgi_send = send
        self._reading = anyio.CancelScope()
        self._is_receiving = False
        self._is_gone = False
        """True once the server has reported that the client has left."""
        self._has_received = anyio.Event()
        """Event that is set when the last receive ends after the connection was closed."""
        self._sending: set[anyio.CancelScope] = set()

    def accept_message(self) -> MutableMapping[str, Any]:
        """Return the event that opens the connection; after it, no header can be added."""
        event: dict[str, Any] = {"type": "websocket.accept"}
        if self.subprotocol is not None:
            event["subprotocol"] = self.subprotocol
        if headers := sent_headers(self):
            event["headers"] = _encoded(headers)
        return event

    async def read(self) -> None:
        """Take frames from the server until either side closes the connection."""
        with self._reading:
            while not self._is_closed:
                await self._read_ahead()

    async def _read_ahead(self) -> None:
        frame = await self._next_frame()
        if frame is not None:
            await self.arrived(frame)

    async def _next_frame(self) -> str | bytes | None:
        """Return the next frame from the server, or ``None`` once the client has left."""
        self._is_receiving = True
        event: MutableMapping[str, Any]
        try:
            event = await self._asgi_receive()
        except Exception as error:
            self._log_loss(error)
            event = {"type": "websocket.disconnect"}
        finally:
            self._is_receiving = False
            if self._is_closed:
                self._has_received.set()
        if event["type"] == "websocket.disconnect":
            self._is_gone = True
            self.closed_by_peer(event.get("code"), event.get("reason") or "")
            return None
        text: str | None = event.get("text")
        data: bytes | None = event.get("bytes")
        return data if text is None else text

    async def discard_frames(self) -> None:
        """Discard what the client still sends, after the close.

        Until that is done, hypercorn 0.18 does not notice that the client has answered our close
        frame or has left.
        """
        await self._stop_receiving()
        end = anyio.current_time() + CLOSE_TIMEOUT
        is_over = False
        while not is_over and anyio.current_time() < end:
            was_gone = self._is_gone
            with anyio.move_on_after(self._silence) as waiting:
                is_over = await self._next_frame() is None and was_gone
            if waiting.cancelled_caught:
                # Silence says nothing while the event loop is held up: frames may be there already.
                is_over = anyio.current_time() < waiting.deadline + self._silence

    @property
    def _silence(self) -> float:
        """Seconds without a frame until no more frames are expected."""
        return SILENCE_AFTER_DEPARTURE if self._is_gone else SILENCE

    async def abort(self) -> None:
        """Close the connection, with little time for the close frame, as ASGI cannot abort."""
        with anyio.move_on_after(ABORT_TIMEOUT, shield=True):
            await self.close(CloseCode.INTERNAL_ERROR)

    def abort_at_once(self) -> None:
        """Treat the connection as lost; the server may still wait, as ASGI cannot abort."""
        self.closed_by_peer(None)

    async def _send(self, frame: str | bytes) -> None:
        key = "text" if isinstance(frame, str) else "bytes"
        # A frame is sent whole or not at all: on trio, a cancelled hypercorn sends half a frame.
        with anyio.CancelScope(shield=self._shields_frames) as sending:
            self._sending.add(sending)
            try:
                await self._send_event({"type": "websocket.send", key: frame})
            finally:
                self._sending.discard(sending)

    def _pong(self) -> NoReturn:
        raise RuntimeError("ping(): an ASGI application cannot; its server sends pings by itself")

    async def _close(self, close: Close) -> None:
        await self._stop_receiving()  # granian 2.8 does not close while a task receives
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await self._send_event(
                {"type": "websocket.close", "code": int(close.code), "reason": close.reason}
            )

    async def _stop_receiving(self) -> None:
        """Cancel the task that receives, if any, and wait for its end."""
        if self._is_receiving:
            self._reading.cancel()
            with anyio.CancelScope(shield=True):
                await self._has_received.wait()

    def _closed(self) -> None:
        """Mark the connection as closed, and cancel the sends that wait for the client."""
        super()._closed()
        for sending in self._sending:
            sending.cancel()

    async def _send_event(self, event: MutableMapping[str, Any]) -> None:
        """Send an event to the server; take an error to mean that the client has left.

        By the specification the error is an `OSError`; uvicorn and hypercorn raise other errors for
        a client that broke the protocol.
        """
        try:
            await self._asgi_send(event)
        except Exception as error:
            self._log_loss(error)
            self.closed_by_peer(None)

    def _log_loss(self, error: Exception) -> None:
        logger.debug("the ASGI server lost %s: %s", self.id, type(error).__name__)


class _AsyncioSocket(_AsgiSocket):
    """A connection on asyncio, which needs neither the reading task nor cancel scopes as a rule.

    `receive` takes a message directly from the server. The reading task reads on when a command
    takes long or sends something, to notice that the client has left.

    Servers for asyncio write each frame as a whole, so sending may be cancelled.
    """

    _shields_frames = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._loop = asyncio.get_running_loop()
        self._read_on: asyncio.Event | None = None  # not None while the reading task pauses
        self._is_watched = False
        self._task: Any = asyncio.current_task()  # the task that serves
        self._waits: int | None = None  # in `_while_open`: the ``cancelling()`` before
        self._is_interrupted = False

    async def _read_ahead(self) -> None:
        await super()._read_ahead()
        if self._frames.are_awaited:
            self._read_on = asyncio.Event()
            await self._read_on.wait()

    async def receive(self) -> str | bytes:
        await self._yield_to_others()
        if self._read_on is None or self._frames.are_there or self._is_closed:
            frame = await self._receive_queued()
        else:
            frame = await self._receive()
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(TIME_TO_READ_ON, self._check_again)
        return frame

    async def _receive(self) -> str | bytes:
        """Return the next frame, taken from the server without the reading task."""
        frame = await self._while_open(self._next_frame())
        if frame is not None and self._is_too_long(frame):
            await self._close_for_size()
        if frame is None or self._is_closed:
            raise self._closed_error()
        return frame

    async def _while_open(self, waiting: Awaitable[T]) -> T:
        """Wait in the task that serves, until another task closes the connection.

        Then raise the error of a closed connection. No scope of the task is cancelled, and
        ``cancelling()`` is left unchanged, so that later hooks do not count as cancelled.
        """
        before = self._waits = self._task.cancelling()
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._is_interrupted and self._task.cancelling() == before + 1:
                raise self._closed_error() from None
            raise
        finally:
            self._waits = None
            if self._is_interrupted:
                self._is_interrupted = False
                self._task.uncancel()

    def _closed(self) -> None:
        super()._closed()
        # A task that is cancelled already, perhaps by anyio, has to see that cancellation only.
        if self._waits == self._task.cancelling() and asyncio.current_task() is not self._task:
            self._is_interrupted = True
            self._task.cancel()

    def _check_again(self) -> None:
        self._is_watched = False
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        """Wake the reading task, unless a task receives already."""
        if self._read_on is not None and not self._is_receiving:
            self._read_on.set()
            self._read_on = None

    async def send(self, message: str | bytes, *, text: bool | None = None) -> None:
        self._go_on_reading()
        await super().send(message, text=text)

    async def reply_beside(self, text: str) -> None:
        self._go_on_reading()
        await super().reply_beside(text)

    async def reply(self, text: str) -> None:
        if self._watchdog.is_blocked:
            await super().reply(text)
            return
        self._check_open()
        self._watchdog.blocked()
        try:
            await self._while_open(self._send_event({"type": "websocket.send", "text": text}))
        finally:
            self._watchdog.unblocked()
        self._check_open()


def _request(scope: AsgiScope) -> Request:
    """Return the opening handshake as it came, including the path of the mount."""
    raw_path = scope.get("raw_path")
    path = quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    path, *_ = path.split("?")  # some servers leave the query in the path
    query = scope.get("query_string", b"").decode("latin-1")
    headers = Headers(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    )
    join_cookies(headers)
    return Request(f"{path}?{query}" if query else path, headers)


def path_within(scope: AsgiScope) -> str:
    """Return the path below the mount point of the application."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if path != root and not path.startswith(f"{root}/"):  # the root is only the beginning of a name
        return path
    return path[len(root) :] or "/"


async def _refuse(refusal: HandshakeRefused, scope: AsgiScope, send: AsgiSend) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})  # the server answers 403
        return
    response = HttpResponse(refusal.status, refusal.text, refusal.headers)
    await send_response(response, "websocket.http.response", send)


async def send_response(
    response: HttpResponse, kind: str, send: AsgiSend, *, has_body: bool = True
) -> None:
    """Send a response by the events of ASGI whose types begin with ``kind``.

    ``has_body`` is false for the response to a HEAD request.
    """
    headers = _encoded(response.all_headers().items())
    await send({"type": f"{kind}.start", "status": int(response.status), "headers": headers})
    await send({"type": f"{kind}.body", "body": response.body if has_body else b""})


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of ASGI."""
    return [(name.lower().encode(), value.encode()) for name, value in headers]
