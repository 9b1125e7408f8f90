"""Clock of a running app, by which everything that takes too long is found.

Nearly everything is done in time, so a deadline has to cost next to nothing until it has passed:

- A message does not get a timer. Whoever handles messages has one `Timer`, and sets it only if it
  would ring later than the next deadline. When it rings, and what it was set for is over, nothing
  happens; the timer is set again for what runs then, if anything does. So timers ring for what
  runs, and seldom for that; whoever is idle has none that is set.
- The clock goes on in steps, and looks after each for timers that ring. It takes long steps while
  only long timeouts run, and short ones no longer than a short timeout is running. What a step
  costs does not depend on how many wait.
- A step takes no time but its own: while the event loop is held up, or the process stopped, no time
  passes. Nobody is late because of others.

A single sleep until the next deadline was rejected: a loop that is held up could take all of it.
"""

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic, time
from typing import Any, Final, TypeAlias

import anyio

from websuckets.runtime.incidents import log_incident

__all__ = ["Clock", "Timeout", "Timer"]

LONGEST_STEP: Final = 0.5
"""Seconds of a step, where no timeout that runs asks for less."""

SHORTEST_STEP: Final = 0.002
"""Seconds; a finer clock would cost more than it is worth."""

STEPS: Final = 8
"""Steps of which a timeout consists at least. Rounding costs two of them: a quarter."""

JUMP: Final = 1.0
"""Seconds by which the wall clock goes another way than this one, until listeners are told."""

FEW: Final = 64
"""Outdated entries that are not worth tidying up."""

_Entry: TypeAlias = list[Any]
"""A moment, a number (so that no two are equal), a step, and the timer, or ``None``."""


class Clock:
    """Goes on in steps, for as long as the app runs, and rings timers."""

    def __init__(self) -> None:
        self.now: float = 0
        """Seconds, since an unknown moment, as of the last step; see `read`."""
        self._step: float = LONGEST_STEP
        self._begun = monotonic()  # or when `now` was read last
        self._left = 0.0  # of the step, since then
        self._ends_early: anyio.Event | None = None
        self._entries: list[_Entry] = []  # a heap
        self._numbers = count()
        self._outdated = 0  # entries of timers that were stopped, or set to an earlier moment
        self._short: dict[float, int] = {}  # how many entries have each short step
        self._wall = time()  # what the wall clock says at 0, unless it jumps
        self._jump_listeners: list[Callable[[], None]] = []

    def timeout(self, seconds: float | None) -> "Timeout":
        """Return the timeout of so many seconds; without them, one that never passes."""
        if seconds is None:
            return Timeout(self, math.inf, LONGEST_STEP, is_short=False)
        if seconds >= LONGEST_STEP * STEPS:
            return Timeout(self, seconds + LONGEST_STEP, LONGEST_STEP, is_short=False)
        step = max(seconds / STEPS, SHORTEST_STEP)
        return Timeout(self, seconds, step, is_short=True)

    def timer(self, ring: Callable[[], None]) -> "Timer":
        """Return a timer that calls this function."""
        return Timer(self, ring)

    def on_jump(self, listener: Callable[[], None]) -> None:
        """Call it when the wall clock was set, or went on while this clock did not."""
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
        """For as long as the app runs."""
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
            _call(timer.ring)
        wall = time() - self.now
        if abs(wall - self._wall) > JUMP:
            self._wall = wall
            for listener in self._jump_listeners:
                _call(listener)

    def _enter(self, timer: "Timer", moment: float, step: float) -> "_Entry":
        entry: _Entry = [moment, next(self._numbers), step, timer]
        heappush(self._entries, entry)
        self._count(step, 1)
        if step < self._step and self._ends_early is not None:
            self._left = min(self._left, step)  # whoever holds up the event loop meanwhile
            self._ends_early.set()
        return entry

    def _count(self, step: float, entries: int) -> None:
        if step < LONGEST_STEP:
            self._short[step] = self._short.get(step, 0) + entries
            if not self._short[step]:
                del self._short[step]

    def _leave(self, entry: "_Entry") -> None:
        """The entry stays in the heap until there are many of the kind, but refers to nobody."""
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
    except Exception as error:  # time goes on for the others
        log_incident("a look at what is late", error)


class Timeout:
    """How long something may take on a clock: up to a quarter longer, and never less."""

    __slots__ = ("_clock", "is_short", "length", "step")

    def __init__(self, clock: Clock, length: float, step: float, *, is_short: bool) -> None:
        self._clock = clock
        self.length: float = length
        """Seconds after which it has passed for sure."""
        self.step: float = step
        """Seconds of a step of the clock while this timeout runs."""
        self.is_short: bool = is_short
        """True if `Clock.now` may be too old to measure this timeout from."""

    def due(self) -> float:
        """Return the moment at which the timeout has passed for what begins now."""
        return (self._clock.read() if self.is_short else self._clock.now) + self.length


class Timer:
    """Rings once, at a moment of its clock; then it may be set again.

    Whoever is done with it calls `stop`.
    """

    __slots__ = ("_clock", "_entry", "moment", "ring")

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._entry: _Entry | None = None
        self.ring: Callable[[], None] = ring
        """Called when the moment has come."""
        self.moment: float = math.inf
        """When it rings at the latest. That it is set to no later moment saves the call of `by`."""

    def by(self, moment: float, step: float) -> None:
        """Ring by this moment, if not earlier, and within so many seconds after it."""
        if moment < self.moment:
            self._unset()
            self.moment = moment
            self._entry = self._clock._enter(self, moment, step)

    def start(self, timeout: Timeout) -> None:
        """Ring when this timeout has passed, if not earlier."""
        self.by(timeout.due(), timeout.step)

    def stop(self) -> None:
        """Never ring again, and refer to nobody; does nothing when that was said already."""
        self._unset()
        self.moment = -math.inf
        self.ring = _do_nothing

    def _unset(self) -> None:
        if self._entry is not None:
            self._clock._leave(self._entry)
            self._entry = None


def _do_nothing() -> None: ...
