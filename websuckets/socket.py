"""The connection as handlers see it: `Socket`, its request and its response headers."""

from collections.abc import Awaitable
from typing import Any, Final, Protocol
from urllib.parse import unquote
from uuid import UUID

from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.exc import check_header

__all__ = [
    "MAX_REASON",
    "ResponseHeaders",
    "Socket",
    "path_of",
    "response_headers",
    "sent_headers",
]

MAX_REASON: Final = 123
"""Bytes of UTF-8 in the reason of a close frame: RFC 6455, sections 5.5 and 5.5.1."""


def path_of(request: Request) -> str:
    """Return the path that an opening handshake asks for, decoded and without its query.

    ``request.path`` is the text that the client sent, in which one path has many forms, such as
    ``/a``, ``/a?``, ``/%61`` and ``http://example.org/a``: compare the result of this function
    instead. The result is the whole path, also where the app is mounted.
    """
    target = request.path.partition("#")[0].partition("?")[0]
    if not target.startswith("/"):  # RFC 9112, section 3.2.2
        _, has_host, rest = target.partition("://")
        target = "/" + rest.partition("/")[2] if has_host else target
    return unquote(target)


class ResponseHeaders(Headers):
    """Headers of the answer that accepts a client's opening handshake (SESSION scope).

    An ``on_handshake`` hook, or one of its dependencies, takes the headers as a parameter and adds
    to them: ``headers["Set-Cookie"] = "visit=1; HttpOnly"``. As in ``websockets``, setting a name
    again adds a header with the same name. The answer to a refused handshake has the headers of
    `HandshakeRefused` instead.

    Setting raises `ValueError` for a header that is not valid, or that belongs to the connection,
    and `RuntimeError` once the handshake has been answered.
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
        """Remove all headers."""
        self._check_not_sent()
        super().clear()

    def _check_not_sent(self) -> None:
        if self._are_sent:
            raise RuntimeError("the opening handshake has been answered; set its headers before")


def response_headers(socket: Any) -> ResponseHeaders:
    """Return the response headers of the connection of ``socket``; the first call creates them."""
    if getattr(socket, "_response_headers", None) is None:  # a test's socket may lack the attribute
        socket._response_headers = ResponseHeaders()
    headers: ResponseHeaders = socket._response_headers
    return headers


def sent_headers(socket: Any) -> list[tuple[str, str]]:
    """Return the headers to be sent for ``socket``; no header can be added any more."""
    if socket._response_headers is None:
        socket._response_headers = _NONE
    headers: ResponseHeaders = socket._response_headers
    headers._are_sent = True
    return list(headers.raw_items())


_NONE: Final = ResponseHeaders()
"""Headers shared by connections whose handshake was answered without added headers."""


class Socket(Protocol):
    """One client's connection; it lives from the opening handshake until either side closes it.

    A handler gets the connection of the transport itself: under ``websockets`` a
    ``ServerConnection`` with all of its documented methods, elsewhere exactly the methods of this
    class.
    """

    @property
    def id(self) -> UUID:
        """Id of the connection, unique for as long as the process lives."""
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
        """Send one message: ``str`` as a text frame, ``bytes`` as a binary frame.

        ``text`` chooses the type of the frame for either. A `ClientEvent` is a ``str``. Raises
        ``UnicodeEncodeError`` for a ``str`` without a UTF-8 form; the connection stays open. Raises
        the transport's error for a closed connection
        (``websockets.exceptions.ConnectionClosed``).
        """
        ...

    async def ping(self, data: str | bytes | None = None) -> Awaitable[float]:
        """Send a ping; awaiting the result waits for the pong and gives the seconds until it came.

        ``data`` is the payload of the ping, at most 125 bytes; random bytes without it.

        Raises the errors of `send`, and `RuntimeError` under ASGI, where only servers can ping.
        """
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed; do nothing if it is closed already.

        ``code`` is a close code of RFC 6455, section 7.4, or one from 3000 to 4999; ``reason`` is a
        text of at most `MAX_REASON` bytes for the client.
        """
        ...
