"""A guest book in one FastAPI application: HTTP and WebSocket side by side, with one database.

Install what it needs with ``pip install ".[examples]"``, run it with ``python
examples/fastapi_app.py``, connect with ``python -m websockets ws://localhost:9000/ws`` and type::

    {"event": "entry sign", "payload": {"name": "Ann", "text": "Lovely!"}}
    {"event": "entry list"}

``http://localhost:9000/entries`` shows the same entries, and ``/online`` how many are connected.
A POST of ``[{"name": "Bob", "text": "Lovely!"}]`` to ``/entries`` adds entries: all or none. The
entries are kept in the file ``guests.db``. ``test_fastapi_app.py`` shows how to test it.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvicorn
from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from dishka.integrations.fastapi import DishkaRoute, FastapiProvider, FromDishka
from dishka.integrations.fastapi import setup_dishka as setup_fastapi
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.routing import WebSocketRoute
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.di import lock_factory, provide_context, setup_dishka
from websuckets.session import Session


class Table(DeclarativeBase): ...


class Entry(Table):
    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    text: Mapped[str]


class NewEntry(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str = Field(min_length=1, max_length=64)
    text: str = Field(min_length=1, max_length=1000)


# What both sides use: the engine lives as long as the container, a session and its transaction as
# one HTTP request or one command.


class Database(Provider):
    scope = Scope.APP

    def __init__(self, url: str = "sqlite+aiosqlite:///guests.db") -> None:
        super().__init__()
        self.url = url

    @provide
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(self.url)
        async with engine.begin() as connection:
            await connection.run_sync(Table.metadata.create_all)
        yield engine
        await engine.dispose()

    @provide
    def sessions(self, engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(engine)


def transaction(
    sessions: async_sessionmaker[AsyncSession],
) -> AbstractAsyncContextManager[AsyncSession]:
    return sessions.begin()


class GuestBook:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def sign(self, entry: NewEntry) -> None:
        self._session.add(Entry(name=entry.name, text=entry.text))
        await self._session.flush()

    async def has(self, name: str) -> bool:
        query = select(Entry.id).where(Entry.name == name).limit(1)
        return await self._session.scalar(query) is not None

    async def entries(self) -> list[NewEntry]:
        entries = await self._session.scalars(select(Entry).order_by(Entry.id))
        return [NewEntry.model_validate(entry) for entry in entries]


class GuestBooks(Provider):
    guest_book = provide(GuestBook, scope=Scope.REQUEST)


# HTTP


class TransactionRoute(DishkaRoute):
    """A route that closes the container of its request before the response is sent.

    An error of the endpoint, such as an `HTTPException`, is passed to the finalisers, so that the
    transaction is rolled back; an error of the commit is answered with the status 500.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_and_close(request: Request) -> Response:
            async with request.state.dishka_container:
                return await handle(request)

        return handle_and_close


router = APIRouter(route_class=TransactionRoute)


@router.get("/entries")
async def get_entries(book: FromDishka[GuestBook]) -> list[NewEntry]:
    return await book.entries()


@router.post("/entries", status_code=201)
async def post_entries(entries: list[NewEntry], book: FromDishka[GuestBook]) -> None:
    for entry in entries:
        if await book.has(entry.name):  # then nothing is kept of the entries before this one
            raise HTTPException(409, f"{entry.name} has signed already")
        await book.sign(entry)


@router.get("/online")
async def get_online(session: FromDishka[Session]) -> int:
    return len(session.online)


# WebSocket

group = CommandGroup("entry")


@group.command("sign")
async def sign(socket: ServerConnection, model: NewEntry, book: GuestBook) -> None:
    await book.sign(model)


@group.command("list")
async def list_entries(socket: ServerConnection, *, book: GuestBook) -> list[NewEntry]:
    return await book.entries()


sockets = WebSuckets()
sockets.include_command_group(group)


# Both together


def make_container(*overrides: Provider) -> AsyncContainer:
    """What comes later wins."""
    return make_async_container(
        *sockets.providers,
        Database(),
        GuestBooks(),
        provide_context(transaction),
        FastapiProvider(),
        *overrides,
        lock_factory=lock_factory,
    )


def make_api(container: AsyncContainer) -> FastAPI:
    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        try:
            async with sockets.lifespan():
                yield
        finally:
            await container.close()

    api = FastAPI(lifespan=lifespan, routes=[WebSocketRoute("/ws", sockets.asgi)])
    api.include_router(router)
    setup_fastapi(container, api)
    setup_dishka(container, sockets)
    return api


if __name__ == "__main__":
    uvicorn.run(make_api(make_container()), host="localhost", port=9000)
