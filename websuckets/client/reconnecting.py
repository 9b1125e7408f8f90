"""Reconnecting: after which ends of a connection a client connects again, and when. Pure."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

__all__ = [
    "CLOSE_CODES",
    "Backoff",
    "ConnectionEnd",
    "Reconnecting",
    "Retry",
    "retry_after_seconds",
]


class Retry(Enum):
    """Decision about connecting again, after a connection has ended with some close code."""

    AT_ONCE = "at once"
    """Without a pause, if the attempt before was no such one; else as `BACKOFF`."""
    BACKOFF = "backoff"
    """After a random pause of up to a limit that doubles with each failure."""
    LATER = "later"
    """After a long pause, to which that of `BACKOFF` is added."""
    NEW_TOKEN = "new token"
    """Like `BACKOFF` if ``authenticate`` can get another token, else like `NEVER`."""
    NEVER = "never"
    """Not at all: the client is closed."""


CLOSE_CODES: Final[Mapping[int, Retry]] = {
    1000: Retry.NEVER,
    1002: Retry.NEVER,
    1003: Retry.NEVER,
    1007: Retry.NEVER,
    1008: Retry.NEVER,
    1009: Retry.AT_ONCE,
    1010: Retry.NEVER,
    4401: Retry.NEW_TOKEN,
    4408: Retry.NEW_TOKEN,
    4429: Retry.LATER,
}
"""Decisions by close codes; all other codes are `Retry.BACKOFF`."""

PASSING_STATUSES: Final = frozenset({408, 425, 429})
"""HTTP statuses below 500 with which a handshake is refused only for now."""


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts to connect, in seconds, with full jitter.

    The pause after the failure number ``n``, counted from 0, is random between 0 and ``first *
    2**n``, at most ``most``. A client that was sent away as too fast waits for ``later`` seconds
    more. After a connection that has lasted for ``stable`` seconds, failures are counted from 0
    again. ``random`` returns a number from 0 to 1.
    """

    first: float = 0.5
    most: float = 30.0
    later: float = 30.0
    stable: float = 30.0
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.most or self.later < 0 or self.stable < 0:
            raise ValueError("Backoff: 0 < first <= most, 0 <= later, and 0 <= stable")

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many ``failures`` before the last one."""
        limit = min(self.most, self.first * 2.0 ** min(failures, 64))
        return limit * self.random()


@dataclass(frozen=True)
class ConnectionEnd:
    """End of a connection, or of an attempt to connect."""

    code: int = 1006
    reason: str = ""
    status: int | None = None
    """HTTP status of an answer that refused the opening handshake."""
    retry_after: float | None = None
    """Seconds that such an answer told to wait."""
    lasted: float = 0.0
    """Seconds for which the connection was open and authenticated."""


class Reconnecting:
    """The failures of one client, and the pauses that follow from them.

    ``codes`` are decisions for close codes that replace those of `CLOSE_CODES`.
    """

    def __init__(self, backoff: Backoff, codes: Mapping[int, Retry]) -> None:
        self._backoff = backoff
        self._codes = {**CLOSE_CODES, **codes}
        self._failures = 0
        self._was_at_once = False
        self._was_refused = False

    def pause_after(self, end: ConnectionEnd, *, can_authenticate: bool) -> float | None:
        """Return the seconds until the next attempt, or ``None`` where there is to be none.

        ``can_authenticate`` says that the next connection may have another token.
        """
        if end.status is not None and not _passes(end.status):
            return None
        if end.lasted >= self._backoff.stable and end.lasted > 0:
            self._failures = 0
            self._was_at_once = self._was_refused = False
        retry = self._codes.get(end.code, Retry.BACKOFF)
        was_refused, self._was_refused = self._was_refused, retry is Retry.NEW_TOKEN
        if retry is Retry.NEVER:
            return None
        if retry is Retry.NEW_TOKEN and (was_refused or not can_authenticate):
            return None  # a token that is new was refused, too
        was_at_once, self._was_at_once = self._was_at_once, retry is Retry.AT_ONCE
        if retry is Retry.AT_ONCE and not was_at_once:
            return 0.0
        least = self._backoff.later if retry is Retry.LATER else 0.0
        pause = self._backoff.pause(self._failures)
        self._failures += 1
        return max(least, end.retry_after or 0.0) + pause


def _passes(status: int) -> bool:
    return status in PASSING_STATUSES or status >= 500


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a header ``Retry-After`` says: RFC 9110, section 10.2.3.

    ``now`` is the present time. A value that is neither a number nor a date is ``None``.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
