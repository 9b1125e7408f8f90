"""State and position: no event between the two is lost, in whatever order the steps come.

A scheduler decides which of several commands takes its next step. Each client shows the state that
it has read and the events that came behind its position; in the end, each shows what is true.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, Final

import anyio
import pytest
from sql_databases import Database
from sqlalchemy import Column, Integer, MetaData, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from timeouts import TIMEOUT

from websuckets import CommandGroup, Event, Limits, OnCommit, Payload, Socket, WebSuckets
from websuckets.channels import Channel, Channels, History
from websuckets.di import provide_context
from websuckets.sql import SqlProvider, create_tables
from websuckets.testing import TestClient

NAME: Final = "items"
ITEMS: Final = 3
WATCHERS: Final = 2

INTERLEAVINGS: Final = int(os.environ.get("WEBSUCKETS_INTERLEAVINGS", "1000"))
"""Orders of steps that the heavy tests draw: in memory, and a fifth of them in a database."""


class Added(Event):
    item: int


items = Channel(NAME, events=[Added], history=History())
metadata = MetaData()
table = Table("items", metadata, Column("id", Integer, primary_key=True))


class Scheduler:
    """A scheduler of tasks that wait before each of their steps."""

    def __init__(self) -> None:
        self._waiting: dict[str, anyio.Event] = {}
        self._changed = anyio.Event()
        self._left = 0

    async def step(self, name: str) -> None:
        """Wait until the task ``name`` may take its next step."""
        self._waiting[name] = event = anyio.Event()
        self._changed.set()
        await event.wait()

    async def run(self, tasks: dict[str, Callable[[], Any]], chance: Random) -> None:
        """Run the tasks to their ends, one step of one task at a time."""
        self._left = len(tasks)

        async def run(function: Callable[[], Any]) -> None:
            try:
                await function()
            finally:
                self._left -= 1
                self._changed.set()

        async with anyio.create_task_group() as group:
            for function in tasks.values():
                group.start_soon(run, function)
            while self._left:
                while self._left > len(self._waiting):
                    self._changed = anyio.Event()
                    await self._changed.wait()
                if self._waiting:
                    name = chance.choice(sorted(self._waiting))
                    self._waiting.pop(name).set()


class Screen:
    """Screen of one client: the items that it shows, and how far it has come."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.items: list[int] = []
        self.offset = 0

    async def load(self, name: str) -> None:
        """Subscribe, and read the state."""
        reply = await self.client.call("watch", name)
        self.items = list(reply.payload)
        self.offset = reply.subscribed[NAME]["offset"]

    async def follow(self, offset: int) -> None:
        """Take the events up to an offset; an event may be in the state already."""
        while self.offset < offset:
            event = await self.client.receive()
            assert event.offset == self.offset + 1
            self.offset = event.offset
            if event.payload["item"] not in self.items:
                self.items.append(event.payload["item"])


Around = Callable[[Scheduler], AbstractAsyncContextManager[WebSuckets]]


@asynccontextmanager
async def in_memory(scheduler: Scheduler) -> AsyncIterator[WebSuckets]:
    state: list[int] = []
    group = CommandGroup()

    @group.command("watch", subscribes=[items])
    async def watch(socket: Socket, name: Payload[str], *, channels: Channels) -> list[int]:
        await scheduler.step(name)
        await channels.subscribe(socket, NAME)
        await scheduler.step(name)
        found = list(state)
        await scheduler.step(name)
        return found

    @group.command("add")
    async def add(
        socket: Socket, item: Payload[int], *, on_commit: OnCommit, channels: Channels
    ) -> None:
        name = f"add {item}"
        await scheduler.step(name)
        state.append(item)
        await scheduler.step(name)
        if item % 2:
            on_commit.publish(NAME, Added(item=item))
        else:
            await channels.publish(NAME, Added(item=item))

    app = WebSuckets(channels=[items], limits=Limits(rate=None, handler_timeout=None))
    app.include_command_group(group)
    yield app


def in_database(database: Database) -> Around:
    @asynccontextmanager
    async def prepared(scheduler: Scheduler) -> AsyncIterator[WebSuckets]:
        engine = database.engine()
        await create_tables(engine)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
        group = CommandGroup()

        @group.command("watch", subscribes=[items])
        async def watch(
            socket: Socket, name: Payload[str], *, channels: Channels, db: AsyncSession
        ) -> list[int]:
            await scheduler.step(name)
            await channels.subscribe(socket, NAME)
            await scheduler.step(name)
            found = list(await db.scalars(select(table.c.id).order_by(table.c.id)))
            await scheduler.step(name)
            return found

        @group.command("add")
        async def add(
            socket: Socket, item: Payload[int], *, on_commit: OnCommit, db: AsyncSession
        ) -> None:
            await scheduler.step("add")
            await db.execute(insert(table).values(id=item))
            await scheduler.step("add")
            on_commit.publish(NAME, Added(item=item))

        new_session = async_sessionmaker(engine).begin
        app = WebSuckets(
            channels=[items],
            providers=[
                provide_context(new_session, provides=AsyncSession),
                SqlProvider(AsyncSession),
            ],
            limits=Limits(rate=None, handler_timeout=None),
        )
        app.include_command_group(group)
        try:
            yield app
        finally:
            await engine.dispose()

    return prepared


async def interleave(around: Around, chance: Random, *, one_writer: bool) -> None:
    """Let clients load while others add, in an order drawn by ``chance``; compare their screens."""
    scheduler = Scheduler()
    async with around(scheduler) as app, TestClient(app) as ann, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(ann.connect()) for _ in range(WATCHERS)]
        writers = [await stack.enter_async_context(ann.connect()) for _ in range(ITEMS)]
        screens = [Screen(client) for client in others]
        tasks: dict[str, Callable[[], Any]] = {}
        for number, screen in enumerate(screens):
            tasks[f"watch {number}"] = lambda screen=screen, number=number: screen.load(
                f"watch {number}"
            )

        async def add_all() -> None:
            for item in range(ITEMS):
                await ann.call("add", item)

        if one_writer:
            tasks["add"] = add_all
        else:
            for item in range(ITEMS):
                tasks[f"add {item}"] = lambda item=item: writers[item].call("add", item)
        with anyio.fail_after(TIMEOUT):
            await scheduler.run(tasks, chance)
            last = await app._channels._running._log.position(NAME)
            for screen in screens:
                await screen.follow(last.offset)
        for screen in screens:
            assert sorted(screen.items) == list(range(ITEMS))


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(5))
async def test_no_event_is_lost_between_position_and_state_in_memory(seed: int) -> None:
    chance = Random(seed)
    for _ in range(20):
        await interleave(in_memory, chance, one_writer=False)


@pytest.mark.anyio
@pytest.mark.heavy
@pytest.mark.timeout(1200)
async def test_no_event_is_lost_in_many_interleavings_in_memory() -> None:
    chance = Random("memory")
    for _ in range(INTERLEAVINGS):
        await interleave(in_memory, chance, one_writer=False)


@pytest.mark.anyio
@pytest.mark.heavy
@pytest.mark.on_asyncio
@pytest.mark.timeout(1200)
async def test_no_event_is_lost_in_many_interleavings_in_a_database(
    sql_database: Callable[[str], Database],
) -> None:
    chance, around = Random("sqlite"), in_database(sql_database("sqlite"))
    for _ in range(INTERLEAVINGS // 5):
        await interleave(around, chance, one_writer=True)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.on_asyncio
@pytest.mark.parametrize("name", ["sqlite", "postgresql with psycopg"])
async def test_no_event_is_lost_between_position_and_state_in_a_database(
    name: str, sql_database: Callable[[str], Database]
) -> None:
    chance, around = Random(name), in_database(sql_database(name))
    for _ in range(10):
        await interleave(around, chance, one_writer=True)
