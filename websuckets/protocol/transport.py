"""Contract between transports and the app: what each gives to the other for a connection."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from websockets.datastructures import Headers

from websuckets.exc import HandshakeRefused
from websuckets.socket import Socket

__all__ = ["Acceptor", "ConnectionHandler", "HttpResponse", "TransportConnection"]


class TransportConnection(Protocol):
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


class ConnectionHandler(Protocol):
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

    async def not_opened(self) -> None:
        """Give up a connection that was not opened."""
        ...


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response to what opens no connection."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Acceptor(Protocol):
    """Where a transport brings its clients."""

    def address_of(self, peer: Any, headers: Headers) -> Any:
        """The client's address, ``peer`` being the one that the transport sees."""
        ...

    def accept(self, transport: TransportConnection) -> ConnectionHandler:
        """A client whose opening handshake is about to be answered."""
        ...

    def subprotocol(self, offered: Iterable[str]) -> str | None:
        """Which of them to speak, if any."""
        ...

    def answer(self, path: str) -> HttpResponse:
        """To a request that is no opening handshake; ``path`` is as that of `Wire`."""
        ...
