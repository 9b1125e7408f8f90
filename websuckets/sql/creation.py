"""Creation of the tables of websuckets in the database of a program."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from websuckets.sql.log_statements import begin_epoch
from websuckets.sql.tables import metadata

__all__ = ["create_tables"]

CREATION: Final = 0x77656273
"""Number of the lock that PostgreSQL gives to one creator of tables at a time."""


async def create_tables(engine: AsyncEngine) -> None:
    """Create the tables of websuckets in the database of ``engine``, if they are not there.

    Several processes may do so at once. Programs whose database is changed by migrations give
    `metadata` to their migrations instead.
    """
    async with engine.begin() as connection:
        await _create(connection)
        await connection.run_sync(begin_epoch)  # the first use of the log need not do it then


async def _create(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        # Two "CREATE ... IF NOT EXISTS" at once may both find nothing, and one of them fails.
        lock = text("SELECT pg_advisory_xact_lock(:number)")
        await connection.execute(lock, {"number": CREATION})
    for table in metadata.sorted_tables:
        await connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            await connection.execute(CreateIndex(index, if_not_exists=True))
