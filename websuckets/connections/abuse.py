"""Counters against abuse: messages per second, and refused or unknown commands in a row."""

import math
import time
from functools import cache
from typing import Final

from websuckets.limits import Limits
from websuckets.protocol.close_codes import (
    TOO_FAST,
    TOO_MANY_REFUSALS,
    TOO_MANY_UNKNOWN,
    CloseReason,
)

__all__ = ["AbuseCounters"]

MOST_OVER_RATE: Final = 100
"""Messages over the rate, within `WINDOW`, at which the connection is closed."""

WINDOW: Final = 10
"""Seconds in which messages over the rate are counted together."""


class AbuseCounters:
    """Abuse counters of one client, for as long as it is connected.

    The rate is measured by the generic cell rate algorithm (ITU-T I.371): each message moves the
    moment at which all messages would have come at the steady rate; that moment may lie ahead of
    the clock by a burst.
    """

    __slots__ = (
        "_ahead",
        "_between",
        "_limits",
        "_over_rate",
        "_refused",
        "_steady",
        "_unknown",
        "_window_begins",
        "has_no_streak",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._between, self._ahead = _pace(limits.rate, limits.burst)
        self._steady = 0.0
        self._window_begins = 0.0
        self._over_rate = 0
        self._refused = 0
        self._unknown = 0
        self.has_no_streak: bool = True
        """True while neither a streak of refusals nor one of unknown commands has begun."""

    def retry_after(self) -> float:
        """Count a message that may come now and return 0; else return the seconds to wait."""
        now = time.monotonic()
        steady = self._steady
        if steady < now:
            steady = now
        too_early = steady - now - self._ahead
        if too_early > 0:
            return too_early
        self._steady = steady + self._between
        return 0.0

    def over_rate(self) -> CloseReason | None:
        """Count a message over the rate; return the reason to close the connection, if any."""
        now = time.monotonic()
        if now - self._window_begins > WINDOW:
            self._window_begins = now
            self._over_rate = 0
        self._over_rate += 1
        return TOO_FAST if self._over_rate >= MOST_OVER_RATE else None

    @property
    def was_over_rate(self) -> bool:
        """True once any message was over the rate."""
        return self._window_begins > 0

    def unknown(self) -> CloseReason | None:
        """Count a message that was not a command; return the reason to close, if any."""
        self._unknown += 1
        self.has_no_streak = False
        most = self._limits.unknown_streak
        return TOO_MANY_UNKNOWN if most is not None and self._unknown >= most else None

    def known(self) -> None:
        """End the streak of unknown commands, after a message that was a command."""
        self._unknown = 0
        self.has_no_streak = not self._refused

    def refused(self) -> CloseReason | None:
        """Count a refused protected command; return the reason to close, if any."""
        self._refused += 1
        self.has_no_streak = False
        most = self._limits.auth_failures
        return TOO_MANY_REFUSALS if most is not None and self._refused >= most else None

    def authorized(self) -> None:
        """End the streak of refusals, after a protected command that was not refused."""
        self._refused = 0
        self.has_no_streak = not self._unknown


@cache  # all clients of an app share the two numbers
def _pace(rate: float | None, burst: int | None) -> tuple[float, float]:
    """Return the seconds between two messages, and those by which a burst may be ahead."""
    between = 0.0 if rate is None else 1 / rate
    return between, math.inf if burst is None else (burst - 1) * between
