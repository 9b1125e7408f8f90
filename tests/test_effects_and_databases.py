"""`OnCommit` and `ScopeFactory` with databases: rows that events announce, and pools of one."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from dishka import Provider, Scope
from harness import app_with, dial
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from timeouts import TIMEOUT

from websuckets import (
    AppTasks,
    ClientEvent,
    CommandGroup,
    Limits,
    OnCommit,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channels
from websuckets.di import ScopeFactory, provide_context
from websuckets.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]  # SQLAlchemy runs on asyncio alone

STREAMS: Final = 200
TASKS: Final = 10


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'rows.db'}"


@pytest.fixture
def postgresql(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")


@asynccontextmanager
async def engine_at(url: str) -> AsyncIterator[AsyncEngine]:
    """Yield an engine that has one connection at most, to a database with one table."""
    engine = create_async_engine(
        url, poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0, pool_timeout=TIMEOUT
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE rows (number INTEGER PRIMARY KEY)"))
        yield engine
    finally:
        await engine.dispose()


def sessions_of(*engines: AsyncEngine) -> Provider:
    """Return a provider of sessions, which commit unless their scope has failed."""
    numbers = iter(range(10**9))

    @asynccontextmanager
    async def session() -> AsyncIterator[AsyncSession]:
        engine = engines[next(numbers) % len(engines)]
        async with AsyncSession(engine) as session, session.begin():
            yield session

    return provide_context(session, scope=Scope.REQUEST)


async def add(db: AsyncSession, number: int) -> None:
    await db.execute(text("INSERT INTO rows VALUES (:number)"), {"number": number})


async def count(db: AsyncSession, number: int) -> int:
    rows = await db.execute(text("SELECT count(*) FROM rows WHERE number = :n"), {"n": number})
    return int(rows.scalar_one())


def announcing_app(*engines: AsyncEngine) -> WebSuckets:
    group = CommandGroup()

    @group.command("subscribe")
    async def subscribe(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, "rows")

    @group.command("add")
    async def add_row(
        socket: Socket, number: Payload[int], *, db: AsyncSession, on_commit: OnCommit
    ) -> None:
        on_commit.publish("rows", ClientEvent("added", number), exclude=socket)
        await add(db, number)

    @group.command("look")
    async def look(socket: Socket, number: Payload[int], *, db: AsyncSession) -> int:
        return await count(db, number)

    return app_with(group, providers=[sessions_of(*engines)], limits=Limits(rate=None))


@pytest.mark.parametrize(
    "database, times",
    [
        ("sqlite", 50),
        pytest.param("postgresql", 10_000, marks=[pytest.mark.heavy, pytest.mark.timeout(900)]),
    ],
)
async def test_a_reader_that_gets_an_announcement_always_finds_the_row(
    database: str, times: int, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(database)
    async with engine_at(url) as engine:
        # A separate engine: the reader does not wait for a connection of the writer.
        other = create_async_engine(url)
        app = announcing_app(engine, other)
        async with app.serve("127.0.0.1", 0) as server, dial(server) as one, dial(server) as two:
            await two.call("subscribe", id=0)
            for number in range(times):
                await one.send("add", payload=number, id=number)
                assert (await two.receive())["payload"] == number
                found = await two.call("look", payload=number, id=number)
                assert found["payload"] == 1, f"no row {number}"
                assert (await one.receive())["id"] == number
        await other.dispose()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.heavy
async def test_a_pool_of_one_connection_serves_many_streams_and_tasks(
    database: str, request: pytest.FixtureRequest
) -> None:
    """Nobody holds the connection between two steps, however many wait for their next step."""
    group = CommandGroup()
    go_on = anyio.Event()
    ended = [anyio.Event() for _ in range(TASKS)]

    @group.command("watch")
    async def watch(
        socket: Socket, number: Payload[int], *, new_scope: ScopeFactory[AsyncSession]
    ) -> AsyncIterator[int]:
        async with new_scope() as db:
            found = await count(db, number)
        yield found
        await go_on.wait()
        async with new_scope() as db:
            found = await count(db, number)
        yield found

    async def work(new_scope: ScopeFactory[AsyncSession], task: int) -> None:
        for number in range(task, STREAMS, TASKS):
            async with new_scope() as db:
                await add(db, number)
        ended[task].set()

    @group.command("work")
    async def start(
        socket: Socket, *, tasks: AppTasks, new_scope: ScopeFactory[AsyncSession]
    ) -> None:
        for task in range(TASKS):
            tasks.start_soon(work, new_scope, task)

    async with engine_at(request.getfixturevalue(database)) as engine:
        pool: Any = engine.pool
        limits = Limits(rate=None, streams=None)
        app = app_with(group, limits=limits, providers=[sessions_of(engine)])
        async with TestClient(app) as client:
            streams = [client.stream("watch", number) for number in range(STREAMS)]
            assert {(await anext(stream)).payload for stream in streams} == {0}
            assert pool.checkedout() == 0
            await client.call("work")
            with anyio.fail_after(TIMEOUT):
                for event in ended:
                    await event.wait()
            go_on.set()
            assert {(await anext(stream)).payload for stream in streams} == {1}
            for stream in streams:
                assert [item async for item in stream] == []
        assert pool.checkedout() == 0
