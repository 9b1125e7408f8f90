"""Online and verified users, and the app for which the class `Session` stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from harness import app_with, dial, in_another_loop, talk
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.exc import NoCurrentSession
from websuckets.session import Session, User, UserId, disconnected, watch
from websuckets.session import connected as connect
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


class FakeSocket:
    """A socket with the id alone; closing and sending are tested over real sockets."""

    def __init__(self) -> None:
        self.id = uuid4()


@contextmanager
def connected(user: User, session: Session) -> Iterator[None]:
    connect(user, session)
    yield
    disconnected(user)


def user() -> User:
    return User(FakeSocket())


def login_commands() -> CommandGroup:
    group = CommandGroup()

    @group.command("be")
    async def be(socket: ServerConnection, *, user: User) -> None:
        user.id, user.token = "ann", "secret"

    @group.command("online")
    async def online(socket: ServerConnection) -> list[UUID]:
        return sorted(Session.online)

    @group.command("verified")
    async def verified(socket: ServerConnection) -> list[Any]:
        return [Session.verified[id].socket.id for id in sorted(map(str, Session.verified))]

    @group.command("me", protected=True)
    async def me(socket: ServerConnection) -> UUID:
        return socket.id

    @group.command("my id")
    async def my_id(socket: ServerConnection) -> UUID:
        return socket.id

    @group.command("revoke")
    async def revoke(socket: ServerConnection, *, session: Session) -> None:
        await session.revoke("ann")

    return group


def test_a_new_user_is_nobody() -> None:
    """A new user has no id, no token, and no attributes that were not set."""
    someone = user()
    assert (someone.id, someone.token) == (None, None)
    with pytest.raises(AttributeError, match="login"):
        _ = someone.login
    someone.login = "ann"
    assert someone.login == "ann"


def test_setting_the_id_verifies_at_once() -> None:
    """Setting the id to None ends the verification and removes the token."""
    session, someone = Session(), user()
    with connected(someone, session):
        assert session.online == {someone.socket.id: someone}
        assert session.verified == {}
        someone.id = "ann"
        someone.token = "secret"
        assert session.verified == {"ann": someone}
        someone.id = "".join("ann")  # equal, but another object
        assert (session.verified, someone.token) == ({"ann": someone}, "secret")
        someone.id = 0
        assert (session.verified, someone.token) == ({0: someone}, None)
        someone.token = "secret"
        someone.id = None
        assert (session.verified, someone.token) == ({}, None)
    assert session.online == {}


def test_a_client_that_leaves_is_neither_online_nor_verified() -> None:
    """The record of a closed connection keeps its id; changing the id verifies nobody."""
    session, someone = Session(), user()
    with connected(someone, session):
        someone.id = "ann"
    assert (session.online, session.verified) == ({}, {})
    assert someone.id == "ann"
    someone.id = "bob"
    assert session.verified == {}


def test_a_client_whose_leaving_an_observer_interrupts_has_left() -> None:
    """The error of the observer is raised once; a second call finds nothing to do."""

    class Failing:
        def verified(self, user: User, id: UserId) -> None: ...

        def demoted(self, user: User, id: UserId) -> None:
            raise RuntimeError("the event loop has ended")

        def left(self, user: User) -> None: ...

    session, ann = Session(), user()
    watch(session, Failing())
    connect(ann, session)
    ann.id = "ann"
    with pytest.raises(RuntimeError, match="has ended"):
        disconnected(ann)
    disconnected(ann)
    assert (session.online, session.verified) == ({}, {})


def test_an_id_that_was_set_before_connecting_counts() -> None:
    """A user with an id is verified as soon as it is online."""
    session, someone = Session(), user()
    someone.id = "ann"
    with connected(someone, session):
        assert session.verified == {"ann": someone}
    assert session.verified == {}


def test_of_two_connections_of_a_user_the_newest_counts() -> None:
    """After the newest connection is closed, the next older one is the verified one."""
    session = Session()
    first, second, third = user(), user(), user()
    with connected(first, session):
        first.id = "ann"
        with connected(second, session):
            second.id = "ann"
            assert session.verified == {"ann": second}
            with connected(third, session):
                third.id = "ann"
                second.id = "bob"
                assert session.verified == {"ann": third, "bob": second}
            assert session.verified == {"ann": first, "bob": second}
        assert session.verified == {"ann": first}


@pytest.mark.parametrize("id", [True, 1.0, uuid4(), b"ann", ["ann"]])
def test_an_id_is_a_string_or_a_number(id: Any) -> None:
    """An id of another type would not be equal to one in a message."""
    with pytest.raises(TypeError, match=r"User\.id is a str, an int or None"):
        user().id = id


@pytest.mark.parametrize("token", [5, b"secret", True])
def test_a_token_is_a_string(token: Any) -> None:
    """A token of another type would never be equal to one in a message."""
    with pytest.raises(TypeError, match=r"User\.token is a str or None"):
        user().token = token


def test_an_id_is_text() -> None:
    """An id with surrogates is refused, as it cannot be sent to other nodes."""
    someone = user()
    with pytest.raises(ValueError, match="surrogates"):
        someone.id = "\ud800"
    assert someone.id is None
    someone.id = "я"


def test_reprs_tell_no_secrets() -> None:
    """Reprs have neither the token nor an attribute that the program added."""
    someone = user()
    someone.id, someone.token, someone.password = "ann", "canary", "canary"
    session = Session()
    with connected(someone, session):
        assert "canary" not in repr(someone) + repr(session)
        assert repr(session) == "Session(online=1, verified=1)"
        assert repr(someone) == f"User(socket={someone.socket.id}, id='ann')"


def test_outside_of_any_app_the_class_stands_for_nobody() -> None:
    """The error says what to do."""
    with pytest.raises(NoCurrentSession, match="no app runs; inject `session: Session`"):
        _ = Session.online


async def test_the_class_stands_for_the_current_app() -> None:
    """The class stands for the app of a handler, or outside of handlers for the only app that
    runs."""
    first, second = app_with(login_commands()), app_with(login_commands())
    async with talk(first) as ann:
        outside = list(Session.online)
        assert (await ann.call("online"))["payload"] == [str(id) for id in outside]
        async with talk(second) as bob:
            with pytest.raises(NoCurrentSession, match="several apps run"):
                _ = Session.verified
            online = (await bob.call("online"))["payload"]
            assert online == [(await bob.call("my id"))["payload"]]
            assert online != [str(id) for id in outside]
            assert (await ann.call("online"))["payload"] == [str(id) for id in outside]


async def test_verified_connections_over_the_wire() -> None:
    """Expect a closed connection of a user with two to be forgotten before the next reply."""
    async with talk(app_with(login_commands())) as first:
        await first.call("be", id=1)
        first_id = (await first.call("my id"))["payload"]
        async with first.another() as second:
            await second.call("be", id=1)
            second_id = (await second.call("my id"))["payload"]
            assert (await first.call("verified"))["payload"] == [second_id]
            assert len((await first.call("online"))["payload"]) == 2
        while len((await first.call("online"))["payload"]) > 1:
            await anyio.sleep(0)
        assert (await first.call("verified"))["payload"] == [first_id]


async def test_revoking_closes_every_connection_of_the_user() -> None:
    """Connections of the user are closed with 4401 and not verified any more; others stay."""
    app = app_with(login_commands())
    async with app.serve("127.0.0.1", 0) as server, dial(server) as admin:
        async with dial(server) as first, dial(server) as second:
            await first.call("be", id=1)
            await second.call("be", id=1)
            await admin.call("revoke", id=1)
            assert await first.closed() == (4401, "revoked")
            assert await second.closed() == (4401, "revoked")
        assert (await admin.call("verified"))["payload"] == []
        await admin.call("revoke", id=1)


async def test_one_may_revoke_oneself() -> None:
    """A user that revokes itself is closed, too, and gets no reply."""
    async with talk(app_with(login_commands())) as client:
        await client.call("be", id=1)
        await client.send("revoke", id=2)
        assert await client.closed() == (4401, "revoked")


async def test_an_app_that_stopped_is_nobodys() -> None:
    """The class stands for an app only while it runs."""
    app = WebSuckets()
    async with app.serve("127.0.0.1", 0):
        assert Session.online == {}
    with pytest.raises(NoCurrentSession):
        _ = Session.online


async def test_users_are_revoked_in_the_loop_of_their_app() -> None:
    """Calls from another event loop are refused; reading is allowed."""
    app = WebSuckets()
    session = app._session
    async with TestClient(app) as client:
        for attempt in (
            partial(session.revoke, "ann"),
            partial(session.forget, session.online[client.socket.id]),
        ):
            with pytest.raises(RuntimeError, match="Session: the app runs in another event loop"):
                await in_another_loop(attempt)
        assert client.socket.id in await in_another_loop(lambda: session.online)
    await in_another_loop(session.revoke, "ann")  # the app does not run any more
