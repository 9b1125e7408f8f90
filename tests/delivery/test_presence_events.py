"""Subscribers of channels with presence are told who has come and who has left."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
import rooms
from brokers import Make
from dishka import Provider, Scope
from harness import Gate, app_with, dial
from serving import Serving
from timeouts import TIMEOUT

from websuckets import ClientEvent, CommandGroup, Limits, Payload, Socket, WebSuckets
from websuckets.broker import Broker, MemoryBroker, _MemoryLink
from websuckets.channels import Channel, Channels, History
from websuckets.exc import Unavailable
from websuckets.security import SecurityProvider
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

HALL = rooms.hall(id=1)

SHORT, LONG, ENDLESS = 0.02, 1, 3600.0
"""Seconds of a grace that is over soon, of one in which a busy machine does a lot, and of one that
is not over before the test is."""

Change = tuple[str, str | int]


def app_on(broker: Broker, grace: float | None = SHORT) -> WebSuckets:
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: broker, provides=Broker)
    return rooms.app(
        providers=[provider, SecurityProvider()],
        limits=Limits(presence_grace=grace),
        channels=[rooms.hall],
    )


@asynccontextmanager
async def two_nodes(make: Make, grace: float) -> AsyncIterator[tuple[TestClient, TestClient]]:
    async with TestClient(app_on(make(), grace)) as one, TestClient(app_on(make(), grace)) as two:
        yield one, two


async def come(client: TestClient, name: str | int, channel: str = HALL) -> None:
    await client.call("enter", name)
    await client.call("join", channel)


async def told(client: TestClient, number: int, channel: str = HALL) -> list[Change]:
    """Return of whom a client is told next, one by one; expect nothing else to come before."""
    changes: list[Change] = []
    while len(changes) < number:
        changes += changes_in(await client.receive(TIMEOUT), channel)
    return changes


def changes_in(event: Any, channel: str = HALL) -> list[Change]:
    assert event.event == "presence"
    assert event.payload.keys() == {"channel", "joined", "left"}
    assert event.payload["channel"] == channel
    changes = [("joined", id) for id in event.payload["joined"]]
    return [*changes, *(("left", id) for id in event.payload["left"])]


async def test_subscribers_are_told_who_comes_and_leaves(serving: Serving) -> None:
    """Each subscriber gets an event without an offset, on every transport."""
    app = rooms.app(limits=Limits(presence_grace=SHORT), channels=[rooms.hall])
    async with serving(app) as server, dial(server) as watcher:
        await watcher.call("join", payload=HALL, id=1)
        async with dial(server) as ann:
            await ann.call("enter", payload="ann", id=1)
            await ann.call("join", payload=HALL, id=1)
            payload = {"channel": HALL, "joined": ["ann"], "left": []}
            assert await watcher.receive() == {"event": "presence", "payload": payload}
        payload = {"channel": HALL, "joined": [], "left": ["ann"]}
        assert await watcher.receive() == {"event": "presence", "payload": payload}


async def test_all_nodes_are_told_once_of_a_user(make: Make) -> None:
    """Further connections of a user are nothing new, on whichever node they are."""
    async with two_nodes(make, SHORT) as (one, two):
        for watcher in (one, two):
            await watcher.call("join", HALL)
        async with one.connect() as ann, two.connect() as again, one.connect() as bob:
            await come(ann, "ann")
            for watcher in (one, two):
                assert await told(watcher, 1) == [("joined", "ann")]
            await come(again, "ann")
            await come(bob, "bob")
            for watcher in (one, two):
                assert await told(watcher, 1) == [("joined", "bob")]
            await ann.close()
            await bob.call("leave", HALL)
            for watcher in (one, two):
                assert await told(watcher, 1) == [("left", "bob")]
        for watcher in (one, two):
            assert await told(watcher, 1) == [("left", "ann")]


async def test_nobody_is_told_of_oneself(make: Make) -> None:
    """Expect `Channels.members` to have all who are there, oneself included."""
    async with two_nodes(make, SHORT) as (one, two):
        async with two.connect() as again, two.connect() as bob:
            await come(one, "ann")
            await come(two, "ann")
            await come(again, "ann")
            for client in (one, two, again):
                assert (await client.call("members", HALL)).payload == ["ann"]
            await come(bob, "bob")
            for client in (one, two, again):
                assert await told(client, 1) == [("joined", "bob")]
        assert await told(one, 1) == [("left", "bob")]


async def test_only_verified_users_come_and_leave() -> None:
    """A subscriber comes when it is verified, and leaves when it is not any more."""
    async with TestClient(app_on(MemoryBroker())) as watcher, watcher.connect() as client:
        await watcher.call("join", HALL)
        await client.call("join", HALL)
        for name in ("ann", 7, "7"):
            await client.call("enter", name)
        await client.call("enter", None)
        changes = await told(watcher, 6)
        assert [id for change, id in changes if change == "joined"] == ["ann", 7, "7"]
        assert sorted((id for change, id in changes if change == "left"), key=str) in (
            [7, "7", "ann"],
            ["7", 7, "ann"],
        )
        assert (await watcher.call("members", HALL)).payload == []


async def test_channels_without_presence_tell_nobody() -> None:
    """Users come and leave quietly; events that the program publishes come as ever."""
    async with TestClient(app_on(MemoryBroker())) as watcher, watcher.connect() as ann:
        await watcher.call("join", "a")
        await come(ann, "ann", "a")
        assert (await watcher.call("members", "a")).payload == ["ann"]
        await ann.call("leave", "a")
        assert (await watcher.call("members", "a")).payload == []
        await watcher.call("publish", {"channel": "a"})
        assert (await watcher.receive()).event == "news"


@pytest.mark.parametrize("grace", [0, None])
async def test_without_a_grace_departures_are_told_at_once(make: Make, grace: float | None) -> None:
    """Each departure is told of, also that of a user who is back at once."""
    async with (
        TestClient(app_on(make(), grace)) as watcher,
        TestClient(app_on(make(), grace)) as ann,
    ):
        await watcher.call("join", HALL)
        for _ in range(3):
            await come(ann, "ann")
            assert await told(watcher, 1) == [("joined", "ann")]
            await ann.call("leave", HALL)
            assert await told(watcher, 1) == [("left", "ann")]


@pytest.mark.slow
async def test_who_is_back_on_another_node_within_the_grace_never_left(make: Make) -> None:
    """Others are told of nothing, and are told of the departure when the user goes for good."""
    async with two_nodes(make, LONG) as (watcher, other):
        await watcher.call("join", HALL)
        async with watcher.connect() as ann, watcher.connect() as bob:
            for client, name in ((ann, "ann"), (bob, "bob")):
                await come(client, name)
                assert await told(watcher, 1) == [("joined", name)]
            await ann.close()
            async with other.connect() as ann:
                await come(ann, "ann")
                await bob.close()
                assert await told(watcher, 1) == [("left", "bob")]
        assert await told(watcher, 1) == [("left", "ann")]


async def test_members_are_there_until_they_are_told_to_have_left(make: Make) -> None:
    """A list that is asked for within the grace fits the events that follow it."""
    async with two_nodes(make, ENDLESS) as (one, two):
        await one.call("join", HALL)
        async with two.connect() as ann:
            await come(ann, "ann")
            assert await told(one, 1) == [("joined", "ann")]
        for client in (one, two):  # one with subscribers, and one without
            assert (await client.call("members", HALL)).payload == ["ann"]
        await two.call("join", HALL)
        assert (await two.call("members", HALL)).payload == ["ann"]
        async with one.connect() as ann:
            await come(ann, "ann")
            await ann.call("publish", {"channel": HALL})
            for client in (one, two):
                assert (await client.receive()).event == "news"


@pytest.mark.slow
async def test_users_of_a_stopped_node_leave_after_the_grace(make: Make) -> None:
    """Another node tells of them, but not of who has come to another node meanwhile."""
    async with TestClient(app_on(make(), LONG)) as watcher, watcher.connect() as back:
        await watcher.call("join", HALL)
        async with TestClient(app_on(make(), LONG)) as two, two.connect() as bob:
            await come(two, "ann")
            await come(bob, "bob")
            assert await told(watcher, 2) == [("joined", "ann"), ("joined", "bob")]
        await come(back, "ann")
        assert await told(watcher, 1) == [("left", "bob")]
        assert (await watcher.call("members", HALL)).payload == ["ann"]


async def departures(make: Make, runs: int) -> None:
    """Close three connections of a user at once, on two nodes; expect one departure each time."""
    async with two_nodes(make, SHORT) as (one, two):
        for watcher in (one, two):
            await watcher.call("join", HALL)
        for run in range(runs):
            connections = [client.connect() for client in (one, one, two)]
            async with AsyncExitStack() as stack:
                for connection in connections:
                    await come(await stack.enter_async_context(connection), run)
                for watcher in (one, two):
                    assert await told(watcher, 1) == [("joined", run)]
                async with anyio.create_task_group() as tasks:
                    for connection in connections:
                        tasks.start_soon(connection.close)
            for watcher in (one, two):
                assert await told(watcher, 1) == [("left", run)]


@pytest.mark.slow
async def test_three_connections_that_close_together_are_one_departure(make: Make) -> None:
    await departures(make, 10)


@pytest.mark.heavy
async def test_three_connections_are_one_departure_each_of_a_hundred_times(make: Make) -> None:
    await departures(make, 100)


async def test_names_and_users_are_of_any_content(make: Make) -> None:
    """Names and ids that mean something to JSON, or to Redis, arrive as they are."""
    name = rooms.hall(id='я \n\0"]}:*')
    users: list[str | int] = ['"', "\n", "}{", "a:b", "\0", "я", 0, -1, "0"]
    async with two_nodes(make, SHORT) as (one, two):
        await one.call("join", name)
        for user in users:
            async with two.connect() as client:
                await come(client, user, name)
                assert await told(one, 1, name) == [("joined", user)]
            assert await told(one, 1, name) == [("left", user)]


# Channels with a history --------------------------------------------------------------------------


async def test_a_command_is_answered_before_its_subscription_tells_anything(gate: Gate) -> None:
    """Changes during the command come after its reply, and the last one of each user only."""
    board = Channel("board/{id}", history=History(), presence=True)
    group = CommandGroup()

    @group.command("watch", subscribes=[board])
    async def watch(socket: Socket, name: Payload[str], *, channels: Channels) -> list[Any]:
        await channels.subscribe(socket, name)
        members = sorted(await channels.members(name))
        await gate()
        return members

    app = app_with(
        *(group, rooms.group), channels=[board], limits=Limits(presence_grace=0, concurrency=2)
    )
    name = board(id=1)
    async with TestClient(app) as watcher:
        async with anyio.create_task_group() as tasks:
            replies: list[Any] = []

            async def ask() -> None:
                replies.append(await watcher.call("watch", name))

            tasks.start_soon(ask)
            await gate.reached.wait()
            node = app._channels._node
            assert node is not None
            node.link.enter(name, "eve")
            node.link.enter(name, "zoe")
            node.link.leave(name, "zoe")
            with anyio.fail_after(TIMEOUT):
                while await app._channels._running.link.present(name) != {"eve"}:
                    await anyio.sleep(0.001)
            assert replies == []
            gate.opened.set()
        assert replies[0].payload == []
        event = await watcher.receive()
        assert changes_in(event, name) == [("joined", "eve"), ("left", "zoe")]


# Brokers that fail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"{}",
        b'{"joined":[]}',
        b'{"joined":[],"left":[true]}',
        b'{"joined":1,"left":[]}',
        b'{"joined":[],"left":[],"more":[]}',
        b'{"joined":[[]],"left":[]}',
    ],
)
async def test_what_no_broker_can_have_told_is_refused(message: bytes) -> None:
    """A malformed message raises a ValueError for the broker, and reaches no client."""
    app = app_on(MemoryBroker())
    async with TestClient(app) as watcher:
        await watcher.call("join", HALL)
        node = app._channels._node
        assert node is not None
        with pytest.raises(ValueError):
            node.receive(f"presence/{HALL}", message)
        await app._channels.publish(HALL, ClientEvent("end"))
        assert (await watcher.receive()).event == "end"


async def test_what_a_broker_repeats_is_told_once() -> None:
    app = app_on(MemoryBroker())
    async with TestClient(app) as watcher:
        await watcher.call("join", HALL)
        node = app._channels._node
        assert node is not None
        for message in (b'{"joined":["ann"],"left":[]}', b'{"joined":[],"left":["ann"]}'):
            for _ in range(2):
                node.receive(f"presence/{HALL}", message)
                node.receive("presence/hall/2", message)
        assert await told(watcher, 2) == [("joined", "ann"), ("left", "ann")]
        await app._channels.publish(HALL, ClientEvent("end"))
        assert (await watcher.receive()).event == "end"


async def test_what_is_lost_is_told_after_a_comparison() -> None:
    """Users who have come are told of at once, and those who have left after the grace."""
    app = app_on(MemoryBroker(), LONG)
    async with TestClient(app) as watcher, watcher.connect() as bob:
        await watcher.call("join", HALL)
        await come(bob, "bob")
        assert await told(watcher, 1) == [("joined", "bob")]
        node = app._channels._node
        assert node is not None
        node.receive(f"presence/{HALL}", b'{"joined":["ann"],"left":["bob"]}')
        assert sorted(await told(watcher, 2)) == [("joined", "ann"), ("left", "bob")]
        node.missed(None)
        assert (await watcher.receive()).event == "channel gap"
        assert (await bob.receive()).event == "presence"
        assert await told(watcher, 2) == [("joined", "bob"), ("left", "ann")]


class Asked:
    """A broker's answer to the question who is there, which comes when the test lets it.

    An answer that is not ``is_interrupted`` comes also to those who are cancelled.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_interrupted: bool = True) -> None:
        self.gate = Gate()
        self._is_interrupted = is_interrupted
        self.users: set[Any] = set()
        monkeypatch.setattr(_MemoryLink, "present", self._answer)

    async def _answer(self, group: str) -> set[Any]:
        gate, users = self.gate, set(self.users)
        with anyio.CancelScope(shield=not self._is_interrupted):
            await gate()
        return users

    def let_answer(self) -> None:
        """Give the answers to the questions until now."""
        gate, self.gate = self.gate, Gate()
        gate.opened.set()


async def test_what_is_told_while_the_broker_is_asked_first_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer may be older than a message that has come before it."""
    asked = Asked(monkeypatch)
    asked.users = {"ann"}
    app = app_on(MemoryBroker(), ENDLESS)
    async with TestClient(app) as watcher, watcher.connect() as other:
        node = app._channels._node
        assert node is not None
        async with anyio.create_task_group() as tasks:
            for client in (watcher, other):
                tasks.start_soon(client.call, "join", HALL)
            await asked.gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            node.missed(None)  # asks nothing about channels that are being asked for
            node.receive(f"presence/{HALL}", b'{"joined":["bob"],"left":["ann"]}')
            asked.let_answer()
        for client in (watcher, other):
            assert (await client.call("members", HALL)).payload == ["bob"]


async def test_what_is_told_during_a_comparison_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it does when another comparison begins, and when the last subscriber goes meanwhile."""
    asked = Asked(monkeypatch)
    app = app_on(MemoryBroker(), ENDLESS)
    async with TestClient(app) as watcher:
        node = app._channels._node
        assert node is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.call, "join", HALL)
            await asked.gate.reached.wait()
            asked.let_answer()
        asked.users = {"ann", "eve"}
        node.missed(None)
        await asked.gate.reached.wait()
        node.missed(None)
        await anyio.wait_all_tasks_blocked()
        node.receive(f"presence/{HALL}", b'{"joined":["zoe"],"left":["eve"]}')
        asked.let_answer()
        for _ in range(2):
            assert (await watcher.receive()).event == "channel gap"
        assert await told(watcher, 2) == [("joined", "zoe"), ("joined", "ann")]
        node.missed(None)
        await asked.gate.reached.wait()
        await watcher.call("leave", HALL)
        asked.let_answer()
        await anyio.wait_all_tasks_blocked()
        assert (await watcher.receive()).event == "channel gap"
        await watcher.call("tell", "nobody")


async def test_who_was_there_is_told_once_the_broker_can_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the broker is away, subscribing takes as long as ever, and nobody is told."""
    broker = MemoryBroker()
    present = _MemoryLink.present

    async def away(link: _MemoryLink, group: str) -> Any:
        raise Unavailable

    async with TestClient(app_on(broker)) as ann:
        await come(ann, "ann")
        app = app_on(broker)
        async with TestClient(app) as watcher, watcher.connect() as bob:
            monkeypatch.setattr(_MemoryLink, "present", away)
            assert (await watcher.call("members", HALL)).payload == []
            await come(bob, "bob")
            assert (await bob.call("members", HALL)).payload == ["bob"]
            monkeypatch.setattr(_MemoryLink, "present", present)
            await watcher.call("join", HALL)
            assert app._channels._node is not None
            app._channels._node.missed(None)
            for client in (watcher, bob):
                event = await client.receive()
                while event.event == "channel gap":
                    event = await client.receive()
                assert ("joined", "ann") in changes_in(event)
            assert (await watcher.call("members", HALL)).payload == ["ann", "bob"]


async def test_a_comparison_that_runs_goes_on_when_another_channel_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker says later that messages may be lost, and all channels are compared then."""
    broker = MemoryBroker()
    halls = [rooms.hall(id=number) for number in (1, 2)]
    app = app_on(broker, ENDLESS)
    async with TestClient(app_on(broker, ENDLESS)) as ann, TestClient(app) as watcher:
        for hall in halls:
            await come(ann, "ann", hall)

        async def away(link: _MemoryLink, group: str) -> Any:
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(_MemoryLink, "present", away)
            for hall in halls:
                await watcher.call("join", hall)
        node = app._channels._node
        assert node is not None
        node.missed(None)
        found: list[Any] = []
        while len(found) < 2:
            event = await watcher.receive()
            if event.event != "channel gap":
                found.append(event.payload)
        assert found == [{"channel": hall, "joined": ["ann"], "left": []} for hall in halls]


async def test_an_answer_to_a_comparison_after_which_another_has_begun_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is older than what was told meanwhile, and cannot be interrupted any more."""
    asked = Asked(monkeypatch, is_interrupted=False)
    app = app_on(MemoryBroker(), ENDLESS)
    async with TestClient(app) as watcher:
        node = app._channels._node
        assert node is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.call, "join", HALL)
            await asked.gate.reached.wait()
            asked.let_answer()
        asked.users = {"eve"}
        node.missed(None)
        first = asked.gate
        await first.reached.wait()
        asked.gate, asked.users = Gate(), {"ann"}
        node.missed(None)
        await asked.gate.reached.wait()
        node.receive(f"presence/{HALL}", b'{"joined":[],"left":["eve"]}')
        first.opened.set()
        await anyio.wait_all_tasks_blocked()
        asked.let_answer()
        for _ in range(2):
            assert (await watcher.receive()).event == "channel gap"
        assert await told(watcher, 1) == [("joined", "ann")]
        assert (await watcher.call("members", HALL)).payload == ["ann"]
