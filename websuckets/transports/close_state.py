"""State of a connection: not open yet, open, or closed, and the close frames of both sides."""

from typing import Final

from websockets import CloseCode
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close

from websuckets.transports.handshake import NOT_OPEN

__all__ = ["CloseState", "closed_error"]

HEALTHY: Final = (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)
"""Close codes that ``websockets`` does not count as errors."""


class CloseState:
    """State of a connection: not open yet, open, or closed by either side."""

    __slots__ = ("is_closed", "is_open", "received", "sent")

    def __init__(self) -> None:
        self.is_open: bool = False
        """True once the opening handshake was answered; also after the connection was closed."""
        self.is_closed: bool = False
        self.received: Close | None = None
        """Content of the close frame of the peer; ``None`` also for a connection that is lost."""
        self.sent: Close | None = None

    @property
    def code(self) -> int | None:
        """Close code of whichever side has closed; ``None`` while the connection is not closed."""
        return int(self._closed_with.code) if self.is_closed else None

    @property
    def reason(self) -> str | None:
        return self._closed_with.reason if self.is_closed else None

    @property
    def _closed_with(self) -> Close:
        return self.received or self.sent or Close(CloseCode.ABNORMAL_CLOSURE, "")

    def check_open(self) -> None:
        """Raise `ConnectionClosed` once the connection is closed; before, if it is not open yet,
        `RuntimeError`.
        """
        if self.is_closed:
            raise self.error()
        if not self.is_open:
            raise RuntimeError(NOT_OPEN)

    def error(self) -> ConnectionClosed:
        """Return the error for whoever uses the connection after its end."""
        return closed_error(self.received, self.sent)


def closed_error(received: Close | None, sent: Close | None) -> ConnectionClosed:
    """Return the error of ``websockets`` for a connection that either side has closed."""
    close = received or sent
    is_healthy = close is not None and close.code in HEALTHY
    return (ConnectionClosedOK if is_healthy else ConnectionClosedError)(received, sent)
