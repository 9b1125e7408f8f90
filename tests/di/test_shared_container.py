"""`setup_dishka`: an app runs with a container that the program has built, and shares."""

import itertools
from collections.abc import AsyncIterator
from typing import Annotated, Any, Generic, NewType, TypeVar

import anyio
import anyio.lowlevel
import pytest
from dishka import (
    STRICT_VALIDATION,
    AsyncContainer,
    FromComponent,
    Provider,
    Scope,
    alias,
    decorate,
    make_async_container,
    make_container,
    provide,
)
from dishka.exceptions import GraphMissingFactoryError
from harness import app_with, on_trio, talk
from websockets.asyncio.server import ServerConnection

from websuckets import AppTasks, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.di import WebSucketsProvider, lock_factory, setup_dishka
from websuckets.exc import ConfigurationError, InvalidGuard, InvalidHandlerSignature, NotAuthorized
from websuckets.security import CurrentUser, SecurityProvider
from websuckets.session import Session, User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Thing:
    def __init__(self) -> None:
        self.name = "thing"


class Magic(Provider):
    """A provider that verifies each client that sends the right word as its token."""

    @provide(scope=Scope.REQUEST)
    def current_user(self, message: Message, user: User) -> CurrentUser:
        if message.token != "please":
            raise NotAuthorized
        return CurrentUser(user)


def thing_provider(scope: Scope = Scope.APP) -> Provider:
    provider = Provider(scope=scope)
    provider.provide(Thing)
    return provider


def build(app: WebSuckets, *providers: Provider, **options: Any) -> AsyncContainer:
    """Build a container and set it up in the way that is documented."""
    options = {"lock_factory": lock_factory, **options}
    container = make_async_container(*providers, *app.providers, **options)
    setup_dishka(container, app)
    return container


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("thing")
    async def thing(socket: ServerConnection, *, thing: Thing, app: WebSuckets) -> str:
        return f"{thing.name} {len(app.providers) > 0}"

    @group.command("secret", protected=True)
    async def secret(socket: ServerConnection) -> str:
        return "psst"

    @group.command("anybody")
    async def anybody(
        socket: ServerConnection, *, user: CurrentUser | None, number: int = 3
    ) -> Any:
        return [user is None, number]

    return group


@pytest.fixture
def app(group: CommandGroup) -> WebSuckets:
    return app_with(group)


async def test_the_app_runs_with_it(app: WebSuckets) -> None:
    """An app runs with the container several times; the program that built it closes it."""
    closed: list[Thing] = []

    async def thing() -> AsyncIterator[Thing]:
        yield Thing()
        closed.append(Thing())

    provider = Provider(scope=Scope.APP)
    provider.provide(thing)
    container = build(app, SecurityProvider(), provider)
    shared = await container.get(Thing)
    shared.name = "shared"
    for _ in range(2):
        async with talk(app) as client:
            assert (await client.call("thing"))["payload"] == "shared True"
            assert (await client.call("secret"))["error"] == "not authorized"
    assert await container.get(Thing) is shared
    assert await container.get(Session) is await container.get(Session)
    assert await container.get(WebSuckets) is app
    assert await container.get(Limits) == Limits()
    assert closed == []
    await container.close()
    assert len(closed) == 1


async def test_whoever_provides_the_current_user_decides(app: WebSuckets) -> None:
    """The order of providers does not matter, and strict validation of dishka is possible."""
    strictly = {"validation_settings": STRICT_VALIDATION}
    for ours, options in itertools.product((0, 1, 2), ({}, strictly)):
        providers = [thing_provider(), Magic()]
        providers[ours:ours] = app.providers
        setup_dishka(make_async_container(*providers, lock_factory=lock_factory, **options), app)
        async with TestClient(app) as client:
            assert (await client.call("secret", token="please")).payload == "psst"
            with pytest.raises(CommandError, match="not authorized"):
                await client.call("secret")
            assert (await client.call("anybody", token="please")).payload == [False, 3]
            assert (await client.call("anybody")).payload == [True, 3]


async def test_another_container_takes_its_place(app: WebSuckets) -> None:
    """A test may build a container with other providers last."""
    build(app, SecurityProvider(), thing_provider())
    fake = Provider(scope=Scope.APP)
    other = Thing()
    other.name = "fake"
    fake.provide(lambda: other, provides=Thing)
    build(app, SecurityProvider(), thing_provider(), fake)
    async with TestClient(app) as client:
        assert (await client.call("thing")).payload == "fake True"


async def test_tasks_of_the_app_last_while_it_runs(journal: list[str]) -> None:
    """`AppTasks` last for one run of the app, though the container keeps the object."""

    class Feed:
        def __init__(self, tasks: AppTasks) -> None:
            self.tasks = tasks

    app = WebSuckets()
    provider = Provider(scope=Scope.APP)
    provider.provide(Feed)

    async def work() -> None:
        journal.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("ended")

    @app.on_startup
    async def startup(feed: Feed, tasks: AppTasks) -> None:
        assert tasks is feed.tasks
        feed.tasks.start_soon(work)

    container = build(app, provider)
    with pytest.raises(RuntimeError, match="no tasks of the app before it runs"):
        await container.get(Feed)
    for _ in range(3):
        async with app.lifespan():
            await anyio.wait_all_tasks_blocked()
        assert journal == ["begun", "ended"]
        journal.clear()


async def test_one_that_was_built_without_our_providers(app: WebSuckets) -> None:
    """A container without the app's providers is refused at the start, with what to write."""
    setup_dishka(make_async_container(SecurityProvider(), WebSucketsProvider()), app)
    with pytest.raises(ConfigurationError) as refused:
        async with TestClient(app):
            pytest.fail("it has started")
    assert "does not contain this app's providers" in str(refused.value)
    assert "*app.providers, SecurityProvider(), ..., lock_factory=lock_factory" in str(
        refused.value
    )
    assert "setup_dishka(container, app)" in str(refused.value)


async def test_one_that_was_built_for_another_app(app: WebSuckets, group: CommandGroup) -> None:
    """A container of another app is refused: each app needs one of its own."""
    other = app_with(group)
    container = build(other, SecurityProvider(), thing_provider())
    setup_dishka(container, app)
    with pytest.raises(ConfigurationError, match="of another app"):
        async with TestClient(app):
            pytest.fail("it has started")


async def test_nothing_is_added_once_it_may_be_built(app: WebSuckets) -> None:
    """Adding is refused once `app.providers` was read, as the container would not include it."""
    assert app.providers is not None
    for add in (
        lambda: app.include_command_group(CommandGroup("late")),
        lambda: app.on_startup(nothing),
        lambda: app.on_connect(nothing),
    ):
        with pytest.raises(ConfigurationError, match=r"before\n.*\*app\.providers"):
            add()


async def nothing() -> None: ...


async def test_commands_that_come_after_it_was_built(app: WebSuckets, group: CommandGroup) -> None:
    """Late commands are an error at the start, rather than unknown to clients."""
    build(app, SecurityProvider(), thing_provider())

    @group.command("late")
    async def late(socket: Socket) -> None: ...

    with pytest.raises(ConfigurationError, match=r"\['late'\] came after app\.providers was read"):
        async with TestClient(app):
            pytest.fail("it has started")


async def test_one_that_was_forgotten(app: WebSuckets) -> None:
    """The error of a missing provider has a hint at `setup_dishka`."""
    make_async_container(SecurityProvider(), thing_provider(), *app.providers)
    with pytest.raises(ConfigurationError) as refused:
        async with TestClient(app):
            pytest.fail("it has started")
    assert "setup_dishka(container, app)" in "".join(refused.value.__notes__)


async def test_what_is_wrong_with_handlers_is_told_first(group: CommandGroup) -> None:
    """After an error of a handler, command groups may still be added."""
    app = WebSuckets()

    @app.on_connect
    async def connect(tasks: "Undefined") -> None: ...  # noqa: F821  # that is the mistake

    with pytest.raises(InvalidHandlerSignature, match="Undefined"):
        app.providers  # noqa: B018  # it raises
    app.include_command_group(group)


async def test_what_its_build_cannot_know_is_told_at_the_start() -> None:
    """Guards of a wide scope, and messages in hooks, are refused at the start."""
    group = CommandGroup()

    @group.command("guarded", protected=Thing)
    async def guarded(socket: ServerConnection) -> None: ...

    app = app_with(group)
    build(app, SecurityProvider(), thing_provider())
    with pytest.raises(InvalidGuard, match=r"its guard `Thing` has Scope\.APP"):
        async with TestClient(app):
            pytest.fail("it has started")
    app = WebSuckets()

    @app.on_connect
    async def connect(message: Message) -> None: ...

    build(app)
    with pytest.raises(ConfigurationError, match="belongs to a message"):
        async with TestClient(app):
            pytest.fail("it has started")


async def test_a_lock_that_does_not_run_here(app: WebSuckets) -> None:
    """dishka's default lock does not run on trio, and would fail only when two tasks meet."""
    build(app, SecurityProvider(), thing_provider(), lock_factory=anyio.Lock)
    async with TestClient(app) as client:
        assert (await client.call("thing")).payload == "thing True"
    container = make_async_container(SecurityProvider(), thing_provider(), *app.providers)
    setup_dishka(container, app)
    if not on_trio():
        async with TestClient(app) as client:
            assert (await client.call("thing")).payload == "thing True"
        return
    with pytest.raises(ConfigurationError, match="default lock"):
        async with TestClient(app):
            pytest.fail("it has started")


async def test_what_is_no_container_for_an_app(app: WebSuckets) -> None:
    """A wrong container is refused by `setup_dishka`."""
    container = make_async_container(thing_provider())
    of_the_runtime = make_async_container(thing_provider(Scope.RUNTIME), start_scope=Scope.RUNTIME)
    async with container() as of_a_request:
        for wrong in (of_a_request, of_the_runtime, make_container(thing_provider()), None):
            with pytest.raises(ConfigurationError, match="make_async_container"):
                setup_dishka(wrong, app)
    with pytest.raises(ConfigurationError, match=r"dict is not a WebSuckets app.*integrations"):
        setup_dishka(container, {})


async def test_an_app_has_either_providers_or_a_container(app: WebSuckets) -> None:
    """An app with providers and a container is refused, as it would be unclear which count."""
    container = make_async_container(thing_provider())
    with pytest.raises(ConfigurationError, match="providers of its own"):
        setup_dishka(container, WebSuckets(providers=[thing_provider()]))
    with app.override(thing_provider()):
        with pytest.raises(ConfigurationError, match="providers of its own"):
            setup_dishka(container, app)
    build(app, SecurityProvider(), thing_provider())
    with pytest.raises(ConfigurationError, match="build one for the test"):
        with app.override(thing_provider()):
            pytest.fail("it has been entered")
    async with TestClient(app):
        with pytest.raises(ConfigurationError, match="runs already"):
            setup_dishka(container, app)


async def test_our_context_by_itself() -> None:
    """`WebSucketsProvider` completes a container in which a program tests its providers."""
    container = make_async_container(Magic(), WebSucketsProvider(), lock_factory=lock_factory)
    async with TestClient(WebSuckets()) as client:
        user = User(client.socket)
        context = {User: user, Socket: client.socket}
        async with container(context, scope=Scope.SESSION) as session:
            async with session({Message: Message("any", token="please")}) as request:
                assert await request.get(CurrentUser) == user
                assert await request.get(CurrentUser | None) == user
            async with session({Message: Message("any")}) as request:
                assert await request.get(CurrentUser | None) is None


# Resolution


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None:
        self.of = of


class Note: ...


Price = NewType("Price", int)


class Shape: ...


class Square(Shape): ...


class Everything(Provider):
    scope = Scope.REQUEST

    @provide
    def repository(self, of: type[T]) -> Repository[T]:
        return Repository(of)

    @provide
    def price(self) -> Price:
        return Price(3)

    square = provide(Square)
    shape = alias(Square, provides=Shape)

    @provide
    def thing(self) -> Thing:
        return Thing()

    @decorate
    def renamed(self, thing: Thing) -> Thing:
        thing.name = "decorated"
        return thing


Billing = Annotated[Thing, FromComponent("billing")]


@pytest.mark.parametrize("own", [True, False], ids=["own", "shared"])
async def test_what_dishka_provides_is_injected(own: bool) -> None:
    """Components, generics, new types, aliases and decorated objects are injected."""
    group = CommandGroup()

    @group.command("all")
    async def everything(
        socket: ServerConnection,
        *,
        billing: Billing,
        notes: Repository[Note],
        price: Price,
        shape: Shape,
        thing: Thing,
    ) -> list[Any]:
        return [billing.name, notes.of.__name__, price, type(shape).__name__, thing.name]

    of_billing = Provider(scope=Scope.APP, component="billing")
    of_billing.provide(Thing)
    providers = [Everything(), of_billing]
    app = app_with(group, providers=providers if own else [])
    if not own:
        build(app, *providers)
    async with TestClient(app) as client:
        assert (await client.call("all")).payload == ["thing", "Note", 3, "Square", "decorated"]


async def test_what_is_missing_in_a_component() -> None:
    """The path to the missing type is in the error, at the start or when the container is built."""

    class Invoice:
        def __init__(self, thing: Thing) -> None: ...

    group = CommandGroup()

    @group.command("invoice")
    async def invoice(
        socket: ServerConnection, *, invoice: Annotated[Invoice, FromComponent("billing")]
    ) -> None: ...

    of_billing = Provider(scope=Scope.APP, component="billing")
    of_billing.provide(Invoice)
    for start in (
        TestClient(app_with(group, providers=[of_billing, thing_provider()])).__aenter__,
        lambda: building(app_with(group), of_billing, thing_provider()),
    ):
        with pytest.raises((ConfigurationError, GraphMissingFactoryError)) as refused:
            await start()
        drawn = str(refused.value)
        assert "component='billing'" in drawn and "Thing" in drawn
        assert "Invoice" in drawn and "???" in drawn


async def building(app: WebSuckets, *providers: Provider) -> None:
    build(app, *providers)


# Number of objects


class Counted:
    def __init__(self, kind: str, counts: dict[str, list[int]]) -> None:
        self.number = len(counts[kind])
        counts[kind].append(self.number)


class OfApp(Counted): ...


class OfSession(Counted): ...


class OfRequest(Counted): ...


@pytest.mark.slow
@pytest.mark.parametrize("connections", [100, pytest.param(1_000, marks=pytest.mark.heavy)])
async def test_one_of_each_kind_where_it_belongs(connections: int) -> None:
    """Each scope has one object, over many connections of ten concurrent messages, all
    finalised."""
    opened: dict[str, list[int]] = {"app": [], "session": [], "request": []}
    closed: list[tuple[str, int]] = []

    class Counting(Provider):
        @provide(scope=Scope.APP)
        async def of_app(self) -> AsyncIterator[OfApp]:
            of_app = OfApp("app", opened)
            await anyio.lowlevel.checkpoint()
            yield of_app
            closed.append(("app", of_app.number))

        @provide(scope=Scope.SESSION)
        async def of_session(self, of_app: OfApp) -> AsyncIterator[OfSession]:
            of_session = OfSession("session", opened)
            await anyio.lowlevel.checkpoint()
            yield of_session
            closed.append(("session", of_session.number))

        @provide(scope=Scope.REQUEST)
        async def of_request(
            self, of_session: OfSession, of_app: OfApp
        ) -> AsyncIterator[OfRequest]:
            of_request = OfRequest("request", opened)
            await anyio.lowlevel.checkpoint()
            yield of_request
            await anyio.lowlevel.checkpoint()
            closed.append((f"request of {of_session.number}", of_request.number))

    group = CommandGroup()

    @group.command("stream")  # streams run at once, so they ask for the session's objects at once
    async def stream(
        socket: Socket, count: Payload[int], request: OfRequest, session: OfSession, app: OfApp
    ) -> AsyncIterator[list[int]]:
        for _ in range(count):
            yield [request.number, session.number, app.number]

    app = app_with(group, limits=Limits(streams=10))
    container = build(app, Counting())

    async def talk_for_a_while(first: TestClient) -> None:
        sessions: set[int] = set()

        async def call() -> None:
            items = [item.payload async for item in client.stream("stream", 2)]
            assert items[0] == items[1] and items[0][2] == 0
            sessions.add(items[0][1])

        async with first.connect() as client, anyio.create_task_group() as calls:
            for _ in range(10):
                calls.start_soon(call)
        assert len(sessions) == 1

    async with TestClient(app) as client:
        for _ in range(connections // 10):
            async with anyio.create_task_group() as clients:
                for _ in range(10):
                    clients.start_soon(talk_for_a_while, client)
        assert {kind: len(numbers) for kind, numbers in opened.items()} == {
            **{"app": 1, "session": connections},
            **{"request": 10 * connections},
        }
        assert len(closed) == len(set(closed)) == 11 * connections
    assert ("app", 0) not in closed
    await container.close()
    assert closed[-1] == ("app", 0)
    of_session: dict[int, int] = dict.fromkeys(opened["session"], 0)
    for kind, number in closed[:-1]:
        if kind == "session":
            assert of_session.pop(number) == 10  # its messages were closed before it
        else:
            of_session[int(kind.removeprefix("request of "))] += 1
    assert of_session == {}
