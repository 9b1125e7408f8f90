"""App of the chaos run: boards of items in PostgreSQL, whose changes take effect once.

Run as a program with its options as JSON, this module is one node. A change of an item is an effect
(a row of its own, so that an effect that comes twice is seen), a new value and version of the item,
and an event. Doomed changes publish their event, too, but their transaction is rolled back.
"""

import hashlib
import hmac
import json
import logging
import sys
from typing import Any, Final

from dishka import Provider
from pydantic import BaseModel
from sqlalchemy import Double, Identity, UniqueConstraint, func, insert, make_url, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from websuckets import (
    ClientError,
    CommandGroup,
    CurrentUser,
    Event,
    Limits,
    OnCommit,
    Payload,
    Socket,
    User,
    WebSuckets,
)
from websuckets.channels import Channel, Channels, History
from websuckets.di import provide_context
from websuckets.redis import RedisProvider
from websuckets.security import SecurityProvider
from websuckets.sql import SqlProvider

BOARDS: Final = tuple(f"board/{number}" for number in range(5))
"""Channels with a long history: clients that were away catch up, as a rule."""

BRIEF: Final = tuple(f"brief/{number}" for number in range(2))
"""Channels with a history so short that clients that were away for long reload."""

KEPT: Final = 100_000
BRIEFLY_KEPT: Final = 5

RECOVERY: Final = 40
"""Events that a client may have missed and still gets."""

HANDLER_TIMEOUT: Final = 8.0
PING: Final = 4.0
"""Seconds between pings, and until a client that does not answer them is gone."""


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"

    board: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]
    version: Mapped[int]


class Effect(Base):
    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    command: Mapped[str]  # not unique: an effect that comes twice has to be seen
    board: Mapped[str]
    item: Mapped[str]
    amount: Mapped[int]
    node: Mapped[str]
    at: Mapped[float] = mapped_column(Double)


class Doom(Base):
    """Rows that may not be two, which PostgreSQL notices at the commit alone."""

    __tablename__ = "doom"
    __table_args__ = (UniqueConstraint("only", deferrable=True, initially="DEFERRED"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    only: Mapped[int]


class Changed(Event):
    """Changed item, and the effect that changed it."""

    effect: int
    command: str
    item: str
    value: int
    version: int


class Order(BaseModel):
    """Change that a client wants; ``doom`` says how it is rolled back, if it is."""

    command: str
    board: str
    item: str
    amount: int
    doom: str | None = None


class Login(BaseModel):
    name: str
    token: str


board: Final = Channel("board/{id}", events=[Changed], history=History(size=KEPT))
brief: Final = Channel("brief/{id}", events=[Changed], history=History(size=BRIEFLY_KEPT))


def token_of(secret: str, name: str) -> str:
    """Return the token of a user, which all nodes know without asking anybody."""
    return hmac.new(secret.encode(), name.encode(), hashlib.sha256).hexdigest()


def group_of(node: str, secret: str) -> CommandGroup:
    group = CommandGroup()

    @group.command("enter")
    async def enter(socket: Socket, login: Login, user: User) -> None:
        if not hmac.compare_digest(token_of(secret, login.name), login.token):
            raise ClientError("wrong token")
        user.id, user.token = login.name, login.token

    @group.command("watch", protected=True, subscribes=[board, brief])
    async def watch(
        socket: Socket, name: Payload[str], db: AsyncSession, channels: Channels
    ) -> dict[str, tuple[int, int]]:
        await channels.subscribe(socket, name)
        found = await db.execute(
            select(Item.id, Item.value, Item.version).where(Item.board == name)
        )
        return {row.id: (row.value, row.version) for row in found}

    @group.command("change", protected=True, once=True)
    async def change(
        socket: Socket, order: Order, user: CurrentUser, db: AsyncSession, on_commit: OnCommit
    ) -> Changed:
        effect = await db.scalar(
            insert(Effect).returning(Effect.id),
            {
                "command": order.command,
                "board": order.board,
                "item": order.item,
                "amount": order.amount,
                "node": node,
                "at": await db.scalar(select(func.date_part("epoch", func.clock_timestamp()))),
            },
        )
        assert effect is not None
        first = postgresql.insert(Item).values(
            board=order.board, id=order.item, value=order.amount, version=1
        )
        row = (
            await db.execute(
                first.on_conflict_do_update(
                    index_elements=[Item.board, Item.id],
                    set_={"value": Item.value + order.amount, "version": Item.version + 1},
                ).returning(Item.value, Item.version)
            )
        ).one()
        changed = Changed(
            effect=effect,
            command=order.command,
            item=order.item,
            value=row.value,
            version=row.version,
        )
        on_commit.publish(order.board, changed)
        if order.doom == "raise":
            raise ClientError("doomed")
        if order.doom == "commit":
            await db.execute(insert(Doom).values(only=1))
        return changed

    return group


def app_of(options: dict[str, Any]) -> WebSuckets:
    """Return the app of one node.

    ``options`` are its ``node``, the ``secret`` of all tokens, the URLs ``database`` and ``redis``,
    and ``log``: ``"sql"`` or ``"redis"``.
    """
    engine = create_async_engine(
        make_url(options["database"]).set(drivername="postgresql+psycopg"),
        pool_size=8,
        max_overflow=4,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 3},
    )
    sessions = async_sessionmaker(engine)
    in_redis = options["log"] == "redis"
    providers: list[Provider] = [
        SecurityProvider(),
        provide_context(sessions.begin, provides=AsyncSession),
        RedisProvider(options["redis"], once=in_redis, history=in_redis),
    ]
    if not in_redis:
        providers.append(SqlProvider(AsyncSession))
    app = WebSuckets(
        channels=[board, brief],
        providers=providers,
        limits=Limits(concurrency=4, handler_timeout=HANDLER_TIMEOUT, recovery=RECOVERY),
    )
    app.include_command_group(group_of(options["node"], options["secret"]))
    return app


def main() -> None:
    options = json.loads(sys.stdin.readline())
    logging.getLogger("websuckets").setLevel(logging.INFO)
    app_of(options).run("127.0.0.1", options["port"], ping_interval=PING, ping_timeout=PING)


if __name__ == "__main__":
    main()
