"""Errors of databases: which of them pass when a transaction runs again, and their texts."""

from collections.abc import Iterator
from sqlite3 import SQLITE_BUSY, SQLITE_LOCKED
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    StatementError,
    TimeoutError,
)

from websuckets.runtime.jitter import uniform

__all__ = ["execute", "is_conflict", "is_outage", "passes_when_run_again", "pause_after"]

TRANSIENT: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs of serialization failures and deadlocks."""

OUTAGES: Final = ("08", "53", "57P")
"""Beginnings of SQLSTATEs of connections that are lost, and of servers that take none."""

PAUSE: Final = 0.01
"""Seconds before a second run, at most; twice as many before each further one."""

DOUBLINGS: Final = 7
"""Doublings of the pause, at most."""


def passes_when_run_again(error: BaseException) -> bool:
    """Tell whether a serialization failure, a deadlock or a lock of SQLite led to ``error``.

    Looks at its causes and contexts, and at the errors of exception groups.
    """
    return any(map(_is_transient, _parts(error)))


def is_conflict(error: BaseException) -> bool:
    """Tell whether ``error`` itself is one that passes, so that its transaction has no effect.

    Does not look at what led to ``error``: that may be the error of another transaction.
    """
    return _is_transient(error.orig if isinstance(error, DBAPIError) else error)


def pause_after(attempt: int) -> float:
    """Return the seconds before the next run, at random; ``attempt`` counts the runs, from 1."""
    return uniform(0, PAUSE * 2 ** min(attempt, DOUBLINGS))


def is_outage(error: BaseException) -> bool:
    """Tell whether ``error`` says that the database cannot be reached, or has no connection left.

    ``error`` comes from SQLAlchemy, or from the driver while it connected.
    """
    if isinstance(error, TimeoutError | OSError):
        return True
    state = _sqlstate(error)
    if state is None and isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        state = _sqlstate(error.orig)
        if state is None and _sqlite_code(error.orig) is None:
            return isinstance(error, OperationalError)
    return state is not None and state.startswith(OUTAGES)


def execute(
    connection: Connection,
    statement: Executable,
    parameters: dict[str, Any] | list[dict[str, Any]],
) -> CursorResult[Any]:
    """Execute a statement of websuckets, whose errors do not show the parameters."""
    try:
        return connection.execute(statement, parameters)
    except (DataError, IntegrityError) as error:
        # The server's own text may quote the row.
        raise RuntimeError(
            f"{type(error.orig).__name__} in a table of websuckets.sql: is it as in "
            "websuckets.sql.metadata?"
        ) from None
    except StatementError as error:
        error.hide_parameters = True
        error.params = None
        raise


def _parts(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, all that led to it, and the errors of drivers in them, each once."""
    found: list[BaseException | None] = [error]
    seen = set()
    while found:
        part = found.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        found.append(part.__cause__)
        if not part.__suppress_context__:
            found.append(part.__context__)
        if isinstance(part, BaseExceptionGroup):
            found.extend(part.exceptions)
        if isinstance(part, StatementError):
            found.append(part.orig)


def _is_transient(error: BaseException | None) -> bool:
    return _sqlstate(error) in TRANSIENT or _sqlite_code(error) in (SQLITE_BUSY, SQLITE_LOCKED)


def _sqlstate(error: BaseException | None) -> str | None:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _sqlite_code(error: BaseException | None) -> int | None:
    """Return the primary code of an error of SQLite, without its extension."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
