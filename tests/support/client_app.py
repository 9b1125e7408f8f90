"""Server of the scenarios of clients, run as a program: port, database, and number of the run.

Its tokens are good in one run only. Effects, replies and events are in a file of SQLite, so they
outlive the process. Commands whose names begin with "control" are for the test, which calls them on
a connection of its own: they tell when something has happened, and make it happen.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import anyio
from dishka import Provider, Scope, provide
from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from websockets.exceptions import ConnectionClosed

from websuckets import (
    Channels,
    ClientError,
    ClientEvent,
    CommandGroup,
    CurrentUser,
    Event,
    Limits,
    Message,
    OnCommit,
    Payload,
    Socket,
    User,
    WebSuckets,
)
from websuckets.channels import Channel, History
from websuckets.di import provide_context
from websuckets.exc import NotAuthorized
from websuckets.sql import SqlProvider, create_tables, sqlite_engine

PORT: Final = int(sys.argv[1])
DATABASE: Final = sys.argv[2]
RUN: Final = int(sys.argv[3])
"""Number of the process among those of a scenario, from 1 on."""


class Table(DeclarativeBase): ...


class Effect(Table):
    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


class Said(Event):
    number: int


room = Channel("room/{id}", events=[Said], history=History(size=1000))
commands = CommandGroup()
control = CommandGroup("control")
sockets: set[Socket] = set()
arrivals: list[float] = []
"""Times at which clients have connected, in seconds."""
counts: Counter[str] = Counter()
generation = 0
"""Number of the times that all tokens have expired in this run."""
changed = anyio.Event()
released = anyio.Event()


def note(name: str) -> None:
    """Count something that has happened."""
    global changed
    counts[name] += 1
    changed.set()
    changed = anyio.Event()


class Storage(Provider):
    @provide(scope=Scope.APP)
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        engine = sqlite_engine(DATABASE)
        async with engine.begin() as connection:
            await connection.run_sync(Table.metadata.create_all)
        await create_tables(engine)
        yield engine
        await engine.dispose()


def good_for() -> str:
    """Return the end of the tokens that are good now."""
    return f"{RUN}.{generation}" if generation else str(RUN)


class Tokens(Provider):
    @provide(scope=Scope.REQUEST)
    def current_user(self, message: Message, user: User) -> CurrentUser:
        name, _, rest = (message.token or "").partition(":")
        if rest != good_for():
            raise NotAuthorized
        user.id = name
        return CurrentUser(user)


def transaction(engine: AsyncEngine) -> Any:
    return async_sessionmaker(engine).begin()


class Deposit(BaseModel):
    amount: int
    hold: str | None = None
    """Place at which the command waits for ever, in the first run: before or after the commit.

    With ``release`` it waits before the commit, until it is released.
    """


@commands.command("log in")
async def log_in(socket: Socket, name: Payload[str]) -> str:
    note("log in")
    if name == "nobody":
        raise ClientError("unknown user")
    return f"{name}:{good_for()}"


@commands.command("whoami", protected=True)
async def whoami(socket: Socket, user: CurrentUser) -> str:
    return str(user.id)


@commands.command("add")
async def add(socket: Socket, numbers: Payload[list[int]]) -> int:
    return sum(numbers)


@commands.command("hold")
async def hold(socket: Socket) -> str:
    note("hold")
    await released.wait()
    return "released"


@commands.command("deposit", once=True)
async def deposit(
    socket: Socket, model: Deposit, db: AsyncSession, on_commit: OnCommit
) -> dict[str, int]:
    db.add(Effect(amount=model.amount))
    await db.flush()
    if model.hold == "before" and RUN == 1:
        note("deposit")
        await anyio.sleep_forever()

    if model.hold == "release":
        note("deposit")
        await released.wait()

    async def after() -> None:
        note("deposited" if model.hold == "release" else "deposit")
        if model.hold == "after" and RUN == 1:
            await anyio.sleep_forever()

    on_commit(after)
    return {"deposited": model.amount}


@commands.command("count")
async def count(socket: Socket, last: Payload[int]) -> AsyncIterator[int]:
    for number in range(1, last + 1):
        yield number


@commands.command("count for ever")
async def count_for_ever(socket: Socket) -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            number += 1
            yield number
            await anyio.sleep(0.001)
    finally:
        note("stream ended")


@commands.command("watch", subscribes=[room])
async def watch(socket: Socket, id: Payload[int], channels: Channels) -> str:
    await channels.subscribe(socket, room(id=id))
    return f"state of run {RUN}"


@commands.command("watch as a user", subscribes=[room], protected=True)
async def watch_as_a_user(
    socket: Socket, id: Payload[int], user: CurrentUser, channels: Channels
) -> str:
    await channels.subscribe(socket, room(id=id))
    return str(user.id)


@commands.command("enter hall")
async def enter_hall(socket: Socket, channels: Channels) -> str:
    await channels.subscribe(socket, "hall")
    return f"hall of run {RUN}"


# Control


class Awaited(BaseModel):
    name: str
    times: int = 1


class Speech(BaseModel):
    room: int
    numbers: list[int]


@control.command("await", timeout=None)
async def await_counts(socket: Socket, model: Awaited) -> None:
    while counts[model.name] < model.times:
        await changed.wait()


@control.command("release")
async def release(socket: Socket) -> None:
    released.set()


@control.command("reset")
async def reset(socket: Socket, db: AsyncSession) -> None:
    """Forget what happened before, for the next scenario."""
    global released, generation
    counts.clear()
    released, generation = anyio.Event(), 0
    await db.execute(delete(Effect))


@control.command("arrivals")
async def arrivals_so_far(socket: Socket) -> list[float]:
    """Return the times at which clients have connected, the connection of the test among them."""
    return arrivals


@control.command("expire")
async def expire(socket: Socket) -> None:
    """Let all tokens expire."""
    global generation
    generation += 1


@control.command("effects")
async def effects(socket: Socket, db: AsyncSession) -> list[int]:
    return list(await db.scalars(select(Effect.amount).order_by(Effect.id)))


@control.command("say")
async def say(socket: Socket, model: Speech, channels: Channels) -> None:
    for number in model.numbers:
        await channels.publish(room(id=model.room), Said(number=number))


@control.command("hall")
async def say_in_hall(socket: Socket, numbers: Payload[list[int]], channels: Channels) -> None:
    for number in numbers:
        await channels.publish("hall", ClientEvent("called", number))


@control.command("send")
async def send(socket: Socket, text: Payload[str]) -> None:
    """Send a text to all others, whether it is a frame or not."""
    for other in sockets - {socket}:
        with suppress(ConnectionClosed):  # of a scenario before
            await other.send(text)


@control.command("close")
async def close(socket: Socket, code: Payload[int]) -> None:
    for other in sockets - {socket}:
        with suppress(ConnectionClosed):
            await other.close(code, "told to")


app = WebSuckets(
    providers=[
        Storage(),
        Tokens(),
        provide_context(transaction, provides=AsyncSession),
        SqlProvider(AsyncSession),
    ],
    channels=[room],
    path="/",
    limits=Limits(recovery=5, handler_timeout=60),
)
app.include_command_group(commands)
app.include_command_group(control)


@app.on_connect
async def connected(socket: Socket) -> None:
    arrivals.append(time.monotonic())
    sockets.add(socket)


@app.on_disconnect
async def disconnected(socket: Socket) -> None:
    sockets.discard(socket)


if __name__ == "__main__":
    logging.getLogger("websuckets").setLevel(logging.CRITICAL)
    app.run("127.0.0.1", PORT)
