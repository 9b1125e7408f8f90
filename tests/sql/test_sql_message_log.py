"""Log of events in the transaction of a handler: what it appends, and the positions it gives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from event_logs import publication
from idempotency_stores import SqlMessage
from once_nodes import ANN, PRINT, REPLY, Order, place
from sql_databases import Database
from sql_logs import Node, append, opened
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from timeouts import TIMEOUT

from websuckets.clock import SYSTEM_CLOCK
from websuckets.history import History, LoggedEvent, Position, in_order
from websuckets.sql.store import Settings
from websuckets.sql.tables import channels, events

pytestmark = pytest.mark.anyio


class Failed(Exception):
    """An error of a handler."""


@asynccontextmanager
async def statements(node: Node) -> AsyncIterator[list[str]]:
    """Yield a list of the statements of a node, which grows."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *arguments: Any) -> None:
        if not statement.startswith("BEGIN"):
            found.append(statement)

    event.listen(node.engine.sync_engine, "before_cursor_execute", note)
    yield found
    event.remove(node.engine.sync_engine, "before_cursor_execute", note)


# Transactions


async def test_an_event_exists_once_the_transaction_of_the_handler_commits(
    one: Node, two: Node
) -> None:
    ((epoch, _),) = await two.publish("d")
    async with one.message() as (session, log):
        await place(session)
        position = await append(log)
        assert position == Position(epoch, 1)
        assert await two.log.position("c") == Position(epoch, 0)
        assert await two.events() == []
    assert await two.log.position("c") == position
    assert await two.events() == [(1, b"{}")]


async def test_an_event_of_a_transaction_that_is_rolled_back_leaves_no_row_and_no_hole(
    one: Node, two: Node
) -> None:
    await two.publish("c")
    with pytest.raises(Failed):
        async with one.message() as (_, log):
            assert (await append(log, "lost")).offset == 2
            raise Failed
    assert [position.offset for position in await two.publish("c", "d")] == [2, 1]
    assert await one.events() == [(1, b"{}"), (2, b"{}")]
    async with one.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(events)) == 3


async def test_the_first_event_of_all_may_be_rolled_back(one: Node, two: Node) -> None:
    with pytest.raises(Failed):
        async with one.message() as (_, log):
            await append(log)
            raise Failed
    (position,) = await two.publish("c")
    assert position == await one.log.position("c")
    assert position.offset == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_a_transaction_waits_for_one_that_has_appended_to_its_channel(
    one: Node, two: Node, commits: bool
) -> None:
    await two.publish("c")
    found: list[Position] = []

    async def publish() -> None:
        found.extend(await two.publish("c"))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            async with one.sessions() as session:
                assert (await append(one.of(session), "first")).offset == 2
                tasks.start_soon(publish)
                await one.until_others_wait()
                assert found == []
                await (session.commit() if commits else session.rollback())
    first = [(2, b"first")] if commits else []
    assert await one.events() == [(1, b"{}"), *first, (2 + len(first), b"{}")]
    assert found[0].offset == 2 + len(first)


async def test_transactions_with_other_channels_do_not_wait(one: Node, two: Node) -> None:
    if one.is_sqlite:
        pytest.skip("it has one writer at a time")
    await one.publish("c", "d")
    with anyio.fail_after(TIMEOUT):
        async with one.message() as (_, log):
            assert (await append(log)).offset == 2
            assert [position.offset for position in await two.publish("b", "d")] == [1, 2]


@pytest.mark.slow
async def test_transactions_that_append_to_several_channels_do_not_wait_for_each_other_forever(
    one: Node, two: Node
) -> None:
    """None of them runs again after a deadlock, so there is none."""
    names, rounds = "abcdef", 5
    sent = {name: 0 for name in names}

    async def publish(node: Node, some: str) -> None:
        for _ in range(rounds):
            await node.publish(*some)
            for name in some:
                sent[name] += 1

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for node in (one, two):
                for some in ("abc", "cab", "fea", "bdf", "fdb", "ee"):
                    tasks.start_soon(publish, node, some)
    for name, number in sent.items():
        assert [offset for offset, _ in await one.events(name)] == list(range(1, number + 1))


async def test_a_channel_may_get_several_events_at_once(one: Node) -> None:
    given = [publication(str(n), name) for n, name in enumerate("aabbbc")]
    epoch = (await one.publish("b"))[0].epoch
    async with one.message() as (_, log):
        found = await log.append(given)
    assert found == [Position(epoch, offset) for offset in (1, 2, 2, 3, 4, 1)]
    assert await one.events("a") == [(1, b"0"), (2, b"1")]
    assert await one.events("b") == [(1, b"{}"), (2, b"2"), (3, b"3"), (4, b"4")]


async def test_the_last_history_of_a_channel_counts(one: Node) -> None:
    sizes = (9, 1, 2)
    given = [publication(str(n), "c", History(size=size)) for n, size in enumerate(sizes)]
    async with one.message() as (_, log):
        *_, (epoch, _) = await log.append(given)
    found = await one.log.read("c", Position(epoch, 1), 100)
    assert found == [LoggedEvent(2, b"1"), LoggedEvent(3, b"2")]


async def test_events_take_few_statements(one: Node) -> None:
    await one.publish("c")
    given = in_order(publication("{}", name) for name in "abc" * 100)
    async with one.message() as (session, log):
        session.add(Order(text="order"))
        async with statements(one) as found:
            await log.append(given)
    assert found[0].startswith("INSERT INTO orders")
    assert len(found) == 1 + (4 if one.is_sqlite else 1)
    async with one.message() as (_, log), statements(one) as found:
        assert list(await log.append([])) == []
    assert found == []


async def test_what_the_handler_has_changed_is_flushed_before_others_have_to_wait(
    one: Node,
) -> None:
    await one.publish("c")
    with pytest.raises(IntegrityError):
        async with one.message() as (session, log):
            session.add_all([Order(id=1, text="same"), Order(id=2, text="same")])
            async with statements(one) as found:
                await append(log)
    assert not any("websuckets" in statement for statement in found)
    assert len(await one.events()) == 1


async def test_a_transaction_that_has_failed_does_not_commit_without_its_events(one: Node) -> None:
    """PostgreSQL would answer the commit by a rollback without an error."""
    if one.is_sqlite:
        pytest.skip("its transactions go on after an error")
    await one.publish("c")
    with pytest.raises(DBAPIError, match="aborted"):
        async with one.message() as (session, log):
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))
            await append(log)


async def test_a_session_without_transactions_is_refused(database: Database, one: Node) -> None:
    async with opened(database, isolation_level="AUTOCOMMIT") as node:
        async with node.sessions() as session:
            with pytest.raises(RuntimeError, match=r"AUTOCOMMIT.*need transactions"):
                await append(node.of(session))
        with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            await node.log.append(publication("{}"))
    assert await one.events() == []


async def test_another_kind_of_database_is_refused(
    one: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.engine.sync_engine.dialect, "name", "mysql")
    async with one.sessions() as session:
        with pytest.raises(RuntimeError, match="events in SQLite and PostgreSQL, not in mysql"):
            await append(one.of(session))


# Commands that take effect once


@pytest.mark.parametrize("is_last", [True, False])
async def test_events_of_a_command_that_takes_effect_once_are_in_its_transaction(
    one: Node, two: Node, is_last: bool
) -> None:
    async def run(commit: bool) -> None:
        message = SqlMessage(one.sessions(), Settings(SYSTEM_CLOCK, 10, 0))
        assert await message.claim(ANN, "k", PRINT) is None
        await place(message.session)
        log = one.of(message.session)
        if is_last:
            await message.complete(REPLY)
        assert (await append(log)).offset == 1
        if not is_last:
            await message.complete(REPLY)
        await message.settle(commit)

    for commit in (False, False, True):
        assert await two.events() == []
        await run(commit)
    assert await two.events() == [(1, b"{}")]
    async with two.sessions() as session:
        assert list(await session.scalars(select(Order.text))) == ["order"]


async def test_an_append_that_fails_after_the_reply_undoes_the_command(one: Node) -> None:
    if one.is_sqlite:
        pytest.skip("another connection cannot change its tables meanwhile")
    message = SqlMessage(one.sessions(), Settings(SYSTEM_CLOCK, 10, 0))
    assert await message.claim(ANN, "k", PRINT) is None
    await place(message.session)
    await message.complete(REPLY)
    async with one.engine.begin() as connection:
        await connection.run_sync(events.drop)
    with pytest.raises(DBAPIError):
        await append(one.of(message.session))
    await message.settle(False)
    async with one.sessions() as session:
        assert list(await session.scalars(select(Order.text))) == []
        assert list(await session.scalars(select(channels.c.channel))) == []
