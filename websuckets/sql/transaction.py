"""Transaction of a command that takes effect once, from its claim to the end of its scope.

Effect and reply are committed together, by whatever closes the session. So nothing may end the
transaction between the claim and the reply; and if nothing commits it after the reply, the command
has not taken effect. Both are mistakes of a program, which SQLAlchemy's events show:

- A commit is refused before anything is committed. A session that is told so goes on as if it had
  not been asked, and the command may still succeed.
- A rollback cannot be refused. The claim is gone with it, so the command ends in an error, also
  where the handler catches the one of the rollback and goes on.
- A commit of the connection below the session is refused, too. Only one that SQLAlchemy does not
  see, by the driver or as a text, commits an effect without its reply.
"""

from enum import Enum, auto
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from websuckets.runtime.once import running_once

__all__ = ["ClaimedTransaction", "command"]


class _State(Enum):
    CLAIMED = auto()
    LEFT = auto()
    """The handler is done, and has failed: the scope closes."""
    COMPLETE = auto()
    COMMITTED = auto()
    LOST = auto()


class ClaimedTransaction:
    """Watch over the transaction in which a command was claimed, until `release`."""

    def __init__(self, session: Session, connection: Connection) -> None:
        self.connection: Final = connection
        self._command: Final = command()
        self._session: Final = session
        self._transactions: Final = session.get_transaction(), connection.get_transaction()
        self._state = _State.CLAIMED
        self._is_of_session = False  # of the commit that has begun
        self._has_worked = False  # since the reply was written
        self._around_reply: frozenset[SessionTransaction] = frozenset()
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_soft_rollback", self._after_rollback)
        event.listen(connection, "commit", self._before_connection_commits)
        event.listen(connection, "before_cursor_execute", self._before_statement)

    @property
    def is_committed(self) -> bool:
        """True if the transaction was committed after `complete`."""
        return self._state is _State.COMMITTED

    def check(self) -> None:
        """Raise `RuntimeError` if the transaction of the claim has ended."""
        root, _ = self._transactions
        current = self._session.get_transaction(), self.connection.get_transaction()
        lost = self._state is _State.LOST or current != self._transactions
        # An attribute that SQLAlchemy does not document; no public one has all connections.
        if root is not None and len({id(used) for used, *_ in root._connections.values()}) > 1:
            raise RuntimeError(
                f"{self._command}: its session works on several databases (binds=), which do not "
                "commit together; use a session of the one database that has websuckets_replies"
            )
        if lost or root is None or not root.is_active:
            raise RuntimeError(
                f"{self._command}: its transaction has ended before the command was done, and "
                "nothing of it takes effect; an error that the handler catches may have rolled it "
                "back: use a savepoint (`async with session.begin_nested():`) around statements "
                "that may fail, and neither commit() nor rollback() nor close()"
            )

    def complete(self) -> None:
        """Expect the commit from now on."""
        savepoints = set()
        transaction = self._session.get_nested_transaction()
        while transaction is not None:
            savepoints.add(transaction)
            transaction = transaction.parent
        self._around_reply = frozenset(savepoints)
        self._state = _State.COMPLETE

    def leave(self) -> None:
        """Allow a rollback, because the scope closes."""
        if self._state is _State.CLAIMED:
            self._state = _State.LEFT

    def release(self) -> None:
        """Watch no longer."""
        event.remove(self._session, "before_commit", self._before_commit)
        event.remove(self._session, "after_commit", self._after_commit)
        event.remove(self._session, "after_soft_rollback", self._after_rollback)
        event.remove(self.connection, "commit", self._before_connection_commits)
        event.remove(self.connection, "before_cursor_execute", self._before_statement)

    def _before_commit(self, session: Session) -> None:
        if not session.in_nested_transaction():
            self._refuse("session.commit()")
            self._is_of_session = True

    def _before_statement(self, connection: Connection, *arguments: object) -> None:
        if self._state is _State.COMPLETE:
            self._has_worked = True
        elif self._state is _State.CLAIMED and connection.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            if not driver.in_transaction:
                self._state = _State.LOST
                raise RuntimeError(
                    f"{self._command}: SQLite has rolled its transaction back by itself (ON "
                    "CONFLICT ROLLBACK, RAISE(ROLLBACK), or a full disk), and what follows would "
                    "be kept without its reply; nothing of it takes effect"
                )

    def _before_connection_commits(self, connection: Connection) -> None:
        try:
            self._refuse("connection.commit()")
            if self._has_worked:
                # PostgreSQL answers the commit of a transaction in which a statement has failed by
                # a rollback and no error; any other statement raises there.
                connection.exec_driver_sql("SELECT 1")
        except Exception:
            self._state = _State.LOST
            # For SQLAlchemy the transaction is over now; it would leave it open in the pool.
            connection.dialect.do_rollback(connection.connection)
            raise
        # A commit of the session may still fail: `_after_commit` says whether it has succeeded.
        if not self._is_of_session and connection.get_transaction() is self._transactions[1]:
            self._state = _State.COMMITTED

    def _after_commit(self, session: Session) -> None:
        if self._state is _State.COMPLETE and session.get_transaction() is self._transactions[0]:
            if not session.in_nested_transaction():
                self._state = _State.COMMITTED

    def _after_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        if self._state is _State.COMPLETE:
            if transaction.parent is not None and transaction in self._around_reply:
                self._state = _State.LOST  # without the reply, the claim must not be committed
        elif self._state is _State.CLAIMED and transaction.parent is None:
            self._state = _State.LOST
            raise RuntimeError(
                f"{self._command}: session.rollback() undid the claim of the command, and "
                "nothing of it takes effect; raise an error, which rolls everything back, or use a "
                "savepoint for a part (`async with session.begin_nested():`)"
            )

    def _refuse(self, call: str) -> None:
        if self._state not in (_State.COMPLETE, _State.COMMITTED):
            raise RuntimeError(
                f"{self._command}: {call} is refused, because a command with once=True is "
                "committed together with its reply, when its scope closes; use `await "
                "session.flush()` to send changes before, and savepoints (`async with "
                "session.begin_nested():`)"
            )


def command() -> str:
    """Return the name of the command that runs, for errors."""
    name = running_once.get()
    return "a command with once=True" if name is None else f"command {name!r}"
