"""Nodes with a log of events in a database, for tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from event_logs import publication
from sql_databases import Database
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from timeouts import TIMEOUT

from websuckets.clock import SYSTEM_CLOCK
from websuckets.history import Position, in_order
from websuckets.sql.history import SqlLog, SqlMessageLog
from websuckets.sql.tables import channels, events, log

WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Node:
    """A node of an app, with an engine of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.sessions = async_sessionmaker(engine)
        self.log = SqlLog(self.sessions.begin, SYSTEM_CLOCK, 5)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def of(self, session: AsyncSession) -> SqlMessageLog:
        return SqlMessageLog(session, self.log)

    @asynccontextmanager
    async def message(self) -> AsyncIterator[tuple[AsyncSession, SqlMessageLog]]:
        """Yield the session of a handler, which is committed in the end, and its log."""
        async with self.sessions.begin() as session:
            yield session, self.of(session)

    async def publish(self, *names: str) -> Sequence[Position]:
        """Publish an event to each channel, in one transaction."""
        async with self.message() as (_, log):
            return await log.append(in_order(publication("{}", name) for name in names))

    async def until_others_wait(self) -> None:
        """Wait until some transaction waits for another one."""
        if self.is_sqlite:  # whose driver waits in a thread
            await anyio.wait_all_tasks_blocked()
            return
        async with self.engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            with anyio.fail_after(TIMEOUT):
                while not await connection.scalar(text(WAITING)):
                    await anyio.sleep(0.01)

    async def remove_all(self) -> None:
        """Leave tables as a migration makes them."""
        async with self.engine.begin() as connection:
            for table in (log, channels, events):
                await connection.execute(delete(table))

    async def events(self, channel: str = "c") -> list[tuple[int, bytes]]:
        epoch = (await self.log.position(channel)).epoch
        found = await self.log.read(channel, Position(epoch, 0), 1000)
        return [(event.offset, event.frame) for event in found]


@asynccontextmanager
async def opened(database: Database, **options: Any) -> AsyncIterator[Node]:
    node = Node(database.engine(**options))
    try:
        yield node
    finally:
        with anyio.CancelScope(shield=True):
            await node.engine.dispose()


async def append(log: SqlMessageLog, frame: str = "{}", channel: str = "c") -> Position:
    (position,) = await log.append([publication(frame, channel)])
    return position
