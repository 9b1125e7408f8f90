"""Store of replies in the transactions of the commands themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Executable, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from websuckets.clock import WallClock
from websuckets.idempotency import StoredReply
from websuckets.sql.errors import execute, passes_when_run_again, pause_after
from websuckets.sql.sessions import commits_by_itself, run_in
from websuckets.sql.tables import replies
from websuckets.sql.texts import Hidden, stored
from websuckets.sql.transaction import ClaimedTransaction, command

__all__ = ["Settings", "SqlIdempotencyStore"]


@dataclass(frozen=True)
class Settings:
    """Settings of all stores of one provider."""

    clock: WallClock
    lifetime: float
    retries: int
    begin_retention: Callable[[], None] = lambda: None
    """Function that is called with each claim: `Retention.begin`."""


class _Statements(NamedTuple):
    insert: Executable
    find: Executable
    replace: Executable
    complete: Executable


def _statements(insert: Any) -> _Statements:
    """Return the statements for a dialect, which SQLAlchemy compiles once for each engine."""
    names = "owner", "key", "fingerprint", "expires"
    row: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    is_it = (replies.c.owner == bindparam("new_owner")) & (replies.c.key == bindparam("new_key"))
    renewed = {"fingerprint": row["fingerprint"], "expires": row["expires"], "frame": None}
    return _Statements(
        insert=insert(replies)
        .values(row)
        .on_conflict_do_nothing(index_elements=["owner", "key"])
        .inline()
        .execution_options(preserve_rowcount=True),
        find=select(replies.c.fingerprint, replies.c.frame, replies.c.expires).where(is_it),
        replace=update(replies)
        .where(is_it, replies.c.expires <= bindparam("now"))
        .values(renewed)
        .inline(),
        complete=update(replies)
        .where(is_it, replies.c.frame.is_(None))
        .values(frame=bindparam("new_frame"), fingerprint=row["fingerprint"])
        .inline(),
    )


STATEMENTS: Final = {
    "postgresql": _statements(postgresql.insert),
    "sqlite": _statements(sqlite.insert),
}
"""Statements by the name of SQLAlchemy's dialect."""


class SqlIdempotencyStore:
    """An `IdempotencyStore` that keeps replies by the session of the handler.

    The claim is a row without a frame, which other transactions do not see: one that inserts the
    same row waits in the database. The row gets its frame before the commit.
    """

    def __init__(self, session: AsyncSession, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._command = ""
        self._name: dict[str, Any] = {}
        self._transaction: ClaimedTransaction | None = None

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        self._settings.begin_retention()
        self._command = command()
        self._name = {"new_owner": stored(owner), "new_key": stored(key)}
        return await run_in(self._session, self._claim, fingerprint)

    async def complete(self, reply: StoredReply) -> None:
        await self._session.run_sync(self._complete, reply)

    async def settle(self, committed: bool) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return
        transaction.release()
        if committed and not transaction.is_committed:
            raise RuntimeError(
                f"{self._command}: its session was closed without a commit, so that the command "
                "has no effect; provide the session by provide_context(sessionmaker.begin, "
                "provides=AsyncSession)"
            )

    def retry_after(self, error: BaseException, attempt: int) -> float | None:
        if attempt > self._settings.retries or not passes_when_run_again(error):
            return None
        return pause_after(attempt)

    def leave(self) -> None:
        """Take note that the scope of the command closes."""
        if self._transaction is not None:
            self._transaction.leave()

    def _claim(self, session: Session, fingerprint: bytes) -> StoredReply | None:
        connection = session.connection({"clause": replies})
        if commits_by_itself(connection):
            raise RuntimeError(
                f"{self._command}: its session commits each statement by itself "
                "(isolation_level='AUTOCOMMIT'); a command with once=True needs transactions"
            )
        statements = _statements_for(connection)
        now = self._settings.clock.time()
        row = self._name | {
            "new_fingerprint": fingerprint,
            "new_expires": now + self._settings.lifetime,
        }
        while execute(connection, statements.insert, row).rowcount != 1:
            kept = execute(connection, statements.find, self._name).one_or_none()
            if kept is None:
                continue  # it has been deleted meanwhile
            if kept.expires > now:
                return _reply(kept)
            if execute(connection, statements.replace, row | {"now": now}).rowcount == 1:
                break
        self._transaction = ClaimedTransaction(session, connection)
        return None

    def _complete(self, session: Session, reply: StoredReply) -> None:
        transaction = self._transaction
        assert transaction is not None, "complete() without the claim"
        transaction.check()
        session.flush()
        connection = transaction.connection
        row = self._name | {
            "new_fingerprint": reply.fingerprint,
            "new_frame": Hidden(reply.frame),
        }
        if execute(connection, _statements_for(connection).complete, row).rowcount != 1:
            raise RuntimeError(f"{self._command}: its claim is not in websuckets_replies any more")
        transaction.complete()

    def __repr__(self) -> str:
        return "SqlIdempotencyStore()"


def _statements_for(connection: Connection) -> _Statements:
    name = connection.dialect.name
    if name not in STATEMENTS:
        raise RuntimeError(f"SqlProvider keeps replies in SQLite and PostgreSQL, not in {name}")
    return STATEMENTS[name]


def _reply(kept: Any) -> StoredReply:
    if kept.frame is None:
        raise RuntimeError(
            f"{command()}: this key was committed without a reply, by a commit past SQLAlchemy (of "
            "the driver's connection, or as a text); the command does not run again until its row "
            "in websuckets_replies has expired or is deleted"
        )
    return StoredReply(bytes(kept.fingerprint), kept.frame)
