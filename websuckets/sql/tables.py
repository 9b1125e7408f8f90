"""Tables that websuckets keeps in the database of a program, and their creation."""

from typing import Final

from sqlalchemy import Column, Double, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

__all__ = ["create_tables", "metadata", "replies"]

metadata: Final = MetaData()
"""Tables of websuckets, as SQLAlchemy describes them, for migrations: in the ``env.py`` of Alembic
``target_metadata = [Base.metadata, websuckets.sql.metadata]``."""

replies: Final = Table(
    "websuckets_replies",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("frame", Text),  # NULL until the handler has returned
    Column("expires", Double, nullable=False, index=True),  # seconds since the epoch
)
"""Replies of commands that have taken effect, and of the commands that are taking effect."""

CREATION: Final = 0x77656273
"""Number of the lock that PostgreSQL gives to one creator of tables at a time."""


async def create_tables(engine: AsyncEngine) -> None:
    """Create the tables of websuckets in the database of ``engine``, if they are not there.

    Several processes may do so at once. Programs whose database is changed by migrations give
    `metadata` to their migrations instead.
    """
    async with engine.begin() as connection:
        await _create(connection)


async def _create(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        # Two "CREATE ... IF NOT EXISTS" at once may both find nothing, and one of them fails.
        lock = text("SELECT pg_advisory_xact_lock(:number)")
        await connection.execute(lock, {"number": CREATION})
    for table in metadata.sorted_tables:
        await connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            await connection.execute(CreateIndex(index, if_not_exists=True))
