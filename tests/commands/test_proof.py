"""Proof of the dependency graph, beyond dishka's own, before the port opens."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Generic, TypeVar

import pytest
from dishka import (
    AsyncContainer,
    FromComponent,
    Has,
    Marker,
    Provider,
    Scope,
    activate,
    collect,
    from_context,
    make_async_container,
    provide,
)
from dishka.entities.marker import HasContext
from harness import app_with
from websockets.http11 import Request

from websuckets import CommandGroup, Message, Socket, WebSuckets
from websuckets.di import WebSucketsProvider, lock_factory, setup_dishka
from websuckets.exc import MissingProvider
from websuckets.security import CurrentUser
from websuckets.session import User
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Settings: ...


class Thing: ...


class Other: ...


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None:
        self.of = of


class Service:
    def __init__(self, settings: Settings) -> None: ...


async def asks_thing(socket: Socket, *, thing: Thing) -> str:
    return type(thing).__name__


async def asks_settings(socket: Socket, *, settings: Settings) -> str:
    return type(settings).__name__


async def asks_service(socket: Socket, *, service: Service) -> str:
    return type(service).__name__


async def maybe_settings(socket: Socket, *, settings: Settings | None = None) -> str:
    return type(settings).__name__


async def maybe_service(socket: Socket, *, service: Service | None = None) -> str:
    return type(service).__name__


async def maybe_repository(socket: Socket, *, of: Repository[Thing] | None = None) -> str:
    return "None" if of is None else of.of.__name__


def app_of(handler: Any, *providers: Provider) -> WebSuckets:
    group = CommandGroup()
    group.command("run")(handler)
    return app_with(group, providers=providers)


async def answer_of(app: WebSuckets) -> Any:
    async with TestClient(app) as client:
        return (await client.call("run")).payload


async def refusal_of(app: WebSuckets) -> str:
    with pytest.raises(MissingProvider) as refused:
        await answer_of(app)
    return str(refused.value)


def provider_of(source: Any, **options: Any) -> Provider:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(source, **options)
    return provider


def context_of(hint: Any, scope: Scope) -> Provider:
    provider = Provider(scope=scope)
    provider.from_context(hint)
    return provider


async def test_a_provider_that_asks_for_a_bare_type_variable_is_refused() -> None:
    """Nothing can ever provide a type variable; the error names the path to it."""

    def thing(what: T) -> Thing: ...

    text = await refusal_of(app_of(asks_thing, provider_of(thing)))
    assert "asks_thing` (" in text
    assert "it asks for `Thing` -> `T`: nothing says what this type variable stands for" in text


@pytest.mark.parametrize("scope", [Scope.APP, Scope.SESSION, Scope.REQUEST])
async def test_a_context_value_that_nobody_passes_is_refused(scope: Scope) -> None:
    """The value is refused directly, as a dependency, and below a parameter with a default."""
    context, service = context_of(Settings, scope), provider_of(Service)
    for handler in (asks_settings, asks_service, maybe_service):
        text = await refusal_of(app_of(handler, context, service))
        assert f"{handler.__name__}` (" in text
        assert f"`Settings`: it is taken from the context of {scope} (from_context)" in text
        assert "give a provider of it instead" in text
    assert await answer_of(app_of(maybe_settings, context)) == "NoneType"


async def test_context_values_that_are_passed_are_fine() -> None:
    """Declare values of the framework in the scope where it passes them."""

    class Declares(Provider):
        request = from_context(Request, scope=Scope.SESSION)
        user = from_context(User, scope=Scope.SESSION)
        message = from_context(Message, scope=Scope.REQUEST)

    async def run(
        socket: Socket, *, request: Request, user: User, message: Message, one: AsyncContainer
    ) -> str:
        return message.event

    assert await answer_of(app_of(run, Declares())) == "run"

    async def asks_request(socket: Socket, *, request: Request) -> None: ...

    text = await refusal_of(app_of(asks_request, context_of(Request, Scope.REQUEST)))
    assert "context of Scope.REQUEST" in text


@pytest.mark.parametrize("declared", [True, False])
async def test_a_container_of_the_program_has_what_it_was_made_with(declared: bool) -> None:
    """The context of a container counts, whether a provider declares it or not."""
    app = app_of(asks_service)
    providers = [*app.providers, provider_of(Service)]
    if declared:
        providers.append(context_of(Settings, Scope.APP))
    container = make_async_container(
        *providers, lock_factory=lock_factory, context={Settings: Settings()}
    )
    setup_dishka(container, app)
    assert await answer_of(app) == "Service"


async def test_a_container_of_the_program_is_proved_even_if_dishka_was_told_not_to() -> None:
    """With `skip_validation`, dishka proves nothing, so the app does."""
    app = app_of(asks_service)
    container = make_async_container(
        *app.providers, provider_of(Service), lock_factory=lock_factory, skip_validation=True
    )
    setup_dishka(container, app)
    assert "`Service` -> `Settings`: nothing provides it" in await refusal_of(app)


async def test_a_container_without_security_cannot_say_who_the_user_is() -> None:
    """`CurrentUser | None` asks for `CurrentUser`, which nothing provides here."""

    async def run(socket: Socket, *, user: CurrentUser | None) -> None: ...

    app = app_of(run)
    setup_dishka(make_async_container(*app.providers, lock_factory=lock_factory), app)
    assert "-> `CurrentUser`: nothing provides it" in await refusal_of(app)


async def test_a_default_is_not_used_where_a_generic_provider_fits() -> None:
    """A default is not used where a generic provider fits, which dishka's `Has` does not see."""

    def repository(of: type[T]) -> Repository[T]:
        return Repository(of)

    def other(of: type[T], what: Other) -> Repository[T]: ...

    assert await answer_of(app_of(maybe_repository, provider_of(repository))) == "Thing"
    assert await answer_of(app_of(maybe_repository)) == "None"

    async def in_component(
        socket: Socket, *, of: Annotated[Repository[Thing] | None, FromComponent("x")] = None
    ) -> str:
        return await maybe_repository(socket, of=of)

    component = Provider(scope=Scope.REQUEST, component="x")
    component.provide(repository)
    assert await answer_of(app_of(in_component, component)) == "Thing"
    assert await answer_of(app_of(in_component, provider_of(repository))) == "None"
    with pytest.raises(MissingProvider, match="Other"):
        await answer_of(app_of(maybe_repository, provider_of(other)))

    def broken(of: type[T], container: AsyncContainer) -> Repository[T]: ...

    async def below(container: AsyncContainer) -> Repository[Thing]:
        return await container.get(Other)

    with pytest.raises(Exception, match="internal error"):
        await answer_of(app_of(maybe_repository, provider_of(below)))


async def test_providers_under_conditions_that_never_hold_are_refused() -> None:
    """Providers under conditions that hold, or may hold, are accepted."""
    never = provider_of(Thing, when=Has(Other))
    text = await refusal_of(app_of(asks_thing, never))
    assert "`Thing`: it has providers under conditions (when=), of which none ever holds" in text
    assert await answer_of(app_of(asks_thing, never, provider_of(Other))) == "Thing"
    for condition in (
        ~Has(Other),
        Has(Other) | ~Has(Settings),
        ~Has(Other) & ~Has(Settings),
        HasContext(Message),
        HasContext(Message) | Has(Other),
    ):
        assert await answer_of(app_of(asks_thing, provider_of(Thing, when=condition))) == "Thing"
    for condition in (
        HasContext(Settings),
        Has(Other) & ~Has(Settings),
        Has(Settings) | Has(Other),
        Has(Message) & Has(Other),
    ):
        await refusal_of(app_of(asks_thing, provider_of(Thing, when=condition)))


class Conditions(Provider):
    """A provider under conditions that are known only while the app runs."""

    scope = Scope.REQUEST

    @activate(Marker("odd"))
    def is_odd(self, message: Message) -> bool:
        return True

    @provide(when=Marker("odd"))
    def odd(self) -> Thing:
        return Thing()

    @provide(when=~Marker("odd") & Has(Message))
    def even(self) -> Thing:
        return Thing()

    @provide(when=Marker("odd") | Has(Other))
    def other(self) -> Settings:
        return Settings()


async def test_conditions_that_only_running_tells_are_left_to_it() -> None:
    """The dependencies of providers under such conditions are proved."""
    assert await answer_of(app_of(asks_thing, Conditions())) == "Thing"
    assert await answer_of(app_of(asks_settings, Conditions())) == "Settings"

    class NeedsContext(Provider):
        scope = Scope.REQUEST
        settings = from_context(Settings)

        @activate(Marker("set"))
        def is_set(self, settings: Settings) -> bool:
            return True

        thing = provide(Thing, when=Marker("set"))

    assert "`Settings`" in await refusal_of(app_of(asks_thing, NeedsContext()))


async def test_a_collection_may_be_empty() -> None:
    """Collect those providers whose conditions hold."""

    class Collects(Provider):
        scope = Scope.REQUEST
        thing = provide(Thing, when=Has(Other))
        things = collect(Thing)

    async def run(socket: Socket, *, things: list[Thing]) -> int:
        return len(things)

    assert await answer_of(app_of(run, Collects())) == 0
    assert await answer_of(app_of(run, Collects(), provider_of(Other))) == 1


async def test_a_narrower_scope_has_nothing_for_a_wider_one() -> None:
    """`Has` of an APP provider does not see what only a message has."""

    class Wide(Provider):
        thing = provide(Thing, scope=Scope.APP, when=Has(Other))
        other = provide(Other, scope=Scope.REQUEST)

    await refusal_of(app_of(asks_thing, Wide()))


async def test_what_is_tested_without_an_app_is_as_before(anyio_backend: str) -> None:
    """The provider of the framework alone completes a container."""

    async def thing() -> AsyncIterator[Thing]:
        yield Thing()

    container = make_async_container(
        WebSucketsProvider(), provider_of(thing), lock_factory=lock_factory, skip_validation=True
    )
    async with container({Message: Message("run")}, scope=Scope.REQUEST) as scope:
        assert isinstance(await scope.get(Thing), Thing)
