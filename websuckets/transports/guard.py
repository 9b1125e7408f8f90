"""What a connection is guarded with against its peer: one that does not read, or is not there."""

import enum
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from websuckets.clock import Clock
from websuckets.limits import Limits

__all__ = ["FAREWELL_TIME", "Alarm", "Guard", "Patience"]

PING_INTERVAL: Final = 20
PING_TIMEOUT: Final = 20
"""Seconds: those of ``websockets``, whose options they are."""

FAREWELL_TIME: Final = 1
"""Seconds in which a peer that answers no pings may take its close frame."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long peers are waited for, on the clock of the app; all of a server share it."""

    clock: Clock
    to_read: float
    between_pings: float
    for_pong: float
    outbox: tuple[float, float]

    @classmethod
    def of(cls, clock: Clock, limits: Limits, options: dict[str, Any]) -> "Patience":
        """Takes the options of ``websockets`` for pings out of ``options``."""
        interval = options.pop("ping_interval", PING_INTERVAL)
        timeout = options.pop("ping_timeout", PING_TIMEOUT)
        return cls(
            clock,
            to_read=clock.allow(limits.send_timeout),
            between_pings=clock.allow(interval),
            for_pong=clock.allow(timeout),
            outbox=(math.inf, math.inf) if limits.outbox is None else limits.outbox,
        )


class Alarm(enum.Enum):
    """What is to be done about a peer."""

    PING = "ping it"
    NO_PONG = "it is not there any more"
    STALLED = "it does not read"


class Guard:
    """Watches one peer, from the opening of its connection on."""

    __slots__ = (
        "_bytes",
        "_frames",
        "_has_pong",
        "_looked_at",
        "_patience",
        "_ping_at",
        "_read_by",
        "_silent",
        "_waiting",
    )

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._waiting = 0
        self._frames = 0
        self._bytes = 0
        self._read_by = math.inf
        self._looked_at = patience.clock.now
        self._ping_at = self._looked_at + patience.between_pings
        self._has_pong: Callable[[], bool] | None = None  # while a ping is on its way
        self._silent = 0.0  # for so long it could have been answered

    @property
    def is_blocked(self) -> bool:
        """Whether anything waits for the peer to read."""
        return self._waiting > 0

    def blocked(self) -> None:
        """Something begins to wait for the peer to read."""
        self._waiting += 1
        if self._waiting == 1:
            self._read_by = self._patience.clock.now + self._patience.to_read

    def unblocked(self) -> None:
        """The peer has read it; others may still wait, but have all the time again."""
        self._waiting -= 1
        self._read_by = math.inf
        if self._waiting:
            self._read_by = self._patience.clock.now + self._patience.to_read

    @contextmanager
    def queued(self, message: Any) -> Iterator[bool]:
        """While this waits to be sent. Give whether more waits than `Limits.outbox` allows.

        The first that waits may be of any size: whoever sends one message after the other, and
        waits for each, keeps no more than that one.
        """
        size = _size(message)
        self._frames += 1
        self._bytes += size
        try:
            frames, most = self._patience.outbox
            yield self._frames > 1 and (self._frames > frames or self._bytes > most)
        finally:
            self._frames -= 1
            self._bytes -= size

    def pinged(self, has_pong: Callable[[], bool]) -> None:
        """A ping is on its way; ``has_pong`` tells whether it was answered."""
        self._has_pong = has_pong
        self._silent = 0.0

    def look(self, *, is_reading: bool) -> Alarm | None:
        """What there is to be done, at this step of the clock.

        Pongs stand behind the commands that the peer sent before. So the time until one comes
        counts only while the connection ``is_reading``.
        """
        now = self._patience.clock.now
        since_last, self._looked_at = now - self._looked_at, now
        if self._read_by <= now:
            self._read_by = math.inf  # once is enough
            return Alarm.STALLED
        if self._has_pong is not None:
            return self._wait_for_pong(since_last if is_reading else 0.0)
        if is_reading and self._ping_at <= now:
            self._ping_at = math.inf  # until it is answered
            return Alarm.PING
        return None

    def _wait_for_pong(self, seconds: float) -> Alarm | None:
        assert self._has_pong is not None
        if self._has_pong():
            self._has_pong = None
            self._ping_at = self._looked_at + self._patience.between_pings
            return None
        self._silent += seconds
        if self._silent < self._patience.for_pong:
            return None
        self._silent = -math.inf  # once is enough
        return Alarm.NO_PONG


def _size(message: Any) -> int:
    """Bytes of it, if that can be known before it is sent."""
    if isinstance(message, str):
        return len(message) if message.isascii() else len(message.encode(errors="replace"))
    return len(message) if isinstance(message, bytes | bytearray | memoryview) else 0
