"""Tests of handlers: which are accepted, what they are given, and how others are refused."""

import functools
import inspect
import logging
import sys
import typing
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypeVar

import pytest
import websockets.trio.server
from dishka import FromComponent, Has, Provider, Scope
from harness import app_with, talk
from pydantic import BaseModel
from typing_extensions import TypeAliasType
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.commands import injection, signature
from websuckets.di import FromDishka
from websuckets.exc import (
    ConfigurationError,
    DuplicateCommand,
    InvalidGuard,
    InvalidHandlerSignature,
    MissingProvider,
)
from websuckets.security import CurrentUser
from websuckets.serving import container
from websuckets.session import Session, User
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from websockets import WebSocketServerProtocol

T = TypeVar("T")


class Model(BaseModel):
    value: int


class Settings(BaseModel):
    name: str = "settings"


class Thing:
    name = "thing"


class Missing: ...


class Roles(Provider): ...


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None:
        self.of = of


Name = NewType("Name", str)
ModelAlias = TypeAliasType("ModelAlias", Model)
GenericAlias = TypeAliasType("GenericAlias", Payload[list[T]], type_params=(T,))
SocketAlias = TypeAliasType("SocketAlias", ServerConnection)
SettingsAlias = TypeAliasType("SettingsAlias", FromDishka[Settings])
U = TypeVar("U")
Swapped = TypeAliasType("Swapped", Payload[dict[U, T]], type_params=(T, U))
Same = TypeAliasType("Same", T, type_params=(T,))
Constant = TypeAliasType("Constant", Model, type_params=(T,))
AliasOfAlias = TypeAliasType("AliasOfAlias", ModelAlias | None)
MaybeThing = TypeAliasType("MaybeThing", Thing | None)


class MyConnection(ServerConnection):
    mine = True


def everything() -> Provider:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Thing)
    provider.provide(lambda: Settings(), provides=Settings)
    provider.provide(lambda: Name("name"), provides=Name)
    provider.provide(lambda: "maybe", provides=Optional[bytes])  # noqa: UP045  # the old way to write it
    provider.provide(lambda: Repository(Model), provides=Repository[Model])
    return provider


def billing() -> Provider:
    provider = Provider(scope=Scope.REQUEST, component="billing")
    provider.provide(lambda: Name("billed"), provides=Name)
    return provider


# Accepted ----------------------------------------------------------------------------------------


CONNECTIONS = (ServerConnection, websockets.trio.server.ServerConnection)


async def with_connection(socket: ServerConnection) -> bool:
    return isinstance(socket, CONNECTIONS)


async def with_connection_on_trio(socket: websockets.trio.server.ServerConnection) -> bool:
    return isinstance(socket, CONNECTIONS)


async def with_documented_type(socket: WebSocketServerProtocol) -> bool:  # pyright: ignore
    return isinstance(socket, CONNECTIONS)


async def with_protocol(socket: Socket) -> bool:
    return isinstance(socket, CONNECTIONS)


async def with_union(socket: ServerConnection | Socket) -> bool:
    return True


async def with_annotated(socket: Annotated[ServerConnection, "the client"]) -> bool:
    return True


async def with_subclass(socket: MyConnection) -> bool:
    return True


async def positional_only(socket: ServerConnection, model: Model, thing: Thing, /) -> bool:
    return (model.value, thing.name) == (1, "thing")


async def keyword_only(
    socket: ServerConnection, model: Model, thing: Thing, *, name: Name, settings: Settings
) -> bool:
    return (model.value, thing.name, name, settings.name) == (1, "thing", "name", "settings")


async def keyword_only_model_is_injected(socket: ServerConnection, *, model: Settings) -> bool:
    return model.name == "settings"


async def second_of_another_type(socket: ServerConnection, thing: Thing) -> bool:
    return thing.name == "thing"


async def second_from_dishka(socket: ServerConnection, model: FromDishka[Settings]) -> bool:
    return model.name == "settings"


async def second_marked(socket: ServerConnection, model: Payload[Settings]) -> bool:
    return model.name == "sent"


async def second_optional(socket: ServerConnection, model: Model | None) -> bool:
    return model is not None and model.value == 1


async def second_annotated(socket: ServerConnection, model: Annotated[Model, "doc"]) -> bool:
    return model.value == 1


async def second_alias(socket: ServerConnection, model: ModelAlias) -> bool:
    return model.value == 1


async def alias_of_alias(socket: SocketAlias, model: Annotated[AliasOfAlias, "doc"]) -> bool:
    return model is not None and model.value == 1


async def generic_alias(socket: ServerConnection, model: GenericAlias[int]) -> bool:
    return model == [1]


async def swapped_alias(socket: ServerConnection, model: Swapped[int, str]) -> bool:
    return model == {"a": 1}


async def alias_of_a_parameter(socket: Same[ServerConnection], model: Constant[int]) -> bool:
    return model.value == 1


async def alias_of_injected(socket: ServerConnection, model: SettingsAlias) -> bool:
    return model.name == "settings"


async def second_marked_optional(socket: ServerConnection, model: Payload[Model | None]) -> bool:
    return model is not None and model.value == 1


async def second_marked_or_none(socket: ServerConnection, model: Payload[Model] | None) -> bool:
    return model is not None and model.value == 1


async def hints(
    socket: ServerConnection,
    model: Model,
    annotated: Annotated[Thing, "doc"],
    name: Name,
    maybe: Optional[bytes],  # noqa: UP045  # the old way to write it
    repository: Repository[Model],
    from_dishka: FromDishka[Name],
    from_component: Annotated[Name, FromComponent("billing")],
) -> bool:
    return [annotated.name, name, maybe, repository.of, from_dishka, from_component] == [
        "thing",
        "name",
        "maybe",
        Model,
        "name",
        "billed",
    ]


async def injectables(
    socket: ServerConnection,
    *,
    app: WebSuckets,
    session: Session,
    limits: Limits,
    as_socket: Socket,
    connection: ServerConnection,
    trio_connection: websockets.trio.server.ServerConnection,
    request: Request,
    user: User,
    message: Message,
    nobody: CurrentUser | None,
) -> bool:
    return (
        isinstance(app, WebSuckets)
        and limits == Limits()
        and as_socket is socket
        and connection is socket
        and trio_connection is socket
        and request is socket.request
        and user is session.online[socket.id]
        and user.socket is socket
        and message == Message("run")
        and nobody is None
    )


async def defaults(
    socket: ServerConnection,
    thing: Thing = Thing(),  # noqa: B008  # as users write it
    missing: Missing | None = None,
    optional_thing: Thing | None = None,
    *,
    absent: Missing = "default",
    billed: Annotated[Name, FromComponent("billing")] = Name("default"),
    not_billed: Annotated[Missing, FromComponent("billing")] = "default",
) -> bool:
    return (
        thing.name == "thing"
        and thing is optional_thing
        and missing is None
        and (absent, billed, not_billed) == ("default", "billed", "default")
    )


class Methods:
    async def method(self, socket: ServerConnection, model: Model) -> bool:
        return isinstance(self, Methods) and model.value == 1


async def with_extra(extra: str, socket: ServerConnection, model: Model) -> bool:
    return extra == "extra" and model.value == 1


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


SEND = {"value": 1}


@pytest.mark.parametrize(
    ("handler", "payload"),
    [
        (with_connection, None),
        (with_connection_on_trio, None),
        (with_documented_type, None),
        (with_protocol, None),
        (with_union, None),
        (with_annotated, None),
        (with_subclass, None),
        (positional_only, SEND),
        (keyword_only, SEND),
        (keyword_only_model_is_injected, None),
        (second_of_another_type, None),
        (second_from_dishka, None),
        (second_marked, {"name": "sent"}),
        (second_optional, SEND),
        (second_annotated, SEND),
        (second_alias, SEND),
        (alias_of_alias, SEND),
        (generic_alias, [1]),
        (swapped_alias, {"a": 1}),
        (alias_of_a_parameter, SEND),
        (alias_of_injected, None),
        (second_marked_optional, SEND),
        (second_marked_or_none, SEND),
        (hints, SEND),
        (injectables, None),
        (defaults, None),
        (Methods().method, SEND),
        (functools.partial(with_extra, "extra"), SEND),
        (logged(positional_only), SEND),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_an_accepted_handler_gets_what_it_asks_for(handler: Any, payload: Any) -> None:
    """Expect each handler to check its own arguments and return whether they are right."""
    group = CommandGroup()
    assert group.command("run")(handler) is handler
    async with talk(app_with(group, providers=[everything(), billing()])) as client:
        await client.send("run", payload=payload)
        assert await client.receive() == {"event": "run", "payload": True}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement is of Python 3.12")
async def test_hints_may_be_aliases_of_the_type_statement() -> None:
    """Expect aliases in hints of the payload, the socket, dependencies and guards to be read."""
    names: dict[str, Any] = {"Model": Model, "CurrentUser": CurrentUser, "Thing": Thing}
    statement = (
        "type M = Model | None\ntype S = ServerConnection\ntype U = CurrentUser\ntype T = Thing"
    )
    exec(statement, names | {"ServerConnection": ServerConnection}, names)
    group = CommandGroup()

    async def handler(socket: Any, model: Any, thing: Any) -> bool:
        return model.value == 1 and thing.name == "thing"

    async def protected(socket: Any, user: Any) -> None: ...

    handler.__annotations__ |= {"socket": names["S"], "model": names["M"], "thing": names["T"]}
    protected.__annotations__ |= {"socket": names["S"], "user": names["U"]}
    group.command("run")(handler)
    group.command("protected")(protected)
    with pytest.raises(InvalidGuard):
        group.command("opened", protected=False)(protected)
    async with talk(app_with(group, providers=[everything()])) as client:
        assert (await client.call("run", payload=SEND))["payload"] is True
        assert (await client.call("protected"))["error"] == "not authorized"


@pytest.mark.parametrize(
    "name", ["cache", "container", "context", "exits", "generator", "getter", "has", "solved"]
)
async def test_a_handler_may_have_any_name(name: str) -> None:
    """Expect even names that dishka's generated code uses itself to work."""
    group = CommandGroup()

    async def handler(socket: ServerConnection, *, thing: Thing) -> bool:
        return thing.name == "thing"

    handler.__name__ = handler.__qualname__ = name
    group.command("run")(handler)
    async with talk(app_with(group, providers=[everything()])) as client:
        assert (await client.call("run"))["payload"] is True


async def test_hints_may_be_strings_that_name_what_stands_further_down() -> None:
    """Expect hints to be resolved at inclusion at the latest; hints of results are not read."""
    import forward

    provider = Provider(scope=Scope.APP)
    provider.provide(forward.Thing)
    async with talk(app_with(forward.group, providers=[provider])) as client:
        reply = await client.call("later", payload={"inner": {"name": "inner"}})
        assert reply["payload"] == "inner thing"
        assert (await client.call("returns"))["payload"] == 1


async def test_hints_may_name_what_is_local_to_the_function_around() -> None:
    """Expect local names to work also in strings, and when they are defined after the handler."""
    group = CommandGroup()

    class Before(BaseModel):
        name: str

    @group.command("run")
    async def run(socket: "ServerConnection", model: "Before", thing: "After") -> bool:
        return model.name == "before" and isinstance(thing, After)

    class After: ...

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(After)
    async with talk(app_with(group, providers=[provider])) as client:
        assert (await client.call("run", payload={"name": "before"}))["payload"] is True


async def test_a_signature_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect nothing to be inspected per message, or read again when the app starts."""
    group = CommandGroup()
    group.command("run")(hints)
    app = app_with(group, providers=[everything(), billing()])
    inspected: list[str] = []

    def spied(function: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if caller.startswith(("websuckets", "dishka", "pydantic")):
                inspected.append(f"{function.__name__} in {caller}")
            return function(*args, **kwargs)

        return spy

    spies = {
        name: spied(getattr(module, name))
        for module, names in {
            inspect: ["signature", "getmembers", "iscoroutinefunction", "unwrap"],
            typing: ["get_type_hints", "get_origin", "get_args"],
        }.items()
        for name in names
    }
    async with talk(app) as client:
        await client.call("run", payload=SEND)
        with monkeypatch.context() as patch:
            for module in (inspect, typing, signature, injection, container):
                for name in spies.keys() & vars(module).keys():
                    patch.setattr(module, name, spies[name])
            async with client.another() as other:
                for _ in range(3):
                    assert (await other.call("run", payload=SEND))["payload"] is True
                    assert (await other.call("run", payload={}))["error"] == "validation error"
    assert inspected == []


# Refused when decorated --------------------------------------------------------------------------


async def no_parameter() -> None: ...


async def not_a_socket(client: Model) -> None: ...


async def partly_a_socket(client: ServerConnection | Model) -> None: ...


async def string_first(client: str, model: Model) -> None: ...


async def not_annotated(socket: ServerConnection, thing) -> None: ...


async def socket_not_annotated(socket) -> None: ...


def not_async(socket: ServerConnection) -> None: ...


async def keyword_only_socket(*, socket: ServerConnection) -> None: ...


class CallableObject:
    def __call__(self, socket: ServerConnection) -> None: ...


async def variadic(socket: ServerConnection, *things: Thing) -> None: ...


async def keywords(socket: ServerConnection, **things: Thing) -> None: ...


async def payload_third(socket: ServerConnection, thing: Thing, model: Payload[Model]) -> None: ...


async def payload_keyword(socket: ServerConnection, *, model: Payload[Model]) -> None: ...


async def not_validatable(socket: ServerConnection, model: Payload[Thing]) -> None: ...


async def not_a_type(socket: ServerConnection, thing: "1 +") -> None: ...  # noqa: F722  # no expression at all


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (no_parameter, ["no parameter", "`socket: ServerConnection`"]),
        (not_a_socket, ["first parameter", "client", "websuckets.Socket"]),
        (partly_a_socket, ["first parameter", "client"]),
        (string_first, ["first parameter", "client: str"]),
        (not_annotated, ["`thing`", "no annotation"]),
        (socket_not_annotated, ["`socket`", "no annotation"]),
        (not_async, ["not an async function", "`async def`"]),
        (CallableObject(), ["not an async function", "`async def`"]),
        (keyword_only_socket, ["`socket:", "put it before the `*`"]),
        (Methods.method, ["`self`", "register that of an object"]),
        (variadic, ["*things", "name each parameter"]),
        (keywords, ["**things", "name each parameter"]),
        (payload_third, ["`model:", "the payload stands second"]),
        (payload_keyword, ["`model:", "the payload stands second"]),
        (not_validatable, ["`model:", "pydantic cannot validate", "arbitrary_types_allowed"]),
        (not_a_type, ["cannot be evaluated"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_signature_is_refused_when_decorated(handler: Any, says: list[str]) -> None:
    """Expect the error to name the function, its file and line, the parameter and the remedy."""
    with pytest.raises(InvalidHandlerSignature) as caught:
        CommandGroup().command("run")(handler)
    text = str(caught.value)
    if inspect.isfunction(handler):
        line = handler.__code__.co_firstlineno
        says = [f"test_handlers.{handler.__qualname__}` ({__file__}, line {line}): ", *says]
    for part in says:
        assert part in text
    assert len(caught.value.problems) == 1


def test_all_that_is_wrong_with_a_handler_is_said_at_once() -> None:
    """Expect one report for several problems."""

    def bad(socket: ServerConnection, thing, *more: Thing) -> None: ...

    with pytest.raises(InvalidHandlerSignature) as caught:
        CommandGroup().command("run")(bad)
    assert len(caught.value.problems) == 3
    assert str(caught.value).startswith("3 problems:\n1. ")

    async def worse(one: str, two: Thing, three: Payload[Model], four: Payload[Thing]) -> None: ...

    with pytest.raises(InvalidHandlerSignature) as caught:
        CommandGroup().command("run")(worse)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    "protected",
    [
        "admin",
        1,
        0.5,
        b"x",
        [Thing],
        (Thing,),
        {},
        Thing(),
        everything,
        bool,
        lambda: True,
        Literal["x"],
    ],
)
def test_a_guard_that_is_no_type_is_refused(protected: Any) -> None:
    """Expect a string, a number, a list, an object or a function to be refused, and `bool`."""
    with pytest.raises(InvalidGuard, match="is not a guard; pass True, False or a type"):
        CommandGroup("admin", protected=protected)
    with pytest.raises(InvalidGuard, match=r"test_handlers.with_protocol`.* is not a guard"):
        CommandGroup().command("run", protected=protected)(with_protocol)


def test_a_guard_that_lets_everybody_pass_is_refused() -> None:
    """Expect an error for a guard that may be `None`, which would pass."""
    for protected in (CurrentUser | None, Thing | None, Annotated[Thing | None, "doc"], MaybeThing):
        with pytest.raises(InvalidGuard, match="guards nothing, because None passes"):
            CommandGroup(protected=protected)


def test_a_command_without_a_name_is_refused() -> None:
    """Expect an error for `@group.command` without parentheses, a common slip."""
    with pytest.raises(ConfigurationError, match="a command needs a name"):
        CommandGroup().command(with_protocol)
    with pytest.raises(ConfigurationError, match="a command needs a name"):
        CommandGroup("group").command("")
    with pytest.raises(ConfigurationError, match="the prefix is a string"):
        CommandGroup(5)


# Refused when included ---------------------------------------------------------------------------


async def test_what_stays_undefined_is_refused_when_started() -> None:
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


def test_a_bad_signature_that_is_only_seen_late_is_refused_when_included() -> None:
    """Expect an error at inclusion for a hint that could not be read at decoration."""
    group = CommandGroup()

    @group.command("run")
    async def run(socket: "Late") -> None: ...

    class Late: ...

    with pytest.raises(InvalidHandlerSignature, match="is not the socket"):
        app_with(group)


def test_a_name_that_is_taken_is_refused_when_included() -> None:
    """Expect an error in one group and in two; the app keeps the earlier command."""
    first, second = CommandGroup("user"), CommandGroup()
    first.command("create")(with_connection)
    second.command("user create")(with_protocol)
    app = app_with(first)
    with pytest.raises(DuplicateCommand) as caught:
        app.include_command_group(second)
    for part in ("'user create'", "with_connection", "with_protocol", "rename one"):
        assert part in str(caught.value)
    with pytest.raises(
        DuplicateCommand, match=r"CommandGroup\('user', 1 commands\) is included twice"
    ):
        app.include_command_group(first)
    for no_group in ("user", User, None):
        with pytest.raises(ConfigurationError, match="is not a CommandGroup"):
            app.include_command_group(no_group)
    second.command("user create")(with_union)
    second.command("other")(with_union)
    second.command("other")(with_annotated)
    with pytest.raises(DuplicateCommand) as caught:
        app_with(second)
    assert len(caught.value.problems) == 2


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


# Refused when started ----------------------------------------------------------------------------


async def start(*groups: CommandGroup, providers: Any = ()) -> None:
    async with app_with(*groups, providers=providers).serve("127.0.0.1", 0):
        raise AssertionError("it started")


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
    expected = "put it second, before the `*`" if keyword else "a command has one payload"
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
def test_what_is_no_provider_is_refused_at_once(given: Any, remedy: str) -> None:
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


# Which parameter is meant -------------------------------------------------------------------------


def refusal_of(handler: Any) -> str:
    with pytest.raises(InvalidHandlerSignature) as refused:
        CommandGroup().command("run")(handler)
    return str(refused.value)


def test_the_parameter_that_is_wrong_is_named() -> None:
    """Expect no other parameter to be named."""

    class Unfit: ...

    async def first_unannotated(a, thing: Thing) -> None: ...
    async def behind_the_star(*, socket: ServerConnection, thing: Thing) -> None: ...
    async def payload_that_pydantic_cannot_read(
        socket: ServerConnection, model: Payload[Unfit], thing: Thing
    ) -> None: ...

    assert "parameter `a` has no annotation" in refusal_of(first_unannotated)
    assert "`socket: websockets" in refusal_of(behind_the_star).replace('"', "")
    assert "parameter `model:" in refusal_of(payload_that_pydantic_cannot_read)
    for wrong in (3, ...):
        with pytest.raises(InvalidGuard, match=rf"protected={wrong!r} is not a guard"):
            CommandGroup(protected=wrong)


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


async def test_a_default_of_the_payload_is_its_own() -> None:
    """Expect the default to be used, whatever stands behind it."""
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: ServerConnection, number: Payload[int] = 1, other: Missing | None = None
    ) -> int:
        return number

    async with TestClient(app_with(group)) as client:
        assert (await client.call("run")).payload == 1
        assert (await client.call("run", 2)).payload == 2


def A() -> CommandGroup:
    """Return a group, from a frame whose name sorts before its callers'."""
    group = CommandGroup()

    class Local: ...

    @group.command("run")
    async def run(socket: ServerConnection, *, local: "Local") -> None: ...

    return group


async def test_names_are_those_of_the_function_around() -> None:
    """Expect this function even if it is not the first of its name on the stack."""
    with pytest.raises(MissingProvider, match=r"A\.<locals>\.Local"):
        await start(A())
