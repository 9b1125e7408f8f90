"""Log of channels that never keeps anybody waiting for longer than some seconds."""

from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import anyio

from websuckets.exc import Unavailable
from websuckets.history import EventLog, LoggedEvent, Position, Publication

__all__ = ["TIMEOUT", "BoundedLog"]

T = TypeVar("T")

TIMEOUT: Final = 10.0
"""Seconds after which a log that does not answer is taken for one that cannot be reached: a network
may lose all that is sent by a connection of a database, and the operating system tells of that
after minutes, if at all."""


class BoundedLog:
    """An `EventLog` around another one, which raises `Unavailable` after `TIMEOUT` seconds."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    @property
    def is_shared(self) -> bool:
        return self._log.is_shared

    @property
    def publishes_hints(self) -> bool:
        return self._log.publishes_hints

    async def append(self, publication: Publication) -> Position:
        return await _bounded(self._log.append(publication))

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        return await _bounded(self._log.read(channel, since, limit))

    async def position(self, channel: str) -> Position:
        return await _bounded(self._log.position(channel))

    async def positions(self, channels: Sequence[str]) -> Sequence[Position]:
        return await _bounded(self._log.positions(channels))

    async def new_epoch(self) -> None:
        await _bounded(self._log.new_epoch())


async def _bounded(answer: Awaitable[T]) -> T:
    """Return the answer of a log; raise `Unavailable` if it takes too long."""
    with anyio.move_on_after(TIMEOUT):
        return await answer
    raise Unavailable
