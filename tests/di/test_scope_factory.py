"""`ScopeFactory`: scopes that are opened on demand, by objects of any scope."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, NewType

import anyio
import pytest
from databases import (
    ONE_STEP,
    Above,
    Databases,
    Db,
    OfConnection,
    OfMessage,
    Repository,
    Wide,
    step,
)
from dishka import FromComponent, Provider, Scope, make_async_container, provide
from harness import app_with
from typing_extensions import TypeAliasType

from websuckets import (
    AppTasks,
    CommandGroup,
    ConnectionTasks,
    Socket,
)
from websuckets.di import ScopeFactory, lock_factory, setup_dishka
from websuckets.security import SecurityProvider
from websuckets.session import User
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def databases(journal: list[str]) -> Databases:
    return Databases(journal)


# Places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [Wide, OfConnection, OfMessage, Above])
@pytest.mark.parametrize("is_shared", [False, True], ids=["own container", "shared container"])
async def test_objects_of_every_scope_open_scopes(
    place: Any, is_shared: bool, databases: Databases, journal: list[str]
) -> None:
    group = CommandGroup()

    async def run(socket: Socket, *, place: Any) -> None:
        await step(place.new_scope, journal)

    run.__annotations__["place"] = place
    group.command("run")(run)
    app = app_with(group, providers=() if is_shared else [databases])
    if is_shared:
        container = make_async_container(
            SecurityProvider(), databases, *app.providers, lock_factory=lock_factory
        )
        setup_dishka(container, app)
    async with TestClient(app) as client:
        await client.call("run")
        await client.call("run")
    assert journal == [*ONE_STEP, "open 2", "step", "commit 2"]


async def test_a_stream_opens_a_scope_for_each_step(
    databases: Databases, journal: list[str]
) -> None:
    group = CommandGroup()

    @group.command("watch")
    async def watch(socket: Socket, *, new_scope: ScopeFactory[Db]) -> AsyncIterator[int]:
        while True:
            async with new_scope() as db:
                number = db.number
            assert databases.open == 0
            yield number

    async with TestClient(app_with(group, providers=[databases])) as client:
        items = client.stream("watch")
        assert [(await anext(items)).payload for _ in range(3)] == [1, 2, 3]
        await items.aclose()


async def test_a_stream_that_ends_within_a_step_rolls_it_back(
    databases: Databases, journal: list[str]
) -> None:
    group = CommandGroup()

    @group.command("watch")
    async def watch(socket: Socket, *, new_scope: ScopeFactory[Db]) -> AsyncIterator[int]:
        async with new_scope() as db:
            yield db.number
            await anyio.sleep_forever()

    async with TestClient(app_with(group, providers=[databases])) as client:
        items = client.stream("watch")
        assert (await anext(items)).payload == 1
        await items.aclose()
        with anyio.fail_after(5):
            while databases.open:
                await anyio.sleep(0.001)
    assert journal[0] == "open 1"
    assert journal[1].startswith("rollback for ")


async def test_tasks_and_hooks_open_scopes(databases: Databases, journal: list[str]) -> None:
    group = CommandGroup()
    ended = anyio.Event()

    async def task(new_scope: ScopeFactory[Db]) -> None:
        await step(new_scope, journal)
        ended.set()

    @group.command("start")
    async def start(socket: Socket, *, tasks: ConnectionTasks, new_scope: ScopeFactory[Db]) -> None:
        tasks.start_soon(task, new_scope)

    app = app_with(group, providers=[databases])

    @app.on_startup
    async def startup(tasks: AppTasks, new_scope: ScopeFactory[Db]) -> None:
        await step(new_scope, journal)
        tasks.start_soon(task, new_scope)

    @app.on_handshake
    async def handshake(user: User, new_scope: ScopeFactory[Db]) -> None:
        await step(new_scope, journal)

    @app.on_connect
    async def connect(user: User, new_scope: ScopeFactory[Db]) -> None:
        await step(new_scope, journal)

    @app.on_disconnect
    async def disconnect(user: User, new_scope: ScopeFactory[Db]) -> None:
        await step(new_scope, journal)

    async with TestClient(app) as client:
        with anyio.fail_after(5):
            await ended.wait()
            ended = anyio.Event()
            await client.call("start")
            await ended.wait()
    assert journal.count("step") == databases.number == 6
    assert databases.open == 0


# Objects ------------------------------------------------------------------------------------------


Alias = TypeAliasType("Alias", tuple[Repository, Annotated[Db, "of the repository"]])
Named = NewType("Named", str)


async def test_a_scope_gives_several_objects(databases: Databases) -> None:
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: Socket,
        *,
        two: ScopeFactory[tuple[Db, Repository]],
        one: ScopeFactory[tuple[Db]],
        none: ScopeFactory[tuple[()]],
        alias: ScopeFactory[Alias],
    ) -> None:
        async with two() as (db, repository):
            assert repository.db is db
        async with one() as (db,):
            assert db.number == 2
        async with none() as nothing:
            assert nothing == ()
        async with alias() as (repository, db):
            assert repository.db is db
        assert repr(two) == "ScopeFactory[tuple[Db, Repository]]"

    async with TestClient(app_with(group, providers=[databases])) as client:
        await client.call("run")


class Billing(Provider):
    component = "billing"
    scope = Scope.REQUEST

    @provide
    def db(self) -> Db:
        return Db(1000)

    @provide
    def asks(self, new_scope: Annotated[ScopeFactory[Db], FromComponent()]) -> OfMessage:
        return OfMessage(new_scope)

    @provide
    def own(self) -> ScopeFactory[Repository]:
        return "of the component"  # type: ignore[return-value]


async def test_components_are_kept_apart(databases: Databases) -> None:
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: Socket,
        *,
        of_billing: ScopeFactory[Annotated[Db, FromComponent("billing")]],
        both: ScopeFactory[tuple[Db, Annotated[Db, FromComponent("billing")]]],
        asks: Annotated[OfMessage, FromComponent("billing")],
        own: Annotated[ScopeFactory[Repository], FromComponent("billing")],
    ) -> list[Any]:
        async with of_billing() as one, both() as (two, three), asks.new_scope() as four:
            return [one.number, two.number, three.number, four.number, own]

    async with TestClient(app_with(group, providers=[databases, Billing()])) as client:
        payload = (await client.call("run")).payload
    assert payload == [1000, 1, 1000, 2, "of the component"]


class Fake:
    """A factory of a program's own."""

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Db]:
        yield Db(-1)


@pytest.mark.parametrize("way", ["override", "provider"])
@pytest.mark.parametrize("place", [ScopeFactory[Db], OfConnection, Wide])
async def test_a_program_may_replace_a_factory(way: str, place: Any, databases: Databases) -> None:
    group = CommandGroup()

    async def run(socket: Socket, *, place: Any) -> int:
        new_scope = place if isinstance(place, Fake) else place.new_scope
        async with new_scope() as db:
            number: int = db.number
            return number

    run.__annotations__["place"] = place
    group.command("run")(run)
    own = Provider(scope=Scope.APP)
    own.provide(Fake, provides=ScopeFactory[Db])
    app = app_with(group, providers=[databases, *([own] if way == "provider" else [])])
    values = {ScopeFactory[Db]: Fake()} if way == "override" else {}
    with app.override(values=values):
        async with TestClient(app) as client:
            assert (await client.call("run")).payload == -1
    assert databases.number == 0
