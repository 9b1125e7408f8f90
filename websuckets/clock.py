"""The time of a running app, by which everything in it that takes too long is found."""

from collections.abc import Callable
from typing import Final

import anyio

from websuckets.incidents import log_incident

__all__ = ["Clock"]

LONGEST_STEP: Final = 1.0
"""Seconds between two looks at what may be late, where no timeout asks for less."""

SHORTEST_STEP: Final = 0.002
"""Seconds; a finer clock would cost more than it is worth."""

STEPS: Final = 8
"""Of how many steps a timeout consists at least. Rounding costs two of them: a quarter."""


class Clock:
    """Goes on in steps, for as long as the app runs, and tells who wants to know.

    So nothing that is done in time needs a timer of its own. While the event loop is held up, or
    the process stopped, no time passes: nobody is late because of others.
    """

    def __init__(self) -> None:
        self.now: float = 0
        """Seconds, since an unknown moment."""
        self._step = LONGEST_STEP
        self._listeners: list[Callable[[], None]] = []

    def allow(self, timeout: float | None) -> float:
        """What to add to `now` for the moment at which the timeout has passed for sure.

        It may be asked for at any time; the clock is fine enough for it from then on.
        """
        if timeout is None:
            return float("inf")
        self._step = min(self._step, max(timeout / STEPS, SHORTEST_STEP))
        return timeout + self._step

    def listen(self, listener: Callable[[], None]) -> None:
        """Call it after each step."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """For as long as the app runs."""
        while True:
            step = self._step
            await anyio.sleep(step)
            self.now += step
            for listener in self._listeners:
                try:
                    listener()
                except Exception as error:  # time goes on for the others
                    log_incident("a look at what is late", error)
