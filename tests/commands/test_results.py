"""Results of handlers: the return annotation decides what is sent."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import pytest
from dishka import Provider, Scope
from harness import app_with, dial, errors
from pydantic import BaseModel, ConfigDict, Field, RootModel, SerializeAsAny
from serving import Serving
from typing_extensions import TypedDict

from websuckets import ClientEvent, CommandGroup, Socket
from websuckets.channels import Channels
from websuckets.exc import ClientError, InvalidHandlerSignature
from websuckets.security import Token
from websuckets.testing import CommandError, TestClient

if TYPE_CHECKING:
    from decimal import Decimal

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class UserOut(BaseModel):
    name: str


class UserRow(UserOut):
    password_hash: str


class Page(BaseModel, Generic[T]):
    items: list[T]


class Aliased(BaseModel):
    full_name: str = Field(alias="fullName")


class Any_(RootModel[list[int]]): ...


class Keys(TypedDict):
    a: int


@dataclass
class Point:
    x: int


@dataclass
class Point3(Point):
    y: int = 2


class Record:
    """An object that pydantic does not know, like one of an ORM."""

    name = "ann"
    password_hash = "canary"


class Nick(str): ...


class Db: ...


ROW = UserRow(name="ann", password_hash="canary")


async def call(hint: Any, result: Any) -> Any:
    """Return the payload of the reply of a handler with this return annotation."""

    async def run(socket: Socket) -> Any:
        return result

    run.__annotations__ = {"socket": Socket, "return": hint}
    group = CommandGroup()
    group.command("run")(run)
    async with TestClient(app_with(group)) as client:
        return (await client.call("run")).payload


@pytest.mark.parametrize(
    ("hint", "result", "sent"),
    [
        (UserOut, ROW, {"name": "ann"}),
        (UserOut | None, ROW, {"name": "ann"}),
        (UserOut | None, None, None),
        (list[UserOut], [ROW, ROW], [{"name": "ann"}] * 2),
        (Page[UserOut], Page(items=[ROW]), {"items": [{"name": "ann"}]}),
        (UserOut | Point, ROW, {"name": "ann"}),
        (UserOut, {"name": "ann", "password_hash": "canary"}, {"name": "ann"}),
        (UserOut, Record(), {"name": "ann"}),
        (dict[str, Any], {"row": ROW}, {"row": {"name": "ann", "password_hash": "canary"}}),
        (dict, {1: math.nan}, {"1": None}),
        (list[Any], [1, (2,)], [1, [2]]),
        (list[Any], (1, 2), [1, 2]),
        (Point, Point3(1), {"x": 1}),
        (Keys, {"a": 1, "secret": "canary"}, {"a": 1}),
        (Aliased, Aliased(fullName="ann"), {"fullName": "ann"}),
        (float, 1, 1),
        (Any_, [1], [1]),
        (Token, Token("t"), "t"),
        (list[Nick | None], [Nick("n"), None], ["n", None]),
        (Iterable[int], iter([1, 2]), [1, 2]),
        (None, None, None),
        (SerializeAsAny[UserOut], ROW, {"name": "ann", "password_hash": "canary"}),
        (Any, ROW, {"name": "ann", "password_hash": "canary"}),
        (object, ROW, {"name": "ann", "password_hash": "canary"}),
        (int | Any, "text", "text"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_return_annotation_decides_what_is_sent(
    hint: Any, result: Any, sent: Any
) -> None:
    """The fields of a subclass are not sent unless the annotation leaves the type open."""
    assert await call(hint, result) == sent


@pytest.mark.parametrize(
    ("hint", "result"),
    [
        (int, "canary"),
        (int, None),
        (str, 5),
        (None, "canary"),
        (UserOut, {"nick": "canary"}),
        (UserOut, None),
        (UserOut, ClientEvent("made", ROW)),
        (list[int], [1, None]),
        (dict[str, Any], {1: "canary"}),
        (dict[str, Any], "canary"),
        (list[Any], "canary"),
        (dict, ["canary"]),
        (list[int], ["canary"] * 9),
        (ClientEvent, None),
        (ClientEvent, "canary"),
        (Nick, 5),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_does_not_fit_is_an_internal_error(
    hint: Any, result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the handler and the part that does not fit, and no value."""
    with pytest.raises(CommandError, match="internal error"):
        await call(hint, result)
    (error,) = errors(caplog)
    assert error.exc_info is not None
    assert "does not fit its return annotation" in str(error.exc_info[1])
    assert "canary" not in caplog.text
    assert any("test_results" in note for note in error.exc_info[1].__notes__)


async def test_of_many_parts_that_do_not_fit_a_few_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names five parts that do not fit, and the number of the others."""
    with pytest.raises(CommandError):
        await call(dict[str, list[int]], {"a": ["x"] * 9})
    (error,) = errors(caplog)
    assert error.exc_info is not None
    assert "a.4: Input should be a valid integer" in str(error.exc_info[1])
    assert str(error.exc_info[1]).endswith("; and 4 more")


async def test_what_does_not_fit_is_rolled_back_and_needs_no_id(serving: Serving) -> None:
    """A result is encoded while the scope is open, even if the command would get no reply."""
    ends: list[str] = []

    async def begin() -> AsyncGenerator[Db, BaseException | None]:
        error = yield Db()
        ends.append("commit" if error is None else "rollback")

    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, db: Db) -> int:
        return None  # type: ignore[return-value]  # on purpose

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(begin, provides=Db)
    async with serving(app_with(group, providers=[provider])) as server, dial(server) as client:
        assert (await client.call("run"))["error"] == "internal error"
    assert ends == ["rollback"]


async def test_a_client_event_is_sent_where_the_annotation_allows_it() -> None:
    """The event may be a return type, in a union, returned as a `str`, or as an `object`."""
    made = ClientEvent("made", {"a": 1})
    group = CommandGroup()
    for number, hint in enumerate((ClientEvent, ClientEvent | UserOut | None, str, object)):

        async def run(socket: Socket) -> Any:
            return made

        run.__annotations__ = {"socket": Socket, "return": hint}
        group.command(f"run {number}")(run)
    async with TestClient(app_with(group)) as client:
        for number in range(4):
            reply = await client.call(f"run {number}")
            assert (reply.event, reply.payload) == ("made", {"a": 1})
    assert await call(ClientEvent | UserOut | None, ROW) == {"name": "ann"}
    assert await call(ClientEvent | UserOut | None, None) is None


async def test_each_item_of_a_stream_fits_what_its_annotation_yields(serving: Serving) -> None:
    """An item that does not fit ends the stream with an error."""
    group = CommandGroup()

    @group.command("users")
    async def users(socket: Socket) -> AsyncIterator[UserOut]:
        yield ROW
        yield ClientEvent("made")  # type: ignore[misc]  # on purpose

    @group.command("numbers")
    async def numbers(socket: Socket) -> AsyncGenerator[int | ClientEvent, None]:
        yield 1
        yield ClientEvent("made")

    @group.command("anything")
    async def anything(socket: Socket):
        yield ROW

    @group.command("bare")
    async def bare(socket: Socket) -> AsyncIterator:
        yield ROW

    async with serving(app_with(group)) as server, dial(server) as client:
        await client.send("users", id=1)
        assert (await client.receive())["payload"] == {"name": "ann"}
        assert (await client.receive())["error"] == "internal error"
        await client.send("numbers", id=2)
        assert (await client.receive())["payload"] == 1
        assert (await client.receive())["event"] == "made"
        assert "more" not in await client.receive()
        for event in ("anything", "bare"):
            await client.send(event)
            assert (await client.receive())["payload"] == ROW.model_dump()


def refusal_of(function: Any) -> str:
    with pytest.raises(InvalidHandlerSignature) as refused:
        CommandGroup().command("run")(function)
    return str(refused.value)


def test_an_annotation_that_cannot_be_serialised_is_refused() -> None:
    """A return annotation is refused at registration, with the place and what to write instead."""

    @dataclass
    class Holder:
        record: Record

    async def record(socket: Socket) -> Record: ...

    async def holder(socket: Socket) -> Holder: ...

    holder.__annotations__["return"] = Holder

    async def iterator(socket: Socket) -> AsyncIterator[int]:
        raise NotImplementedError

    async def stream(socket: Socket) -> int:  # type: ignore[misc]  # on purpose
        yield 1

    for function in (record, holder, iterator):
        text = refusal_of(function)
        for part in (f".{function.__name__}` ({__file__}, line ", "write `-> object`", "Record"):
            assert part in text.replace("AsyncIterator", "Record")
    assert "`int`: it yields; write `-> AsyncIterator[...]`" in refusal_of(stream)


async def test_a_handler_that_never_returns_may_say_so() -> None:
    """`NoReturn` needs no JSON schema."""
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket) -> NoReturn:
        raise ClientError("no")

    async with TestClient(app_with(group)) as client:
        with pytest.raises(CommandError, match="no"):
            await client.call("run")


async def test_an_annotation_that_is_not_defined_when_the_program_runs_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Name a type imported for type checkers alone; the result is sent without validation."""
    caplog.set_level(logging.INFO, logger="websuckets")
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket) -> Decimal:
        return ROW  # type: ignore[return-value]  # on purpose

    async with app_with(group).serve("127.0.0.1", 0):
        pass
    (told,) = [r.getMessage() for r in caplog.records if "return annotation" in r.getMessage()]
    for part in ("run` (", "'Decimal' is not defined", "is sent as it is"):
        assert part in told
    async with TestClient(app_with(group)) as client:
        assert (await client.call("run")).payload == ROW.model_dump()


async def test_an_annotation_may_name_what_is_defined_further_down() -> None:
    """An annotation is resolved when the app starts, like those of parameters."""
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket) -> Later:
        return {"name": "ann", "more": "canary"}  # type: ignore[return-value]

    class Later(BaseModel):
        name: str

    async with TestClient(app_with(group)) as client:
        assert (await client.call("run")).payload == {"name": "ann"}


# Every frame is JSON -----------------------------------------------------------------------------


class Stats(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    mean: float
    note: str = "NaN, Infinity"


def strictly(frame: str | bytes) -> Any:
    """Parse the frame like a browser."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(frame, parse_constant=refuse)


async def test_every_frame_is_json_whatever_a_model_writes(serving: Serving) -> None:
    """Numbers that JSON does not have are null in results, items, events and details."""
    group = CommandGroup()

    @group.command("typed")
    async def typed(socket: Socket) -> Stats:
        return Stats(mean=math.nan)

    @group.command("untyped")
    async def untyped(socket: Socket) -> object:
        return {"inner": [Stats(mean=math.inf)]}

    @group.command("fine")
    async def fine(socket: Socket) -> Stats:
        return Stats(mean=1)

    @group.command("item")
    async def item(socket: Socket) -> AsyncIterator[Stats]:
        yield Stats(mean=-math.inf)

    @group.command("pushed")
    async def pushed(socket: Socket) -> None:
        await socket.send(ClientEvent("pushed", Stats(mean=math.inf)))

    @group.command("published")
    async def published(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, "stats")
        await channels.publish("stats", ClientEvent("published", Stats(mean=math.inf)))

    @group.command("refused")
    async def refused(socket: Socket) -> None:
        raise ClientError("refused", Stats(mean=math.nan))

    null = {"mean": None, "note": "NaN, Infinity"}
    expected = {
        "typed": null,
        "untyped": {"inner": [null]},
        "fine": null | {"mean": 1},
        "item": null,
        "pushed": null,
        "published": null,
        "refused": null,
    }
    async with serving(app_with(group)) as server, dial(server) as client:
        for event, payload in expected.items():
            await client.send(event)
            frame = strictly(await client.receive_frame())
            assert frame.get("payload", frame.get("details")) == payload, event
