"""Tables of websuckets in the database of a program."""

import subprocess
import sys

import pytest
from once_nodes import REPLY, OnceNode, once_node
from sql_databases import Database
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from websuckets.sql import create_tables, metadata

pytestmark = pytest.mark.anyio


TABLES = {
    "websuckets_channels": [],
    "websuckets_events": ["['expires']"],
    "websuckets_log": [],
    "websuckets_replies": ["['expires']"],
}
"""Tables with the columns of their indexes."""


async def indexed(engine: AsyncEngine) -> dict[str, list[str]]:
    """Return the tables of a database with the columns of their indexes."""

    def look(connection: Connection) -> dict[str, list[str]]:
        inspector = inspect(connection)
        return {
            table: [str(index["column_names"]) for index in inspector.get_indexes(table)]
            for table in inspector.get_table_names()
        }

    async with engine.connect() as connection:
        return await connection.run_sync(look)


async def test_tables_are_created_with_their_indexes(database: Database) -> None:
    async with once_node(database.engine()) as node:
        await create_tables(node.engine)
        assert await indexed(node.engine) == TABLES


async def test_tables_that_are_there_are_left_as_they_are(node: OnceNode) -> None:
    await node.send()
    await create_tables(node.engine)
    assert await node.send() == REPLY
    assert node.runs == 1


CREATE = """
import asyncio, sys
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from websuckets.sql import create_tables, sqlite_engine

async def main(url):
    engine = sqlite_engine(url) if "sqlite" in url else create_async_engine(url)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
    print("ready", flush=True)
    sys.stdin.readline()
    await create_tables(engine)
    await engine.dispose()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.heavy
async def test_processes_may_create_the_tables_at_once(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert errors == [""] * 2
    async with once_node(database.engine()) as node:
        assert await indexed(node.engine) == TABLES


async def test_migrations_of_alembic_know_the_tables(database: Database) -> None:
    autogenerate = pytest.importorskip("alembic.autogenerate")
    migration = pytest.importorskip("alembic.runtime.migration")

    def differences(connection: Connection) -> list[str]:
        context = migration.MigrationContext.configure(connection, opts={"compare_type": True})
        return [difference[0] for difference in autogenerate.compare_metadata(context, metadata)]

    async with once_node(database.engine()) as node:
        async with node.engine.connect() as connection:
            found = await connection.run_sync(differences)
            assert sorted(found) == ["add_index"] * 2 + ["add_table"] * 4
        await create_tables(node.engine)
        async with node.engine.connect() as connection:
            assert await connection.run_sync(differences) == []
