"""Engines for SQLite whose transactions begin when they should, and wait for each other."""

import os
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from math import inf
from sqlite3 import OperationalError
from typing import Any, Final

import anyio
from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from websuckets.exc import ConfigurationError
from websuckets.runtime.event_loop import spawn
from websuckets.runtime.once import running_once

__all__ = ["sqlite_engine"]

DRIVER: Final = "sqlite+aiosqlite"

PAUSE: Final = 0.01
"""Seconds between attempts to switch a new file to the write-ahead log."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for which a cancelled command waits for the closing of its connection."""


def sqlite_engine(
    url_or_path: str | os.PathLike[str] | URL, *, busy_timeout: float = 5.0, **options: Any
) -> AsyncEngine:
    """Return an engine for a file of SQLite, by the driver aiosqlite.

    ``url_or_path`` is the path of the file, or a URL as ``sqlite:///notes.db``. ``options`` are
    those of SQLAlchemy's ``create_async_engine``.

    Readers do not wait for the one writer at a time (write-ahead log), a writer waits up to
    ``busy_timeout`` seconds for the other writer, foreign keys are checked, and a commit is on the
    disk when it returns. Each transaction begins with ``BEGIN``, so that all its statements see one
    state, and savepoints work. The transactions of a command with ``once=True`` begin as writers
    (``BEGIN IMMEDIATE``): of two commands with one key the second waits, and does not fail later.
    Such a handler therefore uses one session: a second one would wait for the first one, and fail
    with "database is locked" after ``busy_timeout``.

    The driver cannot stop a statement: a command that is cancelled waits for the end of its
    statement, but at most 2 seconds, or ``busy_timeout`` more after asyncio's ``Task.cancel()``.

    A database in memory has one connection, which sessions get one after the other. Errors and logs
    of the engine do not show parameters, unless ``options`` has ``hide_parameters=False``.

    Raises `ConfigurationError` for a URL of another database or driver, for an aiosqlite before
    0.22.1, and for a ``busy_timeout`` that is not a positive number.
    """
    url = _url(url_or_path)
    _check_driver()
    if not (isinstance(busy_timeout, int | float) and 0 < busy_timeout < inf):
        raise ConfigurationError(
            f"sqlite_engine(busy_timeout={busy_timeout!r}): it is a number of seconds, above 0"
        )
    options.setdefault("hide_parameters", True)
    if url.database in (None, "", ":memory:") and "poolclass" not in options:
        options = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0} | options
    engine = create_async_engine(url, **options)
    event.listen(
        engine.sync_engine, "connect", lambda connection, _: _configure(connection, busy_timeout)
    )
    event.listen(engine.sync_engine, "begin", _begin)
    # No event of SQLAlchemy takes the place of a termination; the dialect is this engine's alone.
    terminate = partial(_terminate, busy_timeout=busy_timeout)
    engine.dialect.do_terminate = terminate  # type: ignore[method-assign]
    return engine


def _url(url_or_path: str | os.PathLike[str] | URL) -> URL:
    if isinstance(url_or_path, os.PathLike):
        url_or_path = os.fspath(url_or_path)
    if isinstance(url_or_path, str) and "://" not in url_or_path:
        return URL.create(DRIVER, database=url_or_path)
    try:
        url = make_url(url_or_path)
    except ArgumentError:
        raise ConfigurationError(
            "sqlite_engine(url_or_path): it is the path of a file, or a URL as sqlite:///notes.db"
        ) from None
    if url.drivername not in ("sqlite", DRIVER):
        raise ConfigurationError(
            f"sqlite_engine(url_or_path): it is for SQLite and aiosqlite, not {url.drivername}; "
            "other databases need SQLAlchemy's create_async_engine alone"
        )
    return url.set(drivername=DRIVER)


def _check_driver() -> None:
    """Refuse a driver whose connections cannot be stopped, such as aiosqlite before 0.22.1.

    SQLAlchemy leaves such a connection where the closing was cancelled: the driver's thread goes
    on, may hold the lock of writers, and raises where the event loop has ended meanwhile.
    """
    from aiosqlite import Connection  # here, as apps with another database do without

    if not hasattr(Connection, "stop"):
        raise ConfigurationError(
            f"sqlite_engine() needs aiosqlite 0.22.1 or newer, not {version('aiosqlite')}, "
            "which leaves a connection, with its locks, where a command was cancelled: "
            "python -m pip install --upgrade aiosqlite"
        )


def _configure(connection: Any, busy_timeout: float) -> None:
    """Prepare a new connection: ``connection`` is SQLAlchemy's adapter of the driver's."""
    # Else Python's sqlite3 begins transactions itself, later than SQLAlchemy says so.
    connection.isolation_level = None
    connection.run_async(lambda driver: _prepare(driver, busy_timeout))


async def _prepare(driver: Any, busy_timeout: float) -> None:
    try:
        await _set_pragmas(driver, busy_timeout)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await driver.close()  # which has a thread
        raise


async def _set_pragmas(driver: Any, busy_timeout: float) -> None:
    await _execute(driver, f"PRAGMA busy_timeout = {max(1, round(busy_timeout * 1000))}")
    await _execute(driver, "PRAGMA foreign_keys = ON")
    await _execute(driver, "PRAGMA synchronous = FULL")
    # The file stays switched to the write-ahead log. SQLite does not wait for its busy timeout
    # where another process is writing in a file that is to be switched.
    deadline = anyio.current_time() + busy_timeout
    while True:
        try:
            await _execute(driver, "PRAGMA journal_mode = WAL")
            return
        except OperationalError:
            if anyio.current_time() >= deadline:
                raise
            await anyio.sleep(PAUSE)


async def _execute(driver: Any, statement: str) -> None:
    # Rows that nobody has fetched would keep the lock of the file after a cancellation.
    await driver.execute_fetchall(statement)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if running_once.get() is None else "BEGIN IMMEDIATE")


def _terminate(dbapi_connection: Any, busy_timeout: float) -> None:
    """Close a connection that cannot be used any more, such as one whose statement was cancelled.

    SQLAlchemy's own function waits until the connection is closed, and each further cancellation
    ends that waiting; a cancel scope of anyio makes one at every step. SQLAlchemy (2.0.58, 2.1.9)
    then stops the thread of aiosqlite a second time; the thread answers once, and the end of the
    event loop waits for the other answer for ever.

    Raises what the closing raised, and a cancellation by ``Task.cancel()`` that came meanwhile,
    unless the connection is closed for a cancellation, which SQLAlchemy raises itself.
    """
    if not in_greenlet():  # the connection is collected as garbage: nothing may wait
        dbapi_connection.driver_connection.stop()
        return
    reason = sys.exception()
    error = dbapi_connection.run_async(partial(_close_shielded, busy_timeout=busy_timeout))
    if error is not None and (isinstance(error, Exception) or not isinstance(reason, type(error))):
        raise error


async def _close_shielded(driver: Any, busy_timeout: float) -> BaseException | None:
    """Close a connection of the driver, and wait for the closing, whatever is cancelled meanwhile.

    A statement that was cancelled still runs in the driver's thread, and may wait for another
    writer, for ``busy_timeout``. A command, which a cancel scope has cancelled, waits at most
    `CLOSE_TIMEOUT`; the closing is a task, which goes on. ``Task.cancel()`` may come from the end
    of the event loop, which waits for no new tasks: there the closing is waited for as long as the
    statement may wait, because a thread that answers an event loop which has ended dies, with the
    lock that the thread holds. Returns the last cancellation that came meanwhile, or else the error
    of the closing.
    """
    timeout = CLOSE_TIMEOUT
    if anyio.current_effective_deadline() > -inf:  # no cancel scope is cancelled
        timeout += busy_timeout
    closed = anyio.Event()
    error: BaseException | None = None

    async def close() -> None:
        nonlocal error
        try:
            await _close(driver)
        except Exception as its_error:
            error = its_error
        finally:
            closed.set()

    spawn(close)  # the task lives, as the driver's queue refers to it
    cancellation = None
    with anyio.move_on_after(timeout, shield=True) as waiting:
        while not closed.is_set():
            try:
                await closed.wait()
            except anyio.get_cancelled_exc_class() as its_cancellation:
                if waiting.cancel_called:
                    raise
                cancellation = its_cancellation  # by `Task.cancel`, which knows no shield
    return cancellation or error


async def _close(driver: Any) -> None:
    """Roll back, and close.

    SQLite keeps a connection, its transaction and the lock while a cursor has rows to give, also
    after the connection was closed: until the cursor is collected as garbage.
    """
    try:
        with suppress(Exception):  # nothing depends on it: the closing ends the transaction, too
            await driver.rollback()
    finally:
        await driver.close()
