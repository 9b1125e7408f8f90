"""Errors of databases: which of them let a command run again, and none of them show secrets."""

import logging
import traceback
from typing import Any

import pytest
from once_nodes import Base, OnceNode, once_node
from sql_databases import Database
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession

from websuckets.clock import SYSTEM_CLOCK
from websuckets.exc import ClientError
from websuckets.idempotency import StoredReply
from websuckets.sql import create_tables
from websuckets.sql.errors import is_conflict, is_outage, passes_when_run_again
from websuckets.sql.store import Settings, SqlIdempotencyStore


class DriverError(Exception):
    """An error of a driver, with codes as drivers give them."""

    def __init__(self, **codes: Any) -> None:
        super().__init__("driver")
        vars(self).update(codes)


def of_sqlalchemy(**codes: Any) -> OperationalError:
    return OperationalError("SELECT 1", {}, DriverError(**codes))


def raised(error: BaseException, *, cause: Any = None, context: Any = None) -> BaseException:
    """Return the error as it is with a cause, or with an error in whose handling it was raised."""
    error.__cause__ = cause
    error.__context__ = context
    error.__suppress_context__ = cause is not None
    return error


CONFLICT = of_sqlalchemy(sqlstate="40001")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (CONFLICT, True),
        (of_sqlalchemy(sqlstate="40P01"), True),
        (of_sqlalchemy(sqlite_errorcode=5), True),
        (of_sqlalchemy(sqlite_errorcode=6), True),
        (of_sqlalchemy(sqlite_errorcode=517), True),  # BUSY_SNAPSHOT
        (DriverError(sqlstate="40001"), True),
        (of_sqlalchemy(sqlstate="40002"), False),
        (of_sqlalchemy(sqlstate=40001), False),
        (of_sqlalchemy(sqlite_errorcode=19), False),
        (of_sqlalchemy(), False),
        (ClientError("40001"), False),
        (ExceptionGroup("", [ValueError(), ExceptionGroup("", [CONFLICT])]), True),
        (ExceptionGroup("", [ValueError(), KeyError()]), False),
        (raised(RuntimeError(), cause=CONFLICT), True),
        (raised(PendingRollbackError(), context=CONFLICT), True),
        (raised(ClientError("no"), cause=ValueError(), context=CONFLICT), False),
    ],
)
def test_conflicts_that_pass_are_found_wherever_they_are(
    error: BaseException, passes: bool
) -> None:
    assert passes_when_run_again(error) is passes


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (CONFLICT, True),
        (of_sqlalchemy(sqlite_errorcode=517), True),
        (DriverError(sqlstate="40P01"), True),
        (raised(of_sqlalchemy(sqlstate="08006"), cause=CONFLICT), False),
        (raised(ConnectionResetError(), context=CONFLICT), False),
        (of_sqlalchemy(), False),
        (ValueError(), False),
    ],
)
def test_a_lost_connection_is_no_conflict_because_it_followed_one(
    error: BaseException, is_one: bool
) -> None:
    assert is_conflict(error) is is_one


def test_an_error_that_is_its_own_context_is_looked_at_once() -> None:
    error, other = ValueError(), KeyError()
    error.__context__, other.__context__ = other, error
    assert not passes_when_run_again(error)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (of_sqlalchemy(), True),
        (of_sqlalchemy(sqlstate="08006"), True),
        (of_sqlalchemy(sqlstate="53300"), True),
        (of_sqlalchemy(sqlstate="57P03"), True),
        (DriverError(sqlstate="57P03"), True),
        (ConnectionRefusedError(), True),
        (DBAPIError("SELECT 1", {}, DriverError(), connection_invalidated=True), True),
        (DBAPIError("SELECT 1", {}, DriverError()), False),
        (of_sqlalchemy(sqlstate="42P01"), False),
        (of_sqlalchemy(sqlite_errorcode=14), False),
        (ValueError(), False),
    ],
)
def test_outages_are_told_from_errors_of_the_program(error: BaseException, is_one: bool) -> None:
    assert is_outage(error) is is_one


def test_pauses_are_short_and_random_and_grow_and_end() -> None:
    store = SqlIdempotencyStore(AsyncSession(), Settings(SYSTEM_CLOCK, 10.0, 20))
    longest = []
    for attempt in range(1, 21):
        pauses = [store.retry_after(CONFLICT, attempt) for _ in range(100)]
        found = [pause for pause in pauses if pause is not None]
        assert len(set(found)) == 100
        assert all(0 <= pause <= min(0.01 * 2**attempt, 1.28) for pause in found)
        longest.append(max(found))
    assert longest[0] < 0.02 < longest[4] < 0.32 < longest[9]
    assert store.retry_after(CONFLICT, 21) is None
    assert store.retry_after(ClientError("no"), 1) is None


def test_without_retries_nothing_runs_again() -> None:
    store = SqlIdempotencyStore(AsyncSession(), Settings(SYSTEM_CLOCK, 10.0, 0))
    assert store.retry_after(CONFLICT, 1) is None


# Secrets

CANARY = "canary"


def expect_no_secret(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    texts = [*traceback.format_exception(error), repr(error), caplog.text]
    part: BaseException | None = error
    while part is not None:
        texts += [str(part), repr(part), str(vars(part))]
        part = part.__cause__ or part.__context__
    assert [line for line in texts if CANARY in line] == []


async def send(node: OnceNode) -> BaseException:
    """Run a command whose owner, key and reply are secret, and return its error."""
    reply = StoredReply(b"1" * 32, f"a {CANARY}")
    with pytest.raises(Exception) as caught:
        await node.send(lambda session: session.flush(), f"{CANARY} 1", owner=CANARY, reply=reply)
    return caught.value


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("lacks", ["the table", "the column of the reply"])
async def test_secrets_are_neither_in_errors_nor_in_logs(
    database: Database, lacks: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with once_node(database.engine(hide_parameters=False, echo=True)) as node:
        if lacks == "the column of the reply":
            await create_tables(node.engine)
            async with node.engine.begin() as connection:
                sql = "ALTER TABLE websuckets_replies RENAME COLUMN frame TO framed"
                await connection.execute(text(sql))
        error = await send(node)
        assert isinstance(error, DBAPIError) and error.hide_parameters
        expect_no_secret(error, caplog)


@pytest.mark.anyio
async def test_secrets_are_not_in_the_log_of_a_command_that_takes_effect(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with once_node(database.engine(hide_parameters=False, echo=True)) as node:
        await create_tables(node.engine)
        caplog.set_level(logging.DEBUG)
        reply = StoredReply(b"1" * 32, f"a {CANARY}")
        for _ in range(2):
            await node.send(lambda session: session.flush(), CANARY, owner=CANARY, reply=reply)
    assert "INSERT INTO websuckets_replies" in caplog.text
    assert CANARY not in caplog.text.replace(repr(reply.frame), "")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "column", ["added INTEGER NOT NULL", "added INTEGER CHECK (frame IS NULL)"]
)
async def test_a_row_that_the_table_refuses_is_not_quoted(
    database: Database, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL itself quotes the row, in the text of its error."""
    caplog.set_level(logging.DEBUG)
    async with once_node(database.engine(hide_parameters=False, echo=True)) as node:
        async with node.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            binary = "BLOB" if database.is_sqlite else "BYTEA"
            await connection.execute(
                text(
                    "CREATE TABLE websuckets_replies (owner TEXT, key TEXT, frame TEXT,"
                    f" fingerprint {binary}, expires FLOAT, {column}, PRIMARY KEY (owner, key))"
                )
            )
        error = await send(node)
        assert isinstance(error, RuntimeError)
        assert "is it as in websuckets.sql.metadata?" in str(error)
        texts = [*traceback.format_exception(error), repr(error), str(error), caplog.text]
        assert [line for line in texts if CANARY in line] == []


@pytest.mark.anyio
async def test_a_reply_that_is_missing_does_not_show_the_key(
    node: OnceNode, caplog: pytest.LogCaptureFixture
) -> None:
    async def commit_past_the_session(session: AsyncSession) -> None:
        await session.execute(text("COMMIT"))
        raise ClientError("failed")

    with pytest.raises(ClientError):
        await node.send(commit_past_the_session, f"{CANARY} 1", owner=CANARY)
    error = await send(node)
    assert "without a reply" in str(error)
    expect_no_secret(error, caplog)
