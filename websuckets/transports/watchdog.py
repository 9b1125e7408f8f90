"""Detection of a peer that does not read, or that is not there any more.

The problem: a peer that vanished without a word looks like one that is silent, and a peer that does
not read makes everybody wait who sends to it. Both have to be found within a time that `Limits` and
the options of the server set, for tens of thousands of connections, of which nearly all are idle.

Rejected: a task for each connection that sleeps until the next ping, as ``websockets`` has, for its
memory; a deadline around each ``send``, which costs every message; one step of time for all
connections, by which a short timeout of one command made all idle connections cost processor time.

The solution: one timer per connection on the clock of the app (`runtime.clock`), set for the next
moment at which the peer may be late, and for no other. The peer may be late in three ways:

- it does not read: from when a sender begins to wait, `PeerTimeouts.to_read` runs; reading ends it;
- it does not answer a ping. A pong stands behind the commands that the peer sent before it, so only
  the time counts in which the connection reads from the peer;
- it may have left while nothing is read from it, because commands wait: a check at each step.

The watchdog decides, and tells its connection by `WatchedPeer.peer_fault`; the connection acts.
"""

import enum
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from websuckets.limits import Limits, OutboxBound, OutboxCount, limit_text, seconds
from websuckets.runtime.clock import Clock, Timeout

__all__ = ["CLOSE_FRAME_TIME", "PeerFault", "PeerTimeouts", "PeerWatchdog"]

PING_INTERVAL: Final = 20
PING_TIMEOUT: Final = 20
"""Seconds: the defaults of the options of ``websockets`` of the same names."""

CLOSE_FRAME_TIME: Final = 1
"""Seconds in which a peer that answers no pings may take its close frame."""


@dataclass(frozen=True, slots=True)
class PeerTimeouts:
    """Timeouts for peers, on the clock of the app; shared by all connections of a server."""

    clock: Clock
    to_read: Timeout
    between_pings: Timeout
    ping_timeout: float
    """Seconds in which a ping must be answered."""
    for_pong: Timeout
    """`ping_timeout` as a timeout on the clock."""
    outbox: OutboxBound
    stalled_text: str
    """Limit that acts when a peer does not read, for the log."""
    overflow_text: str
    """Limit that acts when too much waits for a peer, for the log."""

    @classmethod
    def of(cls, clock: Clock, limits: Limits, options: dict[str, Any]) -> "PeerTimeouts":
        """Return the timeouts that limits and options set; remove the ping options."""
        interval = options.pop("ping_interval", PING_INTERVAL)
        timeout = options.pop("ping_timeout", PING_TIMEOUT)
        return cls(
            clock,
            to_read=clock.timeout(limits.send_timeout),
            between_pings=clock.timeout(interval),
            ping_timeout=seconds(timeout),
            for_pong=clock.timeout(timeout),
            outbox=OutboxBound.of(limits),
            stalled_text=limit_text("send_timeout", limits.send_timeout),
            overflow_text=limit_text("outbox", limits.outbox),
        )


class PeerFault(enum.Enum):
    """A state of a peer that its connection must react to."""

    PING = "ping it"
    NO_PONG = "it is not there any more"
    STALLED = "it does not read"
    NOT_READ = "see whether it has left, for nothing is read from it"


class WatchedPeer(Protocol):
    """A connection to a peer that is watched."""

    def peer_fault(self, fault: PeerFault) -> None:
        """React to a fault of the peer."""
        ...


class PingedPeer(Protocol):
    """A connection to a peer that is pinged."""

    def peer_is_read(self) -> bool:
        """Tell whether the connection is open and reads from the peer."""
        ...


class PeerWatchdog:
    """Watches one peer, from the opening of its connection on.

    The watchdog tells ``peer`` of each fault, until `stop`. It checks nothing before the peer
    may be late: while the peer answers pings and reads, the watchdog costs two checks
    for each ping. The peer is not pinged without ``pinged``, which is the same connection.
    """

    __slots__ = (
        "_checked_at",
        "_has_pong",
        "_peer",
        "_ping_at",
        "_pinged",
        "_queued",
        "_read_by",
        "_silent",
        "_timeouts",
        "_timer",
        "_was_reading",
        "waiting",
    )

    def __init__(
        self,
        timeouts: PeerTimeouts,
        peer: WatchedPeer,
        pinged: PingedPeer | None = None,
    ) -> None:
        self._timeouts = timeouts
        self._peer: WatchedPeer | None = peer
        self._pinged = pinged
        self.waiting: int = 0
        """Number of senders that wait for the peer to read."""
        self._queued: OutboxCount | None = None  # once a message has waited
        self._timer = timeouts.clock.timer(self)
        self._read_by = math.inf
        self._ping_at = math.inf
        self._has_pong: Callable[[], bool] | None = None  # while a ping is unanswered
        self._silent = 0.0  # seconds of reading since the ping, without its pong
        self._checked_at = 0.0
        self._was_reading = False
        if pinged is not None:
            self._ping_later()

    def stop(self) -> None:
        """Report no more faults, and release the peer, because the connection is closed."""
        self._timer.stop()
        self._peer = None
        self._pinged = None

    @property
    def is_blocked(self) -> bool:
        """True while anything waits for the peer to read."""
        return self.waiting > 0

    def blocked(self) -> None:
        """Start the timeout, unless something else already waits for the peer to read."""
        self.waiting += 1
        if self.waiting == 1:
            self._wait_for_reading()

    def unblocked(self) -> None:
        """End one wait, as the peer has read; restart the timeout for the other waits, if any."""
        self.waiting -= 1
        self._read_by = math.inf
        if self.waiting:
            self._wait_for_reading()

    def _wait_for_reading(self) -> None:
        to_read = self._timeouts.to_read
        self._read_by = read_by = to_read.due()
        if read_by < self._timer.moment:
            self._timer.by(read_by, to_read.step)

    @contextmanager
    def queued(self, message: Any) -> Iterator[bool]:
        """Count a message that waits to be sent. Yield whether the outbox allows no more."""
        if self._queued is None:
            self._queued = OutboxCount(self._timeouts.outbox)
        queued, size = self._queued, _size(message)
        may_wait = queued.add(size, sender_waits=True)
        try:
            yield not may_wait
        finally:
            queued.remove(size)

    def pinged(self, has_pong: Callable[[], bool]) -> None:
        """Check later for the pong to a ping; ``has_pong`` returns whether the pong has come."""
        self._has_pong = has_pong
        self._silent = 0.0
        self._checked_at = self._timeouts.clock.read()
        self._was_reading = self._reads()
        self._check_pong_later()

    def reading_paused(self) -> None:
        """Check later whether the peer has left, as reading from the peer has paused."""
        self._check_again_soon()

    def _check_again_soon(self) -> None:
        step = self._timeouts.between_pings.step
        self._timer.by(self._timeouts.clock.now + step, step)

    def ring(self) -> None:
        if self._has_pong is not None:
            self._check_pong(self._has_pong)
        elif self._ping_at < math.inf:
            self._ping_if_due()
        if self._read_by <= self._timeouts.clock.now:
            self._read_by = math.inf  # report the fault once
            self._report(PeerFault.STALLED)
        self._timer.by(self._read_by, self._timeouts.to_read.step)
        if self._pinged is not None and not self._pinged.peer_is_read():
            self._report(PeerFault.NOT_READ)
            self._check_again_soon()

    def _ping_later(self) -> None:
        between_pings = self._timeouts.between_pings
        self._ping_at = between_pings.due()
        self._timer.by(self._ping_at, between_pings.step)

    def _ping_if_due(self) -> None:
        """Ping the peer if a ping is due, and if the connection reads from the peer."""
        now, step = self._timeouts.clock.now, self._timeouts.between_pings.step
        if self._ping_at <= now and self._reads():
            self._ping_at = math.inf  # until the ping is answered
            self._report(PeerFault.PING)
        else:
            self._timer.by(max(self._ping_at, now + step), step)

    def _check_pong(self, has_pong: Callable[[], bool]) -> None:
        """Check for a pong, and report the fault if the pong is late.

        A pong comes after the commands that the peer sent before, so the time until the pong counts
        only while the connection is reading.
        """
        now = self._timeouts.clock.now
        since_last, self._checked_at = now - self._checked_at, now
        was_reading, self._was_reading = self._was_reading, self._reads()
        if has_pong():
            self._has_pong = None
            self._ping_later()
            return
        if was_reading and self._was_reading:
            self._silent += since_last
        if self._silent < self._timeouts.ping_timeout:
            self._check_pong_later()
        else:
            self._has_pong = None  # report the fault once
            self._report(PeerFault.NO_PONG)

    def _check_pong_later(self) -> None:
        step = self._timeouts.for_pong.step
        self._timer.by(self._checked_at + step, step)

    def _reads(self) -> bool:
        return self._pinged is not None and self._pinged.peer_is_read()

    def _report(self, fault: PeerFault) -> None:
        if self._peer is not None:
            self._peer.peer_fault(fault)


def _size(message: Any) -> int:
    """Return the bytes of a message, or 0 if the size is not known before sending."""
    if isinstance(message, str):
        return len(message) if message.isascii() else len(message.encode(errors="replace"))
    return len(message) if isinstance(message, bytes | bytearray | memoryview) else 0
