"""Logs of the events of channels, of every kind, for the tests that all must pass."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import pytest

from websuckets.history import EventLog, History, MemoryLog, Publication

KEPT: Final = History(size=1000, seconds=1000)
"""A history that loses nothing during a test, unless the test lets time pass."""


async def _remove_nothing(channel: str) -> None:
    pass


@dataclass(frozen=True)
class Nodes:
    """Two nodes that share one log, which is empty at first."""

    one: EventLog
    two: EventLog
    pass_time: Callable[[float], Awaitable[None]]
    """Let so many seconds pass, as the log sees it: all that is in the log is older then."""
    trim: Callable[[str], Awaitable[None]] = _remove_nothing
    """Remove what this channel does not keep any more, in a log that does so at some later time."""
    outage: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """Function for a context in which the first node does not reach the log.

    ``None`` for a log that is always there.
    """
    knows_repetitions: bool = False
    """True if a publication that is appended twice is in the log once."""

    @property
    def both(self) -> tuple[EventLog, EventLog]:
        return self.one, self.two


Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Nodes]]
"""A function that opens two nodes."""


class SetClock:
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


def in_memory(request: pytest.FixtureRequest) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Nodes]:
        clock = SetClock()
        log = MemoryLog(clock=clock)

        async def pass_time(seconds: float) -> None:
            clock.now += seconds

        yield Nodes(log, log, pass_time)

    return opened


LOGS: Final[dict[str, tuple[str, Callable[[pytest.FixtureRequest], Open]]]] = {
    "memory": ("asyncio trio", in_memory),
}
"""Every kind of log, by name: the event loops it runs on, and a function that prepares it.

The function gets the fixtures that it needs, such as a server, in the main thread; the nodes are
opened in the event loop.
"""

PARAMETERS: Final = [pytest.param(name) for name in LOGS]
"""Parameters of tests, one for each kind."""


def prepared(name: str, backend: str, request: pytest.FixtureRequest) -> Open:
    """Return the function that opens nodes of this kind, or skip the test on this event loop."""
    backends, prepare = LOGS[name]
    if backend not in backends.split():
        pytest.skip(f"it does not run on {backend}")
    return prepare(request)


def publication(
    frame: bytes | str, channel: str = "c", history: History = KEPT, excluded: str = ""
) -> Publication:
    """Return a new publication, with an id of its own."""
    text = frame.encode() if isinstance(frame, str) else frame
    return Publication(channel, history, text, excluded)
