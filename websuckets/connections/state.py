"""States of a connection, and the events that lead from one state to the next.

A connection is *opening* until its handshake is answered, then *open*; it is *closing* once there
is a reason to close it: running commands finish, then the closing handshake begins. It is
*aborting* once running commands are cancelled, and *closed* from when all that it held begins to be
finalised. A handshake that is to be refused, because the server stops or the time of the user is
over, is *refusing*::

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


_ON_OPENED: Final = {State.OPENING: State.OPEN, State.REFUSING: State.CLOSING}
_ON_CLOSE: Final = {State.OPENING: State.REFUSING, State.OPEN: State.CLOSING}
_SERVED: Final = (State.OPEN, State.CLOSING)


class ConnectionState:
    """The present state of a connection, and the reason to close it."""

    __slots__ = ("close_reason", "is_open", "present")

    def __init__(self) -> None:
        self.present: State = State.OPENING
        self.is_open: bool = False
        """True while the state is OPEN; kept, as each message asks for it twice, and Python 3.11
        looks up members of an enum by a function."""
        self.close_reason: CloseReason | None = None
        """Code and reason of the close frame; ``None`` while nothing asks for the close."""

    def opened(self) -> None:
        """Take note that the opening handshake was answered, and the connection is served."""
        self._enter(_ON_OPENED.get(self.present, self.present))

    def close(self, reason: CloseReason) -> None:
        """Take note of a reason to close, unless there is one already."""
        if self.present in _ON_CLOSE:
            self._enter(_ON_CLOSE[self.present])
            self.close_reason = reason

    def cancel(self) -> bool:
        """Take note that running commands are cancelled. Return whether a connection was served."""
        was_served = self.present in _SERVED
        if self.present is not State.CLOSED:
            self._enter(State.ABORTING)
        return was_served

    def ended(self) -> None:
        """Take note that the connection is over, and all that it held is finalised from now on."""
        self._enter(State.CLOSED)

    def _enter(self, state: State) -> None:
        self.present = state
        self.is_open = state is State.OPEN
