"""A peer: the client of one connection, as commands and hooks see it."""

from dataclasses import dataclass

from websuckets.protocol.transport import TransportConnection
from websuckets.runtime.request_scope import RequestScope
from websuckets.runtime.scopes import OpenScope
from websuckets.socket import Socket

__all__ = ["Peer"]


@dataclass(slots=True)
class Peer:
    """A client that sends messages, for as long as its connection lives."""

    transport: TransportConnection
    socket: Socket
    scope: OpenScope
    """The SESSION scope of the connection; messages are answered in copies of its context."""
    request_scope: RequestScope
    """Request scope of the task that serves the connection; another takes its place once it
    `is_spent`."""

    @property
    def is_closed(self) -> bool:
        """True once either side has closed the connection."""
        return self.socket.close_code is not None

    def is_of_its_end(self, error: BaseException) -> bool:
        """Tell whether the error comes of the end of this connection."""
        return isinstance(error, self.transport.closed_errors) and self.is_closed
