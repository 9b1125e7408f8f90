"""Events with a type: their names, and their way through handlers, channels and effects."""

import copy
import json
import logging
import math
import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import pytest
from harness import app_with, dial, errors
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, create_model
from serving import Serving

from websuckets import (
    Channels,
    ClientEvent,
    CommandGroup,
    Event,
    OnCommit,
    Payload,
    Socket,
    User,
    WebSuckets,
)
from websuckets.exc import ConfigurationError
from websuckets.middleware import CallNext, Outcome
from websuckets.protocol.events import client_event
from websuckets.protocol.messages import Message
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Commented(Event):
    ticket: int
    text: str = Field("", alias="theText")


class Closed(Event, name="ticket closed", title="A ticket was closed"):
    model_config = ConfigDict(frozen=True)

    ticket: int


class Reopened(Closed):
    by: str = "canary"


class Changed(Event, Generic[T]):
    value: T


class Measured(Event):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    mean: float
    name: str = "NaN"


class Numbers(Event, RootModel[list[int]]): ...


class Ticket(BaseModel):
    id: int


@dataclass
class Row:
    """An object with the attributes of an event, like one of an ORM."""

    ticket: int


class HTTPDone(Event): ...


class A1B2(Event): ...


class _Private(Event): ...


class Order_Placed(Event): ...


class ЗаказСоздан(Event): ...


def commented(ticket: int = 1, text: str = "hi") -> Commented:
    return Commented(ticket=ticket, theText=text)


# Names


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Commented, "commented"),
        (Closed, "ticket closed"),
        (Reopened, "reopened"),
        (Changed, "changed"),
        (Changed[int], "changed"),
        (Changed[T][int], "changed"),
        (type("IntChanged", (Changed[int],), {}), "int changed"),
        (HTTPDone, "http done"),
        (A1B2, "a1 b2"),
        (_Private, "private"),
        (Order_Placed, "order placed"),
        (ЗаказСоздан, "заказ создан"),
        (create_model("OrderPaid", __base__=Event), "order paid"),
    ],
)
def test_an_event_is_named_after_its_class(kind: type[Event], name: str) -> None:
    assert kind.__event_name__ == name


@pytest.mark.parametrize("name", ["", 7, "\ud800", b"a"])
def test_a_name_that_no_event_can_have_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"class .*Wrong\(Event, name="):

        class Wrong(Event, name=name): ...


def test_a_class_without_words_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="not empty"):
        type("__", (Event,), {})


def test_an_unknown_keyword_of_a_class_is_refused() -> None:
    with pytest.raises(TypeError):

        class Wrong(Event, nam="wrong"): ...


@given(st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1).map(lambda s: f"x{s}"))
def test_a_name_has_the_letters_of_the_class_in_lower_case(name: str) -> None:
    event = create_model(name, __base__=Event)
    assert event.__event_name__.replace(" ", "") == name.lower()
    assert event.__event_name__ == " ".join(event.__event_name__.split())


def test_keywords_of_pydantic_keep_their_meaning() -> None:
    class Locked(Event, frozen=True):  # type: ignore[misc]  # no checker takes it for any model
        ticket: int

    for event in (Locked(ticket=1), Closed(ticket=1)):
        with pytest.raises(ValidationError, match="frozen"):
            event.ticket = 2  # type: ignore[misc]
    assert Closed.model_json_schema()["title"] == "A ticket was closed"


def test_an_event_is_an_ordinary_model() -> None:
    event = commented()
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event
    assert Commented.model_validate({"ticket": 1, "theText": "hi"}) == event
    assert Commented.model_json_schema()["required"] == ["ticket"]


# Results


async def call(hint: Any, result: Any) -> tuple[str, Any]:
    """Return the name and the payload of the reply to a handler with this return annotation."""

    async def run(socket: Socket) -> Any:
        return result

    run.__annotations__ = {"socket": Socket, "return": hint}
    group = CommandGroup()
    group.command("run")(run)
    async with TestClient(app_with(group)) as client:
        reply = await client.call("run")
        return reply.event, reply.payload


COMMENTED = {"ticket": 1, "theText": "hi"}


@pytest.mark.parametrize(
    ("hint", "result", "sent"),
    [
        (Commented, commented(), ("commented", COMMENTED)),
        (Commented | None, commented(), ("commented", COMMENTED)),
        (Commented | None, None, ("run", None)),
        (Commented | Closed, commented(), ("commented", COMMENTED)),
        (Commented | Closed, Closed(ticket=1), ("ticket closed", {"ticket": 1})),
        (Ticket | Closed, Ticket(id=1), ("run", {"id": 1})),
        (Ticket | Closed, Closed(ticket=1), ("ticket closed", {"ticket": 1})),
        (ClientEvent | Commented, commented(), ("commented", COMMENTED)),
        (ClientEvent | Commented, ClientEvent("other", 1), ("other", 1)),
        (ClientEvent | Commented | int, 7, ("run", 7)),
        (str | Commented, ClientEvent("other", 1), ("other", 1)),
        (Any, commented(), ("commented", COMMENTED)),
        (object, commented(), ("commented", COMMENTED)),
        (Any, Reopened(ticket=1), ("reopened", {"ticket": 1, "by": "canary"})),
        (Event, Reopened(ticket=1), ("reopened", {"ticket": 1, "by": "canary"})),
        (Event | Closed, Reopened(ticket=1), ("ticket closed", {"ticket": 1})),
        (Event | None, None, ("run", None)),
        (Event | Ticket, Ticket(id=1), ("run", {"id": 1})),
        (Event | ClientEvent, ClientEvent("other", 1), ("other", 1)),
        # A subclass has the name and the fields of the annotated class.
        (Closed, Reopened(ticket=1), ("ticket closed", {"ticket": 1})),
        (Commented | Closed, Reopened(ticket=1), ("ticket closed", {"ticket": 1})),
        (Closed | Reopened, Reopened(ticket=1), ("reopened", {"ticket": 1, "by": "canary"})),
        # Other objects are converted as they are to any model.
        (Closed, Row(1), ("ticket closed", {"ticket": 1})),
        (Closed, {"ticket": 1, "secret": 2}, ("ticket closed", {"ticket": 1})),
        (Closed | None, {"ticket": 1}, ("ticket closed", {"ticket": 1})),
        (Commented | Measured, {"mean": 1}, ("measured", {"mean": 1, "name": "NaN"})),
        (Annotated[Commented | Closed, "note"], commented(), ("commented", COMMENTED)),
        (Annotated[Closed, "note"] | None, Closed(ticket=1), ("ticket closed", {"ticket": 1})),
        (list[Closed], [Closed(ticket=1)], ("run", [{"ticket": 1}])),
        (Changed[int], Changed[int](value=1), ("changed", {"value": 1})),
        (Changed[int] | Closed, Changed[int](value=1), ("changed", {"value": 1})),
        (Numbers, Numbers([1, 2]), ("numbers", [1, 2])),
        (Measured, Measured(mean=math.nan), ("measured", {"mean": None, "name": "NaN"})),
        (Measured | None, Measured(mean=math.nan), ("measured", {"mean": None, "name": "NaN"})),
        (Any, Measured(mean=-math.inf), ("measured", {"mean": None, "name": "NaN"})),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_event_is_the_reply_under_its_own_name(
    hint: Any, result: Any, sent: tuple[str, Any]
) -> None:
    assert await call(hint, result) == sent


@pytest.mark.parametrize(
    ("hint", "result", "told"),
    [
        (Commented, ClientEvent("commented", {}), "a ClientEvent does not fit"),
        (Commented, Reopened(ticket=1), "an event of another kind"),
        (Commented | Closed, Measured(mean=1), "an event of another kind"),
        (Reopened, Closed(ticket=1), "an event of another kind"),
        (Commented, {"text": "canary"}, "ticket: Field required"),
        (Commented | Closed, {"text": "canary"}, "Field required"),
        (Commented, None, "does not fit"),
        (Commented | Closed, None, "does not fit"),
        (ClientEvent, commented(), "it is not a ClientEvent"),
        (int, commented(), "does not fit"),
        (Event, {}, "it is not an Event"),
        (Event | ClientEvent, None, "it is not an Event"),
        (Event | None, {}, "does not fit"),
        (Event, Event(), "Event itself is not a kind of event"),
        (Any, Event(), "Event itself is not a kind of event"),
        (Any, Changed(value=object()), "while encoding the payload of the event 'changed'"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_event_that_does_not_fit_is_an_internal_error(
    hint: Any, result: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CommandError, match="internal error"):
        await call(hint, result)
    (record,) = errors(caplog)
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert told in "\n".join([str(error), *getattr(error, "__notes__", ())])
    assert "canary" not in caplog.text


async def test_replies_and_items_are_events_on_every_transport(serving: Serving) -> None:
    group = CommandGroup()

    @group.command("comment")
    async def comment(socket: Socket, model: Commented) -> Commented | Closed:
        return model if model.text else Closed(ticket=model.ticket)

    @group.command("untyped")
    async def untyped(socket: Socket, model: Payload[Commented | None]):  # type: ignore[no-untyped-def]
        return model

    @group.command("follow")
    async def follow(socket: Socket) -> AsyncIterator[Commented | Ticket]:
        yield commented(1)
        yield Ticket(id=2)

    @group.command("all")
    async def all_of_them(socket: Socket) -> AsyncIterator[Commented]:
        yield commented(1)
        yield Reopened(ticket=1)  # type: ignore[misc]  # on purpose

    async with serving(app_with(group)) as server, dial(server) as client:
        made = {"event": "commented", "payload": COMMENTED}
        assert await client.call("comment", payload=COMMENTED, id=1) == {**made, "id": 1}
        assert await client.call("comment", payload=COMMENTED, id="a") == {**made, "id": "a"}
        assert await client.call("comment", payload=COMMENTED) == made
        closed = {"event": "ticket closed", "payload": {"ticket": 1}, "id": 2}
        assert await client.call("comment", payload={"ticket": 1}, id=2) == closed
        assert (await client.call("comment", payload={}, id=3))["error"] == "validation error"
        assert await client.call("untyped", payload=COMMENTED, id=4) == {**made, "id": 4}
        await client.send("untyped", payload=None)  # needs no reply
        item = {**made, "id": 5, "more": True}
        assert await client.call("follow", id=5) == item
        assert await client.receive() == {**item, "event": "follow", "payload": {"id": 2}}
        assert await client.receive() == {"event": "follow", "payload": None, "id": 5}
        assert await client.call("all", id=6) == {**item, "id": 6}
        assert (await client.receive())["error"] == "internal error"


async def test_a_command_that_takes_effect_once_keeps_its_event() -> None:
    group = CommandGroup()
    runs: list[int] = []

    @group.command("comment", once=True)
    async def comment(socket: Socket, ticket: Payload[int]) -> Commented | None:
        runs.append(ticket)
        return commented(ticket) if ticket else None

    async with TestClient(app_with(group)) as client:
        for _ in range(2):
            reply = await client.call("comment", 1, key="a")
            assert (reply.event, reply.payload) == ("commented", COMMENTED)
            reply = await client.call("comment", 0, key="b")
            assert (reply.event, reply.payload) == ("comment", None)
    assert runs == [1, 0]


async def test_middleware_sees_an_event_and_may_reply_with_one() -> None:
    seen: list[str | None] = []

    async def watching(socket: Socket, message: Message, call_next: CallNext) -> Any:
        outcome: Outcome = await call_next()
        seen.append(outcome.frame)
        return outcome if message.id == 1 else Closed(ticket=2)

    group = CommandGroup(middleware=[watching])

    @group.command("comment")
    async def comment(socket: Socket) -> Commented:
        return commented()

    async with TestClient(app_with(group)) as client:
        await client.send("comment", id=1)
        assert await client.receive() == client_event(commented())[:-1] + ',"id":1}'
        await client.send("comment", id=2)
        reply = await client.receive()
        assert (reply.event, reply.payload, reply.id) == ("ticket closed", {"ticket": 2}, 2)
    assert [json.loads(frame or "") for frame in seen] == [
        {"event": "commented", "payload": COMMENTED, "id": id} for id in (1, 2)
    ]


# Channels and effects


def app_with_channels() -> WebSuckets:
    group = CommandGroup()

    @group.command("enter")
    async def enter(socket: Socket, *, channels: Channels, user: User) -> None:
        user.id = "ann"
        await channels.subscribe(socket, "news")

    @group.command("publish")
    async def publish(socket: Socket, *, channels: Channels) -> None:
        await channels.publish("news", commented(), exclude=socket)
        await channels.publish("news", Measured(mean=math.nan))
        await channels.send_to("ann", Closed(ticket=1))

    @group.command("commit")
    async def commit(socket: Socket, *, on_commit: OnCommit) -> None:
        event = commented(text="before")
        on_commit.publish("news", event)
        on_commit.send_to("ann", event)
        event.text = "after"

    @group.command("misuse")
    async def misuse(
        socket: Socket, what: Payload[str], *, channels: Channels, on_commit: OnCommit
    ) -> None:
        events: dict[str, Any] = {
            "class": Commented,
            "base": Event(),
            "model": Ticket(id=1),
            "unserialisable": Changed(value=object()),
        }
        with pytest.raises((TypeError, ValueError)) as at_once:
            on_commit.publish("news", events[what])
        with pytest.raises(type(at_once.value), match="event"):
            on_commit.send_to("ann", events[what])
        await channels.publish("news", events[what])

    app = WebSuckets()
    app.include_command_group(group)
    return app


async def test_events_are_published_and_sent_to_users(serving: Serving) -> None:
    async with serving(app_with_channels()) as server, dial(server) as ann, dial(server) as bob:
        await ann.call("enter", id=1)
        await bob.send("publish", id=1)
        assert await ann.receive() == {"event": "commented", "payload": COMMENTED}
        measured = {"event": "measured", "payload": {"mean": None, "name": "NaN"}}
        assert await ann.receive() == measured
        assert await ann.receive() == {"event": "ticket closed", "payload": {"ticket": 1}}


async def test_an_event_on_commit_is_encoded_when_it_is_given() -> None:
    async with TestClient(app_with_channels()) as client:
        await client.call("enter")
        await client.call("commit")
        for _ in range(2):
            received = await client.receive()
            expected = {"ticket": 1, "theText": "before"}
            assert (received.event, received.payload) == ("commented", expected)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("class", "an event is sent, not its class: write Commented(...)"),
        ("base", "Event itself is not a kind of event"),
        ("model", "an event is a ClientEvent or an Event, not Ticket"),
        ("unserialisable", "while encoding the payload of the event 'changed'"),
    ],
)
async def test_what_is_not_an_event_is_not_published(
    what: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "websuckets"):
        async with TestClient(app_with_channels()) as client:
            with pytest.raises(CommandError, match="internal error"):
                await client.call("misuse", what)
    assert told in caplog.text


class Everything(Event):
    identity: UUID
    nested: list[Ticket]
    number: float | None


@given(
    st.builds(
        Everything,
        identity=st.uuids(),
        nested=st.lists(st.builds(Ticket, id=st.integers(-(2**53), 2**53))),
        number=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_the_payload_of_an_event_is_read_back_by_its_class(event: Everything) -> None:
    frame = json.loads(client_event(event))
    assert frame["event"] == "everything"
    assert Everything.model_validate(frame["payload"]) == event
