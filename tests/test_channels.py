"""Tests that channels reach subscribers, in order, and wait for no reader."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import pytest
import rooms
from harness import Gate, dial, errors, in_another_loop, talk
from peers import SMALL, opened
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed

from websuckets import ClientEvent, Limits, WebSuckets
from websuckets.channels import Channels
from websuckets.delivery.outbox import Outbox, Outboxes
from websuckets.exc import InvalidChannel
from websuckets.limits import Overflow
from websuckets.session import Session
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


def channels_of(app: WebSuckets) -> Channels:
    return app._channels


def news(what: Any) -> dict[str, Any]:
    return {"event": "news", "payload": what}


async def test_what_is_published_reaches_subscribers_in_order(serving: Serving) -> None:
    """Expect all events, on every transport, at subscribers only; the publisher may be one."""
    async with serving(rooms.app()) as server, dial(server) as ann, dial(server) as bob:
        for client in (ann, bob):
            await client.call("join", payload="a", id=1)
        await bob.call("join", payload="b", id=1)
        for number in range(50):
            await ann.send("publish", payload={"channel": "a", "what": number, "but_me": True})
        await ann.send("publish", payload={"channel": "b", "what": "b"})
        await ann.send("publish", payload={"channel": "a", "what": "last"})
        assert await ann.receive() == news("last")
        got = [await bob.receive() for _ in range(52)]
        assert got == [*map(news, range(50)), news("b"), news("last")]


async def test_leaving_is_by_command_or_by_itself(serving: Serving) -> None:
    """Expect nothing to be left of a client that has left; leaving one channel keeps the others."""
    app = rooms.app()
    async with serving(app) as server, dial(server) as ann:
        async with dial(server) as bob:
            for name in ("a", "b"):
                await bob.call("join", payload=name, id=1)
            await bob.call("leave", payload="a", id=2)
            await bob.call("leave", payload="a", id=2)  # again, which changes nothing
            for name in ("a", "b"):
                await ann.call("publish", payload={"channel": name, "what": name}, id=1)
            assert await bob.receive() == news("b")
            assert repr(channels_of(app)) == "Channels(1)"
        with anyio.fail_after(TIMEOUT):
            while repr(channels_of(app)) != "Channels(0)":
                await anyio.sleep(0.001)
        assert await ann.call("leave", payload="a", id=3)  # was not subscribed


async def test_members_are_the_verified_users_among_subscribers() -> None:
    """Expect each user once, from its verification until its last connection ends."""
    async with talk(rooms.app()) as ann, ann.another() as again, ann.another() as nobody:
        await ann.call("join", payload="a", id=1)
        await nobody.call("join", payload="a", id=1)
        assert (await ann.call("members", payload="a"))["payload"] == []
        await ann.call("enter", payload="ann", id=1)
        await again.call("enter", payload="ann", id=1)
        await again.call("join", payload="a", id=1)
        assert (await ann.call("members", payload="a"))["payload"] == ["ann"]
        assert (await ann.call("online"))["payload"] == ["ann"]
        await ann.call("leave", payload="a", id=1)
        assert (await ann.call("members", payload="a"))["payload"] == ["ann"]
        await again.call("enter", payload=7, id=1)
        assert (await ann.call("members", payload="a"))["payload"] == []
        await again.call("join", payload="a", id=1)
        assert (await ann.call("members", payload="a"))["payload"] == [7]
        assert (await ann.call("online"))["payload"] == [7, "ann"]
        await again.call("enter", payload=None, id=1)
        assert (await ann.call("members", payload="a"))["payload"] == []
        assert (await ann.call("members", payload="b"))["payload"] == []


async def test_a_user_is_reached_on_every_connection() -> None:
    """Expect the event on every connection; no connection is not an error."""
    async with talk(rooms.app()) as ann, ann.another() as again, ann.another() as bob:
        for client in (ann, again):
            await client.call("enter", payload="ann", id=1)
        for whom in ("nobody", "ann"):
            assert await bob.call("tell", payload=whom, id=1)
        for client in (ann, again):
            assert await client.receive() == {"event": "told", "payload": None}


@pytest.mark.parametrize("name", ["", "x" * 129, "я" * 65, "\ud800"])
async def test_names_are_bounded(name: Any) -> None:
    """Expect an error at the client for too many bytes of UTF-8, wherever the name comes from."""
    app = rooms.app()
    async with TestClient(app) as client:
        channels = channels_of(app)
        with pytest.raises(InvalidChannel):
            await channels.subscribe(client.socket, name)
        with pytest.raises(InvalidChannel):
            await channels.publish(name, ClientEvent("news"))
        with pytest.raises(InvalidChannel):
            await channels.members(name)
        with pytest.raises(CommandError, match="invalid channel"):
            await client.call("join", "")


async def test_what_is_no_name_is_a_bug() -> None:
    """Expect a bug of the program, and no error at the client for a name that is not a ``str``."""
    app = rooms.app()
    async with TestClient(app) as client:
        channels: Any = channels_of(app)
        with pytest.raises(TypeError, match="name of a channel"):
            await channels.subscribe("news", client.socket)
        with pytest.raises(TypeError, match="name of a channel"):
            await channels.members(7)


async def test_names_may_be_of_any_length() -> None:
    """Expect names of any length where the limit is off."""
    async with TestClient(rooms.app(limits=Limits(channel_name=None))) as client:
        await client.call("join", "x" * 1000)


@pytest.mark.parametrize("most", [2, None])
async def test_subscriptions_are_bounded(most: int | None) -> None:
    """Expect an error past the limit of one connection; subscribing again does not count."""
    async with TestClient(rooms.app(limits=Limits(subscriptions=most))) as client:
        for name in ("a", "b", "a"):
            await client.call("join", name)
        if most is None:
            await client.call("join", "c")
            return
        with pytest.raises(CommandError, match="too many subscriptions"):
            await client.call("join", "c")
        await client.call("leave", "a")
        await client.call("join", "c")


async def test_what_is_misused_is_told() -> None:
    """Expect errors for text as an event, an unopened connection, an app that does not run."""
    app = rooms.app()
    channels = channels_of(app)
    with pytest.raises(RuntimeError, match="does not run"):
        await channels.publish("a", ClientEvent("news"))

    class NotOpen:
        id, close_code = uuid4(), None

    socket: Any = NotOpen()
    text: Any = "news"
    async with TestClient(app) as client:
        for publish, where in ((channels.publish, "a"), (channels.send_to, "ann")):
            with pytest.raises(TypeError, match="not str"):
                await publish(where, text)
        with pytest.raises(ValueError, match="not an open connection"):
            await channels.subscribe(socket, "a")
        async with client.connect() as other:
            pass
        await channels.subscribe(other.socket, "a")  # the connection is closed: nothing to do
        assert repr(channels) == "Channels(0)"
    assert repr(channels) == "Channels(0)"


async def test_the_app_may_be_run_again() -> None:
    """Expect the same `Channels` to work, without anything of the first run."""
    app = rooms.app()
    for _ in range(2):
        async with TestClient(app) as client:
            assert (await client.call("members", "a")).payload == []
            await client.call("enter", "ann")
            await client.call("join", "a")
            assert (await client.call("members", "a")).payload == ["ann"]


async def test_clients_left_behind_are_no_business_of_a_node_that_is_over() -> None:
    """Expect clients to come and go without a node that has ended."""
    app = rooms.app()
    async with TestClient(app) as client:
        await client.call("enter", "ann")
        node, channels_of(app)._node = channels_of(app)._node, None
        await client.call("enter", "bob")
        await client.call("revoke", "nobody")
        await client.close()
        await client._inbox.client.gone.wait()
        channels_of(app)._node = node


@asynccontextmanager
async def crowd(app: WebSuckets, size: int) -> AsyncIterator[list[TestClient]]:
    """Yield subscribers of the channel ``a``, in memory."""
    async with TestClient(app) as first, anyio.create_task_group() as tasks:
        clients = [first]
        left = anyio.Event()

        async def come(*, task_status: Any) -> None:
            async with first.connect() as client:
                clients.append(client)
                task_status.started()
                await left.wait()

        for _ in range(size - 1):
            await tasks.start(come)
        for client in clients:
            await client.call("join", "a")
        yield clients
        left.set()


class Reader:
    """A socket that reads when a test lets it."""

    id, close_code = uuid4(), None

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = Gate()
        self.got: list[bytes] = []
        self.closed_with: tuple[int, str] | None = None
        self.error = error

    async def send(self, frame: bytes, *, text: bool) -> None:
        await self.gate()
        if self.error is not None:
            raise self.error
        self.got.append(frame)

    async def close(self, code: int, reason: str) -> None:
        self.closed_with = (code, reason)


@pytest.mark.parametrize(
    ("overflow", "got", "closed_with"),
    [
        (Overflow.CLOSE, b"0", (1013, "reads too slowly")),
        (Overflow.DROP_OLDEST, b"056789", None),
        (Overflow.DROP_NEWEST, b"012345", None),
    ],
)
@pytest.mark.parametrize("outbox", [(5, 1000), (1000, 5)])
async def test_what_a_slow_reader_gets(
    overflow: Overflow, got: bytes, closed_with: Any, outbox: tuple[int, int]
) -> None:
    """Expect the policy to be applied beyond either bound, of frames or of bytes."""
    reader: Any = Reader()
    async with anyio.create_task_group() as tasks:
        shared = Outboxes(Limits(outbox=outbox, overflow=overflow), tasks.start_soon)
        box = Outbox(reader, shared)
        box.put(b"0")
        await reader.gate.reached.wait()
        for number in range(1, 10):
            box.put(b"%d" % number)
        reader.gate.opened.set()
    assert b"".join(reader.got) == got
    assert reader.closed_with == closed_with
    assert not shared.writing


async def test_a_frame_larger_than_the_outbox_costs_no_other_frame() -> None:
    """Expect the frame alone to be lost, even where the oldest would make room."""
    reader: Any = Reader()
    async with anyio.create_task_group() as tasks:
        limits = Limits(outbox=(5, 5), overflow=Overflow.DROP_OLDEST)
        box = Outbox(reader, Outboxes(limits, tasks.start_soon))
        for frame in (b"0", b"1", b"0123456789", b"2"):
            box.put(frame)
            await reader.gate.reached.wait()
        reader.gate.opened.set()
    assert reader.got == [b"0", b"1", b"2"]


async def test_as_many_of_the_oldest_frames_are_lost_as_make_room() -> None:
    """Expect the newest of the waiting frames to be sent still."""
    reader: Any = Reader()
    async with anyio.create_task_group() as tasks:
        limits = Limits(outbox=(5, 5), overflow=Overflow.DROP_OLDEST)
        box = Outbox(reader, Outboxes(limits, tasks.start_soon))
        for frame in (b"0", b"1", b"2", b"3", b"4567"):
            box.put(frame)
            await reader.gate.reached.wait()
        reader.gate.opened.set()
    assert reader.got == [b"0", b"3", b"4567"]


async def test_an_outbox_whose_connection_failed_has_room_again() -> None:
    """Expect frames that were lost by an error of the connection not to count any more."""
    reader: Any = Reader(OSError("broken"))
    shared: Outboxes
    with pytest.RaisesGroup(OSError):
        async with anyio.create_task_group() as tasks:
            limits = Limits(outbox=(1000, 5), overflow=Overflow.DROP_NEWEST)
            shared = Outboxes(limits, lambda write: tasks.start_soon(write))
            box = Outbox(reader, shared)
            for _ in range(6):
                box.put(b"0")
            reader.gate.opened.set()
    reader.error, reader.gate = None, Gate()
    async with anyio.create_task_group() as tasks:
        box.put(b"1")
        await reader.gate.reached.wait()
        box.put(b"2345")
        reader.gate.opened.set()
    assert reader.got == [b"1", b"2345"]


async def test_what_waits_for_who_is_gone_is_thrown_away() -> None:
    """Expect waiting frames, and later ones, to be thrown away."""
    reader: Any = Reader(ConnectionClosed(None, None))
    async with anyio.create_task_group() as tasks:
        shared = Outboxes(Limits(outbox=None), tasks.start_soon)
        box = Outbox(reader, shared)
        for _ in range(1000):
            box.put(b"0")
        reader.gate.opened.set()
    box.put(b"1")
    assert not (reader.got or shared.writing)


def test_a_policy_is_one_of_three() -> None:
    """Expect an error at once for any other policy."""
    policy: Any = "close"
    with pytest.raises(ValueError, match="one of Overflow"):
        Limits(overflow=policy)


@pytest.mark.slow
async def test_one_who_does_not_read_delays_nobody(
    on_sockets: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the others to get everything, in order; the one is closed, and aborted in the end."""
    caplog.set_level("INFO", "websuckets")
    app = rooms.app(limits=Limits(outbox=(20, 10**7), send_timeout=1))
    async with on_sockets(app) as server, dial(server) as ann:
        async with opened(server.port, receive_buffer=SMALL) as stalled:
            await stalled.call("join", payload="a", id=1)
            await ann.call("join", payload="a", id=1)
            session = app._session
            assert len(session.online) == 2
            for number in range(100):
                event = ClientEvent("news", [number, "x" * 100_000])
                await channels_of(app).publish("a", event)
                assert (await ann.receive())["payload"][0] == number
            with anyio.fail_after(TIMEOUT):
                while len(session.online) == 2:
                    await anyio.sleep(0.01)
    assert "reads too slowly what is published: close it with 1013" in caplog.text
    assert errors(caplog) == []


async def test_many_messages_at_once_do_not_outrun_who_reads() -> None:
    """Expect a client that reads as fast as it can to get everything, however fast events come."""
    app = rooms.app(limits=Limits(outbox=(20, 10**6)))
    async with crowd(app, 20) as clients:
        for number in range(200):
            await channels_of(app).publish("a", ClientEvent("news", number))
        for client in clients:
            got = [(await client.receive()).payload for _ in range(200)]
            assert got == list(range(200))


async def test_idle_connections_have_no_outbox() -> None:
    """Expect neither an outbox nor a task where no frames wait."""
    app = rooms.app()
    async with crowd(app, 3) as clients, clients[0].connect():
        node = channels_of(app)._node
        assert node is not None
        assert len(node.subscriptions._subscribers) == 3
        assert not node.subscriptions.outboxes.writing


def test_a_session_is_made_for_channels() -> None:
    """Expect `Channels` to be made with a session."""
    assert repr(Channels(Session())) == "Channels(0)"


async def test_channels_are_used_in_the_loop_of_their_app() -> None:
    """Expect an error for a thread that publishes in a loop of its own."""
    app = rooms.app()
    channels = channels_of(app)
    async with TestClient(app) as client:
        for attempt in (
            partial(channels.publish, "a", ClientEvent("news", 1)),
            partial(channels.send_to, "ann", ClientEvent("news", 1)),
            partial(channels.subscribe, client.socket, "a"),
            partial(channels.members, "a"),
            channels.online,
        ):
            with pytest.raises(RuntimeError, match="Channels: the app runs in another event loop"):
                await in_another_loop(attempt)
