"""Tests of handlers that are accepted: the arguments that each is given."""

import functools
import inspect
import sys
import typing
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Optional, TypeVar

import pytest
import websockets.trio.server
from dishka import FromComponent, Provider, Scope
from handlers import (
    CONNECTIONS,
    Missing,
    Model,
    Name,
    Repository,
    Settings,
    Thing,
    billing,
    everything,
    second_from_dishka,
    second_marked,
    with_annotated,
    with_connection,
    with_protocol,
    with_union,
)
from harness import app_with, talk
from pydantic import BaseModel
from typing_extensions import TypeAliasType
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.commands import injection, signature
from websuckets.di import FromDishka
from websuckets.exc import InvalidGuard
from websuckets.security import CurrentUser
from websuckets.serving import container
from websuckets.session import Session, User
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from websockets import WebSocketServerProtocol


T = TypeVar("T")
ModelAlias = TypeAliasType("ModelAlias", Model)
GenericAlias = TypeAliasType("GenericAlias", Payload[list[T]], type_params=(T,))
SocketAlias = TypeAliasType("SocketAlias", ServerConnection)
SettingsAlias = TypeAliasType("SettingsAlias", FromDishka[Settings])
U = TypeVar("U")
Swapped = TypeAliasType("Swapped", Payload[dict[U, T]], type_params=(T, U))
Same = TypeAliasType("Same", T, type_params=(T,))
Constant = TypeAliasType("Constant", Model, type_params=(T,))
AliasOfAlias = TypeAliasType("AliasOfAlias", ModelAlias | None)


class MyConnection(ServerConnection):
    mine = True


async def with_connection_on_trio(socket: websockets.trio.server.ServerConnection) -> bool:
    return isinstance(socket, CONNECTIONS)


async def with_documented_type(socket: WebSocketServerProtocol) -> bool:  # pyright: ignore
    return isinstance(socket, CONNECTIONS)


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
    billed: Annotated[Name, FromComponent("billing")] = Name("default"),  # noqa: B008  # as users write it
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


async def test_a_default_of_the_payload_is_used_though_a_dependency_stands_behind() -> None:
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
