"""A connection to Redis that is watched, and made again when it is lost or leads nowhere.

The problem: a node has to know of every message of other nodes that it may have missed, and a
connection to Redis can fail in ways that no error tells. A network may lose everything without a
word; a primary may become a replica, which still answers but cannot write; the server may be a
cluster, in which the node's channels belong to another server; and a refused subscription has no
answer of its own, so that answers get out of step with their commands.

Rejected: the client's methods for subscriptions, which subscribe again by
themselves after a loss and do not report it. A connection for each purpose: two connections can be
lost at different times, so that a node would be present but deaf, or the other way round.

The solution:

- One connection for commands, subscriptions and pushed messages (RESP3), used without the client's
  own reconnecting. Whatever ends it ends the whole attempt: `RedisConnection.run` tells the user of
  the loss, pauses, and makes a new one; pauses double up to a heartbeat, with jitter.
- A heartbeat asks the server for its role (``HELLO``). No answer within a heartbeat, or the answer
  of a replica, ends the connection. An answer to a command that shows the same, such as
  ``READONLY``, ends the connection too (`redis.errors` reads these states).
- The first redirection of a cluster is followed, with the key of the app.
- After a batch of commands an ``ECHO`` with a number of its own is sent: only if its answer is that
  number, the answers before it belong to their commands (`asked_each`).
- A mistake of the program, such as a wrong password, is raised at the first attempt, before the
  port opens; later it is logged once, and attempts go on, as the server may be mended.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import count
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

import anyio
from coredis import BaseConnection, ConnectionPool
from coredis.connection import TCPLocation
from coredis.exceptions import ConnectionError as NotConnected
from coredis.exceptions import MovedError, RedisError, ResponseError, WrongTypeError

from websuckets.exc import ConfigurationError, Unavailable
from websuckets.redis.errors import Meaning, Refusals, cause_of, first_of, meaning_of, text_of
from websuckets.redis.url import database_of
from websuckets.runtime.jitter import uniform

__all__ = [
    "AT_ONCE",
    "Command",
    "ConnectionLost",
    "RedisConnection",
    "RedisConnectionUser",
    "answers_to",
    "asked",
    "asked_each",
    "send",
]

logger: logging.Logger = logging.getLogger("websuckets")

Command: TypeAlias = tuple[Any, ...]
"""A command of Redis, and its arguments: bytes, texts, numbers."""

Ask: TypeAlias = Callable[[BaseConnection, Iterable[Any]], Awaitable[list[Any]]]

FIRST_PAUSE: Final = 0.05
"""Seconds before the first attempt to connect again; each further pause is twice as long, up to a
heartbeat."""

TIME_TO_CONNECT: Final = 2.0
"""Seconds that connecting may take at least, however short the heartbeat: connecting looks up a
name, and may make keys for TLS, on a machine that has other things to do."""

AT_ONCE: Final = 500
"""Number of commands, or of their items, that are sent together; other tasks run in between."""

STEPS: Final = 4
"""Number of steps in which an answer is awaited: a blocked event loop uses up only one step."""

ABOUT: Final[Command] = (b"HELLO", 3)
"""Command that asks for the server's role; allowed to every user, and answered in every state."""


class ConnectionLost(Unavailable):
    """Error for a connection that ended after a command was sent, and before its answer came.

    It is not known if the command took effect. A command that Redis never got raises `Unavailable`
    itself.
    """


class RedisConnectionUser(Protocol):
    """An object that uses a `RedisConnection`, and is told of changes of the connection."""

    key: str
    """A key of the app; in a cluster the connection goes to the server of this key."""

    async def connected(self, connection: BaseConnection) -> None:
        """Take a new connection; `pushed` is called already, other callers get it afterwards."""
        ...

    async def use(self) -> None:
        """Run while there is a connection."""
        ...

    async def beat(self) -> None:
        """Take note of a heartbeat, in which Redis has answered."""
        ...

    def pushed(self, message: list[Any]) -> None:
        """Take a message that Redis has sent by itself."""
        ...

    def disconnected(self) -> None:
        """Take note that the connection is lost, or that no connection could be made."""
        ...


class RedisConnection:
    """A connection to Redis, made again when it is lost; lives as long as the app.

    A connection on which Redis does not answer for a heartbeat is closed, whatever the network
    says: the network may lose everything. A caller that waits for an answer then gets an error. A
    connection to a server that says that it cannot serve any more, as a primary that became a
    replica, is closed, too: the same URL may lead to another server now.

    The client's methods for subscriptions resubscribe by themselves, or end, and do not report what
    was lost. So this class uses the connection itself, on which the end of pushed messages is an
    error.
    """

    def __init__(self, url: str, heartbeat: float) -> None:
        self._url = url
        self.database: int = database_of(url)
        self.heartbeat = heartbeat
        self._time_to_connect = max(heartbeat, TIME_TO_CONNECT)
        self.refusals: Refusals = Refusals()
        self._connection: BaseConnection | None = None
        self._has_to_leave = anyio.Event()
        self._reason_to_leave = ""
        self._told_of_loss: set[str] = set()

    async def run(self, user: RedisConnectionUser) -> None:
        """Keep connected until cancelled. Raises `ConfigurationError` if the first attempt does."""
        pause = FIRST_PAUSE
        is_first = True
        while True:
            try:
                await self._live_where_the_keys_are(user)
            except Exception as error:
                # No variable keeps the error, which keeps all that was sent when it came.
                if is_first and isinstance(first_of(error), ConfigurationError):
                    raise first_of(error) from None
                if self._connection is not None:
                    pause = FIRST_PAUSE
                self._log_loss(first_of(error))
            finally:
                self._connection = None
                user.disconnected()
            is_first = False
            await anyio.sleep(uniform(pause / 2, pause))
            pause = min(2 * pause, self.heartbeat)

    async def ask(self, *command: Any) -> Any:
        """Return the answer of Redis to one command.

        Raises `Unavailable` while Redis does not answer, or refuses, and other errors of Redis
        without what was sent; `ConnectionLost` where the connection ends before the answer.
        """
        (answer,) = await self.ask_all([command])
        return answer

    async def ask_all(self, commands: Iterable[Any]) -> list[Any]:
        """Return the answers to several commands, sent at once; raise as `ask` does."""
        return await self._ask(asked, commands)

    async def ask_each(self, commands: Iterable[Any]) -> list[Any]:
        """Return answers as `ask_all` does; for a key of another kind, the error is the answer."""
        answers = await self._ask(asked_each, commands)
        for answer in answers:
            if isinstance(answer, RedisError) and not isinstance(answer, WrongTypeError):
                raise self._error_of(answer)
        return answers

    async def _ask(self, way: Ask, commands: Iterable[Any]) -> list[Any]:
        if self._connection is None:
            raise Unavailable
        try:
            return await way(self._connection, commands)
        except RedisError as error:
            raise self._error_of(error) from None

    def _error_of(self, error: RedisError) -> Exception:
        """Return the error to raise to a caller for an error with which Redis answered."""
        meaning = meaning_of(error)
        if meaning is Meaning.UNEXPECTED:
            return ResponseError(text_of(error))
        if meaning in (Meaning.LOST, Meaning.ELSEWHERE):
            self._reason_to_leave = text_of(error)
            self._has_to_leave.set()
            return ConnectionLost()
        self.refusals.found(error)
        return Unavailable()

    async def _live_where_the_keys_are(self, user: RedisConnectionUser) -> None:
        """Run one connection: to the server of the URL, or to the one that this server names.

        Raises the error that ended the connection.
        """
        location: TCPLocation | None = None
        try:
            await self._live(user, None)
        except Exception as error:
            moved = first_of(error)
            if self._connection is not None or not isinstance(moved, MovedError):
                raise
            # A cluster may be told not to name its servers: then the host stays the same.
            location = TCPLocation(moved.host or str(urlsplit(self._url).hostname), moved.port)
        await self._live(user, location)

    async def _live(self, user: RedisConnectionUser, location: TCPLocation | None) -> None:
        pool = ConnectionPool.from_url(self._url, max_connections=1, decode_components=True)
        if location is not None:
            pool.location = location
        async with pool:
            connection = await self._connect(pool, user.key)
            self._has_to_leave = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, connection, user)
                tasks.start_soon(self._watch, connection, user)
                tasks.start_soon(self._hear, connection)
                tasks.start_soon(self._leave)
                await user.connected(connection)
                self._connection = connection
                if self._told_of_loss:
                    self._told_of_loss.clear()
                    logger.warning("Redis is back")
                await user.use()

    async def _connect(self, pool: ConnectionPool[Any], key: str) -> BaseConnection:
        """Connect to a server that can serve. Raises `ConfigurationError` if no server ever can."""
        try:
            with anyio.fail_after(self._time_to_connect):
                # A connection of the client that fails to connect leaves streams unclosed.
                if pool.location is None or not await pool.location.check():
                    raise NotConnected(f"nobody listens at {pool.location}")
                connection: BaseConnection = await pool.get_connection()
                about: Any = await request(connection, *ABOUT)
                _check_role(about)
                if about.get(b"mode") == b"cluster":
                    await request(connection, b"EXISTS", key)
                return connection
        except TimeoutError:
            raise TimeoutError(f"no connection within {self._time_to_connect} seconds") from None
        except RedisError as error:
            if meaning_of(error) in (Meaning.MISCONFIGURED, Meaning.UNEXPECTED):
                text = f"RedisProvider(url), at {pool.location}: {text_of(error)}"
                raise ConfigurationError(text) from None
            raise

    async def _listen(self, connection: BaseConnection, user: RedisConnectionUser) -> None:
        async for message in connection.push_messages:
            user.pushed(message)
        raise NotConnected("the messages have ended")

    async def _hear(self, connection: BaseConnection) -> None:
        """Count unrequested answers of Redis that are errors: refusals of subscriptions."""
        async for answer in connection.streamed_messages:
            if isinstance(answer, RedisError):
                self.refusals.found(answer)

    async def _watch(self, connection: BaseConnection, user: RedisConnectionUser) -> None:
        while True:
            await anyio.sleep(self.heartbeat)
            question = request(connection, *ABOUT)
            for _ in range(STEPS):
                with anyio.move_on_after(self.heartbeat / STEPS):
                    await question
                if question.complete:
                    break
            else:
                raise TimeoutError(f"no answer within {self.heartbeat} seconds")
            _check_role(await question)
            self.refusals.beat()
            await user.beat()

    async def _leave(self) -> None:
        """Raise `NotConnected` once an answer shows that this server cannot serve any more."""
        await self._has_to_leave.wait()
        raise NotConnected(self._reason_to_leave)

    def _log_loss(self, cause: BaseException) -> None:
        """Log the loss once, and once more for each `ConfigurationError`."""
        text = cause_of(cause)
        is_mistake = isinstance(cause, ConfigurationError)
        if not self._told_of_loss or (is_mistake and text not in self._told_of_loss):
            # As text, so that a kept log record does not keep what the error is about.
            logger.error("Redis is away: %s", text)
            self._told_of_loss.add(text)


def _check_role(about: Any) -> None:
    """Raise `NotConnected` for a replica, or for an answer to something else."""
    if not isinstance(about, dict):
        raise _out_of_step([about])
    if about.get(b"role") in (b"replica", b"slave"):
        raise NotConnected("it is a replica, which cannot write")


def request(connection: BaseConnection, *command: Any) -> Any:
    """Send a command; return an awaitable of the answer. Raises `NotConnected`."""
    try:
        return connection.create_request(*command)
    except anyio.ClosedResourceError:  # the connection is being closed
        raise NotConnected("the connection is closed") from None


def send(connection: BaseConnection, *command: Any) -> None:
    """Send a command that has no answer, or do nothing on a connection that is lost."""
    with suppress(NotConnected, anyio.ClosedResourceError):
        connection.send_command(*command)


async def answers_to(connection: BaseConnection, commands: Iterable[Any]) -> list[Any]:
    """Return the answers; a `ResponseError` stands in the place of its answer.

    Redis answers a subscription only to refuse it, and the client takes the refusal for the answer
    to the next command. So use `asked_each` where an answer is used for more than to see that there
    is one.
    """
    answers: list[Any] = []
    for question in [request(connection, *command) for command in commands]:
        try:
            answers.append(await question)
        except ResponseError as error:
            answers.append(error)
    return answers


async def asked_each(connection: BaseConnection, commands: Iterable[Any]) -> list[Any]:
    """Return answers that are certainly to these commands; raise `NotConnected` otherwise.

    The answer to a last command is known: where that answer differs, no other answer is used.
    """
    mark = b"%d" % next(_marks)
    *answers, last = await answers_to(connection, (*commands, (b"ECHO", mark)))
    if isinstance(last, RedisError):
        raise last
    if last != mark:
        raise _out_of_step(answers)
    return answers


async def asked(connection: BaseConnection, commands: Iterable[Any]) -> list[Any]:
    """Return the answers to several commands, sent at once. Raises the first error among them."""
    answers = await asked_each(connection, commands)
    for answer in answers:
        if isinstance(answer, RedisError):
            raise answer
    return answers


_marks = count()


def _out_of_step(answers: Iterable[Any]) -> NotConnected:
    """Return the error for an answer that does not fit the question."""
    refusals = [text_of(answer) for answer in answers if isinstance(answer, RedisError)]
    why = refusals[0] if refusals else "an answer is to something else than what was asked"
    return NotConnected(f"it refuses subscriptions: {why}")
