"""Tests that a real database keeps the changes of commands that succeed, and no others."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from dishka import Provider, Scope
from failing_commands import Unserialisable, incident_of
from harness import app_with, talk
from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup
from websuckets.di import provide_context
from websuckets.exc import ClientError

pytestmark = pytest.mark.anyio


class Row(BaseModel):
    name: str


def database_commands() -> CommandGroup:
    group = CommandGroup()

    def insert(database: sqlite3.Connection, name: str) -> None:
        database.execute("INSERT INTO rows VALUES (?)", (name,))

    @group.command("add")
    async def add(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> str:
        insert(db, model.name)
        return "added"

    @group.command("add and fail")
    async def add_and_fail(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> None:
        insert(db, model.name)
        raise RuntimeError("after the insert")

    @group.command("add and refuse")
    async def add_and_refuse(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> None:
        insert(db, model.name)
        raise ClientError("refused")

    @group.command("add and return nonsense")
    async def nonsense(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> Any:
        insert(db, model.name)
        return Unserialisable()

    @group.command("add an orphan")
    async def add_orphan(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> str:
        """Break the constraint that is only checked by the commit."""
        db.execute("INSERT INTO children VALUES ('no such parent')")
        return "false success"

    return group


def with_provide_context(path: Path) -> Provider:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[sqlite3.Connection]:
        connection = open_database(path)
        try:
            with connection:  # commits, or rolls back if there is an exception
                yield connection
        finally:
            connection.close()

    return provide_context(transaction)


def with_yield(path: Path) -> Provider:
    async def transaction() -> AsyncIterator[sqlite3.Connection]:
        connection = open_database(path)
        error = yield connection
        try:
            if error is None:
                connection.commit()
        finally:
            connection.close()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


def with_a_with(path: Path) -> Provider:
    def transaction() -> Iterator[sqlite3.Connection]:
        with closing(open_database(path)) as connection, connection:
            yield connection

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


def with_except_and_else(path: Path) -> Provider:
    async def transaction() -> AsyncIterator[sqlite3.Connection]:
        connection = open_database(path)
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        else:
            connection.commit()
        finally:
            connection.close()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


TRANSACTIONS = [with_provide_context, with_yield, with_a_with, with_except_and_else]


def open_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level="DEFERRED")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def rows(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [name for (name,) in connection.execute("SELECT name FROM rows")]
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE rows (name TEXT PRIMARY KEY);"
        "CREATE TABLE children"
        " (parent TEXT REFERENCES rows (name) DEFERRABLE INITIALLY DEFERRED);"
    )
    connection.close()
    return path


@pytest.mark.parametrize("make_provider", TRANSACTIONS)
async def test_only_a_command_that_succeeded_leaves_a_row(path: Path, make_provider: Any) -> None:
    """Expect a handler that fails, or whose result has no JSON form, to be rolled back."""
    app = app_with(database_commands(), providers=[make_provider(path)])
    async with talk(app) as client:
        assert (await client.call("add", payload={"name": "a"}))["payload"] == "added"
        assert rows(path) == ["a"]
        incident_of(await client.call("add and fail", payload={"name": "b"}))
        assert (await client.call("add and refuse", payload={"name": "c"}))["error"] == "refused"
        incident_of(await client.call("add and return nonsense", payload={"name": "d"}))
        incident_of(await client.call("add", payload={"name": "a"}))
        assert rows(path) == ["a"]
        assert (await client.call("add", payload={"name": "e"}))["payload"] == "added"
        assert rows(path) == ["a", "e"]


@pytest.mark.parametrize("make_provider", TRANSACTIONS)
async def test_a_commit_that_fails_is_never_a_success(path: Path, make_provider: Any) -> None:
    """Expect an error if the handler returned, but its transaction could not be committed."""
    app = app_with(database_commands(), providers=[make_provider(path)])
    async with talk(app) as client:
        incident_of(await client.call("add an orphan", payload={"name": "a"}, id=1))
        assert (await client.call("add", payload={"name": "e"}))["payload"] == "added"
        assert rows(path) == ["e"]
