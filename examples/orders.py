"""Orders that are paid once, however often a client sends them.

Install its libraries with ``pip install ".[examples]"``, run it with ``python examples/orders.py``,
connect with ``python -m websockets ws://localhost:9000`` and type::

    {"event": "enter", "payload": "ann"}
    {"event": "kitchen watch", "token": "<the token of the reply>"}
    {"event": "order place", "payload": {"dish": "soup"}, "token": "<the token>", "key": "8f1c"}

Send the last line again, also on another connection or after a restart (``enter`` gives another
token then): the reply is the same, ann has paid once, and the kitchen cooks one soup. A program
makes its keys at random, one for each order: see ``docs/exactly-once.md``.

The orders are kept in the file ``orders.db``. To keep them in PostgreSQL, name an empty database::

    DATABASE_URL=postgresql://user:password@localhost/orders python examples/orders.py
"""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Annotated, Literal

from dishka import Provider, Scope, provide
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, make_url, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from websuckets import (
    Channels,
    ClientError,
    ClientEvent,
    CommandGroup,
    CurrentUser,
    OnCommit,
    Payload,
    Session,
    Socket,
    Token,
    User,
    WebSuckets,
)
from websuckets.di import provide_context
from websuckets.resuming import ResumeProvider
from websuckets.sql import SqlProvider, create_tables, sqlite_engine

CENTS = {"soup": 450, "bread": 150}
POCKET_MONEY = 2000

# Models: rows of the database, and payloads of clients.


class Table(DeclarativeBase): ...


class Account(Table):
    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


class Order(Table):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(ForeignKey(Account.name))
    dish: Mapped[str]
    count: Mapped[int]


class NewOrder(BaseModel):
    dish: Literal["soup", "bread"]
    count: int = Field(1, ge=1, le=20)


class OrderView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    dish: str
    count: int


class Receipt(BaseModel):
    order: int
    paid: int
    left: int


# Storage: a command has one transaction, in which `SqlProvider` keeps the reply, too.


class Storage(Provider):
    @provide(scope=Scope.APP)
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        url = make_url(os.environ.get("DATABASE_URL", "sqlite:///orders.db"))
        if url.get_backend_name() == "sqlite":
            engine = sqlite_engine(url)
        else:
            engine = create_async_engine(url.set(drivername="postgresql+psycopg"))
        yield engine
        await engine.dispose()


def transaction(engine: AsyncEngine) -> AbstractAsyncContextManager[AsyncSession]:
    """Commits before the reply, or rolls back a command that failed."""
    return async_sessionmaker(engine).begin()


def send_receipt(customer: str, receipt: Receipt) -> None:
    print(f"To {customer}: order {receipt.order}, {receipt.paid} cents, thank you!")


# Commands.

lobby = CommandGroup()
orders = CommandGroup("order")
kitchen = CommandGroup("kitchen", protected=True)  # in a program, by a role: docs/security.md


@lobby.command("enter")
async def enter(
    socket: Socket,
    name: Payload[Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]],  # no password: see users.py
    db: AsyncSession,
    user: User,
    session: Session,
) -> Token:
    with suppress(IntegrityError):  # who comes again has an account
        async with db.begin_nested():
            db.add(Account(name=name, cents=POCKET_MONEY))
    user.id, user.token = name, Token.generate()
    await session.save(user)  # so that the token is good after a reconnect
    return user.token


@orders.command("place", once=True, protected=True)
async def place(
    socket: Socket, new: NewOrder, user: CurrentUser, db: AsyncSession, on_commit: OnCommit
) -> Receipt:
    order = Order(customer=user.id, dish=new.dish, count=new.count)
    db.add(order)
    await db.flush()  # which gives it its id
    cents = CENTS[new.dish] * new.count
    can_pay = Account.name == user.id, Account.cents >= cents
    pay = update(Account).where(*can_pay).values(cents=Account.cents - cents)
    left = await db.scalar(pay.returning(Account.cents))
    if left is None:
        raise ClientError("too little money")  # nothing is kept: the key may be sent again
    receipt = Receipt(order=order.id, paid=cents, left=left)
    on_commit.publish("kitchen", ClientEvent("ordered", OrderView.model_validate(order)))
    on_commit(send_receipt, str(user.id), receipt)
    return receipt


@kitchen.command("watch")
async def watch(socket: Socket, channels: Channels, db: AsyncSession) -> list[OrderView]:
    await channels.subscribe(socket, "kitchen")  # first, so that no order is missed
    found = await db.scalars(select(Order).order_by(Order.id))
    return [OrderView.model_validate(order) for order in found]


app = WebSuckets(
    providers=[
        Storage(),
        provide_context(transaction),
        SqlProvider(AsyncSession),
        ResumeProvider(),
    ]
)
for group in lobby, orders, kitchen:
    app.include_command_group(group)


@app.on_startup
async def prepare(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await create_tables(engine)  # those of SqlProvider


if __name__ == "__main__":
    app.run("localhost", 9000)
