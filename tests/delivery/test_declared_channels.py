"""Channels that a program declares: their names, their events, and the app that includes them."""

import copy
import enum
import json
import pickle
import re
from collections.abc import Iterable
from itertools import product
from typing import Any, Final
from uuid import UUID

import pytest
from harness import dial, errors
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from serving import Serving

from websuckets import (
    Channels,
    ClientEvent,
    CommandGroup,
    Event,
    Limits,
    OnCommit,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channel, ChannelName, History
from websuckets.delivery import declarations
from websuckets.delivery.declarations import ChannelDeclarations
from websuckets.exc import ConfigurationError, InvalidChannel
from websuckets.protocol.events import client_event
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Commented(Event):
    ticket: UUID | int
    text: str = Field("", alias="theText")


class Closed(Event):
    ticket: int


class LateClosed(Closed): ...


class OtherCommented(Event, name="commented"):
    ticket: int


TICKET: Final = Channel("ticket/{id}", events=[Commented, Closed], history=History(size=2))
NEWS: Final = Channel("news")


# Names


class Colour(str, enum.Enum):  # noqa: UP042  # its str() is another text
    RED = "red"


@pytest.mark.parametrize(
    ("pattern", "parameters", "name"),
    [
        ("news", {}, "news"),
        ("ticket/{id}", {"id": 5}, "ticket/5"),
        ("ticket/{id}", {"id": UUID(int=1)}, "ticket/00000000-0000-0000-0000-000000000001"),
        ("{colour}", {"colour": Colour.RED}, "red"),
        ("room-{id}!", {"id": "a b"}, "room-a b!"),
        ("{a}/x/{b}", {"b": 1, "a": 2}, "2/x/1"),
        ("{self}", {"self": "я"}, "я"),
        ("a//{b}/", {"b": "\n"}, "a//\n/"),
    ],
)
def test_a_declaration_makes_names(pattern: str, parameters: dict[str, Any], name: str) -> None:
    channel = Channel(pattern)
    made = channel(**parameters)
    assert made == name
    assert hash(made) == hash(name)
    assert type(made) is ChannelName
    assert made.channel is channel
    assert ChannelDeclarations([channel]).find(name) is channel


def test_a_name_is_a_string_that_keeps_its_declaration() -> None:
    name = TICKET(id=5)
    assert (repr(name), str(name), f"{name}") == ("'ticket/5'", "ticket/5", "ticket/5")
    assert type(str(name)) is type(name.upper()) is str
    assert {name: 1}["ticket/5"] == 1
    assert json.dumps([name]) == '["ticket/5"]'
    for another in (copy.copy(name), copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert another == name
        assert another.channel == TICKET


def test_declarations_are_equal_by_their_values() -> None:
    same = Channel("ticket/{id}", events=[Commented, Closed], history=History(size=2))
    assert same == TICKET == copy.copy(TICKET) == copy.deepcopy(TICKET)
    assert TICKET == pickle.loads(pickle.dumps(TICKET))
    assert len({same, TICKET}) == 1
    assert TICKET != Channel("ticket/{id}")
    assert TICKET != "ticket/{id}"
    assert repr(TICKET) == "Channel('ticket/{id}')"
    assert repr(ChannelDeclarations([TICKET])) == "ChannelDeclarations(1)"


@pytest.mark.parametrize(
    ("channel", "parameters", "told"),
    [
        (TICKET, {}, "takes id=...: id is missing"),
        (TICKET, {"id": 1, "x": "canary"}, "takes id=...: x is not one"),
        (TICKET, {"ID": 1}, "takes id=...: id is missing, ID is not one"),
        (TICKET, {"id": None}, "takes id=...: id is None"),
        (NEWS, {"id": 1}, "Channel('news') takes no parameters: id is not one"),
    ],
)
def test_other_parameters_than_those_of_the_pattern_are_refused(
    channel: Channel, parameters: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(told)) as error:
        channel(**parameters)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize("value", ["", "/", "a/b", b"a/b"])
def test_a_value_that_would_make_another_name_is_refused(value: Any) -> None:
    with pytest.raises(InvalidChannel):
        TICKET(id=value)


# Mistakes in declarations


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("", "the pattern is a str that is not empty"),
        (7, "the pattern is a str that is not empty"),
        (b"a", "the pattern is a str that is not empty"),
        ("\ud800", "half of a surrogate pair"),
        ("a/{b", "the braces of '{b' do not belong together"),
        ("a/b}", "do not belong together"),
        ("a/{{b}}", "do not belong together"),
        ("a/{b/c}", "do not belong together"),
        ("}{", "do not belong together"),
        ("a/{}", "'' is not the name of a parameter"),
        ("a/{1}", "'1' is not the name of a parameter"),
        ("a/{class}", "'class' is not the name of a parameter"),
        ("{a}-{b}", "the segment '{a}-{b}' has two parameters"),
        ("{a}{a}", "has two parameters"),
        ("{a}/{a}", "a parameter stands twice"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(pattern: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        Channel(pattern)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"events": Commented}, "write a list, events=[Commented]"),
        ({"events": "commented"}, "write a list"),
        ({"events": 7}, "write a list"),
        ({"events": []}, "leave events out to allow any event"),
        ({"events": [Event]}, "is not a class of an event"),
        ({"events": ["commented"]}, "'commented' is not a class of an event"),
        ({"events": [Closed(ticket=1)]}, "is not a class of an event"),
        ({"events": [BaseModel]}, "is not a class of an event"),
        (
            {"events": [Commented, OtherCommented]},
            "Commented and OtherCommented have one name, 'commented'; choose another, class "
            "OtherCommented(Event, name=...)",
        ),
        ({"history": 7}, "history=7: write History(size=1000, seconds=86_400)"),
        ({"history": History}, "write History(size=1000, seconds=86_400)"),
        ({"presence": "yes"}, "presence='yes': it is True or False"),
    ],
)
def test_an_option_that_is_not_valid_is_refused(options: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)) as error:
        Channel("ticket/{id}", **options)
    assert str(error.value).startswith("Channel('ticket/{id}'): ")


def test_an_event_may_be_listed_twice() -> None:
    assert Channel("a", events=(Closed, Closed)).events == (Closed,)


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        (TICKET, "write a list, channels=[...]"),
        ("news", "write a list"),
        (7, "write a list"),
        (["news"], "'news' is not a Channel"),
        ([TICKET(id=1)], "without calling it"),
        ([NEWS, Channel("news")], "Channel('news') stands twice"),
        ([TICKET, Channel("ticket/{name}")], "have names in common"),
        ([TICKET, 7, NEWS, Channel("{any}")], "2 problems"),
    ],
)
def test_declarations_that_an_app_cannot_tell_apart_are_refused(channels: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        WebSuckets(channels=channels)


# Finding a declaration

TEXTS: Final = st.text("ab", max_size=2)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    segments = draw(st.lists(st.tuples(TEXTS, st.booleans(), TEXTS), min_size=1, max_size=2))
    pattern = "/".join(
        f"{before}{{p{number}}}{after}" if is_open else before + after
        for number, (before, is_open, after) in enumerate(segments)
    )
    assume(pattern)
    return pattern


def names_of(pattern: str, longest: int) -> set[str]:
    """Return all names of a pattern whose parameters have at most ``longest`` letters."""
    parts = re.split(r"(\{\w+\})", pattern)
    values = ["".join(v) for n in range(1, longest + 1) for v in product("ab", repeat=n)]
    choices = [values if part.startswith("{") else [part] for part in parts]
    return {"".join(choice) for choice in product(*choices)}


@given(patterns(), patterns())
@example("ab", "{p0}a")
@example("ba", "a{p0}")
@example("aa", "a{p0}a")
@example("aba", "a{p0}a")
@example("a{p0}", "ab{p0}")
@example("{p0}a", "{p0}b")
@example("a/{p1}", "{p0}/b")
@example("a/{p1}", "{p0}")
def test_patterns_overlap_if_and_only_if_they_have_a_name_in_common(one: str, two: str) -> None:
    """Expect values of five letters to decide: two texts of two letters, and one between them."""
    in_common = names_of(one, 5) & names_of(two, 5)
    first, second = Channel(one), Channel(two)
    if in_common:
        with pytest.raises(ConfigurationError, match=r"stands twice|names in common"):
            ChannelDeclarations([first, second])
        return
    found = ChannelDeclarations([first, second])
    for channel in (first, second):
        for name in names_of(channel.pattern, 2):
            assert found.find(name) is channel


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_name_is_found_by_its_pattern_whatever_the_values(one: str, two: str) -> None:
    channel, other = Channel("a.b/{x}-/{y}"), Channel("other")
    found = ChannelDeclarations([other, channel])
    if "/" in one + two:
        with pytest.raises(InvalidChannel):
            channel(x=one, y=two)
        return
    name = channel(x=one, y=two)
    assert name == f"a.b/{one}-/{two}"
    assert found.find(str(name)) is found.find(name) is channel
    for near in (f"a.b/{one}/{two}x/", f"a_b/{one}-/{two}", f"a.b/-/{two}", "", "other/"):
        assert found.find(near) is None


def test_names_that_were_found_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declarations, "MAX_FOUND", 10)
    found = ChannelDeclarations([TICKET, NEWS])
    for _ in range(2):
        for number in range(25):
            assert found.find(f"ticket/{number}") is TICKET
            assert found.find(f"none/{number}/") is None
            assert len(found._found) <= 10
    long = "ticket/" + "x" * declarations.MAX_FOUND_LENGTH
    assert found.find(long) is TICKET
    assert long not in found._found
    assert found.find("news") is NEWS


def test_a_member_of_an_enum_is_found_by_its_value() -> None:
    channel = Channel("red")
    assert ChannelDeclarations([channel]).find(Colour.RED) is channel


def test_without_declarations_no_name_is_found() -> None:
    found = ChannelDeclarations()
    assert found.find("") is found.find("news") is None
    assert found.channels == ()


# Events


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_frame_is_read_as_the_event_of_its_class(kind: type) -> None:
    for event in (Commented(ticket=UUID(int=1), theText="hi"), Closed(ticket=1)):
        frame = client_event(event)
        read = TICKET.event_of(frame if kind is str else frame.encode())
        assert type(read) is type(event)
        assert read == event


@pytest.mark.parametrize("channel", [TICKET, NEWS])
def test_a_frame_of_an_event_that_is_not_listed_is_a_client_event(channel: Channel) -> None:
    read = channel.event_of(b'{"event":"older","payload":{"a":1}}')
    assert isinstance(read, ClientEvent)
    assert (read.event, read.payload) == ("older", {"a": 1})


@pytest.mark.parametrize(
    "frame",
    [
        '{"event":"closed","payload":{"ticket":"canary"}}',
        '{"event":"closed","payload":null}',
        '{"event":7,"payload":"canary"}',
        '["canary"]',
        "canary",
    ],
)
def test_a_frame_that_does_not_fit_is_an_error_without_the_payload(frame: str) -> None:
    with pytest.raises(ValueError) as error:
        TICKET.event_of(frame)
    assert "canary" not in str(error.value)
    assert error.value.__cause__ is None


# Served


def app_including(channels: Iterable[Channel], **options: Any) -> WebSuckets:
    group = CommandGroup()
    events: dict[str, Any] = {
        "commented": Commented(ticket=1, theText="hi"),
        "closed": Closed(ticket=1),
        "late": LateClosed(ticket=1),
        "same name": OtherCommented(ticket=1),
        "client event": ClientEvent("closed", {"ticket": 1}),
        "another client event": ClientEvent("reopened", {"ticket": 1}),
    }

    @group.command("watch", subscribes=channels)
    async def watch(socket: Socket, id: Payload[int | str], *, channels: Channels) -> ChannelName:
        name = TICKET(id=id)
        await channels.subscribe(socket, name)
        return name

    @group.command("watch by name", subscribes=channels)
    async def watch_by_name(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.subscribe(socket, name)

    @group.command("leave")
    async def leave(socket: Socket, id: Payload[int], *, channels: Channels) -> None:
        await channels.unsubscribe(socket, TICKET(id=id))

    @group.command("members")
    async def members(socket: Socket, id: Payload[int], *, channels: Channels) -> list[Any]:
        return list(await channels.members(TICKET(id=id)))

    @group.command("publish")
    async def publish(socket: Socket, event: Payload[str], *, channels: Channels) -> None:
        await channels.publish("ticket/1", events[event])

    @group.command("publish by declaration")
    async def by_declaration(socket: Socket, event: Payload[str], *, channels: Channels) -> None:
        await channels.publish(TICKET(id=1), events[event])

    @group.command("publish elsewhere")
    async def elsewhere(socket: Socket, event: Payload[str], *, channels: Channels) -> None:
        await channels.publish("elsewhere", events[event])

    @group.command("commit")
    async def commit(socket: Socket, event: Payload[str], *, on_commit: OnCommit) -> bool:
        try:
            on_commit.publish(TICKET(id=1), events[event])
        except (ValueError, ConfigurationError):
            return False
        return True

    app = WebSuckets(channels=channels, **options)
    app.include_command_group(group)
    return app


async def test_a_name_and_a_plain_string_are_one_channel(serving: Serving) -> None:
    app = app_including([TICKET, NEWS])
    async with serving(app) as server, dial(server) as ann, dial(server) as bob:
        assert (await ann.call("watch", payload=1, id=1))["payload"] == "ticket/1"
        await bob.call("watch by name", payload="ticket/1", id=1)
        await ann.send("publish", payload="commented")
        await bob.send("publish by declaration", payload="closed")
        commented = {"event": "commented", "payload": {"ticket": 1, "theText": "hi"}}
        closed = {"event": "closed", "payload": {"ticket": 1}}
        for client in (ann, bob):
            got = [await client.receive() for _ in range(2)]
            assert sorted(frame["offset"] for frame in got) == [1, 2]
            events = [{name: frame[name] for name in ("event", "payload")} for frame in got]
            assert sorted(events, key=lambda frame: str(frame["event"])) == [closed, commented]
        await ann.call("leave", payload=1, id=2)
        await bob.send("publish", payload="client event")
        assert await bob.receive() == closed | {"channel": "ticket/1", "offset": 3}
        assert (await ann.call("members", payload=1, id=3))["payload"] == []


@pytest.mark.parametrize("event", ["late", "same name", "another client event"])
@pytest.mark.parametrize("command", ["publish", "publish by declaration"])
async def test_an_event_that_a_channel_does_not_list_is_not_published(
    event: str, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with TestClient(app_including([TICKET])) as client:
        await client.call("watch", 1)
        with pytest.raises(CommandError, match="internal error"):
            await client.call(command, event)
        await client.call("publish", "closed")
        assert (await client.receive()).event == "closed"
    (record,) = errors(caplog)
    assert record.exc_info is not None
    told = str(record.exc_info[1])
    assert told.startswith("Channel('ticket/{id}') does not list the event '")
    assert "to the events=[...] of the channel" in told
    assert ("another class than the listed one" in told) == (event == "same name")


async def test_an_event_that_is_not_listed_is_refused_on_commit_at_once() -> None:
    async with TestClient(app_including([TICKET])) as client:
        await client.call("watch", 1)
        assert not (await client.call("commit", "late")).payload
        assert (await client.call("commit", "commented")).payload
        assert (await client.receive()).event == "commented"


@pytest.mark.parametrize("channels", [[TICKET], [TICKET, Channel("elsewhere")]])
async def test_channels_that_list_no_events_have_any(channels: list[Channel]) -> None:
    """Expect that of channels without a declaration, too."""
    async with TestClient(app_including(channels)) as client:
        await client.call("watch by name", "elsewhere")
        await client.call("publish elsewhere", "late")
        assert (await client.receive()).event == "late closed"


@pytest.mark.parametrize(
    ("command", "payload"),
    [("watch", 1), ("leave", 1), ("members", 1), ("publish by declaration", "closed")],
)
async def test_a_declaration_that_the_app_does_not_include_is_refused(
    command: str, payload: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect another declaration with the same pattern not to count."""
    async with TestClient(app_including([NEWS, Channel("ticket/{id}")])) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call(command, payload)
        assert not (await client.call("commit", "closed")).payload
    assert "Channel('ticket/{id}') is not included in the app" in caplog.text
    assert "WebSuckets(channels=[...])" in caplog.text


async def test_values_count_against_the_limit_of_names() -> None:
    app = app_including([TICKET], limits=Limits(channel_name=len("ticket/") + 3))
    async with TestClient(app) as client:
        assert (await client.call("watch", "abc")).payload == "ticket/abc"
        for value in ("abcd", "яя", "a/b", ""):
            with pytest.raises(CommandError, match="invalid channel"):
                await client.call("watch", value)


async def test_an_app_may_be_served_again_with_its_channels() -> None:
    app = app_including([TICKET])
    for _ in range(2):
        async with TestClient(app) as client:
            await client.call("watch", 1)
            await client.call("publish", "closed")
            assert (await client.receive()).event == "closed"
