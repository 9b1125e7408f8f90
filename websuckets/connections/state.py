"""States of a connection, and the events that lead from one state to the next.

A connection is *opening* until its handshake is answered, then *open*; it is *closing* once there
is a reason to close it: running commands finish, then the closing handshake begins. It is
*aborting* once what runs is cancelled, and *closed* when all that it held is finalised. A handshake
that is to be refused because the server stops is *refusing*::

                  opened              close                ended
      OPENING ──────────────► OPEN ───────────► CLOSING ───────────► CLOSED
         │                     │                 ▲   │                 ▲
         │ close               │ cancel          │   │ cancel          │
         ▼         opened      │                 │   ▼        ended    │
      REFUSING ────────────────┼─────────────────┘  ABORTING ──────────┤
         │                     └──────────────────────▲                │
         │ cancel (also from OPENING)                 │                │
         └────────────────────────────────────────────┘   ended: from any state

An event that is not drawn changes nothing: the first reason to close a connection is the one that
its client gets, nothing comes after an abort but the end, and nothing after the end.
"""

from enum import Enum, auto
from typing import Final

from websuckets.protocol.close_codes import CloseReason

__all__ = ["ConnectionState", "State"]


class State(Enum):
    """A state of a connection."""

    OPENING = auto()
    REFUSING = auto()
    OPEN = auto()
    CLOSING = auto()
    ABORTING = auto()
    CLOSED = auto()


_OPENED: Final = {State.OPENING: State.OPEN, State.REFUSING: State.CLOSING}
_CLOSED: Final = {State.OPENING: State.REFUSING, State.OPEN: State.CLOSING}
_SERVED: Final = (State.OPEN, State.CLOSING)


class ConnectionState:
    """The present state of a connection, and the reason to close it."""

    __slots__ = ("close_reason", "present")

    def __init__(self) -> None:
        self.present: State = State.OPENING
        self.close_reason: CloseReason | None = None
        """Code and reason of the close frame; ``None`` while there is no reason to close."""

    def opened(self) -> None:
        """Take note that the opening handshake was answered, and the connection is served."""
        self.present = _OPENED.get(self.present, self.present)

    def close(self, reason: CloseReason) -> None:
        """Take note of a reason to close, unless there is one already."""
        if self.present in _CLOSED:
            self.present = _CLOSED[self.present]
            self.close_reason = reason

    def cancel(self) -> bool:
        """Take note that what runs is cancelled. Return whether a connection was served."""
        was_served = self.present in _SERVED
        if self.present is not State.CLOSED:
            self.present = State.ABORTING
        return was_served

    def ended(self) -> None:
        """Take note that all that the connection held is finalised."""
        self.present = State.CLOSED
