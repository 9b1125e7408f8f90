"""Notes in a database, each of them for nobody but who wrote it.

Install what it needs with ``pip install ".[examples]"``, run it with ``python examples/notes.py``,
connect with ``python -m websockets ws://localhost:9000`` and type::

    {"event": "user register", "payload": {"login": "ann", "password": "correct horse"}, "id": 1}
    {"event": "user enter", "payload": {"login": "ann", "password": "correct horse"}}
    {"event": "user count"}
    {"event": "note add", "payload": "Buy milk", "token": "<the token of the reply>"}
    {"event": "note list", "token": "<the token of the reply>"}
    {"event": "note delete", "payload": 1, "token": "<the token of the reply>", "id": 2}

The notes are kept in the file ``notes.db``. To keep them in PostgreSQL, name an empty database::

    DATABASE_URL=postgresql://user:password@localhost/notes python examples/notes.py
"""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from dishka import Provider, Scope, provide
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import URL, ForeignKey, delete, func, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Payload, WebSuckets
from websuckets.cache import Cache
from websuckets.di import provide_context
from websuckets.exc import ClientError, NotAuthorized
from websuckets.security import CurrentUser, Token
from websuckets.session import User

SECONDS_BETWEEN_COUNTS = 10

# Models: what the database keeps, and what clients send and get.


class Table(DeclarativeBase): ...


class Account(Table):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    login: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]


class Note(Table):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey(Account.id), index=True)
    text: Mapped[str]


# What any database can keep: PostgreSQL has no NUL in a text, and no larger INTEGER.
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
NoteId = Annotated[int, Field(ge=1, lt=2**31)]


class Credentials(BaseModel):
    login: Text = Field(max_length=64)
    password: SecretStr


class NoteView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str


# Storage: the engine lives as long as the app, a session and its transaction as one message.


class Passwords:
    """Hashes passwords in threads: it takes long on purpose, and others are served meanwhile."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._at_once = CapacityLimiter(4)  # each takes 64 MiB

    async def hash(self, password: SecretStr) -> str:
        secret = password.get_secret_value()
        return await to_thread.run_sync(self._hasher.hash, secret, limiter=self._at_once)

    async def check(self, password: SecretStr, password_hash: str) -> bool:
        secret = password.get_secret_value()
        try:
            return await to_thread.run_sync(
                self._hasher.verify, password_hash, secret, limiter=self._at_once
            )
        except VerifyMismatchError:
            return False


class Storage(Provider):
    passwords = provide(Passwords, scope=Scope.APP)

    @provide(scope=Scope.APP)
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(database_url(), hide_parameters=True)  # logs tell no notes
        yield engine
        await engine.dispose()

    @provide(scope=Scope.APP)
    def sessions(self, engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(engine)

    @provide(scope=Scope.REQUEST)
    async def account(self, user: CurrentUser, session: AsyncSession) -> Account:
        account = await session.get(Account, user.id)
        if account is None:
            raise NotAuthorized
        return account


def transaction(
    sessions: async_sessionmaker[AsyncSession],
) -> AbstractAsyncContextManager[AsyncSession]:
    """Commits before the reply, or rolls back what failed."""
    return sessions.begin()


def database_url() -> URL:
    """``DATABASE_URL`` with an asynchronous driver, where it names none."""
    url = make_url(os.environ.get("DATABASE_URL", "sqlite:///notes.db"))
    drivers = {
        "postgres": "postgresql+psycopg",
        "postgresql": "postgresql+psycopg",
        "sqlite": "sqlite+aiosqlite",
    }
    return url.set(drivername=drivers.get(url.drivername, url.drivername))


# Commands: those of `notes` are for who has an account, and get it.

users = CommandGroup("user")
notes = CommandGroup("note", protected=Account)


@users.command("register")
async def register(
    socket: ServerConnection, model: Credentials, passwords: Passwords, session: AsyncSession
) -> None:
    password_hash = await passwords.hash(model.password)
    session.add(Account(login=model.login, password_hash=password_hash))
    try:
        await session.flush()
    except IntegrityError:  # the database knows best, also of who registers at this moment
        raise ClientError("login taken") from None


@users.command("enter")
async def enter(
    socket: ServerConnection,
    model: Credentials,
    passwords: Passwords,
    session: AsyncSession,
    user: User,
) -> Token:
    found = select(Account.id, Account.password_hash).where(Account.login == model.login)
    account = (await session.execute(found)).one_or_none()
    await session.commit()  # gives the connection back: others need it while this one hashes
    if account is None:
        await passwords.hash(model.password)  # so that the time does not tell who has an account
    elif await passwords.check(model.password, account.password_hash):
        user.id = account.id
        user.token = Token.generate()
        return user.token
    raise ClientError("wrong login or password")


@users.command("count")
async def count_users(socket: ServerConnection, *, session: AsyncSession, cache: Cache) -> int:
    async def count() -> int:  # which reads the whole table, so once in a while is enough
        return await session.scalar(select(func.count()).select_from(Account)) or 0

    return await cache.get_or_set("user count", count, SECONDS_BETWEEN_COUNTS)


@notes.command("add")
async def add(
    socket: ServerConnection, text: Payload[Text], account: Account, session: AsyncSession
) -> NoteView:
    note = Note(account_id=account.id, text=text)
    session.add(note)
    await session.flush()  # which gives it its id
    return NoteView.model_validate(note)


@notes.command("list")
async def list_notes(
    socket: ServerConnection, *, account: Account, session: AsyncSession
) -> list[NoteView]:
    own = select(Note).where(Note.account_id == account.id).order_by(Note.id)
    return [NoteView.model_validate(note) for note in await session.scalars(own)]


@notes.command("delete")
async def delete_note(
    socket: ServerConnection, id: Payload[NoteId], account: Account, session: AsyncSession
) -> None:
    own = delete(Note).where(Note.id == id, Note.account_id == account.id)
    if await session.scalar(own.returning(Note.id)) is None:
        raise ClientError("no such note")


app = WebSuckets(providers=[Storage(), provide_context(transaction)])
app.include_command_group(users)
app.include_command_group(notes)


@app.on_startup
async def create_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)


if __name__ == "__main__":
    app.run("localhost", 9000)
