"""Engines for SQLite by `sqlite_engine`."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SAWarning
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool, StaticPool
from timeouts import TIMEOUT

from websuckets.exc import ConfigurationError
from websuckets.runtime.once import running_once
from websuckets.sql import sqlite, sqlite_engine

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = sqlite_engine(tmp_path / "test.db", busy_timeout=0.01)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    yield engine
    await engine.dispose()


async def count(session: AsyncSession) -> int:
    return int(await session.scalar(text("SELECT count(*) FROM items")) or 0)


async def write(session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO items DEFAULT VALUES"))


@pytest.mark.parametrize(
    "name",
    ["{}/a.db", "sqlite:///{}/a.db", "sqlite+aiosqlite:///{}/a.db"],
)
async def test_a_path_and_a_url_name_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.db"
    given = name.format(tmp_path)
    for url_or_path in (given, make_url(given) if "://" in given else Path(given)):
        engine = sqlite_engine(url_or_path)
        assert engine.url.drivername == "sqlite+aiosqlite"
        async with engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS a (id INTEGER)")
        await engine.dispose()
        assert path.exists()


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("busy_timeout", 10), ("foreign_keys", 1), ("synchronous", 2)],
)
async def test_connections_are_configured(engine: AsyncEngine, pragma: str, value: Any) -> None:
    async with engine.connect() as connection:
        assert await connection.scalar(text(f"PRAGMA {pragma}")) == value


async def test_foreign_keys_are_checked(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.exec_driver_sql("CREATE TABLE parts (item INTEGER REFERENCES items (id))")
        with pytest.raises(IntegrityError):
            await connection.exec_driver_sql("INSERT INTO parts VALUES (7)")


async def test_a_reader_sees_one_state_and_waits_for_no_writer(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as reader, AsyncSession(engine) as writer:
        assert await count(reader) == 0
        await write(writer)
        await writer.commit()
        assert await count(reader) == 0
        await reader.rollback()
        assert await count(reader) == 1


async def test_tables_that_are_created_are_rolled_back(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.exec_driver_sql("CREATE TABLE others (id INTEGER)")
        await connection.rollback()
        with pytest.raises(DBAPIError, match="no such table"):
            await connection.exec_driver_sql("SELECT * FROM others")


async def test_a_command_that_takes_effect_once_begins_as_a_writer(engine: AsyncEngine) -> None:
    """The mark is a context variable, which SQLAlchemy's greenlets see."""
    async with AsyncSession(engine) as first, AsyncSession(engine) as second:
        run = running_once.begin("order place")
        assert await count(first) == 0
        with pytest.raises(DBAPIError, match="database is locked"):
            await count(second)
        run.is_over = True
        await second.rollback()
        assert await count(second) == 0
        with pytest.raises(DBAPIError, match="database is locked"):
            await write(second)


async def test_two_that_read_before_they_write_take_turns_in_commands(tmp_path: Path) -> None:
    """Without the mark, one of them would fail as soon as it writes."""
    engine = sqlite_engine(tmp_path / "test.db")
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    counts = []

    async def read_and_write() -> None:
        running_once.begin("order place")
        async with AsyncSession(engine) as session, session.begin():
            counts.append(await count(session))
            await write(session)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(read_and_write)
    assert counts == [0, 1, 2, 3]
    await engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", ":memory:"])
async def test_sessions_of_a_database_in_memory_take_turns(url: str) -> None:
    engine = sqlite_engine(url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE items (id INTEGER PRIMARY KEY)")

    async def read_and_write() -> None:
        async with AsyncSession(engine) as session, session.begin():
            await count(session)
            await write(session)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(read_and_write)
    async with AsyncSession(engine) as session:
        assert await count(session) == 4
    await engine.dispose()


async def test_options_are_those_of_sqlalchemy(tmp_path: Path) -> None:
    engine = sqlite_engine(":memory:", poolclass=StaticPool, hide_parameters=False)
    assert isinstance(engine.pool, StaticPool)
    assert not engine.sync_engine.hide_parameters
    assert sqlite_engine(tmp_path / "test.db").sync_engine.hide_parameters


@pytest.mark.parametrize("is_freed", [True, False])
async def test_a_new_file_in_which_another_process_writes_is_waited_for(
    tmp_path: Path, is_freed: bool
) -> None:
    path = tmp_path / "test.db"
    engine = sqlite_engine(path, busy_timeout=TIMEOUT if is_freed else 0.02)

    async def connect() -> None:
        async with engine.connect() as connection:
            assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"

    with closing(sqlite3.connect(path, isolation_level=None)) as other, anyio.fail_after(TIMEOUT):
        other.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")
        other.execute("BEGIN IMMEDIATE")
        if is_freed:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connect)
                await anyio.sleep(0.05)  # in which it tries, but not more may be known
                other.execute("COMMIT")
        else:
            with pytest.raises(DBAPIError, match="database is locked"):
                await connect()
    await engine.dispose()


@pytest.mark.parametrize(
    "url", ["postgresql://localhost/canary", "sqlite+pysqlite:///canary", "://canary", 7]
)
def test_another_database_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="sqlite_engine") as caught:
        sqlite_engine(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "5", None])
def test_a_timeout_that_is_not_a_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="busy_timeout="):
        sqlite_engine("a.db", busy_timeout=seconds)


# The thread of aiosqlite answers a loop that has ended, which raises in that thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_event_loop_ends_although_the_closing_of_a_waiting_writer_was_cancelled(
    tmp_path: Path,
) -> None:
    async def cancel_a_writer() -> None:
        engine = sqlite_engine(tmp_path / "test.db", busy_timeout=1)
        async with AsyncSession(engine) as session:
            await session.execute(text("SELECT 1"))
            with anyio.move_on_after(0.05) as life:
                await write(session)
            assert life.cancelled_caught
            await session.invalidate()
        await engine.dispose()
        # The event loop ends while the closing still waits for the other writer.

    before = set(threading.enumerate())
    with closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=anyio.run, args=(cancel_a_writer,), daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    for left in set(threading.enumerate()) - before:  # else it may raise in another test
        left.join(TIMEOUT)
        assert not left.is_alive()


def test_a_driver_whose_connections_cannot_be_stopped_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(aiosqlite.Connection, "stop")  # as before 0.22.1
    with pytest.raises(ConfigurationError, match=r"needs aiosqlite 0\.22\.1 or newer, not 0"):
        sqlite_engine("a.db")


# Cancelled commands


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Let nothing but the engine itself end connections that are left."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_command_that_is_cancelled_at_any_moment_keeps_no_connection(
    tmp_path: Path,
) -> None:
    engine = sqlite_engine(tmp_path / "test.db", pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE items (id INTEGER PRIMARY KEY)")

    async def read_and_write() -> None:
        async with AsyncSession(engine) as session, session.begin():
            await count(session)
            await write(session)

    for checkpoints in range(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_and_write)
            for _ in range(checkpoints):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool.checkedout() == 0
        async with AsyncSession(engine) as session:
            await count(session)
    await engine.dispose()


class SlowStatement:
    """A statement that runs in the driver's thread until ``may_end`` is set."""

    def __init__(self) -> None:
        self.started, self.may_end = threading.Event(), threading.Event()

    async def run(self, connection: AsyncConnection) -> None:
        await (await driver_of(connection)).create_function("wait", 0, self._wait)
        await connection.exec_driver_sql("SELECT wait()")

    async def runs(self) -> None:
        assert await anyio.to_thread.run_sync(self.started.wait, TIMEOUT)

    def _wait(self) -> None:
        self.started.set()
        self.may_end.wait(TIMEOUT)


async def driver_of(connection: AsyncConnection) -> aiosqlite.Connection:
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    return driver


@pytest.fixture
def statement() -> Iterator[SlowStatement]:
    """Yield a statement, and check that each thread of the test ends."""
    before = set(threading.enumerate())
    statement = SlowStatement()
    yield statement
    statement.may_end.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("Thread-"):  # and is not one of anyio's or asyncio's
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.mark.parametrize("checkpoints", [0, 1, 5])
async def test_a_second_cancellation_disturbs_neither_the_closing_nor_the_command(
    tmp_path: Path, statement: SlowStatement, checkpoints: int
) -> None:
    engine = sqlite_engine(tmp_path / "test.db", pool_size=1, max_overflow=0)
    cleaned_up = anyio.Event()

    async def command() -> None:
        async with engine.connect() as connection:
            try:
                await statement.run(connection)
            finally:
                await anyio.lowlevel.checkpoint()
                cleaned_up.set()

    task = asyncio.ensure_future(command())
    await statement.runs()
    task.cancel()
    for _ in range(checkpoints):
        await anyio.lowlevel.checkpoint()
    task.cancel()
    await anyio.lowlevel.checkpoint()
    statement.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned_up.is_set()
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


async def test_a_timeout_while_a_connection_is_closed_is_raised_once(
    engine: AsyncEngine, statement: SlowStatement
) -> None:
    connection = await engine.connect()
    driver = await driver_of(connection)
    await driver.create_function("wait", 0, statement._wait)
    busy = asyncio.ensure_future(driver.execute_fetchall("SELECT wait()"))
    await statement.runs()
    asyncio.get_running_loop().call_later(0.02, statement.may_end.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connection.invalidate()
    await anyio.lowlevel.checkpoint()  # which nobody has cancelled
    await busy
    await connection.close()


async def test_a_cancelled_command_waits_no_longer_than_allowed_for_its_statement(
    tmp_path: Path, statement: SlowStatement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CLOSE_TIMEOUT", 0.01)
    engine = sqlite_engine(tmp_path / "test.db")
    async with engine.connect() as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(statement.run, connection)
        await statement.runs()
        tasks.cancel_scope.cancel()
    assert not statement.may_end.is_set()
    statement.may_end.set()
    await engine.dispose()


def test_the_end_of_an_event_loop_waits_for_statements_that_it_cancels(
    tmp_path: Path, statement: SlowStatement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CLOSE_TIMEOUT", 0.01)
    tasks: list[asyncio.Future[None]] = []

    async def leave_a_command() -> None:
        engine = sqlite_engine(tmp_path / "test.db", busy_timeout=TIMEOUT)

        async def command() -> None:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("CREATE TABLE items (id INTEGER PRIMARY KEY)")
                await statement.run(connection)

        tasks.append(asyncio.ensure_future(command()))
        await statement.runs()

    thread = threading.Thread(target=asyncio.run, args=(leave_a_command(),), daemon=True)
    thread.start()
    thread.join(0.1)  # in which the thread ends if its event loop does not wait
    assert thread.is_alive()
    statement.may_end.set()
    thread.join(TIMEOUT)
    assert tasks[0].cancelled()
    with closing(sqlite3.connect(tmp_path / "test.db", timeout=0)) as other:
        other.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")  # as no lock is left


async def test_an_error_of_the_closing_is_logged(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(connection: aiosqlite.Connection) -> None:
        await close(connection)
        raise sqlite3.OperationalError("disk I/O error")

    close = aiosqlite.Connection.close
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
        with monkeypatch.context() as patch:
            patch.setattr(aiosqlite.Connection, "close", fail)
            await connection.invalidate()
    assert "Exception terminating connection" in caplog.text
    assert "disk I/O error" in caplog.text


async def test_the_thread_of_a_connection_that_is_collected_as_garbage_ends(
    tmp_path: Path,
) -> None:
    engine = sqlite_engine(tmp_path / "test.db")
    before = set(threading.enumerate())
    connection = await engine.connect()
    (thread,) = set(threading.enumerate()) - before
    with pytest.warns(SAWarning, match="garbage collector"):
        del connection
        gc.collect()
    await anyio.to_thread.run_sync(thread.join, TIMEOUT)
    assert not thread.is_alive()
    await engine.dispose()
