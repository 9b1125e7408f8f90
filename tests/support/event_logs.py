"""Logs of the events of channels, of every kind, for the tests that all must pass."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
import pytest
import sql_databases
from brokers import HEARTBEAT, linked
from ports import free_port
from sqlalchemy import delete, event, text
from sqlalchemy.ext.asyncio import async_sessionmaker

from websuckets.history import EventLog, History, MemoryLog, Publication
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.history import RedisLog
from websuckets.sql import create_tables
from websuckets.sql.history import SqlLog
from websuckets.sql.retention import EVENTS, delete_expired
from websuckets.sql.tables import channels, events, log

KEPT: Final = History(size=1000, seconds=1000)
"""A history that loses nothing during a test, unless the test lets time pass."""


async def _remove_nothing(channel: str) -> None:
    pass


@dataclass(frozen=True)
class Nodes:
    """Two nodes that share one log, which is empty at first."""

    one: EventLog
    two: EventLog
    pass_time: Callable[[float], Awaitable[None]]
    """Let so many seconds pass, as the log sees it: all that is in the log is older then."""
    trim: Callable[[str], Awaitable[None]] = _remove_nothing
    """Remove what this channel does not keep any more, in a log that does so at some later time."""
    outage: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """Function for a context in which the first node does not reach the log.

    ``None`` for a log that is always there.
    """
    knows_repetitions: bool = False
    """True if a publication that is appended twice is in the log once."""

    @property
    def both(self) -> tuple[EventLog, EventLog]:
        return self.one, self.two


Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Nodes]]
"""A function that opens two nodes."""


class SetClock:
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


def in_memory(request: pytest.FixtureRequest) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Nodes]:
        clock = SetClock()
        log = MemoryLog(clock=clock)

        async def pass_time(seconds: float) -> None:
            clock.now += seconds

        yield Nodes(log, log, pass_time)

    return opened


MAKE_OLDER: Final = """
for _, stream in ipairs(redis.call('KEYS', ARGV[1] .. ':events:*')) do
    local lifetime, entries = redis.call('PTTL', stream), redis.call('XRANGE', stream, '-', '+')
    redis.call('DEL', stream)
    for _, entry in ipairs(entries) do
        local offset, time = string.match(entry[1], '(%d+)-(%d+)')
        local id = string.format('%s-%.0f', offset, time - ARGV[2])
        redis.call('XADD', stream, id, unpack(entry[2]))
    end
    redis.call('PEXPIRE', stream, lifetime)
end
for _, pattern in ipairs({':events:*', ':log:*', ':published:*'}) do
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. pattern)) do
        redis.call('PEXPIRE', key, string.format('%.0f', redis.call('PTTL', key) - ARGV[2]))
    end
end
"""
"""Script that makes all keys of a log older by so many milliseconds."""


def in_redis(request: pytest.FixtureRequest) -> Open:
    url = request.getfixturevalue("shared_redis").url

    @asynccontextmanager
    async def opened() -> AsyncIterator[Nodes]:
        prefix = secrets.token_hex(8)
        one, two = (RedisBroker(RedisConnection(url, HEARTBEAT), prefix) for _ in range(2))

        async def pass_time(seconds: float) -> None:
            await two.redis.ask(b"EVAL", MAKE_OLDER, 0, two.root, round(seconds * 1000))

        @asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            one.redis._url = f"redis://127.0.0.1:{free_port()}"
            number = await one.redis.ask(b"CLIENT", b"ID")
            await two.redis.ask(b"CLIENT", b"KILL", b"ID", number)
            while one.redis._connection is not None:
                await anyio.sleep(0.01)
            yield
            one.redis._url = url
            while one.redis._connection is None:
                await anyio.sleep(0.01)

        async with linked(one), linked(two):
            logs = RedisLog(one), RedisLog(two)
            yield Nodes(*logs, pass_time, outage=outage, knows_repetitions=True)

    return opened


END_OTHERS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
"""Statement that ends all other connections to a database of PostgreSQL."""


def in_database(name: str) -> Callable[[pytest.FixtureRequest], Open]:
    def prepare(request: pytest.FixtureRequest) -> Open:
        database = request.getfixturevalue("sql_database")(name)

        @asynccontextmanager
        async def opened() -> AsyncIterator[Nodes]:
            clock = SetClock()
            one, two = database.engine(), database.engine()
            logs = [SqlLog(async_sessionmaker(engine).begin, clock, 5) for engine in (one, two)]
            await create_tables(one)
            async with one.begin() as connection:
                for table in (log, channels, events):
                    await connection.execute(delete(table))

            async def pass_time(seconds: float) -> None:
                clock.now += seconds

            async def trim(channel: str) -> None:
                await delete_expired(EVENTS, async_sessionmaker(two).begin, clock)

            @asynccontextmanager
            async def outage() -> AsyncIterator[None]:
                """Let the server take no connections of the first node, and end those it has."""
                closed = free_port()

                def connect_elsewhere(*arguments: Any) -> None:
                    arguments[-1]["port"] = closed

                event.listen(one.sync_engine, "do_connect", connect_elsewhere)
                await two.dispose()
                async with two.connect() as connection:
                    await connection.execute(text(END_OTHERS))
                yield
                event.remove(one.sync_engine, "do_connect", connect_elsewhere)

            try:
                ends = None if database.is_sqlite else outage
                yield Nodes(logs[0], logs[1], pass_time, trim, ends)
            finally:
                for engine in (one, two):
                    with anyio.CancelScope(shield=True):
                        await engine.dispose()

        return opened

    return prepare


LOGS: Final[dict[str, tuple[str, Callable[[pytest.FixtureRequest], Open]]]] = {
    "memory": ("asyncio trio", in_memory),
    **{name: ("asyncio", in_database(name)) for name in sql_databases.DATABASES},
    "redis": ("asyncio trio", in_redis),
}
"""Every kind of log, by name: the event loops it runs on, and a function that prepares it.

The function gets the fixtures that it needs, such as a server, in the main thread; the nodes are
opened in the event loop.
"""

PARAMETERS: Final = [
    pytest.param(name, marks=[pytest.mark.heavy] if name in sql_databases.POSTGRES else [])
    for name in LOGS
]
"""Parameters of tests, one for each kind; each test makes a database, for which PostgreSQL takes
long."""


def prepared(name: str, backend: str, request: pytest.FixtureRequest) -> Open:
    """Return the function that opens nodes of this kind, or skip the test on this event loop."""
    backends, prepare = LOGS[name]
    if backend not in backends.split():
        pytest.skip(f"it does not run on {backend}")
    return prepare(request)


def publication(
    frame: bytes | str, channel: str = "c", history: History = KEPT, excluded: str = ""
) -> Publication:
    """Return a new publication, with an id of its own."""
    text = frame.encode() if isinstance(frame, str) else frame
    return Publication(channel, history, text, excluded)
