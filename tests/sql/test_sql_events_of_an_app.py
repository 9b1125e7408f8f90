"""Events that handlers publish on commit, as rows of their transactions, by apps with clients."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from dishka import Provider
from harness import errors
from once_nodes import Base
from redis_server import RedisServer
from sql_databases import Database
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from websuckets import CommandGroup, Event, Limits, OnCommit, Payload, Socket, WebSuckets
from websuckets.channels import Channel, Channels, History
from websuckets.delivery import logged_delivery
from websuckets.di import ScopeFactory, provide_context
from websuckets.exc import ClientError
from websuckets.redis import RedisProvider
from websuckets.sql import SqlProvider, create_tables
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Note(Base):
    __tablename__ = "notes_of_events"

    id: Mapped[int] = mapped_column(primary_key=True)


class Noted(Event):
    id: int


notes = Channel("notes/{board}", events=[Noted], history=History())
NAME = "notes/1"


def app_of(
    engine: AsyncEngine, new_session: Any = None, more: Sequence[Provider] = ()
) -> WebSuckets:
    group = CommandGroup()

    @group.command("watch", subscribes=[notes])
    async def watch(socket: Socket, *, channels: Channels, db: AsyncSession) -> int:
        await channels.subscribe(socket, NAME)
        return await db.scalar(select(func.count()).select_from(Note)) or 0

    @group.command("note")
    async def note(
        socket: Socket, id: Payload[int], *, db: AsyncSession, on_commit: OnCommit
    ) -> None:
        on_commit.publish(NAME, Noted(id=id))
        on_commit.publish("notes/2", Noted(id=id))
        db.add(Note(id=id))

    @group.command("note once", once=True)
    async def note_once(
        socket: Socket, id: Payload[int], *, db: AsyncSession, on_commit: OnCommit
    ) -> int:
        db.add(Note(id=id))
        on_commit.publish(NAME, Noted(id=id))
        return id

    @group.command("note and fail")
    async def note_and_fail(
        socket: Socket, id: Payload[int], *, db: AsyncSession, on_commit: OnCommit
    ) -> None:
        db.add(Note(id=id))
        on_commit.publish(NAME, Noted(id=id))
        raise ClientError("no")

    @group.command("note in a scope")
    async def note_in_a_scope(
        socket: Socket, id: Payload[int], *, new: ScopeFactory[tuple[AsyncSession, OnCommit]]
    ) -> None:
        for number in id, id + 1:
            async with new() as (db, on_commit):
                db.add(Note(id=number))
                on_commit.publish(NAME, Noted(id=number))
        with pytest.raises(KeyError):
            async with new() as (db, on_commit):
                on_commit.publish(NAME, Noted(id=0))
                raise KeyError

    @group.command("publish")
    async def publish(socket: Socket, id: Payload[int], *, channels: Channels) -> None:
        await channels.publish(NAME, Noted(id=id))

    @group.command("publish from an effect")
    async def publish_from_an_effect(
        socket: Socket, id: Payload[int], *, db: AsyncSession, on_commit: OnCommit
    ) -> None:
        on_commit.publish(NAME, Noted(id=id))
        on_commit(lambda: on_commit.publish(NAME, Noted(id=id + 1)))

    new_session = new_session or async_sessionmaker(engine).begin
    app = WebSuckets(
        channels=[notes],
        providers=[
            provide_context(new_session, provides=AsyncSession),
            SqlProvider(AsyncSession),
            *more,
        ],
        limits=Limits(rate=None),
    )
    app.include_command_group(group)

    @app.on_disconnect
    async def note_the_end(db: AsyncSession, on_commit: OnCommit) -> None:
        on_commit.publish("notes/3", Noted(id=3))

    return app


class Board:
    """Two nodes with one database, and a client of each."""

    def __init__(self, ann: TestClient, bob: TestClient, engine: AsyncEngine) -> None:
        self.ann, self.bob, self.engine = ann, bob, engine

    async def watch(self) -> tuple[int, str, int]:
        """Subscribe both; return the state of ann, its epoch and offset."""
        await self.bob.call("watch")
        reply = await self.ann.call("watch")
        position = reply.subscribed[NAME]
        return reply.payload, position["epoch"], position["offset"]

    async def got(self, *ids: int) -> list[int]:
        """Expect both clients to get these events; return their offsets."""
        offsets = []
        for client in self.ann, self.bob:
            events = [await client.receive() for _ in ids]
            assert [event.payload["id"] for event in events] == list(ids)
            offsets.append([event.offset for event in events])
        assert offsets[0] == offsets[1]
        return [offset for offset in offsets[0] if offset is not None]


@pytest.fixture
async def engines(database: Database) -> AsyncIterator[tuple[AsyncEngine, AsyncEngine]]:
    one, two = database.engine(), database.engine()
    await create_tables(one)
    async with one.begin() as connection:
        await connection.run_sync(Note.metadata.create_all)
    yield one, two
    await one.dispose()
    await two.dispose()


@pytest.fixture
async def board(
    engines: tuple[AsyncEngine, AsyncEngine], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Board]:
    # No broker connects the nodes: all that they have in common is the log.
    monkeypatch.setattr(logged_delivery, "PERIOD", 0.02)
    one, two = engines
    async with TestClient(app_of(one)) as ann, TestClient(app_of(two)) as bob:
        yield Board(ann, bob, one)


async def test_events_of_a_commit_reach_the_clients_of_all_nodes(board: Board) -> None:
    assert await board.watch() == (0, (await board.watch())[1], 0)
    for id in range(1, 4):
        await board.ann.call("note", id)
    assert await board.got(1, 2, 3) == [1, 2, 3]


async def test_events_of_a_rolled_back_transaction_leave_no_hole(board: Board) -> None:
    await board.watch()
    with pytest.raises(CommandError, match="no"):
        await board.ann.call("note and fail", 1)
    await board.ann.call("note", 1)
    with pytest.raises(CommandError, match="internal error"):
        await board.ann.call("note", 1)  # a note with this id is there
    await board.bob.call("note", 2)
    assert await board.got(1, 2) == [1, 2]


@pytest.mark.slow
async def test_a_command_that_is_sent_again_publishes_once(board: Board) -> None:
    await board.watch()
    for client in board.ann, board.bob, board.ann:
        assert (await client.call("note once", 1, key="k")).payload == 1
    await board.ann.call("publish", 2)
    assert await board.got(1, 2) == [1, 2]


async def test_each_scope_on_demand_commits_its_own_events(board: Board) -> None:
    await board.watch()
    await board.ann.call("note in a scope", 1)
    assert await board.got(1, 2) == [1, 2]


async def test_an_effect_publishes_in_a_transaction_of_its_own(board: Board) -> None:
    await board.watch()
    await board.ann.call("publish from an effect", 1)
    assert await board.got(1, 2) == [1, 2]


async def test_a_hook_publishes_on_commit(board: Board) -> None:
    async with board.ann.connect():
        pass
    log = board.ann._app._channels._running._log  # type: ignore[attr-defined]
    while (await log.position("notes/3")).offset != 1:
        await anyio.sleep(0.01)


@pytest.mark.slow
async def test_what_was_missed_comes_after_the_state(board: Board) -> None:
    _, epoch, _ = await board.watch()
    for id in range(1, 151):
        await board.bob.call("note", id)
    async with board.ann.connect() as late:
        reply = await late.call("watch", since={NAME: (epoch, 10)})
        assert reply.payload == 150
        assert reply.subscribed[NAME] == {"epoch": epoch, "offset": 150, "recovered": True}
        offsets = [(await late.receive()).offset for _ in range(140)]
        assert offsets == list(range(11, 151))


async def test_an_event_whose_session_was_not_committed_is_not_delivered(
    engines: tuple[AsyncEngine, AsyncEngine], caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def without_a_commit() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engines[0]) as session:
            yield session

    async with AsyncExitStack() as stack:
        forgetful = await stack.enter_async_context(
            TestClient(app_of(engines[0], without_a_commit))
        )
        await forgetful.call("watch")
        await forgetful.call("note", 1)
        (one, *_) = errors(caplog)
        assert "the session of the handler was closed without a commit" in str(one.exc_info)
        assert (await forgetful.call("watch")).subscribed[NAME]["offset"] == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_subscriber_takes_one_connection_of_the_pool(
    sql_database: Callable[[str], Database], count: int
) -> None:
    database = sql_database("sqlite")
    engine = database.engine(pool_size=1, max_overflow=0, pool_timeout=0.1)
    await create_tables(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Note.metadata.create_all)
    try:
        async with TestClient(app_of(engine)) as client:
            epoch = (await client.call("watch")).subscribed[NAME]["epoch"]
            for id in range(1, count + 1):
                await client.call("note", id)
                assert (await client.receive()).offset == id
                reply = await client.call("watch", since={NAME: (epoch, 0)})
                assert reply.subscribed[NAME] == {"epoch": epoch, "offset": id, "recovered": True}
                for offset in range(1, id + 1):
                    assert (await client.receive()).offset == offset
    finally:
        await engine.dispose()


@pytest.mark.heavy
async def test_every_event_of_an_outage_of_redis_comes_while_redis_is_away(
    engines: tuple[AsyncEngine, AsyncEngine], own_redis: RedisServer
) -> None:
    """Redis connects two nodes, and is away while both publish; the database has the events."""
    got: dict[TestClient, list[tuple[int | None, int]]] = {}
    one, two = (app_of(engine, more=[RedisProvider(own_redis.url)]) for engine in engines)
    async with AsyncExitStack() as stack:
        publishers = [await stack.enter_async_context(TestClient(app)) for app in (one, two)]
        readers = []
        for publisher in publishers * 3:
            readers.append(await stack.enter_async_context(publisher.connect()))
            await readers[-1].call("watch")

        async def publish(publisher: TestClient, first: int, last: int) -> None:
            for id in range(first, last):
                await publisher.call("note", id)

        async def publish_on_both(first: int) -> None:
            async with anyio.create_task_group() as group:
                for number, publisher in enumerate(publishers):
                    begin = first + number * 100
                    group.start_soon(publish, publisher, begin, begin + 100)

        async def read(count: int) -> None:
            for reader in readers:
                events = [await reader.receive(timeout=30) for _ in range(count)]
                seen = got.setdefault(reader, [])
                seen += [(event.offset, event.payload["id"]) for event in events]

        await publish_on_both(0)
        await read(200)
        own_redis.kill()
        await publish_on_both(200)
        await read(200)
        own_redis.start()
        await publish_on_both(400)
        await read(200)
    first, *others = got.values()
    assert [offset for offset, _ in first] == list(range(1, 601))
    assert sorted(id for _, id in first) == list(range(600))
    assert all(other == first for other in others)
