"""Transactions of commands that take effect once: committed with the reply, or not at all."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from dishka import Provider, Scope
from once_nodes import REPLY, Handler, OnceNode, Order, place
from sql_databases import Database
from sqlalchemy import Row, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from websuckets.di import provide_context
from websuckets.exc import ClientError
from websuckets.sql import sqlite_engine
from websuckets.sql.tables import replies

pytestmark = pytest.mark.anyio


async def rows(node: OnceNode) -> list[Row[Any]]:
    """Return the replies that are committed."""
    async with node.engine.connect() as connection:
        columns = replies.c.owner, replies.c.key, replies.c.frame
        return list(await connection.execute(select(*columns)))


async def expect_nothing(node: OnceNode) -> None:
    """Expect that nothing was committed, and that the command can still take effect."""
    assert await node.orders() == []
    assert await rows(node) == []
    assert await node.send() == REPLY
    assert await node.orders() == ["order"]


async def test_a_command_takes_effect_together_with_its_reply(node: OnceNode) -> None:
    assert await node.send() == REPLY
    assert await node.orders() == ["order"]
    assert await rows(node) == [("str:ann", "k", REPLY.frame)]


async def test_a_command_that_is_sent_again_does_not_run_again(
    node: OnceNode, other_node: OnceNode
) -> None:
    for sender in (node, other_node, node):
        assert await sender.send() == REPLY
    assert (node.runs, other_node.runs) == (1, 0)
    assert await node.orders() == ["order"]


async def test_an_error_rolls_the_effect_back_with_the_claim(node: OnceNode) -> None:
    async def fail(session: AsyncSession) -> None:
        await place(session)
        raise ClientError("sold out")

    with pytest.raises(ClientError, match="sold out"):
        await node.send(fail)
    await expect_nothing(node)


async def test_objects_that_are_not_flushed_yet_take_effect(node: OnceNode) -> None:
    async def add(session: AsyncSession) -> None:
        session.add(Order(text="object"))

    assert await node.send(add) == REPLY
    assert await node.orders() == ["object"]


async def test_a_flush_that_fails_after_the_handler_rolls_everything_back(node: OnceNode) -> None:
    async def add_twice(session: AsyncSession) -> None:
        session.add_all([Order(id=1, text="same"), Order(id=2, text="same")])

    with pytest.raises(IntegrityError):
        await node.send(add_twice)
    await expect_nothing(node)


async def commit(session: AsyncSession) -> None:
    await session.commit()


async def commit_with_an_open_savepoint(session: AsyncSession) -> None:
    await session.begin_nested()
    await session.commit()


async def commit_the_root_with_an_open_savepoint(session: AsyncSession) -> None:
    root = session.get_transaction()
    assert root is not None
    await session.begin_nested()
    await root.commit()


async def commit_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).commit()


@pytest.mark.parametrize(
    "end",
    [
        commit,
        commit_with_an_open_savepoint,
        commit_the_root_with_an_open_savepoint,
        commit_the_connection,
    ],
)
async def test_a_handler_that_commits_is_refused_before_anything_is_committed(
    node: OnceNode, end: Handler
) -> None:
    async def place_and_commit(session: AsyncSession) -> None:
        await place(session)
        await end(session)

    with pytest.raises(RuntimeError, match=r"'order place': .*commit\(\) is refused.*flush\(\)"):
        await node.send(place_and_commit)
    await expect_nothing(node)


async def test_a_handler_that_goes_on_after_a_refused_commit_takes_effect_once(
    node: OnceNode,
) -> None:
    async def go_on(session: AsyncSession) -> None:
        await place(session, "before")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="refused"):
                await session.commit()
        await place(session, "after")

    assert await node.send(go_on) == REPLY
    assert await node.send(go_on) == REPLY
    assert await node.orders() == ["before", "after"]


async def test_a_handler_that_goes_on_after_a_refused_commit_of_the_connection_has_no_effect(
    node: OnceNode,
) -> None:
    async def go_on(session: AsyncSession) -> None:
        await place(session, "before")
        with pytest.raises(RuntimeError, match="refused"):
            await commit_the_connection(session)

    with pytest.raises(RuntimeError, match="transaction has ended"):
        await node.send(go_on)
    await expect_nothing(node)


async def roll_back(session: AsyncSession) -> None:
    await session.rollback()


async def roll_back_with_an_open_savepoint(session: AsyncSession) -> None:
    await session.begin_nested()
    await session.rollback()


async def roll_back_after_a_failed_flush(session: AsyncSession) -> None:
    session.add_all([Order(id=1, text="same"), Order(id=2, text="same")])
    with pytest.raises(IntegrityError):
        await session.flush()
    await session.rollback()


ROLLBACKS = [roll_back, roll_back_with_an_open_savepoint, roll_back_after_a_failed_flush]


@pytest.mark.slow
@pytest.mark.parametrize("end", ROLLBACKS)
async def test_a_handler_that_rolls_back_is_told_to_raise_an_error(
    node: OnceNode, end: Handler
) -> None:
    with pytest.raises(RuntimeError, match=r"'order place': session\.rollback\(\).*raise an error"):
        await node.send(end)
    await expect_nothing(node)


@pytest.mark.parametrize("then", [commit, place, roll_back])
@pytest.mark.parametrize("end", ROLLBACKS)
async def test_a_handler_that_goes_on_after_a_rollback_has_no_effect(
    node: OnceNode, end: Handler, then: Handler
) -> None:
    """The rest of the handler has a transaction without the claim, which is not committed."""

    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            yield session
            await session.commit()

    async def go_on(session: AsyncSession) -> None:
        await place(session, "before")
        with pytest.raises(RuntimeError, match="undid the claim"):
            await end(session)
        await then(session)

    with pytest.raises(RuntimeError, match=r"transaction has ended|refused"):
        await provided(node, opened).send(go_on)
    await expect_nothing(node)


async def close(session: AsyncSession) -> None:
    await session.close()


async def invalidate(session: AsyncSession) -> None:
    await session.invalidate()


async def roll_back_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).rollback()


async def catch_the_error_of_a_flush(session: AsyncSession) -> None:
    session.add_all([Order(id=1, text="same"), Order(id=2, text="same")])
    with pytest.raises(IntegrityError):
        await session.flush()


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # by the connection
@pytest.mark.parametrize(
    "end", [close, invalidate, roll_back_the_connection, catch_the_error_of_a_flush]
)
async def test_a_handler_whose_transaction_has_ended_has_no_effect(
    node: OnceNode, end: Handler
) -> None:
    async def place_and_end(session: AsyncSession) -> None:
        await place(session)
        await end(session)

    with pytest.raises(RuntimeError, match=r"'order place': its transaction has ended.*begin_nest"):
        await node.send(place_and_end)
    await expect_nothing(node)


async def test_savepoints_are_committed_and_rolled_back_as_ever(node: OnceNode) -> None:
    async def handle(session: AsyncSession) -> None:
        async with session.begin_nested():
            await place(session, "kept")
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await place(session, "kept")
        savepoint = await session.begin_nested()
        await place(session, "undone")
        await savepoint.rollback()
        async with session.begin_nested(), session.begin_nested():
            await place(session, "below")

    assert await node.send(handle) == REPLY
    assert await node.orders() == ["kept", "below"]


async def test_a_savepoint_that_is_still_open_takes_effect_with_the_rest(node: OnceNode) -> None:
    async def leave_open(session: AsyncSession) -> None:
        await session.begin_nested()
        await place(session)

    assert await node.send(leave_open) == REPLY
    assert await node.send(leave_open) == REPLY
    assert await node.orders() == ["order"]


async def test_a_claim_that_is_gone_when_the_handler_returns_is_an_error(node: OnceNode) -> None:
    async def delete_it(session: AsyncSession) -> None:
        await place(session)
        await session.execute(replies.delete())

    with pytest.raises(RuntimeError, match="its claim is not in websuckets_replies any more"):
        await node.send(delete_it)
    await expect_nothing(node)


async def test_a_commit_of_the_driver_is_an_error_and_the_command_never_runs_again(
    node: OnceNode, other_node: OnceNode
) -> None:
    """The commit is not seen; the handler fails after it."""

    async def commit_and_fail(session: AsyncSession) -> None:
        await place(session)
        await session.execute(text("COMMIT"))
        raise ClientError("too late")

    with pytest.raises(ClientError):
        await node.send(commit_and_fail)
    assert await node.orders() == ["order"]
    for sender in (node, other_node):
        with pytest.raises(RuntimeError, match="committed without a reply, by a commit past"):
            await sender.send()
    assert await node.orders() == ["order"]


async def make_parts(node: OnceNode) -> None:
    """Create a table with a foreign key that is checked by the commit."""
    async with node.engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE TABLE parts (id INTEGER PRIMARY KEY, part_of INTEGER"
                " REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        )


async def test_an_error_at_the_commit_leaves_nothing_behind(node: OnceNode) -> None:
    """The foreign key is checked when the transaction is committed."""
    await make_parts(node)

    async def break_at_the_end(session: AsyncSession) -> None:
        await place(session)
        await session.execute(text("INSERT INTO parts (id, part_of) VALUES (1, 99)"))

    with pytest.raises(IntegrityError):
        await node.send(break_at_the_end)
    await expect_nothing(node)


# Providers of sessions


Opened = Callable[[], AsyncIterator[AsyncSession]]


def provided(node: OnceNode, opened: Callable[[], Any]) -> OnceNode:
    """Return a node whose sessions are opened by this function."""
    context = provide_context(asynccontextmanager(opened), provides=AsyncSession)
    return OnceNode(node.engine, context)


async def test_a_provider_that_never_commits_is_an_error_that_names_the_remedy(
    node: OnceNode,
) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            yield session

    with pytest.raises(RuntimeError, match=r"'order place': its session was closed without a comm"):
        await provided(node, opened).send()
    await expect_nothing(node)


async def test_a_provider_that_rolls_back_and_commits_something_else_is_an_error(
    node: OnceNode,
) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            yield session
            await session.rollback()
            await session.execute(text("SELECT 1"))
            await session.commit()

    with pytest.raises(RuntimeError, match="closed without a commit"):
        await provided(node, opened).send()
    await expect_nothing(node)


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # by the connection
async def test_a_provider_that_commits_another_transaction_of_its_connection_is_an_error(
    node: OnceNode,
) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.engine.connect() as connection:
            yield AsyncSession(connection, join_transaction_mode="rollback_only")
            await connection.rollback()
            await connection.execute(text("SELECT 1"))
            await connection.commit()

    with pytest.raises(RuntimeError, match="closed without a commit"):
        await provided(node, opened).send()
    await expect_nothing(node)


@pytest.mark.parametrize("has_failed", [False, True])
async def test_a_provider_may_commit_and_roll_back_itself(node: OnceNode, has_failed: bool) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            try:
                yield session
            except BaseException:
                await session.rollback()
                raise
            await session.commit()
            await session.commit()

    async def fail(session: AsyncSession) -> None:
        await place(session)
        raise ClientError("sold out")

    own = provided(node, opened)
    if has_failed:
        with pytest.raises(ClientError, match="sold out"):
            await own.send(fail)
        await expect_nothing(own)
    else:
        assert await own.send() == REPLY
        assert await own.orders() == ["order"]


async def test_a_provider_that_hides_that_its_commit_failed_is_an_error(node: OnceNode) -> None:
    """The commit fails, because a constraint is deferred, and the provider rolls back silently."""
    await make_parts(node)

    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            yield session
            try:
                await session.commit()
            except IntegrityError:
                await session.rollback()

    async def break_at_the_end(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO parts (id, part_of) VALUES (1, 99)"))

    with pytest.raises(RuntimeError, match="closed without a commit"):
        await provided(node, opened).send(break_at_the_end)
    await expect_nothing(node)


async def test_a_provider_that_rolls_back_a_savepoint_around_the_reply_is_an_error(
    node: OnceNode,
) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            outer = await session.begin_nested()
            yield session
            await outer.rollback()
            await session.commit()

    with pytest.raises(RuntimeError):
        await provided(node, opened).send()
    await expect_nothing(node)


async def test_a_provider_may_roll_back_a_savepoint_of_its_own(node: OnceNode) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions.begin() as session:
            yield session
            own = await session.begin_nested()
            await place(session, "audit")
            await own.rollback()

    own = provided(node, opened)
    assert await own.send() == REPLY
    assert await own.orders() == ["order"]


async def test_a_provider_that_hides_a_statement_that_failed_commits_no_false_success(
    node: OnceNode, database: Database
) -> None:
    """PostgreSQL answers such a commit by a rollback, without an error; SQLite commits the rest."""

    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions.begin() as session:
            yield session
            with suppress(DBAPIError):
                await session.execute(text("INSERT INTO no_such_table VALUES (1)"))

    own = provided(node, opened)
    if database.is_sqlite:
        assert await own.send() == REPLY
        assert await own.orders() == ["order"]
    else:
        with pytest.raises(DBAPIError):
            await own.send()
        await expect_nothing(node)


async def test_a_session_of_two_databases_is_refused(node: OnceNode, tmp_path: Path) -> None:
    """Their commits are two: the reply could be kept without the order."""

    class Elsewhere(DeclarativeBase): ...

    class Note(Elsewhere):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)

    other = sqlite_engine(tmp_path / "other.db")
    async with other.begin() as connection:
        await connection.run_sync(Elsewhere.metadata.create_all)
    sessions = async_sessionmaker(node.engine, binds={Note: other})
    own = OnceNode(node.engine, provide_context(sessions.begin, provides=AsyncSession))

    async def write_in_both(session: AsyncSession) -> None:
        await place(session)
        await session.execute(insert(Note).values(id=1))

    with pytest.raises(RuntimeError, match="works on several databases"):
        await own.send(write_in_both)
    await expect_nothing(node)
    async with other.connect() as connection:
        assert not (await connection.execute(select(Note.id))).all()
    await other.dispose()


async def test_what_follows_a_rollback_by_sqlite_itself_is_not_kept(
    node: OnceNode, database: Database
) -> None:
    """Expect neither effect nor reply, whatever the handler catches."""
    if not database.is_sqlite:
        pytest.skip("no other database does that")
    async with node.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE once (n INTEGER UNIQUE ON CONFLICT ROLLBACK)"))

    async def go_on(session: AsyncSession) -> None:
        for _ in range(2):
            with suppress(DBAPIError):
                await session.execute(text("INSERT INTO once VALUES (1)"))
        with suppress(Exception):
            await place(session)

    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017  # the driver may raise first
            await node.send(go_on)
    await expect_nothing(node)


async def test_a_session_that_commits_each_statement_is_refused(node: OnceNode) -> None:
    engine = node.engine.execution_options(isolation_level="AUTOCOMMIT")
    sessions = async_sessionmaker(engine)
    own = OnceNode(node.engine, provide_context(sessions.begin, provides=AsyncSession))
    with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
        await own.send()
    await expect_nothing(node)


async def test_a_provider_that_commits_whatever_happens_commits_no_failure(node: OnceNode) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.sessions() as session:
            try:
                yield session
            finally:
                await session.commit()

    async def fail(session: AsyncSession) -> None:
        await place(session)
        raise ClientError("sold out")

    with pytest.raises((RuntimeError, ExceptionGroup)):
        await provided(node, opened).send(fail)
    await expect_nothing(node)


async def test_a_provider_may_commit_the_connection_of_its_session(node: OnceNode) -> None:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with node.engine.begin() as connection:
            yield AsyncSession(connection, join_transaction_mode="rollback_only")

    own = provided(node, opened)
    for _ in range(2):
        assert await own.send() == REPLY
    assert await own.orders() == ["order"]


async def test_sessions_may_be_joined_into_a_transaction_of_a_test(node: OnceNode) -> None:
    """A test rolls back all that the commands under test have committed."""
    async with node.engine.connect() as connection:
        outer = await connection.begin()
        joined = inside(node, connection)
        for _ in range(2):
            assert await joined.send() == REPLY
        with pytest.raises(RuntimeError, match="refused"):
            await joined.send(commit, "another key")
        assert joined.runs == 2
        assert list(await connection.scalars(select(Order.text))) == ["order"]
        await outer.rollback()
    await expect_nothing(node)


def inside(node: OnceNode, connection: AsyncConnection) -> OnceNode:
    sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
    return OnceNode(node.engine, provide_context(sessions.begin, provides=AsyncSession))


async def test_a_session_of_several_commands_is_watched_for_each_of_them(node: OnceNode) -> None:
    """Expect nothing of the first command to stay with the session."""
    async with node.sessions() as session:
        sessions = Provider(scope=Scope.APP)
        sessions.provide(lambda: session, provides=AsyncSession)

        async def opened() -> AsyncIterator[AsyncSession]:
            async with session.begin():
                yield session

        own = provided(node, opened)
        await own.send(placing("one"), "1")
        await session.commit()
        await session.rollback()
        await own.send(placing("two"), "2")
        with pytest.raises(RuntimeError, match="refused"):
            await own.send(commit, "3")
        await session.commit()
    assert await node.orders() == ["one", "two"]


def placing(text: str) -> Callable[[AsyncSession], Awaitable[None]]:
    async def handle(session: AsyncSession) -> None:
        await session.execute(insert(Order).values(text=text))

    return handle
