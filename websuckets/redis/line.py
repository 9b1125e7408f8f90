"""A connection to Redis that is watched, and made anew whenever it is lost."""

import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias

import anyio
from coredis import BaseConnection, ConnectionPool
from coredis.exceptions import ConnectionError as NotConnected
from coredis.exceptions import ResponseError

from websuckets.exc import Unavailable

__all__ = ["AT_ONCE", "Command", "Line", "LineUser", "asked", "asked_each"]

logger: logging.Logger = logging.getLogger("websuckets")

Command: TypeAlias = tuple[Any, ...]
"""A command of Redis, and its arguments: bytes, texts, numbers."""

Ask: TypeAlias = Callable[[BaseConnection, Iterable[Any]], Awaitable[list[Any]]]

FIRST_PAUSE: Final = 0.05
"""Seconds before the first attempt to connect again; each next takes twice as long, up to a
heartbeat."""

AT_ONCE: Final = 500
"""Commands, or what they are about, in one go: others have their turn in between."""

STEPS: Final = 4
"""In how many an answer is waited for: while the event loop is held up, only one of them passes."""


class LineUser(Protocol):
    """Whom the line is for."""

    async def found(self, connection: BaseConnection) -> None:
        """There is a connection; what it pushes is told already. Others get it afterwards."""
        ...

    async def work(self) -> None:
        """Runs while there is a connection."""
        ...

    async def beat(self) -> None:
        """Once in each heartbeat, when Redis has answered."""
        ...

    def pushed(self, message: list[Any]) -> None:
        """Redis has sent this by itself."""
        ...

    def lost(self) -> None:
        """There is no connection any more, or none could be made."""
        ...


class Line:
    """One connection to Redis, and the next one when that is lost; it lives as long as the app.

    A connection on which Redis does not answer for a heartbeat is given up, whatever the network
    says: it may be one that loses everything. Who waits for an answer then, gets an error.

    The methods that the client has for subscriptions resubscribe by themselves, or end, and tell
    nobody what was lost. So here they are not used, but the connection itself, on which the end of
    what is pushed is an error.
    """

    def __init__(self, url: str, heartbeat: float) -> None:
        self._url = url
        self.heartbeat = heartbeat
        self._connection: BaseConnection | None = None
        self._is_known_to_be_away = False

    async def run(self, user: LineUser) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._live(user)
            except Exception as error:
                if self._connection is not None:
                    pause = FIRST_PAUSE
                self._tell_of_loss(error)
            finally:
                self._connection = None
                user.lost()
            await anyio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, self.heartbeat)

    async def ask(self, *command: Any) -> Any:
        """What Redis answers. Raises `Unavailable` while it does not, and its own errors."""
        (answer,) = await self.ask_all([command])
        return answer

    async def ask_all(self, commands: Iterable[Any]) -> list[Any]:
        """The same for several at once."""
        return await self._ask(asked, commands)

    async def ask_each(self, commands: Iterable[Any]) -> list[Any]:
        """The same, with what is wrong with one in the place of its answer."""
        return await self._ask(asked_each, commands)

    async def _ask(self, way: Ask, commands: Iterable[Any]) -> list[Any]:
        if self._connection is None:
            raise Unavailable
        try:
            return await way(self._connection, commands)
        except NotConnected:
            raise Unavailable from None

    async def _live(self, user: LineUser) -> None:
        """As long as one connection does. Raises what ended it."""
        pool = ConnectionPool.from_url(self._url, max_connections=1, decode_components=True)
        async with pool:
            with anyio.fail_after(self.heartbeat):
                # A connection of the client that fails to connect leaves streams unclosed.
                if pool.location is None or not await pool.location.check():
                    raise NotConnected(f"nobody listens at {pool.location}")
                connection = await pool.get_connection()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, connection, user)
                tasks.start_soon(self._watch, connection, user)
                await user.found(connection)
                self._connection = connection
                if self._is_known_to_be_away:
                    self._is_known_to_be_away = False
                    logger.warning("Redis is back")
                await user.work()

    async def _listen(self, connection: BaseConnection, user: LineUser) -> None:
        async for message in connection.push_messages:
            user.pushed(message)
        raise NotConnected("the messages have ended")

    async def _watch(self, connection: BaseConnection, user: LineUser) -> None:
        while True:
            request = connection.create_request(b"PING")
            for _ in range(STEPS):
                with anyio.move_on_after(self.heartbeat / STEPS):
                    await request
                if request.complete:
                    break
            else:
                raise TimeoutError(f"no answer within {self.heartbeat} seconds")
            if self._connection is not None:
                await user.beat()
            await anyio.sleep(self.heartbeat)

    def _tell_of_loss(self, error: Exception) -> None:
        if not self._is_known_to_be_away:
            self._is_known_to_be_away = True
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):  # what came first, ended the others
                cause = cause.exceptions[0]
            # As text: whoever keeps the record, need not keep what the error is about.
            logger.error("Redis is away: %s: %s", type(cause).__name__, str(cause))


async def asked_each(connection: BaseConnection, commands: Iterable[Any]) -> list[Any]:
    """The same, with what is wrong with one in the place of its answer."""
    answers: list[Any] = []
    for request in [connection.create_request(*command) for command in commands]:
        try:
            answers.append(await request)
        except ResponseError as error:
            answers.append(error)
    return answers


async def asked(connection: BaseConnection, commands: Iterable[Any]) -> list[Any]:
    """The answers to several commands, which are sent at once. Raises what is wrong with any."""
    requests = [connection.create_request(*command) for command in commands]
    return [await request for request in requests]
