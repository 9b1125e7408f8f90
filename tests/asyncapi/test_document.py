"""Tests of ``app.asyncapi()``: what is in the document of an app, and where."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from documents import document_of, keys_of, message, property_of, validator_of
from harness import app_with
from pydantic import BaseModel

from websuckets import (
    ClientError,
    ClientEvent,
    CommandGroup,
    Event,
    Limits,
    Payload,
    Socket,
    Token,
    WebSuckets,
)
from websuckets.channels import Channel, History
from websuckets.exc import ConfigurationError, Forbidden, Unavailable
from websuckets.security import CurrentUser


class Post(BaseModel):
    title: str
    stars: int = 0


class Posted(Event):
    """A post was created.

    Its readers are told.
    """

    id: int


class Deleted(Event, name="post: deleted"):
    id: int


class Free(BaseModel):
    titles: list[str]


class TitleTaken(ClientError):
    """Another post has this title.

    Choose one of those that are free.
    """

    details: Free


class Admin: ...


posts = Channel("posts/{author}", events=[Posted, Deleted], history=History(10, 60), presence=True)
ticks = Channel("ticks")


def test_the_document_says_what_the_app_is() -> None:
    document = WebSuckets(title="Blog", version="1.2", path="/ws").asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == {"title": "Blog", "version": "1.2"}
    assert document["defaultContentType"] == "application/json"
    (connection,) = document["channels"].values()
    assert connection["address"] == "/ws"
    assert connection["bindings"] == {"ws": {"method": "GET", "bindingVersion": "0.1.0"}}
    assert document["x-websuckets"] == {"protocol": 1}
    assert document["components"]["correlationIds"]["id"]["location"] == "$message.payload#/id"
    assert WebSuckets().asyncapi()["info"] == {"title": "websuckets", "version": "0.1.0"}
    assert WebSuckets().asyncapi()["channels"]["connection"]["address"] == "/"


def test_a_command_is_an_operation() -> None:
    group = CommandGroup("post", protected=Admin, raises=[TitleTaken], timeout=5)

    @group.command("create", once=True, deprecated=True)
    async def create(socket: Socket, post: Post) -> Post:
        """Create a post,
        and return it.

        A *title* stands once.

        Always.
        """
        return post

    document = document_of(group)
    operation = document["operations"]["post_create"]
    reply = operation.pop("reply")
    assert operation == {
        "action": "receive",
        "channel": {"$ref": "#/channels/connection"},
        "title": "post create",
        "summary": "Create a post, and return it.",
        "description": "A *title* stands once.\n\nAlways.",
        "tags": [{"name": "post"}],
        "messages": [{"$ref": "#/channels/connection/messages/post_create"}],
        "x-websuckets-command": {
            "name": "post create",
            "payload": "required",
            "stream": False,
            "once": True,
            "protected": True,
            "guards": ["Admin"],
            "subscribes": [],
            "timeout": 5,
            "deprecated": True,
        },
    }
    assert document["info"]["tags"] == [{"name": "post"}]
    assert reply["channel"] == {"$ref": "#/channels/connection"}
    assert keys_of(reply["messages"]) == [
        "post_create.reply",
        "error.title_taken",
        *(
            f"websuckets.error.{name}"
            for name in (
                *("forbidden", "in_progress", "internal_error", "invalid_message", "key_reused"),
                *("not_authorized", "payload_required", "rate_limited", "timeout"),
                *("unavailable", "validation_error"),
            )
        ),
    ]
    sent = message(document, "post_create")
    assert sent["name"] == "post create"
    assert sent["correlationId"] == {"$ref": "#/components/correlationIds/id"}
    assert sent["x-websuckets-message"] == {"kind": "command", "name": "post create"}
    assert list(sent["payload"]["properties"]) == ["event", "payload", "id", "token", "key"]
    assert sent["payload"]["required"] == ["event", "payload"]
    assert sent["payload"]["properties"]["payload"] == {"$ref": "#/components/schemas/Post-Input"}


def test_an_error_has_its_name_its_details_and_its_texts() -> None:
    group = CommandGroup()

    @group.command("a", raises=[TitleTaken, Unavailable])
    async def a(socket: Socket) -> None: ...

    @group.command("b", raises=[TitleTaken])
    async def b(socket: Socket) -> None: ...

    document = document_of(group)
    error = message(document, "error.title_taken")
    assert error["summary"] == "Another post has this title."
    assert error["description"] == "Choose one of those that are free."
    assert error["x-websuckets-message"] == {"kind": "error", "name": "title taken"}
    properties = error["payload"]["properties"]
    assert properties["error"] == {"type": "string", "const": "title taken"}
    assert properties["details"] == {"$ref": "#/components/schemas/Free"}
    for name in ("a", "b"):
        keys = keys_of(document["operations"][name]["reply"]["messages"])
        assert keys.count("error.title_taken") == 1
        assert keys.count("websuckets.error.unavailable") == 1


def test_two_errors_of_one_name_have_keys_of_their_own() -> None:
    class Other(ClientError):
        error = "title taken"

    group = CommandGroup()

    @group.command("a", raises=[TitleTaken])
    async def a(socket: Socket) -> None: ...

    @group.command("b", raises=[Other])
    async def b(socket: Socket) -> None: ...

    document = document_of(group)
    assert property_of(document, "error.title_taken", "details") != {}
    assert property_of(document, "error.title_taken_2", "details") == {}
    keys = keys_of(document["operations"]["b"]["reply"]["messages"])
    assert "error.title_taken_2" in keys and "error.title_taken" not in keys


async def of_anything(socket: Socket): ...  # type: ignore[no-untyped-def]  # that is the case
async def of_none(socket: Socket) -> None: ...
async def of_posts(socket: Socket) -> list[Post] | None: ...
async def of_an_event(socket: Socket) -> Posted: ...
async def of_events(socket: Socket) -> Posted | Deleted | int: ...
async def of_any_event(socket: Socket) -> ClientEvent | None: ...
async def of_the_base(socket: Socket) -> Event: ...
async def of_a_token(socket: Socket) -> Token: ...


@pytest.mark.parametrize(
    ("handler", "replies"),
    [
        (of_anything, {"reply.any": (None, {})}),
        (of_none, {"reply": ("get", {"type": "null"})}),
        (
            of_posts,
            {
                "reply": (
                    "get",
                    {
                        "anyOf": [
                            {"type": "array", "items": {"$ref": "#/components/schemas/Post"}},
                            {"type": "null"},
                        ]
                    },
                )
            },
        ),
        (of_an_event, {"reply.posted": ("posted", {"$ref": "#/components/schemas/Posted"})}),
        (
            of_events,
            {
                "reply": ("get", {"type": "integer"}),
                "reply.posted": ("posted", {"$ref": "#/components/schemas/Posted"}),
                "reply.post-u003a_deleted": (
                    "post: deleted",
                    {"$ref": "#/components/schemas/Deleted"},
                ),
            },
        ),
        (of_any_event, {"reply.any": (None, {}), "reply": ("get", {"type": "null"})}),
        (of_the_base, {"reply.any": (None, {})}),
        (of_a_token, {"reply": ("get", {"type": "string"})}),
    ],
)
def test_replies_come_from_the_return_annotation(handler: Any, replies: dict[str, Any]) -> None:
    group = CommandGroup()
    group.command("get")(handler)
    document = document_of(group)
    keys = keys_of(document["operations"]["get"]["reply"]["messages"])
    found = {}
    for key in keys:
        if not key.startswith("websuckets."):
            given = message(document, key)
            assert given["x-websuckets-message"]["kind"] == "reply"
            name = given["x-websuckets-message"]["name"]
            event = {"type": "string"} if name is None else {"type": "string", "const": name}
            assert given["payload"]["properties"]["event"] == event
            assert given["payload"]["required"] == ["event", "payload"]
            payload = given["payload"]["properties"]["payload"]
            found[key.removeprefix("get.")] = name, payload
    assert found == replies


def test_a_stream_has_items_and_an_end() -> None:
    group = CommandGroup()

    @group.command("count", timeout=None)
    async def count(socket: Socket) -> AsyncIterator[int | Posted]:
        yield 1

    document = document_of(group)
    operation = document["operations"]["count"]
    assert operation["x-websuckets-command"]["stream"] is True
    assert operation["x-websuckets-command"]["timeout"] is None
    keys = keys_of(operation["reply"]["messages"])
    assert keys[:3] == ["count.item", "count.item.posted", "count.end"]
    assert "websuckets.error.too_many_streams" in keys
    assert "websuckets.error.timeout" not in keys
    for key in keys[:2]:
        item = message(document, key)
        assert item["x-websuckets-message"]["kind"] == "item"
        assert item["payload"]["properties"]["more"] == {"type": "boolean", "const": True}
        assert item["payload"]["required"] == ["event", "payload", "more"]
    end = message(document, "count.end")
    assert end["x-websuckets-message"] == {"kind": "end", "name": "count"}
    assert end["payload"]["properties"]["payload"] == {"type": "null"}
    assert end["payload"]["required"] == ["event", "payload", "id"]


def test_a_declared_channel_is_an_operation_that_sends_its_events() -> None:
    document = document_of(CommandGroup(), channels=[ticks, posts])
    names = [name for name in document["operations"] if name.startswith("channel.")]
    assert names == ["channel.posts-author", "channel.ticks"]
    operation = document["operations"]["channel.posts-author"]
    assert operation["action"] == "send" and operation["title"] == "posts/{author}"
    assert operation["x-websuckets-channel"] == {
        "pattern": "posts/{author}",
        "parameters": ["author"],
        "history": {"size": 10, "seconds": 60},
        "presence": True,
        "open": False,
    }
    assert keys_of(operation["messages"]) == [
        "event.posted",
        "event.post-u003a_deleted",
        "websuckets.event.channel_gap",
        "websuckets.event.presence",
        "websuckets.offset",
    ]
    event = message(document, "event.posted")
    assert event["summary"] == "A post was created."
    assert event["x-websuckets-message"] == {"kind": "event", "name": "posted"}
    assert event["payload"]["properties"]["payload"] == {"$ref": "#/components/schemas/Posted"}
    assert "correlationId" not in event
    operation = document["operations"]["channel.ticks"]
    assert operation["x-websuckets-channel"] == {
        "pattern": "ticks",
        "parameters": [],
        "history": None,
        "presence": False,
        "open": True,
    }
    assert keys_of(operation["messages"]) == ["event.any", "websuckets.event.channel_gap"]


def test_a_command_that_subscribes_has_positions() -> None:
    group = CommandGroup()

    @group.command("watch", subscribes=[posts])
    async def watch(socket: Socket) -> int: ...  # type: ignore[empty-body]  # never called

    @group.command("listen", subscribes=[ticks])
    async def listen(socket: Socket) -> int: ...  # type: ignore[empty-body]  # never called

    document = document_of(group, channels=[posts, ticks])
    settings = document["operations"]["watch"]["x-websuckets-command"]
    assert settings["subscribes"] == ["posts/{author}"]
    since = {"$ref": "#/components/schemas/websuckets.since"}
    assert property_of(document, "watch", "since") == since
    positions = {"$ref": "#/components/schemas/websuckets.positions"}
    assert property_of(document, "watch.reply", "subscribed") == positions
    assert "since" not in message(document, "listen")["payload"]["properties"]
    assert "subscribed" not in message(document, "listen.reply")["payload"]["properties"]
    for name in ("watch", "listen"):
        keys = keys_of(document["operations"][name]["reply"]["messages"])
        assert "websuckets.error.too_many_subscriptions" in keys


@pytest.mark.parametrize(
    ("frame", "is_valid"),
    [
        ({"event": "get"}, True),
        ({"event": "get", "payload": None, "id": None, "token": None}, True),
        ({"event": "get", "payload": 3, "id": "a", "token": "t", "unknown": 1}, True),
        ({"event": "get", "payload": "a"}, False),
        ({"event": "other"}, False),
        ({"event": "get", "id": 2**53 + 1}, False),
        ({"event": "get", "id": "a" * 129}, False),
        ({"event": "get", "token": 1}, False),
    ],
)
def test_an_optional_payload_may_be_absent(frame: Any, is_valid: bool) -> None:
    group = CommandGroup()

    @group.command("get")
    async def get(socket: Socket, number: Payload[int] = 3) -> None: ...

    document = document_of(group)
    assert document["operations"]["get"]["x-websuckets-command"]["payload"] == "optional"
    assert validator_of(document, "get").is_valid(frame) is is_valid


def test_a_command_without_a_payload_has_none() -> None:
    group = CommandGroup()
    group.command("get", protected=True)(of_none)
    document = document_of(group)
    operation = document["operations"]["get"]
    assert operation["x-websuckets-command"]["payload"] == "none"
    assert operation["x-websuckets-command"]["guards"] == []
    assert operation["x-websuckets-command"]["protected"] is True
    assert operation["x-websuckets-command"]["timeout"] == Limits().handler_timeout
    assert "payload" not in message(document, "get")["payload"]["properties"]


def test_a_handler_that_asks_for_the_user_is_protected() -> None:
    group = CommandGroup()

    @group.command("get", raises=[Forbidden])
    async def get(socket: Socket, user: CurrentUser) -> None: ...

    operation = document_of(group)["operations"]["get"]
    assert operation["x-websuckets-command"]["protected"] is True
    keys = keys_of(operation["reply"]["messages"])
    assert keys.count("websuckets.error.forbidden") == 1


def test_an_event_of_two_channels_is_one_message() -> None:
    others = Channel("others", events=[Posted])
    document = document_of(CommandGroup(), channels=[posts, others])
    for name in ("channel.posts-author", "channel.others"):
        assert "event.posted" in keys_of(document["operations"][name]["messages"])
    assert "event.posted_2" not in document["components"]["messages"]


# Names, and order ---------------------------------------------------------------------------------


def test_keys_are_those_that_asyncapi_allows() -> None:
    """Expect a key of its own for each name, also where two names would have the same."""
    group = CommandGroup()
    for name in ("a b", "a_b", "a.b", "я ж", "a/b", "class", "a b.reply", "😀"):
        group.command(name)(of_none)
    operations = document_of(group)["operations"]
    names = {
        key: operation["title"]
        for key, operation in operations.items()
        if not key.startswith("websuckets.")
    }
    assert names == {
        "a_b": "a b",
        "a_b-u002ereply": "a b.reply",
        "a-u002eb": "a.b",
        "a-u002fb": "a/b",
        "a_b_2": "a_b",
        "class": "class",
        "-u044f_-u0436": "я ж",
        "-u1f600": "😀",
    }


def test_the_same_app_has_the_same_text_in_whatever_order_it_was_made() -> None:
    def app(*names: str, channels: list[Channel]) -> str:
        group = CommandGroup("x")
        for name in names:
            group.command(name)(of_posts)
        document = app_with(group, channels=channels).asyncapi()
        return json.dumps(document)

    assert app("b", "a", channels=[ticks, posts]) == app("a", "b", channels=[posts, ticks])


def test_a_document_is_a_new_object() -> None:
    app = WebSuckets()
    app.asyncapi()["info"]["title"] = "changed"
    assert app.asyncapi()["info"]["title"] == "websuckets"
    shared = app.asyncapi()["components"]["schemas"]["websuckets.id"]
    shared["description"] = "changed"
    assert app.asyncapi()["components"]["schemas"]["websuckets.id"]["description"] != "changed"


def test_groups_that_are_wrong_have_no_document() -> None:
    app = WebSuckets()
    group = CommandGroup()

    # The name is defined nowhere: that is the mistake.
    @group.command("get")
    async def get(socket: Socket, value: "Undefined") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    app.include_command_group(group)
    with pytest.raises(ConfigurationError, match="Undefined"):
        app.asyncapi()


def test_a_channel_that_is_not_included_is_told() -> None:
    group = CommandGroup()
    group.command("get", subscribes=[posts])(of_none)
    with pytest.raises(ConfigurationError, match="the app does not include Channel"):
        document_of(group)


async def test_a_running_app_has_the_document_of_what_it_serves() -> None:
    group = CommandGroup()
    group.command("get")(of_none)
    app = app_with(group)
    before = app.asyncapi()
    async with app.lifespan():
        assert app.asyncapi() == before


pytestmark = pytest.mark.anyio
