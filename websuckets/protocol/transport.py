"""Contract between transports and the app: the methods of each that the other calls."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.exc import HandshakeRefused
from websuckets.socket import Socket

__all__ = ["Acceptor", "ConnectionHandler", "HttpResponse", "Texts", "TransportConnection"]


@dataclass(slots=True)
class Texts:
    """Texts in UTF-8 that many receivers get together, one after the other.

    A socket may have a method ``async def send_texts(texts: Texts)``, which sends all of them like
    that many calls of `Socket.send`, in one step. A transport that makes frames itself keeps them
    here, so that they are made once for all receivers.
    """

    texts: tuple[bytes, ...] = field(repr=False)
    frames: bytes | None = field(default=None, repr=False)
    """All frames, once a transport has made them."""


class TransportConnection(Protocol):
    """An object that a transport hands over for each connection: as a rule the connection."""

    @property
    def socket(self) -> Socket:
        """Socket that handlers get."""
        ...

    @property
    def request_path(self) -> str:
        """Path of the connection: decoded, below the mount point of the app, without a query."""
        ...

    @property
    def closed_errors(self) -> tuple[type[Exception], ...]:
        """Errors that `receive` and `Socket.send` raise once the connection is closed."""
        ...

    @property
    def has_stopped_receiving(self) -> bool:
        """True once this side has sent its close frame, or has aborted the connection.

        From then on no message of the client is handled: neither one that comes, nor one that
        waits already. A command that runs goes on.
        """
        ...

    @property
    def has_exceeded_size(self) -> bool:
        """True once a message larger than `Limits.max_size` has closed the connection."""
        ...

    async def receive(self) -> str | bytes:
        """Wait for the next message, text or binary.

        Raises one of `closed_errors` once the connection is closed; after this side has closed it,
        also while messages still wait.
        """
        ...

    async def reply(self, text: str) -> None:
        """Send a reply, or an item of a stream. Raise one of `closed_errors`, see `receive`.

        The task that serves sends the replies to the messages that it answers, and other tasks
        those of commands that run beside; several tasks may call this method at once. The reply
        waits for a client that is slow to read, whatever its length, and however many replies
        wait: only programs can send more than may wait. Other tasks need not run meanwhile:
        whoever sends replies in a loop lets them run.
        """
        ...

    async def abort(self) -> None:
        """Abort the connection (no closing handshake); do nothing when it is closed."""
        ...

    def failed(self, error: BaseException) -> None:
        """Take note of a failure of the server, which is logged and closes the connection."""
        ...


class ConnectionHandler(Protocol):
    """A handler that a transport drives for each client with an acceptable opening handshake.

    `opening` is called before the handshake is answered; then either `serve`, once the connection
    is open, or `not_opened`, if no connection is opened. `transports/opening.py` sees to that for
    each transport. From the opening on, the transport calls `disconnected`.
    """

    async def opening(self) -> HandshakeRefused | None:
        """Return the answer that refuses the connection; ``None`` to open it."""
        ...

    async def serve(self) -> None:
        """Serve the connection until it is gone."""
        ...

    def cancel(self) -> None:
        """Cancel running commands; scopes are finalised, then `serve` returns."""
        ...

    def disconnected(self) -> None:
        """Take note, at once, that either side has closed; maybe called more than once."""
        ...

    async def not_opened(self) -> None:
        """Finalise the objects of a connection that was not opened."""
        ...


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response to a request that does not open a connection, as each transport sends it."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, refusal: HandshakeRefused) -> "HttpResponse":
        """Return the response that refuses a connection."""
        return cls(refusal.status, refusal.text, refusal.headers)

    @property
    def body(self) -> bytes:
        """Text as it is sent."""
        return self.text.encode()

    def all_headers(self) -> dict[str, str]:
        """Return all headers by their names in lower case, those of the body among them."""
        return {
            "content-type": "text/plain; charset=utf-8",
            "content-length": str(len(self.body)),
            **{name.lower(): value for name, value in self.headers.items()},
        }


class Acceptor(Protocol):
    """An object that accepts the clients of a transport."""

    def address_of(self, peer: Any, headers: Headers) -> Any:
        """Return the client's address; ``peer`` is the address that the transport sees."""
        ...

    def accept(self, transport: TransportConnection) -> ConnectionHandler:
        """Return the handler of a client whose opening handshake is about to be answered."""
        ...

    @property
    def has_subprotocols(self) -> bool:
        """False if `subprotocol` returns ``None`` whatever is offered."""
        ...

    def subprotocol(self, offered: Iterable[str]) -> str | None:
        """Return the offered subprotocol to speak, if any."""
        ...

    async def answer(self, path: str, request: Request) -> HttpResponse:
        """Return the answer to a ``request`` that is not an opening handshake.

        The answer may take some seconds, and the client may leave meanwhile. ``path`` is as in
        `TransportConnection.request_path`.
        """
        ...
