"""Two nodes of one app serve their clients as one, whatever broker connects them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import rooms
from brokers import Make
from dishka import Provider, Scope
from harness import errors
from timeouts import TIMEOUT

from websuckets import ClientEvent, Limits, WebSuckets
from websuckets.broker import Broker, Link, MemoryBroker, Receiver
from websuckets.security import SecurityProvider
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


def app_on(broker: Broker, limits: Limits | None = None) -> WebSuckets:
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: broker, provides=Broker)
    return rooms.app(providers=[provider, SecurityProvider()], limits=limits)


@asynccontextmanager
async def clients_of_two_nodes(make: Make) -> AsyncIterator[tuple[TestClient, TestClient]]:
    async with TestClient(app_on(make())) as ann, TestClient(app_on(make())) as bob:
        yield ann, bob


async def until(client: TestClient, event: str, payload: object, reply: object) -> None:
    """Ask until the client gets this reply: other nodes learn of a change with a delay."""
    with anyio.fail_after(TIMEOUT):
        while (await client.call(event, payload)).payload != reply:
            await anyio.sleep(0.01)


async def test_what_one_publishes_reaches_the_others_subscribers(make: Make) -> None:
    """The subscribers of every node get each event once, in order."""
    async with clients_of_two_nodes(make) as (ann, bob):
        for client in (ann, bob):
            await client.call("join", "a")
        for number in range(100):
            await ann.call("publish", {"channel": "a", "what": number})
        for client in (ann, bob):
            assert [(await client.receive()).payload for _ in range(100)] == list(range(100))
        await bob.call("publish", {"channel": "a", "what": "last"})
        for client in (ann, bob):
            assert (await client.receive()).payload == "last"


async def test_who_has_left_a_channel_gets_no_more(make: Make) -> None:
    """A connection that left a channel, or was closed, gets no more events of the channel."""
    async with clients_of_two_nodes(make) as (ann, bob):
        async with bob.connect() as other:
            await other.call("join", "a")
        for name in ("a", "b"):
            await bob.call("join", name)
        await bob.call("leave", "a")
        await bob.call("join", "c")
        for name in ("a", "b"):
            await ann.call("publish", {"channel": name, "what": name})
        assert (await bob.receive()).payload == "b"


async def test_a_user_is_reached_on_every_node(make: Make) -> None:
    """An event for a user reaches the user's connections on every node."""
    async with clients_of_two_nodes(make) as (ann, bob):
        async with bob.connect() as again:
            for client in (ann, again):
                await client.call("enter", 7)
            for whom in ("7", 7):
                await bob.call("tell", whom)
            for client in (ann, again):
                assert (await client.receive()).event == "told"


async def test_presence_is_that_of_all_nodes(make: Make) -> None:
    """Presence lists the users of a channel and of the app, without those of a stopped node."""
    async with TestClient(app_on(make())) as ann:
        await ann.call("enter", "ann")
        async with TestClient(app_on(make())) as bob:
            await bob.call("join", "a")
            await bob.call("enter", "bob")
            await until(ann, "members", "a", ["bob"])
            await until(ann, "online", None, ["ann", "bob"])
            await until(bob, "online", None, ["ann", "bob"])
            await bob.call("leave", "a")
            await until(ann, "members", "a", [])
        await until(ann, "online", None, ["ann"])


async def test_who_may_have_missed_something_is_told() -> None:
    """A gap is sent to the topic's subscribers, or to all if any topic may have one.

    The gap has the name of the channel, or None for the events of a user.
    """
    app = app_on(MemoryBroker())
    async with TestClient(app) as ann, ann.connect() as bob, ann.connect():
        await ann.call("enter", "ann")
        await bob.call("join", "a")
        node = app._channels._node
        assert node is not None
        gaps = {
            "users": [ann],
            "channel/a": [bob],
            None: [ann, bob],
            "channel/b": [],
        }
        for topic, told in gaps.items():
            node.missed(None if topic is None else [topic])
            await app._channels.publish("a", ClientEvent("end"))
            await app._channels.send_to("ann", ClientEvent("end"))
            for client, payload in ((ann, None), (bob, "a")):
                if client in told:
                    event = await client.receive()
                    assert (event.event, event.payload) == ("channel gap", {"channel": payload})
                assert (await client.receive()).event == "end"


async def verified(client: TestClient, name: str) -> bool:
    """Tell whether this client may run protected commands as that user."""
    try:
        reply = await client.call("who am i", token=f"secret of {name}")
    except CommandError as error:
        assert error.error == "not authorized"
        return False
    assert isinstance(reply.payload, list)
    return bool(reply.payload[0] == name)


async def test_a_revoked_user_is_closed_on_every_node_without_a_session_store(make: Make) -> None:
    """Only the connection of the revoked user is closed."""
    async with clients_of_two_nodes(make) as (admin, bob):
        async with bob.connect() as ann:
            await ann.call("enter", "ann")
            await bob.call("enter", "bob")
            await admin.call("revoke", "ann")
            await ann.wait_closed()
            assert (ann.close_code, ann.close_reason) == (4401, "revoked")
        assert await verified(bob, "bob")


@pytest.mark.parametrize(
    "announcement",
    [b"", b"revoked", b"revoked\n[]", b'revoked\n"ann"\n1', b'removed\n"ann"', b'forgotten\n"a"'],
)
async def test_what_no_node_can_have_announced_is_refused(announcement: bytes) -> None:
    """A malformed announcement raises a ValueError for the broker, and demotes nobody."""
    app = app_on(MemoryBroker())
    async with TestClient(app) as ann:
        await ann.call("enter", "ann")
        node = app._channels._node
        assert node is not None
        with pytest.raises(ValueError):
            node.announced(announcement)
        assert await verified(ann, "ann")


async def test_who_may_have_been_revoked_unheard_is_closed_after_the_lag() -> None:
    """The close code says to reconnect; a user who is verified anew meanwhile stays connected."""
    app = app_on(MemoryBroker(), Limits(revocation_lag=0.2))
    async with TestClient(app) as ann, ann.connect() as bob, ann.connect() as eve:
        for client, name in ((ann, "ann"), (bob, "bob")):
            await client.call("enter", name)
        node = app._channels._node
        assert node is not None
        node.missed_announcements()
        user = app._session.online[bob.socket.id]
        user.id, user.token = "bobby", "secret of bobby"
        await eve.call("enter", "eve")
        await ann.wait_closed()
        assert (ann.close_code, ann.close_reason) == (1013, "sessions unavailable")
        assert await verified(bob, "bobby")
        assert await verified(eve, "eve")


async def test_who_may_have_been_revoked_is_verified_until_the_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No command is refused because the connection of its client is about to be closed."""
    closings: list[tuple[Callable[..., Awaitable[None]], tuple[object, ...]]] = []
    app = app_on(MemoryBroker())
    async with TestClient(app) as ann:
        await ann.call("enter", "ann")
        node = app._channels._node
        assert node is not None
        (user,) = app._session.online.values()
        monkeypatch.setattr(
            node.revocations, "_start", lambda close, *given: closings.append((close, given))
        )
        await node.revocations._close_connections([(user, user.id, user.token)], 0)
        assert await verified(ann, "ann")
        ((close, given),) = closings
        await close(*given)
        await ann.wait_closed()
        assert ann.close_code == 1013
        assert user.id is None


async def test_nobody_has_to_go_who_was_verified_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Once all have verified themselves again, no connection is closed, and nothing is logged."""
    app = app_on(MemoryBroker(), Limits(revocation_lag=0.01))
    async with TestClient(app) as ann:
        await ann.call("enter", "ann")
        node = app._channels._node
        assert node is not None
        (user,) = app._session.online.values()
        before = [(user, "bob", "secret of bob")]
        await node.revocations._close_connections(before, 0.01)
        assert await verified(ann, "ann")
    assert "revoked" not in caplog.text


async def test_without_a_lag_nobody_has_to_go() -> None:
    """With `revocation_lag=None`, no connection is closed after missed announcements."""
    app = app_on(MemoryBroker(), Limits(revocation_lag=None))
    async with TestClient(app) as ann:
        await ann.call("enter", "ann")
        node = app._channels._node
        assert node is not None
        node.missed_announcements()
        assert await verified(ann, "ann")


class Broken(MemoryBroker):
    """A broker that fails, before or after there is a link."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        if self.at_once:
            raise OSError("no link")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(super().run, receiver, linked)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        raise OSError("no link any more")


async def test_an_app_without_its_broker_does_not_start() -> None:
    """An app does not start if its broker fails before there is a link."""
    with pytest.raises(OSError, match="no link"):
        async with TestClient(app_on(Broken(at_once=True))):
            raise AssertionError("it started")


async def test_a_broker_that_fails_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """A broker's failure is a logged incident; the clients of the node itself are served still."""
    async with TestClient(app_on(Broken(at_once=False))) as client:
        await client.call("join", "a")
        await client.call("publish", {"channel": "a"})
        assert (await client.receive()).event == "news"
    (error,) = errors(caplog)
    assert "Broken failed" in error.message
