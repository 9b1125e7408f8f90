"""Tests of handlers that are refused when they are decorated, or when their group is included."""

import inspect
from typing import Annotated, Any, Literal

import pytest
from handlers import (
    Model,
    Thing,
    everything,
    refusal_of,
    with_annotated,
    with_connection,
    with_protocol,
    with_union,
)
from harness import app_with
from typing_extensions import TypeAliasType
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Payload
from websuckets.exc import (
    ConfigurationError,
    DuplicateCommand,
    InvalidGuard,
    InvalidHandlerSignature,
)
from websuckets.security import CurrentUser
from websuckets.session import User

pytestmark = pytest.mark.anyio

MaybeThing = TypeAliasType("MaybeThing", Thing | None)


class Methods:
    async def method(self, socket: ServerConnection, model: Model) -> bool:
        return isinstance(self, Methods) and model.value == 1


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
        says = [f"{__name__}.{handler.__qualname__}` ({__file__}, line {line}): ", *says]
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
def test_a_guard_that_is_not_a_type_is_refused(protected: Any) -> None:
    """Expect a string, a number, a list, an object or a function to be refused, and `bool`."""
    with pytest.raises(InvalidGuard, match="is not a guard; pass True, False or a type"):
        CommandGroup("admin", protected=protected)
    with pytest.raises(InvalidGuard, match=r"handlers\.with_protocol`.* is not a guard"):
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
        DuplicateCommand, match=r"CommandGroup\('user', commands=1\) is included twice"
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
