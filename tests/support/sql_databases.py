"""Databases of every kind that websuckets.sql knows, for tests, and engines for them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from websuckets.sql import sqlite_engine

DATABASES: Final = "sqlite", "postgresql with psycopg", "postgresql with asyncpg"

POSTGRES: Final = DATABASES[1:]


class Database:
    """An empty database, to which any number of nodes connect."""

    def __init__(self, url: URL) -> None:
        self.url: Final = url

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def engine(self, **options: Any) -> AsyncEngine:
        """Return the engine of a new node."""
        if self.is_sqlite:
            return sqlite_engine(self.url, **options)
        return create_async_engine(self.url, **{"pool_size": 20} | options)


@contextmanager
def database(name: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Yield a database of the kind with this name, or skip the test where there is none."""
    if name == "sqlite":
        path: Path = request.getfixturevalue("tmp_path") / "test.db"
        yield Database(URL.create("sqlite+aiosqlite", database=str(path)))
        return
    driver = name.split()[-1]
    pytest.importorskip(driver)
    with request.getfixturevalue("postgres_server").database() as url:
        yield Database(make_url(url).set(drivername=f"postgresql+{driver}"))
        # A connection that was cancelled while psycopg opened it is closed when it is collected.
        gc.collect()
