"""Stores of commands that take effect once, of every kind, for the tests that all must pass."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
import pytest
import sql_databases
from brokers import HEARTBEAT, linked
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from websuckets.clock import SYSTEM_CLOCK
from websuckets.idempotency import (
    IdempotencyStore,
    MemoryIdempotencyStore,
    MemoryReplies,
    StoredReply,
)
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.idempotency import RedisClaims, RedisIdempotencyStore
from websuckets.runtime.once import running_once
from websuckets.sql import create_tables
from websuckets.sql.store import Settings, SqlIdempotencyStore
from websuckets.sql.tables import replies

Close: TypeAlias = Callable[[bool], Awaitable[None]]
"""A function that closes the scope of a message: with a commit (``True``), or without one."""

Act: TypeAlias = Callable[[str, str], Awaitable[None]]
"""A function of an owner and a key."""


async def _close_nothing(committed: bool) -> None:
    pass


class Message:
    """A message that a node handles: a store, used as an app uses it, and the scope around it.

    A kind of store that shares the transaction of the handler gives a ``close`` that commits or
    rolls back. The scope is closed before the store is settled, and after a reply was found.
    """

    def __init__(self, store: IdempotencyStore, close: Close = _close_nothing) -> None:
        self.store = store
        self._close = close

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        """Claim; a claim that fails or is cancelled is settled, as an app does it."""
        try:
            reply = await self.store.claim(owner, key, fingerprint)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.settle(False)
            raise
        if reply is not None:
            await self._close(False)
        return reply

    async def complete(self, reply: StoredReply) -> None:
        await self.store.complete(reply)

    async def settle(self, committed: bool) -> None:
        await self._close(committed)
        await self.store.settle(committed)


Make: TypeAlias = Callable[[], Message]
"""A function that returns a new message of a node."""


@dataclass(frozen=True)
class Nodes:
    """Two nodes that share their replies."""

    one: Make
    two: Make
    expire: Act
    """Let the reply of this owner and key, which is kept, be older than its lifetime."""
    crash: Callable[[Message], Awaitable[None]] | None = None
    """Let the node of a message with a claim die, and wait for as long as the claim outlives it.

    The message is not used any more. ``None`` for a store that dies with its only node.
    """
    is_serial: bool = False
    """True if a claim keeps claims of all other keys waiting, as one writer of a database does."""

    @property
    def both(self) -> tuple[Make, Make]:
        return self.one, self.two


Open: TypeAlias = Callable[[float], AbstractAsyncContextManager[Nodes]]
"""A function that takes the lifetime of replies in seconds, and opens two nodes with no replies."""


def in_memory(request: pytest.FixtureRequest) -> Open:
    @asynccontextmanager
    async def opened(lifetime: float) -> AsyncIterator[Nodes]:
        replies = MemoryReplies(lifetime=lifetime)

        def make() -> Message:
            return Message(MemoryIdempotencyStore(replies))

        async def expire(owner: str, key: str) -> None:
            replies._kept[owner, key] = replies._kept[owner, key]._replace(end=0.0)

        yield Nodes(make, make, expire)

    return opened


class SqlMessage(Message):
    """A message with a session, whose guards and handler run for a command that takes effect once.

    The session is closed as ``sessionmaker.begin`` closes it.
    """

    def __init__(self, session: AsyncSession, settings: Settings) -> None:
        self.session: Final = session
        store = SqlIdempotencyStore(session, settings)

        async def close(committed: bool) -> None:
            store.leave()
            if committed:
                await session.commit()
            await session.close()

        super().__init__(store, close)

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        run = running_once.begin("place")
        try:
            return await super().claim(owner, key, fingerprint)
        finally:
            run.is_over = True


class SqlNode:
    """A node that is connected to a database."""

    def __init__(self, database: sql_databases.Database, lifetime: float) -> None:
        self.engine: Final = database.engine()
        self._settings = Settings(SYSTEM_CLOCK, lifetime, 5)

    def make(self) -> Message:
        return SqlMessage(AsyncSession(self.engine), self._settings)

    async def crash(self, message: Message) -> None:
        """Let the connection of a message end without a word to the database."""
        assert isinstance(message, SqlMessage)
        await message.session.invalidate()

    async def expire(self, owner: str, key: str) -> None:
        async with self.engine.begin() as connection:
            is_it = (replies.c.owner == owner) & (replies.c.key == key)
            await connection.execute(update(replies).where(is_it).values(expires=0.0))


def in_database(name: str) -> Callable[[pytest.FixtureRequest], Open]:
    def prepare(request: pytest.FixtureRequest) -> Open:
        database = request.getfixturevalue("sql_database")(name)

        @asynccontextmanager
        async def opened(lifetime: float) -> AsyncIterator[Nodes]:
            one, two = SqlNode(database, lifetime), SqlNode(database, lifetime)
            await create_tables(one.engine)
            async with one.engine.begin() as connection:
                await connection.execute(delete(replies))
            try:
                yield Nodes(one.make, two.make, two.expire, one.crash, database.is_sqlite)
            finally:
                for node in (one, two):
                    with anyio.CancelScope(shield=True):
                        await node.engine.dispose()

        return opened

    return prepare


def in_redis(request: pytest.FixtureRequest) -> Open:
    url = request.getfixturevalue("shared_redis").url

    @asynccontextmanager
    async def opened(lifetime: float) -> AsyncIterator[Nodes]:
        prefix = secrets.token_hex(8)
        one, two = (RedisBroker(RedisConnection(url, HEARTBEAT), prefix) for _ in range(2))
        async with linked(one), linked(two), anyio.create_task_group() as tasks:
            claims = [RedisClaims(broker, lifetime) for broker in (one, two)]

            async def expire(owner: str, key: str) -> None:
                await two.redis.ask(b"PEXPIRE", claims[1].claim(owner, key).name, 0)

            async def crash(message: Message) -> None:
                """End the lease of a claim, as time does it while a dead node renews nothing."""
                assert isinstance(message.store, RedisIdempotencyStore)
                claim = message.store._claim
                assert claim is not None
                await two.redis.ask(b"PEXPIRE", claim.name, 0)
                for node in claims:
                    if claim in node._held:
                        node._held.remove(claim)
                        node._end_turn(claim)

            makes = [
                lambda node=node: Message(RedisIdempotencyStore(node, tasks)) for node in claims
            ]
            yield Nodes(*makes, expire, crash)
            tasks.cancel_scope.cancel()

    return opened


STORES: Final[dict[str, tuple[str, Callable[[pytest.FixtureRequest], Open]]]] = {
    "memory": ("asyncio trio", in_memory),
    **{name: ("asyncio", in_database(name)) for name in sql_databases.DATABASES},
    "redis": ("asyncio trio", in_redis),
}
"""Every kind of store, by name: the event loops it runs on, and a function that prepares it.

The function gets the fixtures that it needs, such as a server, in the main thread; the nodes are
opened in the event loop.
"""


PARAMETERS: Final = [
    pytest.param(name, marks=[pytest.mark.heavy] if name in sql_databases.POSTGRES else [])
    for name in STORES
]
"""Parameters of tests, one for each kind; each test makes a database, for which PostgreSQL takes
long."""


def prepared(name: str, backend: str, request: pytest.FixtureRequest) -> Open:
    """Return the function that opens nodes of this kind, or skip the test on this event loop."""
    backends, prepare = STORES[name]
    if backend not in backends.split():
        pytest.skip(f"it does not run on {backend}")
    return prepare(request)
