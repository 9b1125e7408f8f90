"""Log of the events of channels in SQL: in transactions of its own, and in those of handlers.

An event that a handler publishes is a row of the transaction in which the handler works. It exists
if and only if the transaction commits, and its offset has no gap before it, because the row of the
channel is locked until then. Other publishers of the channel wait meanwhile, so events are appended
as the last thing before the commit.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Generic, TypeVar

import anyio
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from websuckets.clock import WallClock
from websuckets.exc import Unavailable
from websuckets.history import LoggedEvent, Position, Publication
from websuckets.sql import log_statements
from websuckets.sql.errors import is_conflict, is_outage, pause_after
from websuckets.sql.sessions import (
    OpenSession,
    commits_by_itself,
    run_in,
    unavailable,
)
from websuckets.sql.tables import channels

__all__ = ["SqlLog", "SqlMessageLog"]

T = TypeVar("T")

TIME_TO_RETRY: Final = 5.0
"""Seconds after which a transaction that conflicts with others is not run again.

SQLite waits for its lock by itself, for about as long.
"""


class SqlLog:
    """An `EventLog` in the database of a program.

    ``open_session`` opens a session for each call. ``clock`` is the clock by which events grow old.
    A transaction that conflicts with others runs again, up to ``retries`` times.
    ``begin_retention`` is called with each call.
    """

    is_shared: Final = True
    publishes_hints: Final = False

    def __init__(
        self,
        open_session: OpenSession,
        clock: WallClock,
        retries: int,
        begin_retention: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_session = open_session
        self._retries = retries
        self.clock: Final = clock
        self.begin_retention: Final = begin_retention

    async def append(self, publication: Publication) -> Position:
        (position,) = await self._run(partial(_appended, [publication], self.clock))
        return position

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        def page(connection: Connection) -> list[LoggedEvent]:
            return log_statements.read(connection, channel, since, limit, self.clock.time())

        return await self._run(page)

    async def position(self, channel: str) -> Position:
        (position,) = await self.positions([channel])
        return position

    async def positions(self, channels: Sequence[str]) -> Sequence[Position]:
        return await self._run(partial(_positions, channels))

    async def new_epoch(self) -> None:
        """Begin a new epoch; transactions that append at the same time may still be of the old."""
        await self._run(log_statements.begin_new_epoch)

    async def _run(self, function: Callable[[Connection], T]) -> T:
        """Call a function in a transaction of its own, which is committed."""
        self.begin_retention()
        last = anyio.current_time() + TIME_TO_RETRY
        attempt = 1
        while True:
            transaction = _Transaction(function)
            try:
                async with self._open_session() as session:
                    return await session.run_sync(transaction.run)
            except Exception as error:
                # An error of the end of the scope may come after the commit.
                if transaction.is_committed or not is_conflict(error):
                    if is_outage(error):
                        raise unavailable(error) from error
                    raise
                if attempt > self._retries or anyio.current_time() > last:
                    raise unavailable(error) from error
            await anyio.sleep(pause_after(attempt))
            attempt += 1

    def __repr__(self) -> str:
        return "SqlLog()"


class _Transaction(Generic[T]):
    """A transaction in a session that websuckets has opened."""

    def __init__(self, function: Callable[[Connection], T]) -> None:
        self._function = function
        self.is_committed = False

    def run(self, session: Session) -> T:
        """Call the function with the connection of the session, and commit."""
        result = self._function(_connection_of(session))
        # Here, and not by the scope, so that it is known which errors come before the commit.
        session.commit()
        self.is_committed = True
        return result


class SqlMessageLog:
    """A `MessageLog` that works through the session of the handler.

    ``log`` is the log of the app. No connection is taken from the pool before a method is called.
    """

    def __init__(self, session: AsyncSession, log: SqlLog) -> None:
        self._session = session
        self._log = log
        self._has_committed = False

    @property
    def is_transactional(self) -> bool:
        return True

    @property
    def has_committed(self) -> bool:
        return self._has_committed

    async def append(self, publications: Sequence[Publication]) -> Sequence[Position]:
        """Append events; see `MessageLog.append`.

        Flushes the session first: what a flush may take long for is done before other publishers
        have to wait. Raises `RuntimeError` for a session without transactions, and errors of the
        database as they are.
        """
        self._log.begin_retention()
        return await run_in(self._session, self._append, publications)

    async def position(self, channel: str) -> Position:
        """Return the position behind the last event of a channel; see `MessageLog.position`.

        Expires all objects of the session that have no changes, so that the next statement that
        asks for them reads them again. Their attributes cannot be read before (``MissingGreenlet``
        of SQLAlchemy). An object that has changes keeps them, and what it has read.
        """
        self._log.begin_retention()
        position = await run_in(self._session, self._position, channel)
        return Position(await self._first_epoch(), 0) if position is None else position

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        def page(session: Session) -> list[LoggedEvent]:
            connection, now = _connection_of(session), self._log.clock.time()
            return log_statements.read(connection, channel, since, limit, now)

        return await run_in(self._session, page)

    async def _first_epoch(self) -> str:
        """Return the epoch of a log that had none, made in a transaction of its own.

        The epoch is not rolled back with the handler, nor do others wait for the handler. But where
        the handler is the one writer of SQLite, or has the last connection of the pool, the other
        transaction waits in vain: then the epoch belongs to the handler's.
        """
        with anyio.move_on_after(TIME_TO_RETRY), suppress(Unavailable):
            return (await self._log.position("")).epoch
        return await run_in(self._session, _epoch)

    def _append(self, session: Session, publications: Sequence[Publication]) -> list[Position]:
        if not publications:
            return []
        session.flush()
        event.listen(session, "after_commit", self._committed, once=True)
        return _appended(publications, self._log.clock, _connection_of(session))

    def _position(self, session: Session, channel: str) -> Position | None:
        found = log_statements.positions(_connection_of(session), [channel])
        _expire_unchanged(session)
        return None if found is None else found[0]

    def _committed(self, session: Session) -> None:
        self._has_committed = True

    def __repr__(self) -> str:
        return "SqlMessageLog()"


def _connection_of(session: Session) -> Connection:
    connection = session.connection({"clause": channels})
    if commits_by_itself(connection):
        raise RuntimeError(
            "the session of SqlProvider commits each statement by itself "
            "(isolation_level='AUTOCOMMIT'); channels with a history need transactions"
        )
    return connection


def _appended(
    publications: Sequence[Publication], clock: WallClock, connection: Connection
) -> list[Position]:
    """Append events, after the first epoch was made if there is none."""
    while (found := log_statements.append(connection, publications, clock.time())) is None:
        log_statements.begin_epoch(connection)
    return found


def _positions(channels: Sequence[str], connection: Connection) -> list[Position]:
    """Return positions, after the first epoch was made if there is none."""
    while (found := log_statements.positions(connection, channels)) is None:
        log_statements.begin_epoch(connection)
    return found


def _epoch(session: Session) -> str:
    return _positions([""], _connection_of(session))[0].epoch


def _expire_unchanged(session: Session) -> None:
    """Expire the objects of a session that have neither changes nor a deletion to be flushed.

    ``expire_all`` would lose changes, and so would ``expire`` of one object, which expires those
    that belong to it, too. So this does what ``expire_all`` does, by the same undocumented method.
    """
    deleted = session.deleted
    states = session.identity_map
    for state in states.all_states():
        if not state.modified and state.obj() not in deleted:
            state._expire(state.dict, states._modified)
