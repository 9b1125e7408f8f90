"""Clock of a running app, by which everything that takes too long is found.

Nearly everything is done in time, so a deadline has to cost next to nothing until it has passed:

- A message does not get a timer. Each request scope has one `Timer`, and sets the timer only if it
  would ring later than the next deadline. When the timer rings, and what the timer was set for is
  over, nothing happens; the timer is set again for what runs then, if anything does. So timers
  seldom ring, and an idle request scope has no timer that is set.
- The clock advances in steps, and checks after each step for timers that ring. The steps are long
  while only long timeouts run, and short only as long as a short timeout is running. What a step
  costs does not depend on the number of waiting timers.
- A step takes no more time than its length: while the event loop is blocked, or the process
  stopped, no more time passes. Nothing is late because of other code.

A single sleep until the next deadline was rejected: a blocked event loop could use up all of that
time.
"""

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic, time
from typing import Any, Final, Protocol, TypeAlias

import anyio

from websuckets.runtime.incidents import log_incident

__all__ = ["Clock", "Timeout", "Timer"]

LONGEST_STEP: Final = 0.5
"""Seconds of a step, if no timeout that runs asks for less."""

SHORTEST_STEP: Final = 0.002
"""Seconds of the shortest step; a finer clock would cost more than it is worth."""

STEPS: Final = 8
"""Steps of which a timeout consists at least. Rounding costs two steps: a quarter."""

JUMP: Final = 1.0
"""Seconds by which the wall clock departs from this clock before listeners are called."""

FEW: Final = 64
"""Number of outdated entries that are not worth tidying up."""

_Entry: TypeAlias = list[Any]
"""A moment, a number (so that no two are equal), a step, and the timer, or ``None``."""


class Clock:
    """Clock that advances in steps, for as long as the app runs, and rings timers."""

    def __init__(self) -> None:
        self.now: float = 0
        """Seconds, since an unknown moment, as of the last step; see `read`."""
        self._step: float = LONGEST_STEP
        self._begun = monotonic()  # or when `now` was read last
        self._left = 0.0  # seconds left of the step, as of then
        self._ends_early: anyio.Event | None = None
        self._entries: list[_Entry] = []  # a heap
        self._numbers = count()
        self._outdated = 0  # entries of timers that were stopped, or set to an earlier moment
        self._short: dict[float, int] = {}  # how many entries have each short step
        self._read_wall: Callable[[], float] = time
        self._wall = time()  # the wall clock at `now == 0`, unless it jumps
        self._jump_listeners: list[Callable[[], None]] = []

    def timeout(self, seconds: float | None) -> "Timeout":
        """Return the timeout of so many seconds; for ``None``, a timeout that never passes."""
        if seconds is None:
            return Timeout(self, math.inf, math.inf, LONGEST_STEP, is_short=False)
        if seconds >= LONGEST_STEP * STEPS:
            longest = seconds + LONGEST_STEP
            return Timeout(self, seconds, longest, LONGEST_STEP, is_short=False)
        step = max(seconds / STEPS, SHORTEST_STEP)
        return Timeout(self, seconds, seconds, step, is_short=True)

    def timer(self, owner: "Ringing") -> "Timer":
        """Return a timer that rings at its owner."""
        return Timer(self, owner)

    def compare_with(self, read_wall: Callable[[], float]) -> None:
        """Find jumps of the wall clock that this function reads, in seconds since the epoch."""
        self._read_wall = read_wall
        self._wall = read_wall() - self.now

    def on_jump(self, listener: Callable[[], None]) -> None:
        """Call the listener when the wall clock was set, or went on while this clock did not."""
        self._jump_listeners.append(listener)

    def read(self) -> float:
        """Bring `now` up to date, and return it."""
        moment = monotonic()
        passed = min(moment - self._begun, self._left)
        self._begun = moment
        self._left -= passed
        self.now += passed
        return self.now

    async def run(self) -> None:
        """Advance the clock for as long as the app runs."""
        while True:
            self._step = self._left = min(self._short, default=LONGEST_STEP)
            self._begun = monotonic()
            self._ends_early = anyio.Event()
            with anyio.move_on_after(self._step):
                await self._ends_early.wait()
            self.read()
            self.ring()

    def ring(self) -> None:
        """Ring all timers whose moment has come."""
        ringing: list[Timer] = []
        while self._entries and self._entries[0][0] <= self.now:
            _, _, step, timer = heappop(self._entries)
            self._count(step, -1)
            if timer is None:
                self._outdated -= 1
            else:
                timer.moment, timer._entry = math.inf, None
                ringing.append(timer)
        for timer in ringing:
            if timer.owner is not None:
                _call(timer.owner.ring)
        wall = self._read_wall() - self.now
        if abs(wall - self._wall) > JUMP:
            self._wall = wall
            for listener in self._jump_listeners:
                _call(listener)

    def _enter(self, timer: "Timer", moment: float, step: float) -> "_Entry":
        entry: _Entry = [moment, next(self._numbers), step, timer]
        heappush(self._entries, entry)
        self._count(step, 1)
        if step < self._step and self._ends_early is not None:
            self._left = min(self._left, step)  # even if the event loop is blocked meanwhile
            self._ends_early.set()
        return entry

    def _count(self, step: float, entries: int) -> None:
        if step < LONGEST_STEP:
            self._short[step] = self._short.get(step, 0) + entries
            if not self._short[step]:
                del self._short[step]

    def _leave(self, entry: "_Entry") -> None:
        """Detach an entry from its timer; outdated entries stay in the heap while there are few."""
        entry[3] = None
        self._outdated += 1
        if self._outdated > max(FEW, len(self._entries) // 2):
            self._tidy_up()

    def _tidy_up(self) -> None:
        self._entries = [entry for entry in self._entries if entry[3] is not None]
        heapify(self._entries)
        self._outdated = 0
        self._short = {}
        for _, _, step, _ in self._entries:
            self._count(step, 1)


def _call(function: Callable[[], None]) -> None:
    try:
        function()
    except Exception as error:  # other timers still have to ring
        log_incident("a look at what is late", error)


class Timeout:
    """Time that something may take on a clock: up to a quarter longer, and never less."""

    __slots__ = ("_clock", "is_short", "length", "seconds", "step")

    def __init__(
        self, clock: Clock, seconds: float, length: float, step: float, *, is_short: bool
    ) -> None:
        self._clock = clock
        self.seconds: float = seconds
        """Seconds as the program has set them."""
        self.length: float = length
        """Seconds after which it has passed for sure."""
        self.step: float = step
        """Seconds of a step of the clock while this timeout runs."""
        self.is_short: bool = is_short
        """True if `Clock.now` may be too old to measure this timeout from."""

    def due(self) -> float:
        """Return the moment at which a timeout that begins now has passed."""
        return (self._clock.read() if self.is_short else self._clock.now) + self.length


class Ringing(Protocol):
    """An owner of a timer; not a function, as one of a method takes memory for each timer."""

    def ring(self) -> None:
        """React to a moment that has come."""
        ...


class Timer:
    """Timer that rings once, at a moment of its clock, and then may be set again.

    Its owner calls `stop` when the timer is not needed any more.
    """

    __slots__ = ("_clock", "_entry", "moment", "owner")

    def __init__(self, clock: Clock, owner: "Ringing") -> None:
        self._clock = clock
        self._entry: _Entry | None = None
        self.owner: Ringing | None = owner
        """Owner of the timer, until it stops the timer."""
        self.moment: float = math.inf
        """Moment at which the timer rings at the latest; `by` does nothing for a later moment."""

    def by(self, moment: float, step: float) -> None:
        """Ring by this moment, if not earlier, and within ``step`` seconds after the moment."""
        if moment < self.moment:
            self._unset()
            self.moment = moment
            self._entry = self._clock._enter(self, moment, step)

    def start(self, timeout: Timeout) -> None:
        """Ring when this timeout has passed, if not earlier."""
        self.by(timeout.due(), timeout.step)

    def stop(self) -> None:
        """Never ring again, and release the owner; do nothing if stopped already."""
        self._unset()
        self.moment = -math.inf
        self.owner = None

    def _unset(self) -> None:
        if self._entry is not None:
            self._clock._leave(self._entry)
            self._entry = None
