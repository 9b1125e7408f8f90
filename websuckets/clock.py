"""Wall clock of an app: the time of day, by which users expire."""

import time
from typing import Final, Protocol

__all__ = ["SYSTEM_CLOCK", "WallClock"]


class WallClock(Protocol):
    """A clock that tells the time of day.

    The one of the running app is injected (APP scope). It is the system's, unless the program
    provides another, as tests do: ``app.override(values={WallClock: clock})``. By it
    `User.expires_at` is over, and the records that `MemorySessionStore` keeps are. A clock that is
    set ahead is noticed within half a second by connections that wait. All other times, such as
    those of `Limits`, do not depend on it.
    """

    def time(self) -> float:
        """Return the seconds since the epoch, as `time.time` does."""
        ...


SYSTEM_CLOCK: Final[WallClock] = time
"""The wall clock of the system: the module of Python's library."""
