"""Replies of the server to each kind of message, over a real socket."""

import json
import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from harness import app_with, talk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from websockets.asyncio.server import ServerConnection

from websuckets import ClientEvent, CommandGroup, Message, Payload, WebSuckets
from websuckets.exc import ClientError, InternalError
from websuckets.security import Token

pytestmark = pytest.mark.anyio


class Post(BaseModel):
    title: str
    stars: int = 0


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    id: uuid.UUID
    day: date


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@dataclass
class Point:
    x: int
    y: int


class UserNotFound(InternalError):
    def __init__(self) -> None:
        super().__init__("user not found")


group = CommandGroup()


@group.command("nothing")
async def nothing(socket: ServerConnection) -> None:
    pass


@group.command("ok")
async def ok(socket: ServerConnection) -> str:
    return "ok"


@group.command("plain")
async def plain(socket: ServerConnection) -> None:
    await socket.send("as it is")


@group.command("post")
async def post(socket: ServerConnection, model: Post) -> Post:
    return model


@group.command("strict")
async def strict(socket: ServerConnection, model: Strict) -> Strict:
    return model


@group.command("pet")
async def pet(
    socket: ServerConnection, model: Payload[Annotated[Cat | Dog, Field(discriminator="kind")]]
) -> str:
    return model.kind


@group.command("points")
async def points(socket: ServerConnection, model: Payload[list[Point]]) -> int:
    return sum(point.x * point.y for point in model)


@group.command("echo")
async def echo(socket: ServerConnection, payload: Payload[Any] = None) -> Any:
    return payload


@group.command("optional")
async def optional(socket: ServerConnection, model: Post = Post(title="none")) -> str:  # noqa: B008  # as users write it
    return model.title


@group.command("nullable")
async def nullable(socket: ServerConnection, model: Post | None) -> bool:
    return model is None


@group.command("event")
async def event(socket: ServerConnection) -> ClientEvent:
    return ClientEvent("renamed", {"at": datetime(2026, 1, 2, tzinfo=UTC)})


@group.command("rich")
async def rich(socket: ServerConnection) -> Any:
    return {
        "id": uuid.UUID(int=1),
        "model": Post(title="t"),
        "point": Point(1, 2),
        "decimal": Decimal("1.10"),
        "infinite": float("inf"),
        "token": Token("not hidden from the client"),
    }


@group.command("fail")
async def fail(socket: ServerConnection) -> None:
    raise ClientError("failed", {"why": ["on purpose"]})


@group.command("missing user")
async def missing_user(socket: ServerConnection) -> None:
    raise UserNotFound


@group.command("grouped")
async def grouped(socket: ServerConnection) -> None:
    raise ExceptionGroup("of one", [ExceptionGroup("of one", [UserNotFound()])])


@group.command("undescribable")
async def undescribable(socket: ServerConnection) -> None:
    raise ClientError("failed", object())


@group.command("what")
async def what(socket: ServerConnection, *, message: Message) -> list[Any]:
    return [message.event, message.id, message.token]


@pytest.fixture
def app() -> WebSuckets:
    return app_with(group)


def problem(type: str, *loc: str | int) -> dict[str, Any]:
    return {"loc": list(loc), "type": type}


def without_texts(reply: dict[str, Any]) -> dict[str, Any]:
    for detail in reply["details"]:
        assert detail.pop("msg")
    return reply


INVALID = [
    ("not json", [problem("json_invalid")], None),
    ("", [problem("json_invalid")], None),
    (b"\xff\x00", [problem("json_invalid")], None),
    ('{"event": "ok"} ', None, None),
    ('{"event": "ok"} x', [problem("json_invalid")], None),
    ("\ufeff{}", [problem("json_invalid")], None),
    ('{"event": "ok", "payload": NaN}', [problem("json_invalid")], None),
    ('{"event": "ok", "payload": -Infinity}', [problem("json_invalid")], None),
    ('{"event": "ok", "payload": 1e400}', [problem("finite_number", "payload")], None),
    (
        '{"event": "ok", "id": 3, "payload": [{"y": [-1e400]}]}',
        [problem("finite_number", "payload")],
        3,
    ),
    ('{"event": "ok", "nobody reads it": 1e400}', None, None),
    ('{"event": "ok", "payload": "\\ud800"}', [problem("json_invalid")], None),
    ('{"event": "ok", "payload": ' + "9" * 5000 + "}", [problem("json_invalid")], None),
    (
        '{"event": "ok", "payload": ' + "[" * 30000 + "]" * 30000 + "}",
        [problem("json_invalid")],
        None,
    ),
    ("[" * 30000, [problem("json_invalid")], None),
    ("[]", [problem("dict_type")], None),
    ("null", [problem("dict_type")], None),
    ('"ok"', [problem("dict_type")], None),
    ("{}", [problem("missing", "event")], None),
    ('{"id": "a"}', [problem("missing", "event")], "a"),
    ('{"cancel": null}', [problem("missing", "event")], None),
    ('{"cancel": true}', [problem("id_type", "cancel")], None),
    ('{"cancel": 9007199254740993, "id": 1}', [problem("id_type", "cancel")], 1),
    ('{"ping": null}', [problem("missing", "event")], None),
    ('{"ping": [1], "id": 1}', [problem("ping_type", "ping")], 1),
    ('{"ping": 1e400, "id": []}', [problem("ping_type", "ping")], None),
    ('{"event": null, "id": 1}', [problem("string_type", "event")], 1),
    ('{"event": 5}', [problem("string_type", "event")], None),
    (
        '{"event": "ok", "token": 5, "id": -9007199254740992}',
        [problem("string_type", "token")],
        -(2**53),
    ),
    ('{"event": "ok", "id": true}', [problem("id_type", "id")], None),
    ('{"event": "ok", "id": 1.0}', [problem("id_type", "id")], None),
    ('{"event": "ok", "id": 9007199254740993}', [problem("id_type", "id")], None),
    ('{"event": "ok", "id": ["a"]}', [problem("id_type", "id")], None),
    ('{"event": "ok", "id": "' + "i" * 129 + '"}', [problem("id_type", "id")], None),
    (
        '{"event": 1, "token": 1, "id": {}}',
        [
            problem("string_type", "event"),
            problem("string_type", "token"),
            problem("id_type", "id"),
        ],
        None,
    ),
]


@pytest.mark.parametrize(("frame", "details", "id"), INVALID)
async def test_what_is_no_command_is_an_invalid_message(
    app: WebSuckets, frame: str | bytes, details: list[Any] | None, id: Any
) -> None:
    """Each error has a location, a type and an id if one could be read; the next command works."""
    async with talk(app) as client:
        await client.connection.send(frame)
        reply = await client.receive()
        if details is None:
            assert reply == {"event": "ok", "payload": "ok"}
        else:
            expected = {"error": "invalid message", "details": details}
            assert without_texts(reply) == (expected if id is None else {**expected, "id": id})
        assert await client.call("ok", id="next") == {"event": "ok", "payload": "ok", "id": "next"}


ANSWERED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"event": "ok"}, {"event": "ok", "payload": "ok"}),
    (
        {"event": "ok", "payload": {"ignored": 1}, "unknown": "key"},
        {"event": "ok", "payload": "ok"},
    ),
    ({"event": "ok", "id": None, "token": None, "payload": None}, {"event": "ok", "payload": "ok"}),
    ({"event": "ok", "id": 0}, {"event": "ok", "payload": "ok", "id": 0}),
    ({"event": "ok", "id": ""}, {"event": "ok", "payload": "ok", "id": ""}),
    ({"event": "ok", "id": "ï" * 128}, {"event": "ok", "payload": "ok", "id": "ï" * 128}),
    ({"event": "ok", "id": 2**53}, {"event": "ok", "payload": "ok", "id": 2**53}),
    ({"event": "nothing", "id": 1}, {"event": "nothing", "payload": None, "id": 1}),
    ({"event": "absent"}, {"error": "unknown command", "details": None}),
    ({"event": "", "id": 2}, {"error": "unknown command", "details": None, "id": 2}),
    (
        {"event": "post", "payload": {"title": "t"}, "id": 3},
        {"event": "post", "payload": {"title": "t", "stars": 0}, "id": 3},
    ),
    ({"event": "post"}, {"error": "payload required", "details": None}),
    ({"event": "post", "payload": None}, {"error": "payload required", "details": None}),
    (
        {"event": "strict", "payload": {"id": str(uuid.UUID(int=5)), "day": "2026-01-02"}},
        {"event": "strict", "payload": {"id": str(uuid.UUID(int=5)), "day": "2026-01-02"}},
    ),
    ({"event": "pet", "payload": {"kind": "dog"}}, {"event": "pet", "payload": "dog"}),
    ({"event": "points", "payload": [{"x": 2, "y": 3}]}, {"event": "points", "payload": 6}),
    ({"event": "points"}, {"error": "payload required", "details": None}),
    ({"event": "echo", "payload": 0}, {"event": "echo", "payload": 0}),
    ({"event": "echo", "payload": False}, {"event": "echo", "payload": False}),
    ({"event": "optional"}, {"event": "optional", "payload": "none"}),
    ({"event": "optional", "payload": {"title": "t"}}, {"event": "optional", "payload": "t"}),
    ({"event": "nullable"}, {"event": "nullable", "payload": True}),
    ({"event": "nullable", "payload": {"title": "t"}}, {"event": "nullable", "payload": False}),
    ({"event": "event"}, {"event": "renamed", "payload": {"at": "2026-01-02T00:00:00Z"}}),
    (
        {"event": "event", "id": 4},
        {"event": "renamed", "payload": {"at": "2026-01-02T00:00:00Z"}, "id": 4},
    ),
    (
        {"event": "rich"},
        {
            "event": "rich",
            "payload": {
                "id": str(uuid.UUID(int=1)),
                "model": {"title": "t", "stars": 0},
                "point": {"x": 1, "y": 2},
                "decimal": "1.10",
                "infinite": None,
                "token": "not hidden from the client",
            },
        },
    ),
    ({"event": "fail", "id": 5}, {"error": "failed", "details": {"why": ["on purpose"]}, "id": 5}),
    ({"event": "missing user"}, {"error": "user not found", "details": None}),
    ({"event": "grouped"}, {"error": "user not found", "details": None}),
    (
        {"event": "what", "id": 6, "token": "t"},
        {"event": "what", "payload": ["what", 6, "t"], "id": 6},
    ),
]


@pytest.mark.parametrize(("command", "reply"), ANSWERED)
async def test_a_command_gets_its_reply(
    app: WebSuckets, command: dict[str, Any], reply: dict[str, Any]
) -> None:
    """Results, acknowledgements and errors, each with the id that the command carried."""
    async with talk(app) as client:
        await client.connection.send(json.dumps(command))
        assert await client.receive() == reply


async def test_binary_frames_are_commands_too(app: WebSuckets) -> None:
    """UTF-8 in a binary frame is read like text; the reply is text."""
    async with talk(app) as client:
        await client.connection.send('{"event": "echo", "payload": "ü"}'.encode())
        assert await client.receive_frame() == '{"event":"echo","payload":"ü"}'


async def test_without_an_id_there_is_no_acknowledgement(app: WebSuckets) -> None:
    """A handler that returns nothing answers nothing, unless the command has an id."""
    async with talk(app) as client:
        await client.send("nothing")
        await client.send("plain")
        assert await client.receive_frame() == "as it is"
        await client.send("plain", id=1)
        assert await client.receive_frame() == "as it is"
        assert await client.receive() == {"event": "plain", "payload": None, "id": 1}


async def test_commands_are_answered_in_order(app: WebSuckets) -> None:
    """Many commands at once are answered one after the other."""
    async with talk(app) as client:
        for number in range(100):
            await client.send("echo", payload=number, id=number)
        replies = [await client.receive() for _ in range(100)]
        assert [reply["id"] for reply in replies] == list(range(100))


SECRET = "canary-4711"


@pytest.mark.parametrize(
    ("event", "payload", "details"),
    [
        (
            "post",
            {"title": 5, "stars": SECRET},
            [problem("string_type", "title"), problem("int_parsing", "stars")],
        ),
        ("post", [SECRET], [problem("model_type")]),
        (
            "strict",
            {"id": SECRET, "day": SECRET},
            [problem("uuid_parsing", "id"), problem("date_parsing", "day")],
        ),
        ("pet", {"kind": SECRET}, [problem("union_tag_invalid")]),
        ("pet", {}, [problem("union_tag_not_found")]),
        (
            "points",
            [{"x": 1}, {"x": 1, "y": SECRET}],
            [problem("missing", 0, "y"), problem("int_parsing", 1, "y")],
        ),
        ("nullable", SECRET, [problem("model_type")]),
    ],
)
async def test_an_invalid_payload_is_explained_without_its_content(
    app: WebSuckets,
    event: str,
    payload: Any,
    details: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Details have the location, text and type of every problem, and no value; nor has the log."""
    caplog.set_level(logging.DEBUG, logger="websuckets")
    async with talk(app) as client:
        reply = await client.call(event, payload=payload, id=1)
        assert SECRET not in json.dumps(reply)
        assert without_texts(reply) == {"error": "validation error", "details": details, "id": 1}
        assert SECRET not in caplog.text
        assert (await client.call("ok"))["payload"] == "ok"


async def test_details_that_cannot_be_encoded_are_an_internal_error(app: WebSuckets) -> None:
    """The program's mistake is logged; the client still gets its reply."""
    async with talk(app) as client:
        reply = await client.call("undescribable", id=1)
        assert (reply["error"], reply["id"]) == ("internal error", 1)
        assert reply["details"]["incident"]


async def test_what_is_logged_of_bad_messages(
    app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Each bad message is one debug line, shortened, whatever the client sends."""
    caplog.set_level(logging.DEBUG, logger="websuckets")
    async with talk(app) as client:
        await client.connection.send("nonsense")
        await client.receive()
        await client.call("x\n" * 1000)
    lines = [r.getMessage() for r in caplog.records if r.name == "websuckets.access"]
    assert lines[0].startswith("'' invalid message ")
    assert lines[1].startswith("'x\\nx")
    assert " unknown command " in lines[1]
    assert len(lines[1]) < 200
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats()
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)
commands = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(["echo", "post", "pet", "strict", "points"]) | json_values,
        "payload": json_values,
        "token": st.text() | json_values,
        "id": st.integers() | st.text() | json_values,
        "cancel": json_values,
    },
)


def with_duplicate_keys(command: dict[str, Any]) -> str:
    pairs = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in command.items()]
    return "{" + ", ".join(pairs + pairs[::-1]) + "}"


frames = st.one_of(
    st.binary(),
    st.text(),
    commands.map(json.dumps),
    commands.map(with_duplicate_keys),
    json_values.map(json.dumps),
    st.integers(min_value=1, max_value=30000).map(
        lambda n: '{"event": "echo", "payload": ' + "[" * n + "]" * n + "}"
    ),
    commands.map(json.dumps).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda n: text[:n])
    ),
)


@settings(deadline=None)
@given(st.lists(frames, min_size=1, max_size=20))
async def test_whatever_comes_the_next_command_is_answered(incoming: list[str | bytes]) -> None:
    """Arbitrary bytes and arbitrary JSON get one valid reply or none, and break nothing."""
    async with talk(app_with(group)) as client:
        for number, frame in enumerate(incoming):
            await client.connection.send(frame)
            await client.send("what", id=f"after {number}")
            reply = await client.receive()
            if reply.get("id") != f"after {number}":
                assert reply.keys() - {"id"} in ({"event", "payload"}, {"error", "details"})
                assert reply.get("error") != "internal error"
                reply = await client.receive()
            assert reply["id"] == f"after {number}"


async def test_who_cancels_what_cannot_run_gets_no_answer(app: WebSuckets) -> None:
    """Cancelling a command that does not run, like one that has ended, is not answered."""
    async with talk(app) as client:
        await client.connection.send('{"cancel": 1}')
        assert await client.call("ok", id=2) == {"event": "ok", "payload": "ok", "id": 2}
