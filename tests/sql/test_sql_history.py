"""Log of events in transactions of its own: what it does when the database fails, and its app."""

import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from event_logs import SetClock, publication
from harness import app_with, dial
from once_nodes import Order
from sql_databases import Database
from sql_logs import Node, append, opened
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only
from timeouts import TIMEOUT

from websuckets import CommandGroup, Payload, Socket
from websuckets.di import provide_context
from websuckets.exc import ClientError, Unavailable
from websuckets.history import EventLog, History, HistoryLost, MessageLog, Position
from websuckets.sql import SqlProvider, create_tables, retention
from websuckets.sql.history import SqlLog
from websuckets.sql.retention import EVENTS, delete_expired, keep_deleting
from websuckets.sql.tables import events

pytestmark = pytest.mark.anyio


async def count(node: Node) -> int:
    async with node.engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(events)) or 0


# The first epoch


async def test_nodes_that_use_the_log_first_at_the_same_time_agree_on_its_epoch(
    one: Node, two: Node
) -> None:
    for _ in range(5):
        await one.remove_all()
        found: set[str] = set()

        async def publish(node: Node, channel: str, found: set[str] = found) -> None:
            found.add((await node.log.append(publication("{}", channel))).epoch)

        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for node in (one, two):
                    for channel in "abcd":
                        tasks.start_soon(publish, node, channel)
        assert len(found) == 1


# Conflicts


async def test_a_conflict_of_transactions_is_tried_again(database: Database, one: Node) -> None:
    """SQLite is locked for longer than it waits; PostgreSQL finds a conflict."""
    options: dict[str, Any] = {"isolation_level": "SERIALIZABLE"}
    if database.is_sqlite:
        options = {"busy_timeout": 0.01}
    await one.publish("c")
    conflicts: list[str] = []
    async with opened(database, **options) as node:
        failed = anyio.Event()

        def note(context: Any) -> None:
            conflicts.append(type(context.original_exception).__name__)
            failed.set()

        event.listen(node.engine.sync_engine, "handle_error", note)
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as tasks:
                async with one.message() as (_, log):
                    await append(log)
                    tasks.start_soon(node.log.append, publication("{}"))
                    if one.is_sqlite:
                        await failed.wait()
                    else:
                        await one.until_others_wait()
    assert len(conflicts) >= 1
    assert [offset for offset, _ in await one.events()] == [1, 2, 3]


async def test_a_conflict_that_does_not_pass_is_unavailable(
    database: Database, one: Node, caplog: pytest.LogCaptureFixture
) -> None:
    if not one.is_sqlite:
        pytest.skip("its transactions wait, and one of them goes on")
    await one.publish("c")
    async with opened(database, busy_timeout=0.001) as node:
        async with one.message() as (_, log):
            await append(log)
            with pytest.raises(Unavailable):
                await node.log.append(publication("{}"))
    assert "the database of SqlProvider cannot be used: OperationalError" in caplog.text
    assert await count(one) == 2


class Sessions:
    """Sessions of a node, in which errors are raised once they are committed."""

    def __init__(self, node: Node, *errors: Exception) -> None:
        self._node = node
        self._errors = list(errors)
        self.opened = 0

    def __call__(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[AsyncSession]:
        self.opened += 1
        async with self._node.sessions.begin() as session:
            yield session
        if self._errors:
            raise self._errors.pop()


class DriverError(Exception):
    """An error of a driver."""

    sqlstate = "40001"


CONFLICT = OperationalError("SELECT 1", {}, DriverError())


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (CONFLICT, OperationalError),
        (ConnectionResetError(), Unavailable),
        (ValueError(), ValueError),
    ],
)
async def test_an_error_after_the_commit_appends_nothing_again(
    one: Node, error: Exception, raised: type[Exception]
) -> None:
    sessions = Sessions(one, error)
    failing = SqlLog(sessions, SetClock(), 5)
    with pytest.raises(raised):
        await failing.append(publication("{}"))
    assert sessions.opened == 1
    assert await count(one) == 1


async def test_sessions_that_do_not_commit_by_themselves_are_committed(one: Node) -> None:
    await SqlLog(one.sessions, SetClock(), 5).append(publication("{}"))
    assert await count(one) == 1


# Outages


@pytest.mark.parametrize("has_committed", [True, False])
async def test_an_append_whose_commit_is_not_answered_is_unavailable_and_not_tried_again(
    one: Node, two: Node, has_committed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if one.is_sqlite:
        pytest.skip("it has no server")
    await one.publish("c")
    do_commit = one.engine.sync_engine.dialect.do_commit
    commits = 0

    def commit(connection: Any) -> None:
        nonlocal commits
        commits += 1
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
        if has_committed:
            do_commit(connection)
        await_only(end(pid))
        do_commit(connection)
        cursor.execute("SELECT 1")

    async def end(pid: int) -> None:
        async with two.engine.connect() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    one.engine.sync_engine.dialect.do_commit = commit  # type: ignore  # for this engine alone
    with pytest.raises(Unavailable):
        await one.log.append(publication("{}", "c"))
    one.engine.sync_engine.dialect.do_commit = do_commit  # type: ignore  # as it was
    assert commits == 1
    assert await count(two) == 1 + has_committed
    assert (await one.log.append(publication("{}", "c"))).offset == 2 + has_committed
    assert "the database of SqlProvider cannot be used: " in caplog.text


@pytest.mark.parametrize("checkpoints", range(12))
async def test_an_append_that_is_cancelled_at_any_moment_leaves_a_log_that_works(
    one: Node, checkpoints: int
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.log.append, publication("{}"))
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(TIMEOUT):
        for _ in range(3):
            position = await one.log.append(publication("{}"))
    assert [offset for offset, _ in await one.events()] == list(range(1, position.offset + 1))
    assert position.offset in (3, 4)


# Retention


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


async def fill(node: Node, clock: SetClock, number: int, channel: str, history: History) -> None:
    log = SqlLog(node.sessions.begin, clock, 5)
    for _ in range(number):
        await log.append(publication("{}", channel, history))


async def kept(node: Node) -> list[str]:
    async with node.engine.connect() as connection:
        rows = select(events.c.channel, events.c.offset).order_by(*events.primary_key)
        return [f"{channel}{offset}" for channel, offset in await connection.execute(rows)]


async def test_events_that_are_not_kept_any_more_are_deleted_in_batches(
    one: Node, clock: SetClock
) -> None:
    await fill(one, clock, 5, "a", History(seconds=10))
    await fill(one, clock, 7, "b", History(size=3))
    await fill(one, clock, 1, "c", History(size=1))
    sessions = Sessions(one)
    clock.now += 9
    await delete_expired(EVENTS, sessions, clock, batch=2)
    assert await kept(one) == ["a1", "a2", "a3", "a4", "a5", "b5", "b6", "b7", "c1"]
    assert sessions.opened == 1 + 3
    clock.now += 1
    await delete_expired(EVENTS, sessions, clock, batch=2)
    assert await kept(one) == ["b5", "b6", "b7", "c1"]
    assert sessions.opened == 4 + 3 + 1
    assert (await one.log.position("a")).offset == 5


async def test_events_of_an_epoch_before_are_deleted_when_they_are_too_old(
    one: Node, clock: SetClock
) -> None:
    await fill(one, clock, 3, "a", History(seconds=10, size=1))
    await one.log.new_epoch()
    await fill(one, clock, 2, "a", History(seconds=20, size=1))
    await delete_expired(EVENTS, one.sessions.begin, clock)
    assert await kept(one) == ["a1", "a2", "a3", "a2"]
    clock.now += 10
    await delete_expired(EVENTS, one.sessions.begin, clock)
    assert await kept(one) == ["a2"]


async def test_a_position_is_lost_that_the_log_has_no_events_behind(
    one: Node, clock: SetClock
) -> None:
    """A position is lost in another epoch, before the kept events, and behind the last event."""
    history = History(size=2, seconds=10)
    log = SqlLog(one.sessions.begin, clock, 5)
    await fill(one, clock, 5, "a", history)
    epoch = (await log.position("a")).epoch
    found = await log.read("a", Position(epoch, 3), 10)
    assert [event.offset for event in found] == [4, 5]
    for since in Position("another", 3), Position(epoch, 2), Position(epoch, 6):
        with pytest.raises(HistoryLost):
            await log.read("a", since, 10)
    clock.now += 10
    with pytest.raises(HistoryLost):
        await log.read("a", Position(epoch, 3), 10)
    assert await log.read("a", Position(epoch, 5), 10) == []


async def test_nodes_delete_events_at_the_same_time(one: Node, two: Node, clock: SetClock) -> None:
    await fill(one, clock, 60, "a", History(size=5))
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for node in (one, two, one):
                tasks.start_soon(
                    lambda node: delete_expired(EVENTS, node.sessions.begin, clock, batch=7), node
                )
    assert len(await kept(one)) == 5


async def test_a_deletion_that_fails_says_what_cannot_be_deleted(
    one: Node, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with one.engine.begin() as connection:
        await connection.run_sync(events.drop)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: keep_deleting(EVENTS, one.sessions.begin, clock, period=0.01))
            while "expired events cannot be deleted for now: " not in caplog.text:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


# Secrets

CANARY = "canary"


@pytest.mark.parametrize("has_table", [True, False])
async def test_names_and_payloads_are_neither_in_errors_nor_in_logs(
    database: Database, has_table: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(database, hide_parameters=False, echo=True) as node:
        await create_tables(node.engine)
        if not has_table:
            async with node.engine.begin() as connection:
                await connection.run_sync(events.drop)
        given = [publication(f"a {CANARY}", f"{CANARY} {n}", excluded=CANARY) for n in range(3)]
        for some in (given, given[:1]):
            errors: list[BaseException] = []
            try:
                async with node.message() as (_, log):
                    await log.append(some)
                    await log.position(f"{CANARY} 1")
                await node.log.append(some[0])
                await node.log.read(some[0].channel, await node.log.position(CANARY), 10)
            except DBAPIError as error:
                errors.append(error)
            assert len(errors) == (not has_table)
            for error in errors:
                assert CANARY not in "".join(traceback.format_exception(error))
    assert "INSERT INTO websuckets_channels" in caplog.text
    assert [line for line in caplog.text.splitlines() if CANARY in line and "Row" not in line] == []


# Apps


def commands() -> CommandGroup:
    group = CommandGroup()

    @group.command("comment")
    async def comment(
        socket: Socket, words: Payload[str], db: AsyncSession, log: MessageLog
    ) -> int:
        db.add(Order(text=words))
        ((_, offset),) = await log.append([publication(words)])
        if words == "refused":
            raise ClientError("refused")
        return offset

    @group.command("watch")
    async def watch(socket: Socket, log: MessageLog, of_app: EventLog) -> list[int]:
        epoch, offset = await log.position("c")
        found = await of_app.read("c", Position(epoch, 0), 100)
        return [offset, *(event.offset for event in found)]

    return group


async def test_an_app_appends_by_the_sessions_of_its_handlers(
    database: Database, one: Node
) -> None:
    async with opened(database) as node:
        app = app_with(
            commands(),
            providers=[
                provide_context(node.sessions.begin, provides=AsyncSession),
                SqlProvider(AsyncSession),
            ],
        )
        async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
            assert (await client.call("watch"))["payload"] == [0]
            assert (await client.call("comment", payload="first"))["payload"] == 1
            assert (await client.call("comment", payload="refused"))["error"] == "refused"
            assert (await client.call("comment", payload="second"))["payload"] == 2
            assert (await client.call("watch"))["payload"] == [2, 1, 2]
        assert await one.events() == [(1, b"first"), (2, b"second")]


async def test_the_session_of_both_logs_may_be_in_a_component(
    database: Database, one: Node
) -> None:
    group = CommandGroup()

    @group.command("comment")
    async def comment(socket: Socket, log: MessageLog, of_app: EventLog) -> bool:
        await log.append([publication("{}")])
        return log.is_transactional and of_app.is_shared

    async with opened(database) as node:
        provided = provide_context(node.sessions.begin, provides=AsyncSession, component="db")
        app = app_with(group, providers=[provided, SqlProvider(AsyncSession, component="db")])
        async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
            assert (await client.call("comment", id=1))["payload"] is True
    assert await count(one) == 1


def test_without_history_the_logs_are_those_of_another_provider() -> None:
    provider = SqlProvider(AsyncSession, history=False)
    provided = {each.provides.type_hint for each in provider.factories}
    assert not provided & {EventLog, MessageLog, SqlLog}
    provided = {each.provides.type_hint for each in SqlProvider(AsyncSession).factories}
    assert provided >= {MessageLog, SqlLog}


async def test_the_log_of_a_message_takes_no_connection_before_it_is_used(one: Node) -> None:
    async with one.message() as (_, log):
        assert repr(log) == "SqlMessageLog()"
        assert repr(one.log) == "SqlLog()"
        assert list(await log.append([])) == []
        pool: Any = one.engine.pool
        assert pool.checkedout() == 0


async def test_the_first_use_of_the_log_starts_the_deletion_of_events(
    database: Database, one: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect the sessions of the task to be those of the program, each committed."""
    monkeypatch.setattr(retention.keep_deleting, "__defaults__", (0.01, 1000))
    group = CommandGroup()

    @group.command("comment")
    async def comment(socket: Socket, log: MessageLog) -> None:
        await log.append([publication("{}", history=History(seconds=0.001))])

    async with opened(database) as node:
        provided = provide_context(node.sessions.begin, provides=AsyncSession)
        app = app_with(group, providers=[provided, SqlProvider(AsyncSession)])
        async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
            await client.call("comment", id=1)
            with anyio.fail_after(TIMEOUT):
                while await count(one):
                    await anyio.sleep(0.01)
    assert (await one.log.position("c")).offset == 1
