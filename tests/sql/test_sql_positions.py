"""Positions that a handler gets: what it reads from then on is not older."""

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import anyio
import pytest
from once_nodes import Base, Order
from sql_databases import Database
from sql_logs import Node, append, opened
from sqlalchemy import ForeignKey, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column, relationship, selectinload

from websuckets.exc import Unavailable
from websuckets.history import Position

pytestmark = pytest.mark.anyio


class Crate(Base):
    __tablename__ = "crates"

    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]
    parts: Mapped[list["Part"]] = relationship(cascade="all, delete-orphan", lazy="selectin")


class Part(Base):
    __tablename__ = "parts_of_crates"

    id: Mapped[int] = mapped_column(primary_key=True)
    crate_id: Mapped[int] = mapped_column(ForeignKey("crates.id"))
    label: Mapped[str]
    crate: Mapped[Crate] = relationship(back_populates="parts")


@pytest.fixture(params=["READ COMMITTED", "REPEATABLE READ"])
async def options(request: pytest.FixtureRequest, database: Database) -> dict[str, str]:
    """Return the options of an engine with an isolation of transactions."""
    if database.is_sqlite:
        if request.param == "READ COMMITTED":
            pytest.skip("it has one isolation, by snapshots")
        return {}
    return {"isolation_level": request.param}


ONE_CONNECTION: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.01}


async def change(node: Node) -> None:
    """Count the order up, and publish the event of it, in one transaction."""
    async with node.message() as (session, log):
        order = await session.get_one(Order, 1)
        order.text = str(int(order.text) + 1)
        await append(log, order.text)


Read = Callable[[AsyncSession], Awaitable[Order]]


async def get(session: AsyncSession) -> Order:
    return await session.get_one(Order, 1)


async def find(session: AsyncSession) -> Order:
    return (await session.scalars(select(Order))).one()


MOMENTS = list(product([False, True], repeat=3))


@pytest.mark.parametrize("read", [get, find])
@pytest.mark.parametrize(("has_read", "before", "behind"), MOMENTS)
async def test_no_event_is_lost_between_the_position_and_the_state(
    database: Database,
    one: Node,
    two: Node,
    options: dict[str, str],
    read: Read,
    has_read: bool,
    before: bool,
    behind: bool,
) -> None:
    """Expect events to be in the state or after the position, whenever they come."""
    async with one.message() as (session, _):
        session.add(Order(id=1, text="0"))
    await change(two)
    async with opened(database, **options) as node, node.message() as (session, log):
        old = await read(session) if has_read else None
        if before:
            await change(two)
        position = await log.position("c")
        if behind:
            await change(two)
        order = await read(session)
        assert old in (order, None)
        state = int(order.text)
    after = [event.offset for event in await two.log.read("c", position, 10)]
    assert after == list(range(position.offset + 1, 2 + before + behind))
    assert state >= position.offset
    if options.get("isolation_level") == "READ COMMITTED":
        assert (position.offset, state) == (1 + before, 1 + before + behind)
    else:
        assert state == position.offset


async def keep_crate(node: Node) -> None:
    async with node.message() as (session, _):
        part = Part(id=1, label="old")
        session.add(Crate(id=1, label="old", parts=[part, Part(id=2, label="old")]))
        session.add(Order(id=1, text="old"))


async def crate_of(session: AsyncSession) -> Crate:
    found = await session.scalars(select(Crate).options(selectinload(Crate.parts)))
    return found.one()


async def test_changes_of_the_handler_are_kept(one: Node, two: Node) -> None:
    """They may belong to objects that have no changes, whose cascades reach them."""
    await keep_crate(one)
    async with one.message() as (session, log):
        crate = await crate_of(session)
        first, second = crate.parts
        first.label = "changed"
        await session.delete(second)
        third = Part(id=3, label="new", crate_id=1)
        session.add_all([third, Order(id=2, text="new")])
        changed = session.dirty, session.deleted, session.new
        assert [len(some) for some in changed] == [1, 1, 2]
        assert crate not in session.dirty
        await log.position("c")
        assert (session.dirty, session.deleted, session.new) == changed
        assert first.label == "changed"
    async with two.sessions() as session:
        labels = select(Part.id, Part.label).order_by(Part.id)
        assert list(map(tuple, await session.execute(labels))) == [(1, "changed"), (3, "new")]
        assert list(await session.scalars(select(Order.text).order_by(Order.id))) == ["old", "new"]


async def test_objects_without_changes_are_read_again_with_what_belongs_to_them(
    one: Node, two: Node
) -> None:
    await keep_crate(one)
    async with one.message() as (session, log):
        crate = await crate_of(session)
        first, _ = crate.parts
        if not one.is_sqlite:
            async with two.message() as (other, _):
                await other.execute(text("UPDATE crates SET label = 'new'"))
                await other.execute(text("UPDATE parts_of_crates SET label = 'new' WHERE id = 1"))
                await other.execute(text("DELETE FROM parts_of_crates WHERE id = 2"))
        await log.position("c")
        assert {"label", "parts"} <= inspect(crate).expired_attributes
        assert await session.get(Crate, 1, options=[selectinload(Crate.parts)]) is crate
        expected = ("old", "old", 2) if one.is_sqlite else ("new", "new", 1)
        assert (crate.label, first.label, len(crate.parts)) == expected


async def test_nothing_is_flushed_for_a_position(one: Node) -> None:
    async with one.message() as (session, log):
        session.add(Order(id=1, text="not done"))
        await log.position("c")
        assert len(session.new) == 1


async def test_a_position_is_behind_events_of_other_transactions_alone(one: Node) -> None:
    await one.publish("c")
    async with one.message() as (_, log):
        before = await log.position("c")
        assert await append(log) == Position(before.epoch, 2)
        assert (await log.position("d")).offset == 0
    assert await one.log.position("c") == Position(before.epoch, 2)


# The first epoch


async def test_the_first_position_of_all_has_the_epoch_of_the_events_to_come(
    database: Database, two: Node, options: dict[str, str]
) -> None:
    await two.remove_all()
    async with opened(database, **options) as node:
        async with node.message() as (_, log):
            position = await log.position("c")
            assert await two.log.position("c") == await log.position("c") == position
            assert list(await two.log.read("c", position, 10)) == []
        assert position.offset == 0
        assert (await two.publish("c"))[0] == Position(position.epoch, 1)


async def test_the_first_epoch_outlives_a_handler_that_fails(one: Node, two: Node) -> None:
    await two.remove_all()
    async with one.sessions() as session:
        position = await one.of(session).position("c")
        await session.rollback()
    assert (await two.publish("c"))[0] == Position(position.epoch, 1)


async def test_the_first_epoch_is_of_a_handler_that_keeps_all_others_waiting(
    database: Database, two: Node
) -> None:
    """It is the one writer of SQLite, or has the last connection of the pool."""
    await two.remove_all()
    options = {"busy_timeout": 0.01} if two.is_sqlite else {}
    async with opened(database, **options) as node:
        if not two.is_sqlite:
            node = Node(create_async_engine(database.url, **ONE_CONNECTION))
        async with node.message() as (session, log):
            session.add(Order(id=1, text="0"))
            await session.flush()
            position = await log.position("c")
            assert await log.position("c") == position
        await node.engine.dispose()
    assert (await two.publish("c"))[0] == Position(position.epoch, 1)


async def test_the_first_event_of_all_may_be_appended_in_any_isolation(
    database: Database, two: Node, options: dict[str, str]
) -> None:
    await two.remove_all()
    async with opened(database, **options) as node:
        (position,) = await node.publish("c")
    assert await two.log.position("c") == position


# New epochs


@pytest.mark.slow
async def test_a_transaction_that_still_sees_the_old_epoch_counts_on_in_the_new_one(
    one: Node, two: Node
) -> None:
    """It waits for the channel ``a`` while another one begins the new epoch of ``b``."""
    if one.is_sqlite:
        pytest.skip("its transactions that append come one after the other")
    ((old, _), *_) = await one.publish("a", "b", "b")
    found: list[Position] = []

    async def publish() -> None:
        found.extend(await two.publish("a", "b"))

    async with anyio.create_task_group() as tasks:
        async with one.sessions() as session:
            await append(one.of(session), channel="a")
            tasks.start_soon(publish)
            await one.until_others_wait()
            await two.log.new_epoch()
            ((new, _),) = await two.publish("b")
            assert found == []
            await session.rollback()
    assert found == [Position(old, 2), Position(new, 2)]
    assert await two.publish("a", "b") == [Position(new, 1), Position(new, 3)]
    assert [offset for offset, _ in await one.events("b")] == [1, 2, 3]


# Outages


async def test_a_position_of_a_database_that_is_away_is_unavailable(one: Node, two: Node) -> None:
    if one.is_sqlite:
        pytest.skip("it has no server")
    async with one.sessions() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        async with two.sessions() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(Unavailable):
            await one.of(session).position("c")
