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
from websuckets.protocol.transport import Acceptor, ConnectionHandler
from websuckets.runtime.event_loop import on_trio
from websuckets.socket import sent_headers
from websuckets.transports.plain import Frames, PlainSocket
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["AsgiReceive", "AsgiScope", "AsgiSend", "path_within", "serve_asgi"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("websuckets")

# As the ASGI specification has them: https://asgi.readthedocs.io/en/stable/specs/www.html
AsgiScope: TypeAlias = MutableMapping[str, Any]
AsgiReceive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiSend: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

READ_AHEAD: Final = 64 * 1024
"""Bytes of commands that wait for the one that runs; the ASGI server holds back what is more."""

TIME_TO_READ_ON: Final = 0.05
"""Seconds after which one reads on beside commands, if then any runs."""

CLOSE_TIMEOUT: Final = 10
"""Seconds in which a client may take its close frame: what ``websockets`` gives it."""

SILENCE: Final = 1
SILENCE_OF_NOBODY: Final = 0.01
"""Seconds in which nothing comes after the end, until no more is expected; the latter when the
client is known to have left: what it sent before may come after that."""

ABORT_TIMEOUT: Final = 1
"""Seconds in which a client that is given up may take its close frame."""


async def serve_asgi(
    scope: AsgiScope,
    receive: AsgiReceive,
    send: AsgiSend,
    acceptor: Acceptor,
    limits: Limits,
    timeouts: PeerTimeouts,
) -> None:
    """Answer the opening handshake, and drive what the door gives until the client is gone."""
    await receive()  # "websocket.connect"
    kind = _AsgiSocket if on_trio() else _AsyncioSocket
    socket = kind(scope, receive, send, acceptor, limits.message_size, timeouts)
    accepted = acceptor.accept(socket)
    try:
        refusal = await accepted.opening()
        if refusal is None:
            await send(socket.accepted())
    except BaseException:
        await accepted.not_opened()
        raise
    if refusal is not None:
        await accepted.not_opened()
        await _refuse(refusal, scope, send)
        return
    socket.open()
    socket.ended = accepted.disconnected
    await _serve(accepted, socket)


async def _serve(accepted: ConnectionHandler, socket: "_AsgiSocket") -> None:
    """Serve it, and read meanwhile: nobody else would notice that the client has left."""
    error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, accepted, socket)
        try:
            await accepted.serve()
            await socket.wait_closed()  # somebody else may be closing it
            await socket.leave_nothing()
        except BaseException as raised:
            error = raised
        socket.closed_by_peer(None)  # unless it is known to be closed
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _read(accepted: ConnectionHandler, socket: "_AsgiSocket") -> None:
    try:
        await socket.read()
    except anyio.get_cancelled_exc_class():
        if socket.close_code is None:  # the server gives us up, and nobody else knows
            socket.closed_by_peer(None)
            accepted.cancel()
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
        """Whether the server has told that the client has left."""
        self._has_received = anyio.Event()
        """Set when nobody receives any more, once it is closed."""
        self._sending: set[anyio.CancelScope] = set()

    def accepted(self) -> MutableMapping[str, Any]:
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
        """From the server, unless the client has left."""
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

    async def leave_nothing(self) -> None:
        """Take what the client has sent and nobody wants: hypercorn 0.18 does not go on, to see
        that it has answered our close or is gone, before that is done."""
        await self._stop_receiving()
        end = anyio.current_time() + CLOSE_TIMEOUT
        with anyio.move_on_after(self._silence) as waiting:
            while True:
                is_over = self._is_gone
                if await self._next_frame() is None and is_over:
                    break
                waiting.deadline = min(anyio.current_time() + self._silence, end)

    @property
    def _silence(self) -> float:
        """Seconds in which nothing comes, until no more is expected."""
        return SILENCE_OF_NOBODY if self._is_gone else SILENCE

    async def abort(self) -> None:
        """ASGI has no way to just drop a connection: close it, if the client takes that."""
        with anyio.move_on_after(ABORT_TIMEOUT, shield=True):
            await self.close(CloseCode.INTERNAL_ERROR)

    def abort_at_once(self) -> None:
        """The server itself may go on waiting for the client: it cannot be told to drop it."""
        self.closed_by_peer(None)

    async def _send(self, frame: str | bytes) -> None:
        key = "text" if isinstance(frame, str) else "bytes"
        # A frame leaves whole or not at all: on trio, hypercorn leaves half of one if cancelled.
        with anyio.CancelScope(shield=self._shields_frames) as sending:
            self._sending.add(sending)
            try:
                await self._tell({"type": "websocket.send", key: frame})
            finally:
                self._sending.discard(sending)

    def _pong(self) -> NoReturn:
        raise RuntimeError("ping(): an ASGI application cannot; its server sends pings by itself")

    async def _close(self, close: Close) -> None:
        await self._stop_receiving()  # granian 2.8 closes nothing while somebody receives
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await self._tell(
                {"type": "websocket.close", "code": int(close.code), "reason": close.reason}
            )

    async def _stop_receiving(self) -> None:
        """It is closed: nobody wants what comes."""
        if self._is_receiving:
            self._reading.cancel()
            with anyio.CancelScope(shield=True):
                await self._has_received.wait()

    def _closed(self) -> None:
        """Whoever waits for a client that does not read, waits no more."""
        super()._closed()
        for sending in self._sending:
            sending.cancel()

    async def _tell(self, event: MutableMapping[str, Any]) -> None:
        """An error means that the client has left: by the specification an `OSError`; uvicorn and
        hypercorn have others for a client that broke the protocol."""
        try:
            await self._asgi_send(event)
        except Exception as error:
            self._log_loss(error)
            self.closed_by_peer(None)

    def _log_loss(self, error: Exception) -> None:
        logger.debug("the ASGI server lost %s: %s", self.id, type(error).__name__)


class _AsyncioSocket(_AsgiSocket):
    """Takes a shorter way than a task that reads, and a cancel scope around each reply.

    Who waits for a message receives it from the server. The task that reads goes on when a command
    takes its time, or sends something, so that one learns of a client that has left.

    What a server for asyncio sends, it hands over as a whole: sending may be cancelled.
    """

    _shields_frames = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._loop = asyncio.get_running_loop()
        self._read_on: asyncio.Event | None = None  # while the task that reads has nothing to do
        self._is_watched = False
        self._task: Any = asyncio.current_task()  # that serves
        self._waits: int | None = None  # in `_while_open`: its ``cancelling()`` until then
        self._is_interrupted = False

    async def _read_ahead(self) -> None:
        await super()._read_ahead()
        if self._frames.are_awaited:
            self._read_on = asyncio.Event()
            await self._read_on.wait()

    async def receive(self) -> str | bytes:
        await self._give_way()
        if self._read_on is None or self._frames.are_there or self._is_closed:
            frame = await self._receive_queued()
        else:
            frame = await self._receive()
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(TIME_TO_READ_ON, self._look_again)
        return frame

    async def _receive(self) -> str | bytes:
        """Without the task that reads."""
        frame = await self._while_open(self._next_frame())
        if frame is not None and self._is_too_long(frame):
            await self._close_for_size()
        if frame is None or self._is_closed:
            raise self._closed_error()
        return frame

    async def _while_open(self, waiting: Awaitable[T]) -> T:
        """Wait for it in the task that serves, until somebody else closes the connection.

        Then it raises what tells of that. It cancels no scope of the task, and leaves its
        ``cancelling()`` as it was: hooks that follow are not taken for cancelled.
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
        # Who is cancelled already, by anyio perhaps, has to see that and nothing else.
        if self._waits == self._task.cancelling() and asyncio.current_task() is not self._task:
            self._is_interrupted = True
            self._task.cancel()

    def _look_again(self) -> None:
        self._is_watched = False
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        """Unless somebody receives already."""
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
            await self._while_open(self._tell({"type": "websocket.send", "text": text}))
        finally:
            self._watchdog.unblocked()
        self._check_open()


def _request(scope: AsgiScope) -> Request:
    """The opening handshake as it came, whatever the application is mounted under."""
    raw_path = scope.get("raw_path")
    path = quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    path, *_ = path.split("?")  # which some servers leave there
    query = scope.get("query_string", b"").decode("latin-1")
    headers = Headers(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    )
    join_cookies(headers)
    return Request(f"{path}?{query}" if query else path, headers)


def path_within(scope: AsgiScope) -> str:
    """The path within what the application is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if path != root and not path.startswith(f"{root}/"):  # only the beginning of a name
        return path
    return path[len(root) :] or "/"


async def _refuse(refusal: HandshakeRefused, scope: AsgiScope, send: AsgiSend) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})  # which is a 403
        return
    body = refusal.text.encode()
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in refusal.headers.items()},
    }
    await send(
        {
            "type": "websocket.http.response.start",
            "status": int(refusal.status),
            "headers": _encoded(headers.items()),
        }
    )
    await send({"type": "websocket.http.response.body", "body": body})


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers]
