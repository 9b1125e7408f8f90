"""Users who come to channels with a history and presence by a command, which may still fail."""

from typing import Any

import anyio
import pytest
import rooms
from brokers import Make
from dishka import Provider, Scope
from harness import Gate, app_with

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets
from websuckets.broker import Broker, MemoryBroker, _MemoryLink
from websuckets.channels import Channel, Channels, History
from websuckets.exc import ClientError
from websuckets.history import EventLog, MemoryLog
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

board = Channel("board/{id}", history=History(), presence=True)

BOARD = board(id=1)
HALL = rooms.hall(id=1)


class CommonLog(MemoryLog):
    """A log that nodes of this process share."""

    @property
    def is_shared(self) -> bool:
        return True


def app_on(broker: Broker, log: EventLog, gate: Gate | None = None) -> WebSuckets:
    """Return an app whose commands subscribe, and then wait at the gate, or fail."""
    group = CommandGroup()

    @group.command("watch", subscribes=[board])
    async def watch(socket: Socket, *, channels: Channels) -> list[Any]:
        await channels.subscribe(socket, BOARD)
        return sorted(await channels.members(BOARD))

    @group.command("watch slowly", subscribes=[board])
    async def watch_slowly(
        socket: Socket, public: Payload[bool], *, channels: Channels
    ) -> list[Any]:
        await channels.subscribe(socket, BOARD, public=public)
        members = sorted(await channels.members(BOARD))
        assert gate is not None
        await gate()
        return members

    @group.command("watch and fail", subscribes=[board])
    async def watch_and_fail(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, BOARD)
        raise ClientError("no")

    @group.command("watch and enter", subscribes=[board])
    async def watch_and_enter(
        socket: Socket, name: Payload[str], *, channels: Channels, user: User
    ) -> None:
        await channels.subscribe(socket, BOARD)
        user.id = name

    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: broker, provides=Broker)
    provider.provide(lambda: log, provides=EventLog)
    return app_with(
        *(group, rooms.group),
        channels=[board],
        providers=[provider],
        limits=Limits(rate=None, presence_grace=0, concurrency=4),
    )


async def next_change(client: TestClient) -> Any:
    event = await client.receive()
    assert (event.event, event.payload["channel"]) == ("presence", BOARD)
    return event.payload["joined"], event.payload["left"]


async def members(client: TestClient, channel: str = BOARD) -> Any:
    return (await client.call("members", channel)).payload


async def test_a_command_that_fails_tells_nobody_of_its_user(make: Make) -> None:
    log = CommonLog()
    async with (
        TestClient(app_on(make(), log)) as one,
        TestClient(app_on(make(), log)) as two,
        two.connect() as zoe,
    ):
        assert (await one.call("watch")).payload == []
        await two.call("enter", "ann")
        with pytest.raises(CommandError, match="no"):
            await two.call("watch and fail")
        await zoe.call("enter", "zoe")
        assert (await zoe.call("watch")).payload == ["zoe"]
        assert await next_change(one) == (["zoe"], [])
        for client in one, two:
            assert await members(client) == ["zoe"]
        assert (await two.call("watch")).payload == ["ann", "zoe"]
        assert await next_change(one) == (["ann"], [])


async def test_a_user_comes_when_the_reply_is_sent_and_is_among_the_members_of_its_command(
    gate: Gate,
) -> None:
    app = app_on(MemoryBroker(), CommonLog(), gate)
    async with TestClient(app) as watcher, watcher.connect() as ann:
        await watcher.call("watch")
        await ann.call("enter", "ann")
        await ann.send("watch slowly", False, id=1)
        await gate.reached.wait()
        assert await members(watcher) == []
        gate.opened.set()
        assert (await ann.receive()).payload == ["ann"]
        assert await next_change(watcher) == (["ann"], [])
        assert await members(watcher) == ["ann"]
        await ann.call("watch")  # again: nobody is told
        await ann.call("leave", BOARD)
        assert await next_change(watcher) == ([], ["ann"])


async def test_who_is_verified_by_the_command_that_subscribes_is_told_of_once() -> None:
    app = app_on(MemoryBroker(), CommonLog())
    async with TestClient(app) as watcher:
        await watcher.call("watch")
        async with watcher.connect() as ann:
            await ann.call("watch and enter", "ann")
            assert await next_change(watcher) == (["ann"], [])
        assert await next_change(watcher) == ([], ["ann"])


@pytest.mark.parametrize("public", [False, True])
async def test_nobody_is_told_of_a_user_who_logs_out_before_the_reply(
    gate: Gate, public: bool
) -> None:
    """A public subscription goes on, without a user until the next one is verified."""
    app = app_on(MemoryBroker(), CommonLog(), gate)
    async with TestClient(app) as watcher, watcher.connect() as ann:
        await watcher.call("watch")
        await ann.call("enter", "ann")
        await ann.send("watch slowly", public, id=1)
        await gate.reached.wait()
        await ann.call("enter", None)
        gate.opened.set()
        answer = await ann.receive()
        assert answer.payload == ["ann"]
        assert bool(answer.subscribed) is public
        await ann.call("enter", "eve")
        if not public:
            await ann.call("watch")
        assert await next_change(watcher) == (["eve"], [])


async def test_nobody_is_told_of_a_user_who_is_gone_before_the_reply(gate: Gate) -> None:
    app = app_on(MemoryBroker(), CommonLog(), gate)
    async with TestClient(app) as watcher:
        await watcher.call("watch")
        async with watcher.connect() as ann, watcher.connect() as zoe:
            await ann.call("enter", "ann")
            await ann.send("watch slowly", False, id=1)
            await gate.reached.wait()
            await ann.abort()
            gate.opened.set()
            await anyio.wait_all_tasks_blocked()
            await zoe.call("enter", "zoe")
            assert (await zoe.call("watch")).payload == ["zoe"]
            assert await next_change(watcher) == (["zoe"], [])
        assert await next_change(watcher) == ([], ["zoe"])


async def test_who_leaves_while_a_node_subscribes_is_told_of_nobody(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    subscribe, is_first = _MemoryLink.subscribe, True

    async def subscribe_slowly(link: _MemoryLink, topic: str) -> None:
        nonlocal is_first
        if is_first and topic.endswith(HALL):
            is_first = False
            await gate()
        await subscribe(link, topic)

    monkeypatch.setattr(_MemoryLink, "subscribe", subscribe_slowly)
    limits = Limits(rate=None, concurrency=2, presence_grace=0)
    app = rooms.app(channels=[rooms.hall], limits=limits)
    async with TestClient(app) as watcher, watcher.connect() as ann:
        await watcher.send("join", HALL, id=1)
        await gate.reached.wait()
        await watcher.call("leave", HALL)
        gate.opened.set()
        assert (await watcher.receive()).id == 1
        await ann.call("enter", "ann")
        await ann.call("join", HALL)
        assert await members(watcher, HALL) == ["ann"]
        await watcher.call("enter", "bob")
        await ann.call("tell", "bob")
        assert (await watcher.receive()).event == "told"
        await watcher.call("join", HALL)
        await ann.call("leave", HALL)
        assert (await watcher.receive()).payload["left"] == ["ann"]
