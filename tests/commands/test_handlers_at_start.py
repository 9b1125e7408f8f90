"""Tests of handlers that are only refused at start: their names, dependencies and guards."""

import logging
from typing import Annotated, Any

import pytest
from dishka import FromComponent, Has, Provider, Scope
from handlers import (
    Missing,
    Model,
    Name,
    Settings,
    Thing,
    everything,
    second_from_dishka,
    second_marked,
    start,
    with_connection,
    with_protocol,
)
from harness import app_with
from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Message, WebSuckets
from websuckets.exc import (
    ConfigurationError,
    InvalidGuard,
    InvalidHandlerSignature,
    MissingProvider,
)
from websuckets.security import CurrentUser

pytestmark = pytest.mark.anyio


class Roles(Provider): ...


async def test_a_name_that_stays_undefined_is_refused_when_started() -> None:
    """Expect one report on several handlers, with the parameter and why an import may not count."""
    import forward

    app = app_with(forward.broken)
    with pytest.raises(InvalidHandlerSignature) as caught:
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    one, two = caught.value.problems
    for part in ("forward.one`", "forward.py, line", "`price: Decimal`", "TYPE_CHECKING"):
        assert part in one
    for part in ("forward.two`", "`thing: NoSuchThing`", "'NoSuchThing' is not defined"):
        assert part in two


async def test_an_undefined_name_inside_a_model_is_refused_when_started() -> None:
    """Expect an error for an undefined name in a model, though the hint itself is defined."""
    group = CommandGroup()

    class Incomplete(BaseModel):
        inner: "Nowhere"  # noqa: F821  # on purpose

    @group.command("run")
    async def run(socket: ServerConnection, model: Incomplete) -> None: ...

    with pytest.raises(InvalidHandlerSignature, match=r"run`.*Nowhere"):
        await start(group)


async def test_of_several_undefined_names_the_first_is_told() -> None:
    """Expect the first undefined name, and one name at a time."""
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: ServerConnection,
        *,
        a: "Nowhere",  # noqa: F821  # on purpose
        b: "Nowhere",  # noqa: F821  # on purpose
    ) -> None: ...

    with pytest.raises(InvalidHandlerSignature, match="parameter `a: Nowhere`"):
        await start(group)


def A() -> CommandGroup:
    """Return a group, from a frame whose name sorts before its callers'."""
    group = CommandGroup()

    class Local: ...

    @group.command("run")
    async def run(socket: ServerConnection, *, local: "Local") -> None: ...

    return group


async def test_local_names_are_those_of_the_function_around_the_handler() -> None:
    """Expect this function even if it is not the first of its name on the stack."""
    with pytest.raises(MissingProvider, match=r"A\.<locals>\.Local"):
        await start(A())


async def test_a_report_on_several_groups_holds_every_kind_of_error() -> None:
    """Expect one ConfigurationError with errors of different kinds."""
    import forward

    twice = CommandGroup()
    twice.command("same")(with_connection)
    app = app_with(forward.broken, twice)
    twice.command("same")(with_protocol)
    with pytest.raises(ConfigurationError) as caught:
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    assert type(caught.value) is ConfigurationError
    assert len(caught.value.problems) == 3


class Service:
    def __init__(self, missing: Missing) -> None: ...


async def test_missing_providers_are_refused_at_start_all_at_once() -> None:
    """Expect the handler, its parameter, and a drawing of the path to what is missing."""
    group = CommandGroup()

    @group.command("direct")
    async def direct(socket: ServerConnection, *, thing: Missing) -> None: ...

    @group.command("deep")
    async def deep(socket: ServerConnection, *, service: Annotated[Service, "doc"]) -> None: ...

    @group.command("fine")
    async def fine(socket: ServerConnection) -> None: ...

    @group.command("default")
    async def deeper(socket: ServerConnection, *, service: Service | None = None) -> None: ...

    @group.command("guard", protected=Missing)
    async def guard(socket: ServerConnection) -> None: ...

    @group.command("component")
    async def component(
        socket: ServerConnection, *, name: Annotated[Name, FromComponent("nowhere")]
    ) -> None: ...

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Service)
    with pytest.raises(MissingProvider) as caught:
        await start(group, providers=[provider])
    problems = sorted(caught.value.problems)
    assert len(problems) == 5
    assert "what it asks for cannot be provided" in problems.pop(2)
    assert ["component", "deep", "direct", "guard"] == [
        name
        for problem in problems
        for name in ("component", "deep", "direct", "guard")
        if f".{name}` (" in problem
    ]
    assert "parameter `name: Name`" in problems[0]
    assert "'nowhere'" in problems[0]
    assert "parameter `service: Service`" in problems[1]
    assert ".Missing " in problems[1]
    assert "parameter `thing: Missing`" in problems[2]
    assert "WebSuckets(providers=[...])" in problems[2]
    assert "Payload[...]" in problems[2]
    assert "its guard `Missing` cannot be provided" in problems[3]
    for problem in problems:
        assert f"({__file__}, line " in problem


@pytest.mark.parametrize("keyword", [True, False])
async def test_who_meant_a_parameter_for_the_payload_is_told_how(keyword: bool) -> None:
    """Expect the error to say where the parameter stands, and that there is one payload."""
    group = CommandGroup()

    @group.command("keyword")
    async def only(socket: ServerConnection, *, model: Model) -> None: ...

    @group.command("two")
    async def two(socket: ServerConnection, first: Model, second: Model) -> None: ...

    with pytest.raises(MissingProvider) as caught:
        await start(group)
    text = next(problem for problem in caught.value.problems if (".only" in problem) == keyword)
    expected = (
        "stands second; move it there, before the `*`" if keyword else "a command has one payload"
    )
    assert expected in text


async def test_a_provider_that_misses_something_is_refused_at_start() -> None:
    """Expect an error even if no handler asks for it."""
    provider = Provider(scope=Scope.APP)
    provider.provide(Service)
    with pytest.raises(MissingProvider, match=r"Cannot find factory for \(Missing"):
        await start(providers=[provider])


async def test_a_wider_scope_may_not_ask_for_a_narrower_one() -> None:
    """Expect an error for an APP object that is made of a message."""

    class Bad:
        def __init__(self, message: Message) -> None: ...

    provider = Provider(scope=Scope.APP)
    provider.provide(Bad)
    with pytest.raises(MissingProvider, match="Message"):
        await start(providers=[provider])


@pytest.mark.parametrize("scope", [Scope.APP, Scope.SESSION])
async def test_a_guard_of_a_wider_scope_is_refused_at_start(scope: Scope) -> None:
    """Expect an error, because the guard would be checked once and then remembered."""
    group = CommandGroup()
    group.command("run", protected=Thing)(with_connection)
    group.command("again", protected=Annotated[Name, FromComponent("billing")])(with_protocol)
    provider = Provider(scope=scope)
    provider.provide(Thing)
    component = Provider(scope=scope, component="billing")
    component.provide(lambda: Name("x"), provides=Name)
    with pytest.raises(InvalidGuard) as caught:
        await start(group, providers=[provider, component])
    first, second = caught.value.problems
    for part in ("with_connection`", "`Thing`", str(scope), "Scope.REQUEST"):
        assert part in first
    assert "`Name`" in second


async def test_a_guard_that_is_sometimes_of_a_wider_scope_is_refused_at_start() -> None:
    """Expect an error also behind a condition, an alias or a decorator."""

    class Alias: ...

    group = CommandGroup()
    group.command("plain", protected=Thing)(with_connection)
    group.command("alias", protected=Alias)(with_protocol)

    def same(thing: Thing) -> Thing:
        return thing

    provider = Provider()
    provider.provide(Thing, scope=Scope.REQUEST)
    provider.provide(Thing, scope=Scope.SESSION, when=Has(Name))
    provider.provide(lambda: Name(""), provides=Name, scope=Scope.APP)
    provider.decorate(same, when=Has(Name))
    provider.alias(Thing, provides=Alias)
    with pytest.raises(InvalidGuard) as caught:
        await start(group, providers=[provider])
    assert len(caught.value.problems) == 2


async def test_current_user_of_a_wider_scope_is_refused_at_start() -> None:
    """Expect an error also for a provider that replaces the security."""
    group = CommandGroup()
    group.command("run", protected=True)(with_connection)
    provider = Provider(scope=Scope.SESSION)
    provider.provide(lambda: None, provides=CurrentUser)
    with pytest.raises(InvalidGuard, match="CurrentUser"):
        await start(group, providers=[provider])


async def test_a_bare_model_that_is_also_provided_is_refused_at_start() -> None:
    """Expect an error, because a client could otherwise send its own object."""
    group = CommandGroup()

    @group.command("bare")
    async def bare(socket: ServerConnection, settings: Settings) -> None: ...

    @group.command("or none")
    async def or_none(socket: ServerConnection, settings: Settings | None) -> None: ...

    @group.command("or other")
    async def or_other(socket: ServerConnection, settings: Model | Settings) -> None: ...

    group.command("marked")(second_marked)
    group.command("injected")(second_from_dishka)
    with pytest.raises(InvalidHandlerSignature) as caught:
        await start(group, providers=[everything()])
    first, second, _third = caught.value.problems
    for part in ("bare`", "`settings: Settings`", "Payload[Settings]", "FromDishka[Settings]"):
        assert part in first
    assert "or_none`" in second


async def test_a_report_at_start_holds_every_kind_of_error() -> None:
    """Expect missing providers, wide guards and ambiguous models in one report."""
    group = CommandGroup()

    @group.command("missing")
    async def missing(socket: ServerConnection, *, thing: Missing) -> None: ...

    @group.command("wide", protected=Thing)
    async def wide(socket: ServerConnection) -> None: ...

    @group.command("bare")
    async def bare(socket: ServerConnection, settings: Thing | Settings) -> None: ...

    @group.command("ambiguous")
    async def ambiguous(socket: ServerConnection, settings: Settings) -> None: ...

    provider = Provider(scope=Scope.SESSION)
    provider.provide(Thing)
    provider.provide(lambda: Settings(), provides=Settings)
    with pytest.raises(ConfigurationError) as caught:
        await start(group, providers=[provider])
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (Roles, r"create it: Roles\(\)"),
        (everything, "pass a dishka.Provider"),
        (Thing(), "pass a dishka.Provider"),
    ],
)
def test_an_object_that_is_not_a_provider_is_refused_at_once(given: Any, remedy: str) -> None:
    """Expect an error, most of all for a class that should have been called."""
    with pytest.raises(ConfigurationError, match=f"is not a provider; {remedy}"):
        WebSuckets(providers=[given])


async def test_a_default_that_is_always_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Expect a log line, because the parameter may be a payload in the wrong place."""
    caplog.set_level(logging.INFO, logger="websuckets")
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: ServerConnection,
        thing: Thing | None = None,
        number: int = 3,
        *,
        model: Model = Model(value=1),  # noqa: B008  # as users write it
    ) -> None: ...

    async with app_with(group, providers=[everything()]).serve("127.0.0.1", 0):
        pass
    messages = [record.getMessage() for record in caplog.records if record.name == "websuckets"]
    assert messages[0].startswith("listening on")  # the first line is always the address
    told = [message for message in messages if "its default is always used" in message]
    assert ["`number: int`" in told[0], "`model: Model`" in told[1]] == [True, True]
    assert len(told) == 2
