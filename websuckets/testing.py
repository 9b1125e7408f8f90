"""An app under test: in memory, without a port, through what serves real connections."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import anyio
from pydantic_core import from_json, to_json
from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.app import WebSuckets
from websuckets.backend import spawn
from websuckets.envelope import ClientEvent
from websuckets.lifecycle import Running
from websuckets.socket import Socket, sent_headers
from websuckets.transports.memory import MemoryClient

__all__ = ["CommandError", "ReceivedEvent", "TestClient"]

TIMEOUT: Final = 5
"""Seconds."""

HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class CommandError(Exception):
    """An error that the server sent: its name, its details, and the id of the command."""

    def __init__(self, error: str, details: Any = None, id: str | int | None = None) -> None:
        super().__init__(error, details, id)
        self.error = error
        self.details = details
        self.id = id

    def __str__(self) -> str:
        return self.error if self.details is None else f"{self.error}: {self.details}"


class ReceivedEvent(ClientEvent):
    """An event as it came: a `ClientEvent` with the ``id`` of the command that it answers, if any.

    ``more`` says that it is an item of a stream, and not the last reply.
    """

    __slots__ = ("id", "more")

    id: str | int | None
    more: bool


class TestClient:
    """A client of an app that runs for as long as this is entered as a context.

    Entering starts the app and opens one connection; `connect` opens others. It raises what
    `WebSuckets.serve` does, and `HandshakeRefused` where an ``on_handshake`` hook does. Leaving
    closes the connection with 1000 and stops the app, which has 5 seconds to finish what it does.

    Methods raise ``websockets.exceptions.ConnectionClosed`` once the connection is closed,
    ``TimeoutError`` after ``timeout`` seconds (``None`` waits for good), and whatever fails inside
    websuckets. A handler that fails is answered with an error, as it is in production.
    """

    __test__ = False  # or pytest takes it for a test

    def __init__(self, app: WebSuckets, path: str = "/", headers: HeadersLike = ()) -> None:
        if not isinstance(app, WebSuckets):
            raise TypeError(f"TestClient takes the WebSuckets, not a {type(app).__name__}")
        self._app = app
        self._request = Request(path, Headers(headers))
        self._request.headers.setdefault("Host", "localhost")
        self._running: Running | None = None
        self._stack = AsyncExitStack()
        self._opened: _Inbox | None = None
        self._ids = count(1)

    def connect(self, path: str = "/", headers: HeadersLike = ()) -> "TestClient":
        """One more connection to the same running app, for as long as it is entered."""
        another = TestClient(self._app, path, headers)
        another._running = self._inbox.app
        return another

    @property
    def socket(self) -> Socket:
        """The server's side of the connection."""
        return self._inbox.client.socket

    @property
    def response_headers(self) -> Headers:
        """What the app added to the answer to the opening handshake: see `ResponseHeaders`."""
        return Headers(sent_headers(self._inbox.client.socket))

    @property
    def close_code(self) -> int | None:
        """What the connection was closed with; ``None`` while it is open."""
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
    ) -> None:
        """Send a command. The payload is anything that pydantic serialises."""
        fields = {"event": event, "payload": payload, "token": token, "id": id}
        await self._send({name: value for name, value in fields.items() if value is not None})

    async def send_frame(self, frame: str | bytes) -> None:
        """Send any text or bytes."""
        await self._inbox.client.send(frame)

    async def receive(self, timeout: float | None = TIMEOUT) -> ReceivedEvent:
        """The next event that is no reply to a `call` or a `stream`.

        Raises `CommandError` for an error, and `ValueError` for what is neither, which then is left
        to `receive_frame`.
        """
        inbox = self._inbox
        with _within(timeout, "no event"):
            frame = await inbox.take()
        if not frame.is_reply:
            inbox.put_back(frame)
            raise ValueError(
                f"the next frame is no event: {frame.content!r:.80}; receive_frame() takes it"
            )
        return frame.event()

    async def receive_frame(self, timeout: float | None = TIMEOUT) -> str | bytes:
        """The next frame that is no reply to a `call` or a `stream`, whatever it is."""
        with _within(timeout, "no frame"):
            return (await self._inbox.take()).content

    async def call(
        self,
        event: str,
        payload: Any = None,
        token: str | None = None,
        timeout: float | None = TIMEOUT,
    ) -> ReceivedEvent:
        """Send a command with an id of its own and wait for the last reply to it.

        Other events that come meanwhile are kept for `receive`. Raises `CommandError`.
        """
        with self._inbox.claimed(f"call {next(self._ids)}") as id:
            try:
                with _within(timeout, f"no reply to {event!r}"):
                    await self.send(event, payload, token, id)
                    while (frame := await self._inbox.take(id)).more:
                        pass
            except BaseException:
                await self._give_up(id)
                raise
            return frame.event()

    async def stream(
        self,
        event: str,
        payload: Any = None,
        token: str | None = None,
        timeout: float | None = TIMEOUT,
    ) -> AsyncGenerator[ReceivedEvent, None]:
        """Send a command with an id of its own and give each item that it yields.

        ``timeout`` is for each of them. To leave it early, close it: then the stream is cancelled
        on the server, too (``async with contextlib.aclosing(client.stream(...)) as items``).
        Raises `CommandError`, and `ValueError` for the reply of a command that is no stream.
        """
        inbox = self._inbox
        with inbox.claimed(f"stream {next(self._ids)}") as id:
            await self.send(event, payload, token, id)
            runs = True
            try:
                while runs:
                    with _within(timeout, f"no item of {event!r}"):
                        frame = await inbox.take(id)
                    runs = frame.more
                    item = frame.event()
                    if runs:
                        yield item
                    elif item.payload is not None:
                        raise ValueError(f"{event!r} is no stream; call() returns its reply")
            finally:
                if runs:
                    await self._give_up(id)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; what the server still does for it is not waited for."""
        self._inbox.client.close(code, reason)

    async def abort(self) -> None:
        """Drop the connection, as a client does that crashes or loses its network."""
        self._inbox.client.close(None)

    async def wait_closed(self, timeout: float | None = TIMEOUT) -> None:
        """Wait until either side has closed the connection; frames that came before stay."""
        with _within(timeout, "the connection was not closed"):
            await self._inbox.client.has_closed.wait()

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RuntimeError("a TestClient is entered once; make another, or client.connect()")
        async with AsyncExitStack() as stack:
            if self._running is None:
                self._running = await stack.enter_async_context(self._app._embedded(TIMEOUT))
            app = self._running
            size = app.limits.message_size
            client = MemoryClient(self._request, app.connections, size, app.patience)
            # Nobody's child: a fixture may be left by another task than the one that entered it.
            self._server = spawn(client.serve)
            try:
                with _within(TIMEOUT, "the opening handshake was not answered"):
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
        client = self._inbox.client
        async with self._stack:
            if client.closed is None:
                client.close(1000)
                with anyio.move_on_after(TIMEOUT):
                    await client.gone.wait()
        if exc is None:
            client.raise_failure()

    @property
    def _inbox(self) -> "_Inbox":
        if self._opened is None:
            raise RuntimeError("it is not connected yet: async with TestClient(app) as client")
        return self._opened

    async def _give_up(self, id: str) -> None:
        """Nobody waits for replies to this command any more: if it is a stream, it ends."""
        if self._inbox.client.closed is None:
            await self._send({"cancel": id})

    async def _send(self, fields: dict[str, Any]) -> None:
        await self.send_frame(to_json(fields).decode())


@contextmanager
def _within(timeout: float | None, otherwise: str) -> Iterator[None]:
    try:
        with anyio.fail_after(timeout):
            yield
    except TimeoutError:
        raise TimeoutError(f"{otherwise} within {timeout} seconds") from None


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame that the server sent, and what it says if it is JSON."""

    content: str | bytes
    fields: dict[str, Any]

    @property
    def id(self) -> str | int | None:
        id = self.fields.get("id")
        return id if isinstance(id, str | int) else None

    @property
    def more(self) -> bool:
        return self.fields.get("more") is True

    @property
    def is_reply(self) -> bool:
        """Whether it is an event or an error."""
        return isinstance(self.fields.get("event", self.fields.get("error")), str)

    def event(self) -> ReceivedEvent:
        """Raises `CommandError` if it is an error."""
        if "event" not in self.fields:
            raise CommandError(self.fields["error"], self.fields.get("details"), self.id)
        content = self.content if isinstance(self.content, str) else self.content.decode()
        event = ReceivedEvent._of_text(content, self.fields["event"], self.fields.get("payload"))
        event.id, event.more = self.id, self.more
        return event


def _read(content: str | bytes) -> _Frame:
    try:
        fields = from_json(content)
    except ValueError:
        fields = None
    return _Frame(content, fields if isinstance(fields, dict) else {})


class _Inbox:
    """What a connection brings, for those who wait for replies and for whoever takes the rest."""

    def __init__(self, app: Running, client: MemoryClient) -> None:
        self.app = app
        self.client = client
        self._frames: list[_Frame] = []
        self._claimed: set[str] = set()
        self._given_up: set[str] = set()
        self._next: anyio.Event | None = None  # what somebody reads for all

    @contextmanager
    def claimed(self, id: str) -> Iterator[str]:
        """Meanwhile, replies to this command are for whoever takes them by its id."""
        self._claimed.add(id)
        try:
            yield id
        finally:
            self._claimed.discard(id)
            self._given_up.add(id)
            self._frames = [frame for frame in self._frames if frame.id != id]

    async def take(self, id: str | None = None) -> _Frame:
        """The next frame that answers the command, or else that answers none that is claimed."""
        while True:
            for number, frame in enumerate(self._frames):
                if frame.id == id if id is not None else frame.id not in self._claimed:
                    return self._frames.pop(number)
            if self._next is None:
                await self._read_one()
            else:
                await self._next.wait()

    async def _read_one(self) -> None:
        self._next = anyio.Event()
        try:
            frame = _read(await self.client.receive())
        finally:  # others look for what has come, or read instead
            self._next.set()
            self._next = None
        if frame.id not in self._given_up:
            self._frames.append(frame)

    def put_back(self, frame: _Frame) -> None:
        self._frames.insert(0, frame)
