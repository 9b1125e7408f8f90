"""Commands of an app that take effect once in a database, by `SqlProvider`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import pytest
from dishka import FromComponent, Provider, Scope, provide
from failing_commands import incident_of
from harness import app_with, dial
from once_nodes import Order, prepare
from sql_databases import Database
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from timeouts import TIMEOUT

from websuckets import (
    CommandGroup,
    CurrentUser,
    OnCommit,
    Payload,
    Socket,
    Token,
    User,
    WebSuckets,
)
from websuckets.clock import WallClock
from websuckets.di import provide_context
from websuckets.exc import ClientError
from websuckets.sql import SqlProvider, retention
from websuckets.sql.tables import replies
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


def commands(journal: list[str]) -> CommandGroup:
    group = CommandGroup()

    @group.command("place", once=True)
    async def place(socket: Socket, name: Payload[str], db: AsyncSession, done: OnCommit) -> int:
        journal.append(name)
        done(journal.append, f"{name} is placed")
        order = Order(text=name)
        db.add(order)
        await db.flush()
        return order.id

    @group.command("place and refuse", once=True)
    async def place_and_refuse(socket: Socket, name: Payload[str], db: AsyncSession) -> None:
        db.add(Order(text=name))
        await db.flush()
        raise ClientError("sold out")

    @group.command("place and commit", once=True)
    async def place_and_commit(socket: Socket, name: Payload[str], db: AsyncSession) -> None:
        db.add(Order(text=name))
        await db.commit()

    @group.command("place and roll back", once=True)
    async def place_and_roll_back(socket: Socket, name: Payload[str], db: AsyncSession) -> None:
        db.add(Order(text=name))
        await db.rollback()

    @group.command("place and break", once=True)
    async def place_and_break(socket: Socket, name: Payload[str], db: AsyncSession) -> str:
        await db.execute(insert(Order).values(text=name))
        await db.execute(text("INSERT INTO parts (id, part_of) VALUES (1, 99)"))
        return "false success"

    return group


class Shop:
    """Apps, each a node, with one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.journal: list[str] = []

    @asynccontextmanager
    async def node(self, **options: Any) -> AsyncIterator[tuple[WebSuckets, AsyncEngine]]:
        """Yield an app that does not run yet."""
        engine = self.database.engine(**options)
        sessions = async_sessionmaker(engine)
        app = app_with(
            commands(self.journal),
            providers=[
                provide_context(sessions.begin, provides=AsyncSession),
                SqlProvider(AsyncSession),
            ],
        )
        try:
            yield app, engine
        finally:
            with anyio.CancelScope(shield=True):
                await engine.dispose()


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Shop]:
    shop = Shop(database)
    async with shop.node() as (_, engine):
        await prepare(engine)
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "CREATE TABLE parts (id INTEGER PRIMARY KEY, part_of INTEGER"
                    " REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)"
                )
            )
    yield shop


async def placed(engine: AsyncEngine) -> list[str]:
    """Return the orders that are committed."""
    async with engine.connect() as connection:
        return list(await connection.scalars(select(Order.text).order_by(Order.id)))


async def test_a_command_takes_effect_once_on_all_nodes(shop: Shop) -> None:
    async with shop.node() as (app, engine), shop.node() as (other, _):
        async with app.serve("127.0.0.1", 0) as one, other.serve("127.0.0.1", 0) as two:
            async with dial(one) as ann, dial(two) as ben:
                sent = {"payload": "tea", "key": "k"}
                for number, client in enumerate((ann, ben, ann)):
                    reply = await client.call("place", **sent, id=number)
                    assert reply == {"event": "place", "payload": 1, "id": number}
                reused = await ben.call("place", payload="milk", key="k")
                assert reused["error"] == "key reused"
                assert (await ben.call("place", payload="milk", key="l"))["payload"] == 2
        assert await placed(engine) == ["tea", "milk"]
    assert shop.journal == ["tea", "tea is placed", "milk", "milk is placed"]


async def test_twins_on_two_nodes_take_effect_once(shop: Shop) -> None:
    async with shop.node() as (app, engine), shop.node() as (other, _):
        async with app.serve("127.0.0.1", 0) as one, other.serve("127.0.0.1", 0) as two:
            found: list[Any] = []

            async def send(server: Any) -> None:
                async with dial(server) as client:
                    found.append(await client.call("place", payload="tea", key="k"))

            async with anyio.create_task_group() as tasks:
                for server in (one, two) * 4:
                    tasks.start_soon(send, server)
            assert found == [{"event": "place", "payload": 1}] * 8
        assert await placed(engine) == ["tea"]
    assert shop.journal == ["tea", "tea is placed"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("place and refuse", ""),
        ("place and commit", r"command 'place and commit': session.commit() is refused"),
        ("place and roll back", "command 'place and roll back': session.rollback() undid"),
        ("place and break", "IntegrityError"),
    ],
)
async def test_a_command_that_fails_has_no_effect_and_may_be_sent_again(
    shop: Shop, command: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop.node() as (app, engine):
        async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
            for _ in range(2):
                reply = await client.call(command, payload="tea", key="k")
                if words:
                    assert incident_of(reply) in caplog.text
                    assert words in caplog.text
                else:
                    assert reply["error"] == "sold out"
            placed_later = await client.call("place", payload="tea", key="k")
            assert placed_later["event"] == "place"
        assert await placed(engine) == ["tea"]


class Cart:
    """A cart that is not empty, which a dependency checks; the command empties it."""


class Audit:
    """A guard that writes who asked."""


class Checks(Provider):
    scope = Scope.REQUEST
    asked = 0

    @provide
    async def cart(self, db: AsyncSession) -> Cart:
        if await db.scalar(select(Order.id).where(Order.text == "in the cart")) is None:
            raise ClientError("the cart is empty")
        return Cart()

    @provide
    async def audit(self, user: CurrentUser, db: AsyncSession) -> Audit:
        self.asked += 1
        db.add(Order(text=f"{user.id} asked {self.asked}"))
        await db.flush()
        return Audit()


async def test_a_resend_is_not_refused_by_a_state_that_the_first_run_changed(shop: Shop) -> None:
    """Expect dependencies of the handler not to be built for it."""
    group = CommandGroup()

    @group.command("buy", once=True)
    async def buy(socket: Socket, cart: Cart, db: AsyncSession) -> str:
        bought = update(Order).where(Order.text == "in the cart").values(text="bought")
        await db.execute(bought)
        return "bought"

    async with shop.node() as (app, engine):
        app.include_command_group(group)
        async with engine.begin() as connection:
            await connection.execute(insert(Order).values(text="in the cart"))
        with app.override(Checks()):
            async with TestClient(app) as client:
                for _ in range(2):
                    assert (await client.call("buy", key="k")).payload == "bought"
                with pytest.raises(CommandError, match="the cart is empty"):
                    await client.call("buy", key="l")
        assert await placed(engine) == ["bought"]


async def test_a_guard_that_writes_is_rolled_back_for_a_resend(shop: Shop) -> None:
    """Expect the row of the guard once, in the transaction of the command."""
    group = CommandGroup()

    @group.command("log in")
    async def log_in(socket: Socket, user: User) -> str:
        user.id, user.token = "ann", Token.generate()
        return user.token

    @group.command("audited", protected=Audit, once=True)
    async def audited(socket: Socket, db: AsyncSession) -> str:
        db.add(Order(text="done"))
        return "done"

    async with shop.node() as (app, engine):
        app.include_command_group(group)
        with app.override(Checks()):
            async with TestClient(app) as client:
                client.token = (await client.call("log in")).payload
                for _ in range(3):
                    assert (await client.call("audited", key="k")).payload == "done"
        assert await placed(engine) == ["ann asked 1", "done"]


async def test_a_locked_database_is_tried_again_and_is_an_incident_in_the_end(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    if not shop.database.is_sqlite:
        pytest.skip("it has no lock of the whole database")
    async with shop.node(busy_timeout=0.01) as (app, engine):
        async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
            async with engine.connect() as connection:
                await connection.execute(insert(Order).values(text="first"))
                reply = await client.call("place", payload="tea", key="k")
                assert incident_of(reply) in caplog.text
                assert "database is locked" in caplog.text
            assert shop.journal == []
            assert (await client.call("place", payload="tea", key="k"))["event"] == "place"


@pytest.mark.slow
async def test_conflicts_between_nodes_end_with_all_commands_in_effect(shop: Shop) -> None:
    """PostgreSQL finds conflicts between them, SQLite lets them take turns."""
    options = {} if shop.database.is_sqlite else {"isolation_level": "SERIALIZABLE"}
    async with shop.node(**options) as (app, engine), shop.node(**options) as (other, _):
        async with app.serve("127.0.0.1", 0) as one, other.serve("127.0.0.1", 0) as two:

            async def send(server: Any, name: str) -> None:
                async with dial(server) as client:
                    for _ in range(2):
                        reply = await client.call("place", payload=name, key=name)
                        assert reply["event"] == "place", reply

            with anyio.fail_after(TIMEOUT):
                async with anyio.create_task_group() as tasks:
                    for number in range(6):
                        tasks.start_soon(send, (one, two)[number % 2], f"order {number}")
        assert sorted(await placed(engine)) == [f"order {number}" for number in range(6)]
    done = [line for line in shop.journal if line.endswith("is placed")]
    assert len(done) == len(set(done)) == 6


async def test_expired_replies_are_deleted_from_the_first_claim_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the sessions of the task to be those of the program, each committed."""
    caplog.set_level(logging.INFO, "websuckets")
    monkeypatch.setattr(retention.keep_deleting, "__defaults__", (0.01, 1000))

    class Later:
        def time(self) -> float:
            return now[0]

    now = [1000.0]
    async with shop.node() as (app, engine):
        with app.override(values={WallClock: Later()}):
            async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
                await client.call("place", payload="tea", key="k")
                now[0] += 604_800
                with anyio.fail_after(TIMEOUT):
                    async with engine.connect() as connection:
                        while list(await connection.execute(select(replies.c.key))):
                            await connection.rollback()
                            await anyio.sleep(0.01)
    assert "cannot be deleted" not in caplog.text


async def test_the_session_may_be_in_a_component(shop: Shop) -> None:
    group = CommandGroup()

    @group.command("place", once=True)
    async def place(
        socket: Socket, name: Payload[str], db: Annotated[AsyncSession, FromComponent("db")]
    ) -> None:
        db.add(Order(text=name))

    engine = shop.database.engine()
    sessions = async_sessionmaker(engine)
    provider = provide_context(sessions.begin, provides=AsyncSession, component="db")
    app = app_with(group, providers=[provider, SqlProvider(AsyncSession, component="db")])
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        for id in range(2):
            reply = await client.call("place", payload="tea", key="k", id=id)
            assert reply == {"event": "place", "payload": None, "id": id}
    assert await placed(engine) == ["tea"]
    await engine.dispose()
