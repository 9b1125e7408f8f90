"""Twins of a command on several nodes, and conflicts between commands, in a database."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from once_nodes import REPLY, OnceNode, Order, once_node, place, prepare
from sql_databases import Database
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from timeouts import TIMEOUT

from websuckets.exc import ClientError
from websuckets.idempotency import StoredReply

pytestmark = pytest.mark.anyio

OTHER_REPLY = StoredReply(b"\x02" * 32, "other")


class Step:
    """A handler that says when it has begun, and goes on when the test lets it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = anyio.Event()
        self.go_on = anyio.Event()
        self._error = error

    async def __call__(self, session: AsyncSession) -> None:
        await place(session)
        self.begun.set()
        await self.go_on.wait()
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("fails", [False, True])
async def test_a_twin_on_another_node_waits_for_the_end_of_the_first_one(
    node: OnceNode, other_node: OnceNode, fails: bool
) -> None:
    """Expect the reply of the first, or the claim if the first one is rolled back."""
    step = Step(ClientError("sold out") if fails else None)
    replies: list[StoredReply] = []

    async def first() -> None:
        if fails:
            with pytest.raises(ClientError, match="sold out"):
                await node.send(step)
        else:
            await node.send(step)

    async def second() -> None:
        replies.append(await other_node.send(reply=OTHER_REPLY))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await step.begun.wait()
            tasks.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            assert replies == [] and other_node.runs == 0
            step.go_on.set()
    assert replies == [OTHER_REPLY if fails else REPLY]
    assert other_node.runs == int(fails)
    assert await node.orders() == ["order"]


async def test_of_many_twins_at_once_one_takes_effect(node: OnceNode, other_node: OnceNode) -> None:
    replies: list[StoredReply] = []

    async def send(sender: OnceNode) -> None:
        replies.append(await sender.send())

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(send, node)
                tasks.start_soon(send, other_node)
    assert replies == [REPLY] * 16
    assert node.runs + other_node.runs == 1
    assert await node.orders() == ["order"]


def between(
    then: Callable[[], Awaitable[Any]],
) -> Callable[[AsyncSession], Awaitable[None]]:
    """Return a handler that counts the orders, does something else once, and writes the count."""
    has_run = False

    async def handle(session: AsyncSession) -> None:
        nonlocal has_run
        count = len(list(await session.scalars(select(Order.id))))
        if not has_run:
            has_run = True
            await then()
        await place(session, f"order {count}")
        await session.execute(update(Order).values(text=Order.text + "!"))

    return handle


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_command_that_cannot_be_serialised_runs_again(
    database: Database, level: str
) -> None:
    if database.is_sqlite:
        pytest.skip("its writers wait for each other")
    async with (
        once_node(database.engine(isolation_level=level)) as node,
        once_node(database.engine(isolation_level=level)) as other,
    ):
        await prepare(node.engine)
        await node.send(key="first")
        handler = between(lambda: other.send(between(anyio.lowlevel.checkpoint), "other"))
        assert await node.send(handler, "k") == REPLY
        assert (node.runs, node.repeats, other.runs) == (3, 1, 1)
        assert len(await node.orders()) == 3


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_twin_whose_snapshot_is_older_runs_again_and_gets_the_reply(
    database: Database, level: str
) -> None:
    """A guard has read before the claim, so that the row of the first one cannot be seen."""
    if database.is_sqlite:
        pytest.skip("its writers wait for each other")
    async with (
        once_node(database.engine(isolation_level=level)) as node,
        once_node(database.engine(isolation_level=level)) as other,
    ):
        await prepare(node.engine)
        other.before_claim = between_reads(lambda: node.send())
        assert await other.send(reply=OTHER_REPLY) == REPLY
        assert (node.runs, other.runs, other.repeats) == (1, 0, 1)


def between_reads(
    then: Callable[[], Awaitable[Any]],
) -> Callable[[AsyncSession], Awaitable[None]]:
    """Return a guard that reads, and lets something happen the first time."""
    has_run = False

    async def read(session: AsyncSession) -> None:
        nonlocal has_run
        await session.scalars(select(Order.id))
        if not has_run:
            has_run = True
            await then()

    return read


async def test_a_deadlock_ends_with_both_commands_in_effect(
    node: OnceNode, other_node: OnceNode, database: Database
) -> None:
    """Each command changes a row of its own, and then that of the other one."""
    async with node.engine.begin() as connection:
        for number in (1, 2):
            await connection.execute(
                text("INSERT INTO orders (id, text) VALUES (:id, :text)"),
                {"id": number, "text": str(number)},
            )
    met = [anyio.Event(), anyio.Event()]

    async def send(sender: OnceNode, own: int) -> None:
        async def change(session: AsyncSession) -> None:
            for number in (own, 1 - own):
                changed = update(Order).where(Order.id == number + 1)
                await session.execute(changed.values(text=Order.text + "+"))
                met[own].set()
                if not database.is_sqlite:  # where the second one begins after the first one
                    await met[1 - own].wait()

        await sender.send(change, str(own))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, node, 0)
            tasks.start_soon(send, other_node, 1)
    assert await node.orders() == ["1++", "2++"]
    repeats = node.repeats + other_node.repeats
    assert repeats == 0 if database.is_sqlite else repeats >= 1


async def test_a_database_that_stays_locked_is_an_error_in_the_end(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("it has no lock of the whole database")
    async with once_node(database.engine(busy_timeout=0.01)) as node:
        await prepare(node.engine)
        async with node.engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO orders (text) VALUES ('first')")
            with pytest.raises(DBAPIError, match="database is locked"):
                await node.send()
            assert (node.runs, node.repeats) == (0, 5)


@pytest.mark.slow
async def test_a_second_session_that_writes_in_a_handler_is_locked_out_of_sqlite(
    database: Database,
) -> None:
    if not database.is_sqlite:
        pytest.skip("it has more than one writer")
    async with once_node(database.engine(busy_timeout=0.01)) as node:
        await prepare(node.engine)

        async def use_a_second_session(session: AsyncSession) -> None:
            await place(session)
            async with node.sessions.begin() as second:
                await place(second, "second")

        with pytest.raises(DBAPIError, match="database is locked"):
            await node.send(use_a_second_session)
        assert await node.orders() == []
