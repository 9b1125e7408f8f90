"""Counters against abuse: messages per second, and refused or unknown commands in a row."""

import time
from typing import Final

from websuckets.limits import Limits
from websuckets.protocol.close_codes import NONSENSE, TOO_FAST, TOO_MANY_REFUSALS, CloseReason

__all__ = ["AbuseCounters"]

MOST_OVER_RATE: Final = 100
"""Messages over the rate, within `WINDOW`, with which a client is sent away."""

WINDOW: Final = 10
"""Seconds."""


class AbuseCounters:
    """That of one client, for as long as it is connected.

    The rate is measured by the generic cell rate algorithm (ITU-T I.371): each message moves the
    moment at which all would have come at the steady rate, which may lie ahead by a burst.
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
        "is_spotless",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._between = 0.0 if limits.rate is None else 1 / limits.rate
        self._ahead = float("inf") if limits.burst is None else (limits.burst - 1) * self._between
        self._steady = 0.0
        self._window_begins = 0.0
        self._over_rate = 0
        self._refused = 0
        self._unknown = 0
        self.is_spotless: bool = True
        """Whether neither a streak of refusals nor one of unknown commands has begun."""

    def retry_after(self) -> float:
        """Another message has come: after how many seconds it may; 0 if it may now."""
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
        """Another message was over the rate: with what to send the client away, if at all."""
        now = time.monotonic()
        if now - self._window_begins > WINDOW:
            self._window_begins = now
            self._over_rate = 0
        self._over_rate += 1
        return TOO_FAST if self._over_rate >= MOST_OVER_RATE else None

    @property
    def was_over_rate(self) -> bool:
        """Whether any message was."""
        return self._window_begins > 0

    def unknown(self) -> CloseReason | None:
        """A message was no command."""
        self._unknown += 1
        self.is_spotless = False
        most = self._limits.unknown_streak
        return NONSENSE if most is not None and self._unknown >= most else None

    def known(self) -> None:
        """A message was a command."""
        self._unknown = 0
        self.is_spotless = not self._refused

    def refused(self) -> CloseReason | None:
        """A protected command was refused."""
        self._refused += 1
        self.is_spotless = False
        most = self._limits.auth_failures
        return TOO_MANY_REFUSALS if most is not None and self._refused >= most else None

    def authorized(self) -> None:
        """A protected command was not refused."""
        self._refused = 0
        self.is_spotless = not self._unknown
