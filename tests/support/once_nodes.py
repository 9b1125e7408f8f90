"""Nodes that run commands once by `SqlProvider`, in the order in which an app does it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated, Any, Final, TypeAlias

import anyio
from dishka import FromComponent, Provider, Scope, make_async_container
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from websuckets.clock import SYSTEM_CLOCK, WallClock
from websuckets.di import ScopeFactory, provide_context
from websuckets.exc import alone
from websuckets.idempotency import IdempotencyStore, StoredReply
from websuckets.runtime.once import running_once
from websuckets.runtime.tasks import AppTasks
from websuckets.sql import SqlProvider, create_tables

ANN: Final = "str:ann"
PRINT: Final = b"\x01" * 32
REPLY: Final = StoredReply(PRINT, '{"event":"place","payload":1}')


class Base(DeclarativeBase): ...


class Order(Base):
    """A table of the program."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


Handler: TypeAlias = Callable[[AsyncSession], Awaitable[None]]


async def place(session: AsyncSession, text: str = "order") -> None:
    """Handle a command: place an order."""
    await session.execute(insert(Order).values(text=text))


class Answered(Exception):
    """An error with which a scope closes that found a reply."""


class OnceNode:
    """A node of an app, with an engine and a container of its own."""

    def __init__(
        self,
        engine: AsyncEngine,
        *providers: Provider,
        provider: SqlProvider | None = None,
        clock: WallClock = SYSTEM_CLOCK,
        session: tuple[type[AsyncSession], str] = (AsyncSession, ""),
    ) -> None:
        """Use a session of this type, in this component."""
        self.engine: Final = engine
        self.sessions: Final = async_sessionmaker(engine)
        hint: Any = Annotated[session[0], FromComponent(session[1])] if session[1] else session[0]
        of_the_app = Provider(scope=Scope.APP)
        of_the_app.provide(lambda: clock, provides=WallClock)
        of_the_app.provide(lambda: self, provides=AppTasks)
        of_the_app.provide(lambda: self.sessions.begin, provides=ScopeFactory[hint])
        self._container = make_async_container(
            of_the_app,
            provide_context(self.sessions.begin, provides=AsyncSession),
            *providers,
            provider or SqlProvider(AsyncSession),
        )
        self._session = session
        self.before_claim: Handler | None = None
        """Function that runs before the claim, as guards do."""
        self.runs = 0
        """Runs of handlers."""
        self.repeats = 0
        """Runs after an error that passed."""

    def start_soon(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Start no task, as a node would that ends before the task runs."""

    async def send(
        self,
        handler: Handler = place,
        key: str = "k",
        *,
        owner: str = ANN,
        reply: StoredReply = REPLY,
    ) -> StoredReply:
        """Run a command, again if the store says so, and return its reply, or that of its twin."""
        run = running_once.begin("order place")
        try:
            for attempt in count(1):
                try:
                    return await self._run(handler, owner, key, reply)
                except BaseException as error:
                    pause = self._store.retry_after(error, attempt)
                    if pause is None:
                        raise alone(error) from None
                    self.repeats += 1
                    await anyio.sleep(pause)
        finally:
            run.is_over = True
        raise AssertionError

    async def _run(self, handler: Handler, owner: str, key: str, reply: StoredReply) -> StoredReply:
        scope = await self._container().__aenter__()
        self._store: Any = await scope.get(IdempotencyStore)
        store = self._store
        try:
            try:
                if self.before_claim is not None:
                    await self.before_claim(await scope.get(*self._session))
                found = await store.claim(owner, key, PRINT)
                if found is None:
                    self.runs += 1
                    await handler(await scope.get(*self._session))
                    await store.complete(reply)
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await scope.close(error)
                raise
            if found is not None:
                await scope.close(Answered())
                return StoredReply(found.fingerprint, found.frame)
            await scope.close()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await store.settle(False)
            raise
        await store.settle(True)
        return reply

    async def orders(self) -> list[str]:
        """Return the orders that are committed."""
        async with self.engine.connect() as connection:
            return list(await connection.scalars(select(Order.text).order_by(Order.id)))


@asynccontextmanager
async def once_node(
    engine: AsyncEngine, *providers: Provider, **options: Any
) -> AsyncIterator[OnceNode]:
    """Yield a node, and close its engine."""
    try:
        yield OnceNode(engine, *providers, **options)
    finally:
        with anyio.CancelScope(shield=True):
            await engine.dispose()


async def prepare(engine: AsyncEngine) -> None:
    """Create all tables."""
    await create_tables(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
