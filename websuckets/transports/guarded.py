"""What the connections of both servers of ``websockets`` have in common."""

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from websuckets.socket import path_of
from websuckets.transports.guard import Alarm, Guard
from websuckets.transports.handshake import Handshake

__all__ = ["GuardedConnection"]

logger: logging.Logger = logging.getLogger("websuckets")


class GuardedConnection(Handshake):
    """Does what its guard says: pings the peer, and drops one that does not read or is not there.

    It is the `Wire` of its connection. As a base class it stands before ``ServerConnection``.
    """

    __slots__ = ("guard",)

    closed_errors: tuple[type[Exception], ...] = (ConnectionClosed,)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.guard: Guard = Guard(self.patience, self._alarmed, self._can_be_pinged)
        super().__init__(*arguments, **keywords)

    @property
    def socket(self) -> Any:
        return self

    @property
    def path(self: Any) -> str:
        return path_of(self.request)

    def failed(self, error: BaseException) -> None: ...

    def _can_be_pinged(self: Any) -> bool:
        return self.state is State.OPEN and self._is_reading

    def _alarmed(self: Any, alarm: Alarm) -> None:
        match alarm:
            case Alarm.STALLED:
                logger.info("%s does not read what is sent to it: aborted", self.id)
                self._abort()
            case Alarm.PING:
                self._start(self._ping)
            case Alarm.NO_PONG:
                logger.info("%s does not answer pings: dropped", self.id)
                self._start(self._drop)

    async def _ping(self: Any) -> None:
        with suppress(ConnectionClosed):
            self.guard.pinged(self._has_come(await self.ping()))

    def _give_in(self: Any) -> None:
        """More is to be sent to the peer than may wait for it."""
        logger.info("%s does not read what is sent to it, and more is: aborted", self.id)
        self._abort()

    async def receive(self: Any) -> str | bytes:
        """The next message."""
        return await self.recv()  # type: ignore[no-any-return]  # of ServerConnection

    async def reply(self: Any, text: str) -> None:
        """Send a reply; more may follow."""
        await self.send(text)

    @abstractmethod
    async def abort(self) -> None:
        """Drop the connection without a closing handshake, and wait until it is closed."""

    @property
    @abstractmethod
    def _is_reading(self) -> bool:
        """Whether what the peer sends is read at the moment."""

    @abstractmethod
    def _abort(self) -> None:
        """The same as `abort`, without waiting."""

    @abstractmethod
    async def _drop(self) -> None:
        """Say goodbye to a peer that answers no pings, and abort."""

    @abstractmethod
    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it in a task."""

    @staticmethod
    @abstractmethod
    def _has_come(pong: Awaitable[float]) -> Callable[[], bool]:
        """What tells whether it has."""
