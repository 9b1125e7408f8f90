"""Client for tests of an app: in memory, without a port, through the code of real connections."""

import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import anyio
from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.app import WebSuckets
from websuckets.client.buffers import Buffer, ReadingGate, Signal
from websuckets.client.calls import Call
from websuckets.client.errors import CommandError
from websuckets.client.frames import (
    Frame,
    ReceivedEvent,
    cancel_frame,
    command_frame,
    payload_json,
    read_frame,
)
from websuckets.client.replies import Replies
from websuckets.client.streams import Stream, StreamCall
from websuckets.client.timeouts import within
from websuckets.runtime.event_loop import spawn
from websuckets.runtime.tracebacks import leave_out_our_frames
from websuckets.serving.lifecycle import RunningApp
from websuckets.socket import Socket, sent_headers
from websuckets.transports.memory import MemoryClient

__all__ = ["CommandError", "ReceivedEvent", "TestClient"]

TIMEOUT: Final = 5
"""Seconds that methods wait by default, and that a stopping app has to finish."""

HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class TestClient:
    """A client of an app, which runs for as long as the client is entered as a context.

    Entering starts the app and opens one connection; `connect` opens others. ``token``, if it is
    not ``None``, is sent with each command that is given no token of its own. Entering raises the
    errors of `WebSuckets.serve`, and `HandshakeRefused` where an ``on_handshake`` hook raises it.
    Leaving closes the connection with 1000 and stops the app, which has 5 seconds to finish.

    Methods raise ``websockets.exceptions.ConnectionClosed`` once the connection is closed,
    ``TimeoutError`` after ``timeout`` seconds (``None`` waits without limit), any error inside
    websuckets, and `RuntimeError` in another event loop than the one that has entered the client.
    The command of a handler that fails is answered with an error, as in production.
    """

    __test__ = False  # else pytest takes the class for a test

    def __init__(
        self,
        app: WebSuckets,
        path: str = "/",
        headers: HeadersLike = (),
        *,
        token: str | None = None,
    ) -> None:
        if not isinstance(app, WebSuckets):
            raise TypeError(
                f"TestClient takes the WebSuckets, not a {type(app).__name__}; of an app that was "
                "mounted, pass the app itself"
            )
        self.token: str | None = token
        """Token of commands that are given none; it may be set, for what is sent from then on."""
        self._app = app
        self._request = Request(path, Headers(headers))
        self._request.headers.setdefault("Host", "localhost")
        self._running: RunningApp | None = None
        self._stack = AsyncExitStack()
        self._opened: _Inbox | None = None
        self._ids = count(1)

    def connect(
        self, path: str = "/", headers: HeadersLike = (), *, token: str | None = None
    ) -> "TestClient":
        """Return a client, to be entered as a context, with another connection to the app.

        ``path`` and ``headers`` are those of its opening handshake; ``token`` is that of its own
        commands.
        """
        another = TestClient(self._app, path, headers, token=token)
        another._running = self._inbox.app
        return another

    @property
    def socket(self) -> Socket:
        """The server's side of the connection."""
        return self._inbox.client.socket

    @property
    def response_headers(self) -> Headers:
        """Headers that the app added to the handshake response: see `ResponseHeaders`."""
        return Headers(sent_headers(self._inbox.client.socket))

    @property
    def close_code(self) -> int | None:
        """The code with which the connection was closed; ``None`` while it is open."""
        closed = self._inbox.client.closed
        return None if closed is None else int(closed.code)

    @property
    def close_reason(self) -> str | None:
        closed = self._inbox.client.closed
        return None if closed is None else closed.reason

    async def send(
        self,
        event: str,
        payload: Any = None,
        token: str | None = None,
        id: str | int | None = None,
        *,
        key: str | None = None,
        since: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        """Send the command ``event``, with an ``id`` and a ``key`` if these are not ``None``.

        The payload is anything that pydantic serialises. With a ``key``, of 1 to 128 characters, a
        command that is declared with ``once=True`` takes effect once, however often it is sent.
        ``since`` are the positions up to which the client has seen channels, each as epoch and
        offset. ``None`` for the ``token`` stands for `TestClient.token`, and ``""`` is an empty
        token.
        """
        await self.send_frame(command_frame(*self._fields(event, payload, token), id, key, since))

    async def send_frame(self, frame: str | bytes) -> None:
        """Send a frame of any text or bytes."""
        await self._here.client.send(frame)

    async def receive(self, timeout: float | None = TIMEOUT) -> ReceivedEvent:
        """Return the next event that is not a reply to a `call` or a `stream`.

        Offsets without an event, which stand for events that exclude this connection, are left out.

        Raises `TimeoutError` after ``timeout`` seconds; ``None`` waits for ever.
        Raises `CommandError` for an error, and `ValueError` for a frame that is neither an event
        nor an error, which stays for `receive_frame`.
        """
        inbox = self._here
        with within(timeout, "no event"):
            while (frame := await inbox.take()).is_offset:
                pass
        if not frame.is_reply:
            inbox.put_back(frame)
            raise ValueError(
                f"the next frame is not an event: {frame.content!r:.80}; receive_frame() takes it"
            )
        return frame.event()

    async def receive_frame(self, timeout: float | None = TIMEOUT) -> str | bytes:
        """Return the next frame of any kind that is not a reply to a `call` or a `stream`.

        Raises `TimeoutError` after ``timeout`` seconds; ``None`` waits for ever.
        """
        with within(timeout, "no frame"):
            return (await self._here.take()).content

    async def call(
        self,
        event: str,
        payload: Any = None,
        token: str | None = None,
        timeout: float | None = TIMEOUT,
        *,
        key: str | None = None,
        since: Mapping[str, tuple[str, int]] | None = None,
    ) -> ReceivedEvent:
        """Send the command ``event`` with an id of its own and return the last reply to it.

        ``payload``, ``token``, ``key`` and ``since`` are those of `send`; ``timeout``, in seconds,
        is that of `receive`. Other events that come meanwhile are kept for `receive`. Raises
        `CommandError` if the last reply is an error.
        """
        caller, id = _Caller(self._here), f"call {next(self._ids)}"
        call = Call(id, *self._fields(event, payload, token), key, since, changed=caller)
        return (await call.run(caller, timeout)).event()

    def stream(
        self,
        event: str,
        payload: Any = None,
        token: str | None = None,
        timeout: float | None = TIMEOUT,
    ) -> AsyncGenerator[ReceivedEvent, None]:
        """Send the command ``event`` with an id of its own; return an async generator of its items.

        ``payload`` and ``token`` are those of `send`; ``timeout`` is in seconds for each item. The
        command is sent at once; only if the queue of frames that the server has not read is full,
        the command is sent when the first item is asked for. To leave the stream early, close the
        generator, which cancels the stream on the server, too
        (``async with contextlib.aclosing(client.stream(...)) as items``). Asking for an item raises
        `CommandError`, and `ValueError` for the reply of a command that is not a stream.
        """
        caller, id = _Caller(self._here), f"stream {next(self._ids)}"
        fields = self._fields(event, payload, token)
        items: Buffer[Frame] = Buffer(sys.maxsize, ReadingGate())
        call = StreamCall(id, *fields, items=items, changed=caller)
        return Stream(call, caller, Frame.event, timeout)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with this code and reason; do not wait for the server."""
        self._here.client.close(code, reason)

    async def abort(self) -> None:
        """Abort the connection, like a client that crashes or loses its network."""
        self._here.client.close(None)

    async def wait_closed(self, timeout: float | None = TIMEOUT) -> None:
        """Wait until either side has closed the connection; received frames can still be read.

        Raises `TimeoutError` after ``timeout`` seconds; ``None`` waits for ever.
        """
        with within(timeout, "the connection was not closed"):
            await self._here.client.has_closed.wait()

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RuntimeError("a TestClient is entered once; make another, or client.connect()")
        async with AsyncExitStack() as stack:
            if self._running is None:
                try:
                    self._running = await stack.enter_async_context(self._app._embedded(TIMEOUT))
                except Exception as error:
                    leave_out_our_frames(error)
                    raise
            app = self._running
            app.loop.check(_OTHER_LOOP)
            size = app.limits.message_size
            client = MemoryClient(self._request, app.connections, size, app.timeouts)
            # Not in a task group: another task may leave a fixture than the one that entered it.
            self._server = spawn(client.serve)
            try:
                with within(TIMEOUT, "the opening handshake was not answered"):
                    await client.wait_open()
            except BaseException:
                client.close(None)
                raise
            self._opened = _Inbox(app, client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client = self._here.client
        client.note = "this TestClient has been left; call it within its `async with`"
        async with self._stack:
            if client.closed is None:
                client.close(1000)
                with anyio.move_on_after(TIMEOUT):
                    await client.gone.wait()
        if exc is None:
            client.raise_failure()

    def _fields(
        self, event: str, payload: Any, token: str | None
    ) -> tuple[str, bytes | None, str | None]:
        """Return the name, the payload as JSON, and the token of a command."""
        return event, payload_json(payload), self.token if token is None else token

    @property
    def _inbox(self) -> "_Inbox":
        if self._opened is None:
            raise RuntimeError("it is not connected yet: async with TestClient(app) as client")
        return self._opened

    @property
    def _here(self) -> "_Inbox":
        """The inbox; raises `RuntimeError` in another event loop than that of the connection."""
        return self._inbox.here()


_OTHER_LOOP: Final = (
    "this TestClient was entered in another event loop, and works in that one only: let a fixture "
    "and its tests have the same (pytest-asyncio calls that loop_scope)"
)


class _Inbox:
    """Received frames of one connection: replies to calls and streams, and all other frames."""

    def __init__(self, app: RunningApp, client: MemoryClient) -> None:
        self.app = app
        self.client = client
        self.replies: Replies = Replies()
        self._frames: list[Frame] = []
        self._next: anyio.Event | None = None  # set once the frame that one task reads is there

    def here(self) -> Self:
        """Return this inbox. Raises `RuntimeError` in another event loop."""
        self.app.loop.check(_OTHER_LOOP)
        return self

    async def take(self) -> Frame:
        """Return the next frame that answers no call and no stream."""
        while not self._frames:
            await self.read()
        return self._frames.pop(0)

    def put_back(self, frame: Frame) -> None:
        self._frames.insert(0, frame)

    async def read(self) -> None:
        """Read one frame, for whoever waits for it; if another task reads, wait for that one."""
        if self._next is not None:
            await self._next.wait()
            return
        self._next = anyio.Event()
        try:
            frame = read_frame(await self.client.receive())
        finally:  # tasks that wait take their frames now, or read the next one
            self._next.set()
            self._next = None
        if not self.replies.take(frame):
            self._frames.append(frame)


class _Caller(Signal):
    """Caller of one command, whose task reads from the connection while it waits for replies.

    Nothing is read while no task waits, so that a test sees what becomes of a slow client.
    """

    def __init__(self, inbox: _Inbox) -> None:
        super().__init__()
        self._inbox = inbox
        self._unsent: str | None = None

    def check_loop(self) -> None:
        self._inbox.here()

    def start(self, call: Call) -> None:
        text = call.text(None)
        if not self._inbox.client.offer(text):
            self._unsent = text
        self._inbox.replies.add(call)

    def cancel(self, call: Call) -> None:
        call.cancel()
        inbox = self._inbox
        if self._unsent is not None:
            inbox.replies.remove(call.id)
        elif call.id in inbox.replies:
            with suppress(RuntimeError):  # a stream may be deleted in any thread
                inbox.here().client.post(cancel_frame(call.id))

    async def wait(self) -> None:
        if self._unsent is None:
            await self._inbox.read()
        else:
            await self._inbox.client.send(self._unsent)
            self._unsent = None
