"""Strings of a program: a member of a `str` enum is used as its value everywhere."""

import enum
from typing import Any

import pytest
from harness import app_with
from websockets.datastructures import Headers

from websuckets import ClientEvent, CommandGroup, Socket
from websuckets.channels import Channels
from websuckets.connections.admission import Admission
from websuckets.exc import (
    ClientError,
    ConfigurationError,
    HandshakeRefused,
    InternalError,
    NotAuthorized,
)
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Name(str, enum.Enum):  # noqa: UP042  # that is the point
    """An enum as written before Python 3.11: an f-string has ``Name.CREATE``."""

    POST = "post"
    CREATE = "create"
    PATH = "/ws"
    ADDRESS = "10.0.0.0/8"


async def test_members_are_names_of_commands_and_prefixes() -> None:
    """Members are names with and without a prefix."""
    names = []
    for prefix, name in (("", Name.CREATE), (Name.POST, "create"), (Name.POST, Name.POST)):
        group = CommandGroup(prefix)

        @group.command(name)
        async def run(socket: Socket) -> str:
            return "made"

        async with TestClient(app_with(group)) as client:
            event = f"{'post ' if prefix else ''}{name.value if isinstance(name, Name) else name}"
            reply = await client.call(event)
            assert (reply.event, reply.payload) == (event, "made")
            names.append(event)
        assert type(group.prefix) is str
    assert names == ["create", "post create", "post post"]


async def test_members_are_names_of_events_errors_channels_and_users() -> None:
    """The value is used in frames, in `repr`, and when the string is read again."""
    event = ClientEvent(Name.CREATE, 1)
    assert (event, repr(event)) == ('{"event":"create","payload":1}', "ClientEvent('create')")
    error = ClientError(Name.CREATE)
    assert (error.error, str(error), type(error.error)) == ("create", "create", str)
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, channels: Channels, user: User) -> list[Any]:
        user.id = Name.POST
        await channels.subscribe(socket, Name.CREATE)
        await channels.publish("create", ClientEvent("e"))
        members = await channels.members("create")
        assert type(user.id) is str
        assert f"{user}".endswith("id='post')")
        return [f"{member}" for member in members]

    async with TestClient(app_with(group)) as client:
        assert (await client.call("run")).payload == ["post"]
        assert (await client.receive()).event == "e"


def test_members_say_who_may_connect_and_where() -> None:
    """Members may be paths, subprotocols and networks."""
    admission = Admission.of(None, [Name.ADDRESS], [Name.POST], Name.PATH, Name.PATH)
    for given in (admission.path, admission.health, *admission.subprotocols):
        assert type(given) is str
    assert admission.subprotocol(["post"]) == "post"
    forwarded = Headers([("X-Forwarded-For", "1.2.3.4")])
    assert admission.address_of(("10.1.1.1", 1), forwarded) == ("1.2.3.4", 0)
    with pytest.raises(ConfigurationError, match="a subprotocol is a token"):
        Admission.of(None, [], [5], None, None)
    refused = HandshakeRefused(403, Name.POST, {Name.POST: Name.CREATE})
    assert (str(refused), refused.headers) == ("HTTP 403: post", {"post": "create"})


@pytest.mark.parametrize("error", [{"code": 4}, 4, None, b"no", ["no"]])
def test_an_error_that_is_no_text_is_refused_where_it_is_made(error: Any) -> None:
    """Each error class refuses another type, and the message says to use `details`."""
    for kind in (ClientError, InternalError, NotAuthorized):
        with pytest.raises(TypeError, match=r"the error is a str, not .*goes into details"):
            kind(error)
    for headers in ({"a": error}, {4: "a"}):
        with pytest.raises(ValueError, match="is not a str"):
            HandshakeRefused(403, "", headers)


async def test_an_error_that_is_no_text_is_an_internal_error_for_the_client() -> None:
    """A wrong type is an incident of the program, and nothing of it is sent."""
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket) -> None:
        raise ClientError({"code": 4})  # type: ignore[arg-type]

    async with TestClient(app_with(group)) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("run")
