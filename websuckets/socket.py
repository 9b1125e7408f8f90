"""The connection: as handlers see it, and as transports hand it over."""

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import unquote
from uuid import UUID

from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.exc import HandshakeRefused, check_header

__all__ = [
    "MAX_REASON",
    "Accepted",
    "Door",
    "HttpAnswer",
    "ResponseHeaders",
    "Socket",
    "Wire",
    "path_of",
    "response_headers",
    "sent_headers",
]

MAX_REASON: Final = 123
"""Bytes of UTF-8 in the reason of a close frame: RFC 6455, sections 5.5 and 5.5.1."""


def path_of(request: Request) -> str:
    """Return the path that an opening handshake asks for, decoded and without its query.

    ``request.path`` is what the client wrote: it names one path in many ways, as ``/a``, ``/a?``,
    ``/%61`` and ``http://example.org/a``. So this is what to compare. It is the whole path, also
    where the app is mounted.
    """
    target = request.path.partition("#")[0].partition("?")[0]
    if not target.startswith("/"):  # RFC 9112, section 3.2.2
        _, has_host, rest = target.partition("://")
        target = "/" + rest.partition("/")[2] if has_host else target
    return unquote(target)


class ResponseHeaders(Headers):
    """Headers of the answer that accepts a client's opening handshake (SESSION scope).

    An ``on_handshake`` hook, or what it depends on, takes them as a parameter and adds to them:
    ``headers["Set-Cookie"] = "visit=1; HttpOnly"``. As in ``websockets``, setting a name again adds
    a header with the same name. A handshake that is refused has the headers of `HandshakeRefused`
    instead.

    Setting raises `ValueError` for what cannot be a header, or belongs to the connection, and
    `RuntimeError` once the handshake has been answered.
    """

    __slots__ = ("_are_sent",)

    def __init__(self) -> None:
        self._are_sent = False
        super().__init__()

    def __setitem__(self, name: str, value: str) -> None:
        self._check_not_sent()
        if name.lower().startswith("sec-websocket-"):
            raise ValueError(f"ResponseHeaders: {name!r} is set by the handshake itself")
        check_header(name, value, "ResponseHeaders")
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._check_not_sent()
        super().__delitem__(name)

    def clear(self) -> None:
        """Remove all of them."""
        self._check_not_sent()
        super().clear()

    def _check_not_sent(self) -> None:
        if self._are_sent:
            raise RuntimeError("the opening handshake has been answered; set its headers before")


def response_headers(socket: Any) -> ResponseHeaders:
    """Return those of a connection, which are made for the first who asks."""
    if getattr(socket, "_response_headers", None) is None:  # the socket of a test may have none
        socket._response_headers = ResponseHeaders()
    headers: ResponseHeaders = socket._response_headers
    return headers


def sent_headers(socket: Any) -> list[tuple[str, str]]:
    """Return those that a connection was given, to be sent now: nobody can add to them any more."""
    if socket._response_headers is None:
        socket._response_headers = _NONE
    headers: ResponseHeaders = socket._response_headers
    headers._are_sent = True
    return list(headers.raw_items())


_NONE: Final = ResponseHeaders()
"""Shared by connections whose handshake was answered without any."""


class Socket(Protocol):
    """One client's connection; it lives from the opening handshake until either side closes.

    What arrives in a handler is the connection of the transport itself: under ``websockets`` its
    own ``ServerConnection`` with all of its documented methods, elsewhere exactly these.
    """

    @property
    def id(self) -> UUID:
        """Unique for as long as the process lives."""
        ...

    @property
    def request(self) -> Request | None:
        """The opening handshake: path and headers."""
        ...

    @property
    def remote_address(self) -> Any:
        """The peer as the operating system names it: ``(host, port)`` for IPv4."""
        ...

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on in the handshake."""
        ...

    @property
    def close_code(self) -> int | None:
        """The close code of RFC 6455, section 7.4; ``None`` while the connection is open."""
        ...

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code; ``None`` while the connection is open."""
        ...

    async def send(self, message: str | bytes, *, text: bool | None = None) -> None:
        """Send one message: ``str`` as a text frame, ``bytes`` as a binary one.

        ``text`` chooses the frame's type whatever the message is. A `ClientEvent` is a ``str``.
        Raises ``UnicodeEncodeError`` for a ``str`` without a UTF-8 form; the connection goes on.
        Raises the transport's error for a closed connection
        (``websockets.exceptions.ConnectionClosed``).
        """
        ...

    async def ping(self, data: str | bytes | None = None) -> Awaitable[float]:
        """Send a ping; awaiting the result waits for the pong and gives the seconds it took.

        Raises the same as `send`, and `RuntimeError` under ASGI, where only servers can ping.
        """
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed; does nothing when it is already."""
        ...


class Wire(Protocol):
    """What a transport hands over for each connection: as a rule the connection itself."""

    @property
    def socket(self) -> Socket:
        """What handlers get."""
        ...

    @property
    def request_path(self) -> str:
        """Where it connected to, decoded: within what the app is mounted under, without a query."""
        ...

    @property
    def closed_errors(self) -> tuple[type[Exception], ...]:
        """What `receive` and `send` raise once the connection is closed."""
        ...

    @property
    def has_stopped_receiving(self) -> bool:
        """True once this side has sent its close frame, or has aborted the connection.

        From then on no message of the client is handled: neither one that comes, nor one that
        waits already. A command that runs goes on.
        """
        ...

    async def receive(self) -> str | bytes:
        """Wait for the next message, text or binary.

        Raises one of `closed_errors` once the connection is closed; after this side has closed it,
        that is also where messages still wait.
        """
        ...

    async def reply(self, text: str) -> None:
        """Send the reply to a message, as `Socket.send` does; the next one is received after it.

        It waits for a client that is slow to read, however long it is, and however many wait for
        the same: only programs can send more than may wait.
        """
        ...

    async def reply_beside(self, text: str) -> None:
        """Send the reply, or an item, of a command that runs beside the reading of messages."""
        ...

    async def abort(self) -> None:
        """Drop the connection without a closing handshake; does nothing when it is closed."""
        ...

    def failed(self, error: BaseException) -> None:
        """Told of a failure of the server itself, which is logged and closes the connection."""
        ...


class Accepted(Protocol):
    """What a transport drives for each client whose opening handshake it finds acceptable.

    It calls `opening` before it answers the handshake; then either `serve`, once the connection is
    open, or `discard`, if it does not come to that.
    """

    async def opening(self) -> HandshakeRefused | None:
        """How to answer instead of opening the connection, if at all."""
        ...

    async def serve(self) -> None:
        """Serve the connection until it is gone."""
        ...

    def cancel(self) -> None:
        """Cancel what runs; scopes are finalised, then `serve` returns."""
        ...

    def disconnected(self) -> None:
        """Told as soon as the connection is closed, by whichever side; maybe more than once."""
        ...

    async def discard(self) -> None:
        """Give up a connection that was not opened."""
        ...


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP response to what opens no connection."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Door(Protocol):
    """Where a transport brings its clients."""

    def address_of(self, peer: Any, headers: Headers) -> Any:
        """The client's address, ``peer`` being the one that the transport sees."""
        ...

    def accept(self, wire: Wire) -> Accepted:
        """A client whose opening handshake is about to be answered."""
        ...

    def subprotocol(self, offered: Iterable[str]) -> str | None:
        """Which of them to speak, if any."""
        ...

    def answer(self, path: str) -> HttpAnswer:
        """To a request that is no opening handshake; ``path`` is as that of `Wire`."""
        ...
