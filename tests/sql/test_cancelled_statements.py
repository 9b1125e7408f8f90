"""Commands that are cancelled while a statement runs leave the pool of their engine in order."""

import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from harness import app_with, dial
from once_nodes import Order, prepare
from sql_databases import Database
from sqlalchemy import QueuePool, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from websuckets import CommandGroup, Socket
from websuckets.di import provide_context

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """Yield an engine of one connection, which the next command gets after a cancelled one."""
    engine = database.engine(pool_size=1, max_overflow=0)
    await prepare(engine)
    yield engine
    await engine.dispose()


async def test_a_client_that_leaves_while_its_statement_runs_disturbs_no_other(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    group = CommandGroup()
    started, ended = anyio.Event(), anyio.Event()

    @group.command("place", cancel_on_disconnect=True)
    async def place(socket: Socket, *, session: AsyncSession) -> None:
        started.set()
        try:
            for number in range(10):
                await session.execute(insert(Order).values(text=f"order {number}"))
            await anyio.sleep_forever()
        finally:
            ended.set()

    @group.command("count")
    async def count(socket: Socket, *, session: AsyncSession) -> int | None:
        return await session.scalar(select(func.count()).select_from(Order))

    sessions = async_sessionmaker(engine)
    app = app_with(group, providers=[provide_context(sessions.begin, provides=AsyncSession)])
    async with app.serve("127.0.0.1", 0) as server, dial(server) as other:
        for checkpoints in range(0, 60, 2):
            started, ended = anyio.Event(), anyio.Event()
            async with dial(server) as client:
                await client.send("place")
                await started.wait()
                for _ in range(checkpoints):
                    await anyio.lowlevel.checkpoint()
                await client.vanish()
            await ended.wait()
            assert (await other.call("count"))["payload"] == 0
        assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
