"""A board of notes that many people arrange; all screens show the same in the end.

Install its libraries with ``pip install ".[examples]"``, run it with ``python examples/board.py``,
connect with ``python -m websockets ws://localhost:9000`` and type::

    {"event": "board create", "payload": "plans", "key": "71aa"}
    {"event": "board watch", "payload": "plans", "id": 1}
    {"event": "note add", "payload": {"board": "plans", "text": "tea", "x": 1, "y": 2}, "key": "8f"}

The reply to ``board watch`` has the notes and, under ``subscribed``, a position: an epoch and an
offset. Each event that follows has an offset, too. Disconnect, let another client add a note, and
watch the board from the last offset that you have seen::

    {"event": "board watch", "payload": "plans", "id": 2, "since": {"board/plans": ["<epoch>", 1]}}

With ``"recovered": true`` the missed events follow. Otherwise the notes of the reply replace all
that the client shows. A client makes its keys at random, one for each change: see
``docs/exactly-once.md``. ``docs/catching-up.md`` has a client in JavaScript for such commands.

Each change raises the version of its board by one. A client ignores events whose version is not
above that of the board that it shows, so that an event may come a second time.

The boards are kept in the file ``board.db``. To keep them in PostgreSQL, name an empty database::

    DATABASE_URL=postgresql://user:password@localhost/boards python examples/board.py
"""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Annotated
from uuid import UUID, uuid4

from dishka import Provider, Scope, provide
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, delete, make_url, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from websuckets import (
    Channels,
    ClientError,
    CommandGroup,
    Event,
    OnCommit,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channel, History
from websuckets.di import provide_context
from websuckets.sql import SqlProvider, create_tables, sqlite_engine

# Rows of the database.


class Table(DeclarativeBase): ...


class Board(Table):
    __tablename__ = "boards"

    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(default=0)


class Note(Table):
    __tablename__ = "notes"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    board: Mapped[str] = mapped_column(ForeignKey(Board.name), index=True)
    text: Mapped[str]
    x: Mapped[int]
    y: Mapped[int]


# Payloads of clients, and events.

BoardName = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
Place = Annotated[int, Field(ge=0, le=10_000)]


class NewNote(BaseModel):
    board: BoardName
    text: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")
    x: Place
    y: Place


class Move(BaseModel):
    board: BoardName
    id: UUID
    x: Place
    y: Place


class Removal(BaseModel):
    board: BoardName
    id: UUID


class NoteView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    text: str
    x: int
    y: int


class BoardView(BaseModel):
    version: int
    notes: list[NoteView]


class NoteAdded(Event):
    version: int
    note: NoteView


class NoteMoved(Event):
    version: int
    id: UUID
    x: int
    y: int


class NoteRemoved(Event):
    version: int
    id: UUID


# Errors, under their names in words: "no such board".


class NoSuchBoard(ClientError): ...


class NoSuchNote(ClientError): ...


board_channel = Channel(
    "board/{name}",
    events=[NoteAdded, NoteMoved, NoteRemoved],
    history=History(size=1000, seconds=86_400),
)

# Storage: a command has one transaction, in which `SqlProvider` keeps its reply and its events.


class Storage(Provider):
    @provide(scope=Scope.APP)
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        url = make_url(os.environ.get("DATABASE_URL", "sqlite:///board.db"))
        if url.get_backend_name() == "sqlite":
            engine = sqlite_engine(url)
        else:
            engine = create_async_engine(url.set(drivername="postgresql+psycopg"))
        yield engine
        await engine.dispose()


def transaction(engine: AsyncEngine) -> AbstractAsyncContextManager[AsyncSession]:
    """Commits before the reply, or rolls back a command that failed."""
    return async_sessionmaker(engine).begin()


async def next_version(db: AsyncSession, name: str) -> int:
    """Count a change of a board; another change of it waits until this one is committed."""
    change = update(Board).where(Board.name == name).values(version=Board.version + 1)
    version: int | None = await db.scalar(change.returning(Board.version))
    if version is None:
        raise NoSuchBoard
    return version


# Commands.

boards = CommandGroup("board")
notes = CommandGroup("note", raises=[NoSuchBoard])


@boards.command("create", once=True)
async def create(socket: Socket, name: Payload[BoardName], db: AsyncSession) -> None:
    with suppress(IntegrityError):  # somebody else has created it
        async with db.begin_nested():
            db.add(Board(name=name))


@boards.command("watch", subscribes=[board_channel], raises=[NoSuchBoard])
async def watch(
    socket: Socket, name: Payload[BoardName], channels: Channels, db: AsyncSession
) -> BoardView:
    await channels.subscribe(socket, board_channel(name=name))  # first the position
    # And then the state, which is not older; in one statement, so that version and notes fit.
    state = select(Board.version, Note).outerjoin(Note, Note.board == Board.name)
    rows = (await db.execute(state.where(Board.name == name).order_by(Note.id))).all()
    if not rows:
        raise NoSuchBoard  # which takes the subscription back
    found = [NoteView.model_validate(note) for _, note in rows if note is not None]
    return BoardView(version=rows[0].version, notes=found)


@notes.command("add", once=True)
async def add(socket: Socket, new: NewNote, db: AsyncSession, on_commit: OnCommit) -> NoteView:
    version = await next_version(db, new.board)
    note = Note(**new.model_dump())
    db.add(note)
    await db.flush()  # which gives it its id
    view = NoteView.model_validate(note)
    on_commit.publish(board_channel(name=new.board), NoteAdded(version=version, note=view))
    return view


@notes.command("move", once=True, raises=[NoSuchNote])
async def move(socket: Socket, to: Move, db: AsyncSession, on_commit: OnCommit) -> None:
    version = await next_version(db, to.board)
    note = update(Note).where(Note.board == to.board, Note.id == to.id)
    moved = await db.scalar(note.values(x=to.x, y=to.y).returning(Note.id))
    if moved is None:
        raise NoSuchNote  # the version is rolled back
    event = NoteMoved(version=version, id=to.id, x=to.x, y=to.y)
    on_commit.publish(board_channel(name=to.board), event)


@notes.command("remove", once=True, raises=[NoSuchNote])
async def remove(socket: Socket, which: Removal, db: AsyncSession, on_commit: OnCommit) -> None:
    version = await next_version(db, which.board)
    note = delete(Note).where(Note.board == which.board, Note.id == which.id)
    if await db.scalar(note.returning(Note.id)) is None:
        raise NoSuchNote
    event = NoteRemoved(version=version, id=which.id)
    on_commit.publish(board_channel(name=which.board), event)


app = WebSuckets(
    providers=[Storage(), provide_context(transaction), SqlProvider(AsyncSession)],
    channels=[board_channel],
)
app.include_command_group(boards)
app.include_command_group(notes)


@app.on_startup
async def prepare(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await create_tables(engine)  # those of SqlProvider


if __name__ == "__main__":
    app.run("localhost", 9000)
