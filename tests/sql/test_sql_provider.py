"""`SqlProvider`: its arguments, sessions of other types and components, and its errors."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from once_nodes import PRINT, REPLY, OnceNode, once_node, place, prepare
from ports import free_port
from sql_databases import Database
from sqlalchemy import event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from websuckets.clock import SYSTEM_CLOCK
from websuckets.di import provide_context
from websuckets.exc import ConfigurationError, Unavailable
from websuckets.idempotency import RetryingStore, StoredReply
from websuckets.sql import SqlProvider, sqlite_engine
from websuckets.sql.store import Settings, SqlIdempotencyStore
from websuckets.sql.tables import replies

pytestmark = pytest.mark.anyio


class Writing(AsyncSession):
    """A session of a type of the program's own."""


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((None,), {}, "type by which handlers ask for their session"),
        ((Session,), {}, "SqlProvider(Session): it takes the type"),
        ((AsyncSession(),), {}, "AsyncSession, or a subclass of it"),
        ((AsyncSession,), {"retries": -1}, "retries=-1"),
        ((AsyncSession,), {"retries": 1.5}, "retries=1.5"),
        ((AsyncSession,), {"lifetime": 0}, "lifetime=0"),
        ((AsyncSession,), {"lifetime": float("nan")}, "lifetime=nan"),
        ((AsyncSession,), {"lifetime": "week"}, "lifetime='week'"),
        ((AsyncSession,), {"component": 7}, "component=7"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SqlProvider(*arguments, **options)
    assert words in str(caught.value)


def test_the_library_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("websuckets.sql")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match='extra "sql"'):
        import websuckets.sql  # noqa: F401


@pytest.mark.parametrize("component", [None, "db"])
async def test_the_session_may_be_of_a_subclass_and_in_a_component(
    database: Database, component: str | None
) -> None:
    async with once_node(database.engine()) as node:
        await prepare(node.engine)
        sessions = async_sessionmaker(node.engine, class_=Writing)
        own = OnceNode(
            node.engine,
            provide_context(sessions.begin, provides=Writing, component=component),
            provider=SqlProvider(Writing, component=component),
            session=(Writing, component or ""),
        )
        for _ in range(2):
            assert await own.send() == REPLY
        assert await own.orders() == ["order"]


async def test_a_reply_is_forgotten_after_its_lifetime(database: Database) -> None:
    clock, provider = Clock(), SqlProvider(AsyncSession, lifetime=10)
    async with once_node(database.engine(), provider=provider, clock=clock) as node:
        await prepare(node.engine)
        for now, text in ((1000.0, "first"), (1009.9, "second"), (1010.0, "third")):
            clock.now = now
            reply = StoredReply(PRINT, text)

            async def handler(session: AsyncSession, text: str = text) -> None:
                await place(session, text)

            expected = StoredReply(PRINT, "first") if text == "second" else reply
            assert await node.send(handler, reply=reply) == expected
        assert await node.orders() == ["first", "third"]


async def test_a_store_keeps_to_the_protocol(node: OnceNode) -> None:
    async with node.sessions() as session:
        store = SqlIdempotencyStore(session, Settings(SYSTEM_CLOCK, 10, 5))
        assert isinstance(store, RetryingStore)
        assert repr(store) == "SqlIdempotencyStore()"
        store.leave()
        await store.settle(False)


async def test_another_kind_of_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with once_node(sqlite_engine(tmp_path / "test.db")) as node:
        monkeypatch.setattr(node.engine.sync_engine.dialect, "name", "mysql")
        with pytest.raises(RuntimeError, match="in SQLite and PostgreSQL, not in mysql"):
            await node.send()


# Rows that change between the statements of a claim


def meanwhile(node: OnceNode, statement: str, then: Callable[[], Awaitable[Any]]) -> None:
    """Let something happen once, after the first statement of a node that begins so."""

    steps = [then]

    def after(*arguments: Any) -> None:
        sql = arguments[2]
        if steps and sql.startswith(statement) and "websuckets_replies" in sql:
            await_only(steps.pop()())

    event.listen(node.engine.sync_engine, "after_cursor_execute", after)


async def let_expire(node: OnceNode) -> None:
    async with node.engine.begin() as connection:
        await connection.execute(replies.update().values(expires=0))


async def test_of_two_that_replace_an_expired_reply_one_takes_effect(
    node: OnceNode, other_node: OnceNode
) -> None:
    if node.engine.dialect.name == "sqlite":
        pytest.skip("its writers wait for each other")
    await node.send(reply=StoredReply(PRINT, "expired"))
    await let_expire(node)

    async def handler(session: AsyncSession) -> None:
        await place(session, "again")

    meanwhile(other_node, "SELECT", lambda: node.send(handler))
    assert await other_node.send(handler, reply=StoredReply(PRINT, "other")) == REPLY
    assert (node.runs, other_node.runs) == (2, 0)
    assert await node.orders() == ["order", "again"]


async def test_a_reply_that_is_deleted_while_it_is_looked_for_is_forgotten(
    node: OnceNode, other_node: OnceNode
) -> None:
    if node.engine.dialect.name == "sqlite":
        pytest.skip("its writers wait for each other")
    await node.send()
    await let_expire(node)

    async def delete() -> None:
        async with node.engine.begin() as connection:
            await connection.execute(replies.delete())

    async def handler(session: AsyncSession) -> None:
        await place(session, "again")

    meanwhile(other_node, "INSERT", delete)
    assert await other_node.send(handler) == REPLY
    assert await node.orders() == ["order", "again"]


# Databases that cannot be reached


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_server_that_is_not_there_is_unavailable(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(driver)
    url = f"postgresql+{driver}://canary:canary@127.0.0.1:{free_port()}/canary"
    async with once_node(create_async_engine(url)) as node:
        with pytest.raises(Unavailable):
            await node.send()
    assert "the database of SqlProvider cannot be used: " in caplog.text
    assert "canary" not in caplog.text


async def test_a_pool_without_a_free_connection_is_unavailable(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "a.db", pool_size=1, max_overflow=0, pool_timeout=0.01)
    async with once_node(engine) as node:
        await prepare(engine)
        async with engine.connect():
            with pytest.raises(Unavailable):
                await node.send()
        assert await node.send() == REPLY


async def test_a_connection_that_the_server_has_closed_is_unavailable(
    node: OnceNode, other_node: OnceNode
) -> None:
    if node.engine.dialect.name == "sqlite":
        pytest.skip("it has no server")

    async def end_connection(session: AsyncSession) -> None:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        async with other_node.engine.connect() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    node.before_claim = end_connection
    with pytest.raises(Unavailable):
        await node.send()
    node.before_claim = None
    assert await node.send() == REPLY


async def test_a_file_that_is_not_a_database_is_an_error_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.write_text("not a database" * 1000)
    async with once_node(sqlite_engine(path)) as node:
        with pytest.raises(DatabaseError, match="not a database"):
            await node.send()
