"""`app.override`: other providers and objects instead of the app's own, in tests."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from dishka import FromComponent, Provider, Scope, provide
from harness import app_with, talk
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.exc import ConfigurationError, MissingProvider, NotAuthorized
from websuckets.security import CurrentUser
from websuckets.session import User

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = "real"


def clock(now: str) -> Clock:
    clock = Clock()
    clock.now = now
    return clock


class Database:
    def __init__(self, clock: Clock, name: str) -> None:
        self.said = f"{name} at {clock.now}"


class Admin: ...


Billing = Annotated[Clock, FromComponent("billing")]


class Real(Provider):
    real_clock = provide(Clock, scope=Scope.APP)

    @provide(scope=Scope.REQUEST)
    async def database(self, clock: Clock) -> AsyncIterator[Database]:
        yield Database(clock, "real")

    @provide(scope=Scope.REQUEST)
    def admin(self, database: Database) -> Admin:
        if database.said.startswith("real"):
            raise NotAuthorized
        return Admin()


class Fake(Provider):
    def __init__(self, name: str = "fake") -> None:
        super().__init__()
        self.name = name

    @provide(scope=Scope.REQUEST)
    def database(self, clock: Clock) -> Database:
        return Database(clock, self.name)


class Everybody(Provider):
    @provide(scope=Scope.REQUEST)
    def current_user(self, user: User) -> CurrentUser:
        return CurrentUser(user)


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("say")
    async def say(socket: ServerConnection, *, database: Database) -> str:
        return database.said

    @group.command("guarded", protected=Admin)
    async def guarded(socket: ServerConnection) -> str:
        return "in"

    @group.command("billing")
    async def billing(socket: ServerConnection, clock: Billing) -> str:
        return clock.now

    return group


@pytest.fixture
def app(group: CommandGroup) -> WebSuckets:
    billing = Provider(scope=Scope.SESSION, component="billing")
    billing.provide(lambda: clock("billing"), provides=Clock)
    return app_with(group, providers=[Real(), billing])


async def say(app: WebSuckets, command: str = "say") -> Any:
    async with talk(app) as client:
        reply = await client.call(command)
        return reply.get("error") or reply["payload"]


async def test_a_provider_takes_the_place_of_another(app: WebSuckets) -> None:
    """The override holds for all that depend on the provider, until the context ends."""
    assert await say(app) == "real at real"
    with app.override(Fake()):
        assert await say(app) == "fake at real"
        assert await say(app) == "fake at real"
    assert await say(app) == "real at real"


async def test_a_value_takes_the_place_of_what_is_provided(app: WebSuckets) -> None:
    """A value replaces a provided object in the scope and component of that object."""
    values = {Clock: clock("frozen"), Billing: clock("monday")}
    with app.override(values=values):
        assert await say(app) == "real at frozen"
        assert await say(app, "billing") == "monday"
    assert await say(app, "billing") == "billing"


async def test_guards_see_it_too(app: WebSuckets) -> None:
    """A guard may be overridden, and so may its dependencies."""
    with app.override(Everybody()):
        assert await say(app, "guarded") == "not authorized"
        with app.override(Fake()):
            assert await say(app, "guarded") == "in"
        with app.override(values={Admin: Admin()}):
            assert await say(app, "guarded") == "in"


async def test_the_innermost_wins(app: WebSuckets) -> None:
    """The innermost override wins, whether it is a provider or a value."""
    with app.override(Fake("outer"), values={Clock: clock("outer")}):
        with app.override(Fake("inner")):
            assert await say(app) == "inner at outer"

        class InnerClock(Provider):
            @provide(scope=Scope.APP)
            def inner(self) -> Clock:
                return clock("inner")

        with app.override(InnerClock()):
            assert await say(app) == "outer at inner"
        with app.override(Fake("two"), values={Database: Database(clock("value"), "a")}):
            assert await say(app) == "a at value"


async def test_apps_do_not_see_each_others(app: WebSuckets, group: CommandGroup) -> None:
    """An override concerns one app, and ends with its context, even by an error."""
    billing = Provider(scope=Scope.APP, component="billing")
    billing.provide(Clock)
    other = app_with(group, providers=[Real(), billing])
    with pytest.raises(RuntimeError, match="in the test"):
        with app.override(Fake()):
            assert await say(other) == "real at real"
            raise RuntimeError("in the test")
    assert await say(app) == "real at real"


async def test_what_nothing_provides_may_be_given(group: CommandGroup) -> None:
    """A type that nothing provides may be given as a value in the scope APP."""
    app = app_with(group)
    with pytest.raises(MissingProvider):
        await say(app)
    values = {Database: Database(Clock(), "given"), Admin: Admin(), Billing: Clock()}
    with app.override(values=values):
        with pytest.raises(ConfigurationError, match=r"its guard `Admin` has Scope\.APP"):
            await say(app)
        with app.override(Real()):
            assert await say(app) == "real at real"


async def test_what_a_provider_misses_may_be_given() -> None:
    """A dependency of a provider may be given, without which the app could not start."""
    group = CommandGroup()

    @group.command("say")
    async def say_it(socket: ServerConnection, *, database: Database) -> str:
        return database.said

    app = app_with(group, providers=[Fake()])
    with pytest.raises(MissingProvider):
        await say(app)
    with app.override(values={Clock: clock("frozen")}):
        assert await say(app) == "fake at frozen"


async def test_a_value_that_replaces_nothing(app: WebSuckets) -> None:
    """A value that replaces nothing is an error: the test would run with the real object."""

    class SubClock(Clock): ...

    for values in ({SubClock: SubClock()}, {"Clock": 1}, {Clock(): 1}):
        with app.override(values=values):
            with pytest.raises(ConfigurationError, match="its value replaces nothing"):
                await say(app)
    with pytest.raises(ConfigurationError, match=r"write \{Type: object\}"):
        with app.override(values=[1]):
            raise AssertionError("entered")


async def test_it_is_for_before_the_start(app: WebSuckets) -> None:
    """A running app cannot be overridden, as it has its container already."""
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match="override providers before it starts"):
            with app.override(Fake()):
                raise AssertionError("entered")


def test_what_is_no_provider(app: WebSuckets) -> None:
    """A wrong provider is an error with the same text as in the constructor of the app."""
    with pytest.raises(ConfigurationError, match=r"create it: Fake\(\)"):
        with app.override(Fake):
            raise AssertionError("entered")
