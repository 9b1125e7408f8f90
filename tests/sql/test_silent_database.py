"""A log in SQL whose connection to the database has died without a sign."""

import anyio
import psycopg
import pytest
from chaos_proxy import Link
from postgres import Postgres
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from timeouts import TIMEOUT

from websuckets.clock import SYSTEM_CLOCK
from websuckets.delivery import bounded_log
from websuckets.delivery.bounded_log import BoundedLog
from websuckets.exc import Unavailable
from websuckets.sql import create_tables
from websuckets.sql.history import SqlLog

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]


@pytest.mark.slow
async def test_a_log_does_not_wait_for_good_for_a_silent_connection(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect `Unavailable`, and that another connection is used then."""
    monkeypatch.setattr(bounded_log, "TIMEOUT", 0.5)
    with postgres_server.database() as url:
        link = Link("postgresql", postgres_server.port)
        await link.start()
        through = url.replace(f":{postgres_server.port}/", f":{link.port}/")
        engine = create_async_engine(through.replace("postgresql:", "postgresql+psycopg:"))
        await create_tables(engine)
        log = BoundedLog(SqlLog(async_sessionmaker(engine).begin, SYSTEM_CLOCK, 5))
        position = await log.position("a")
        link.lose(is_silent=True)
        with anyio.fail_after(TIMEOUT), pytest.raises(Unavailable):
            await log.read("a", position, 100)
        link.restore()
        with anyio.fail_after(TIMEOUT):
            assert await log.read("a", position, 100) == []
        await engine.dispose()
        await link.stop()
        await all_have_left(url)


async def all_have_left(url: str) -> None:
    """Wait until the server has noticed that its clients are gone."""
    others = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    with anyio.fail_after(TIMEOUT):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while await (await connection.execute(others)).fetchone() != (0,):
                await anyio.sleep(0.01)
