"""Handlers, hooks and tasks that listen to channels with a history, or subscribe to them."""

import gc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import tickets
from harness import Client, Gate, dial
from serving import Serving
from tickets import NAME, Closed, Commented, commented, ticket
from timeouts import TIMEOUT

from websuckets import AppTasks, CommandGroup, ConnectionTasks, Payload, Socket, WebSuckets
from websuckets.channels import Channels
from websuckets.delivery import listening
from websuckets.exc import Unavailable
from websuckets.history import HistoryLost, Position
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


def app_with_streams(**arguments: Any) -> WebSuckets:
    app = tickets.app(**arguments)
    group = CommandGroup()

    @group.command("follow")
    async def follow(
        socket: Socket, since: Payload[Any] = None, *, channels: Channels
    ) -> AsyncIterator[Any]:
        yield "begins"
        position = None if since is None else Position(*since)
        async for event in channels.listen(NAME, position):
            assert isinstance(event, Commented | Closed)
            yield event

    @group.command("stream and watch", subscribes=[ticket])
    async def stream_and_watch(
        socket: Socket, name: Payload[str], *, channels: Channels
    ) -> AsyncIterator[int]:
        await channels.subscribe(socket, name)
        yield 1
        await anyio.sleep_forever()

    @group.command("watch in a task")
    async def watch_in_a_task(
        socket: Socket, name: Payload[str], *, channels: Channels, tasks: ConnectionTasks
    ) -> None:
        async def subscribe() -> None:
            await channels.subscribe(socket, name)

        tasks.start_soon(subscribe)

    app.include_command_group(group)
    return app


@pytest.mark.slow
async def test_a_stream_gives_what_comes_from_now_on(serving: Serving) -> None:
    app = app_with_streams()
    async with serving(app) as server, dial(server) as ann, dial(server) as bob:
        await ann.call("comment", payload="before", id=1)
        assert (await bob.call("follow", id=1))["payload"] == "begins"
        node = app._channels._running
        with anyio.fail_after(TIMEOUT):
            while NAME not in node._delivery.cursors or not node._delivery.cursors[NAME].position:
                await anyio.sleep(0.001)
        await ann.call("publish", payload=300, id=1)
        got = [await bob.receive() for _ in range(300)]
        assert [frame["payload"]["text"] for frame in got] == list(range(300))
        assert got[0] == {"event": "commented", "payload": {"text": 0}, "id": 1, "more": True}


async def test_a_stream_begins_behind_a_position(serving: Serving) -> None:
    async with serving(app_with_streams()) as server, dial(server) as ann, dial(server) as bob:
        reply = await bob.call("watch", payload=[NAME], id=1)
        epoch = reply["subscribed"][NAME]["epoch"]
        await bob.call("leave", payload=NAME, id=1)
        await ann.call("publish", payload=250, id=1)
        assert (await bob.call("follow", payload=[epoch, 10], id=1))["payload"] == "begins"
        got = [await bob.receive() for _ in range(240)]
        assert [frame["payload"]["text"] for frame in got] == list(range(10, 250))


async def test_a_listener_that_is_slow_gets_everything() -> None:
    app = tickets.app()
    got: list[Any] = []
    gate = Gate()

    async def listen() -> None:
        async for event in app._channels.listen(ticket(id=1)):
            got.append(event)
            if len(got) == 1:
                await gate()
            if len(got) == 501:
                return

    async with TestClient(app) as client:
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                while not gate.reached.is_set():
                    await client.call("comment", "first")
                await client.call("publish", 500)
                gate.opened.set()
    numbers = [event.text for event in got if event.text != "first"]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 400


async def test_several_listeners_get_each_event() -> None:
    app = tickets.app()
    async with TestClient(app) as client:
        heard: dict[int, Any] = {}

        async def listen(number: int) -> None:
            heard[number] = await anext(app._channels.listen(NAME))

        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(listen, number)
                await anyio.wait_all_tasks_blocked()
                await client.call("comment", "hi")
        assert heard == dict.fromkeys(range(3), Commented(text="hi"))


async def test_history_that_is_lost_ends_the_listener() -> None:
    app = tickets.app()
    async with TestClient(app) as client:
        await client.call("publish", 10)
        epoch = await app._channels._running._log.position("short/1")
        for since in (Position(epoch.epoch, 1), Position("another", 1), Position(epoch.epoch, 99)):
            with pytest.raises(HistoryLost), anyio.fail_after(TIMEOUT):
                async for _ in app._channels.listen("short/1", since):
                    raise AssertionError("an event of another epoch")


async def test_only_channels_with_a_history_are_listened_to() -> None:
    app = tickets.app()
    async with TestClient(app):
        with pytest.raises(ValueError, match=r"history=History\(\)"):
            app._channels.listen("another")


async def test_nothing_is_left_of_listeners_and_subscribers_that_have_gone() -> None:
    app = tickets.app()
    async with TestClient(app) as client:
        await client.call("watch", [NAME])
        node = app._channels._running

        async def listen(*, task_status: Any) -> None:
            events = app._channels.listen(NAME)
            task_status.started()
            async for _ in events:
                break

        async with anyio.create_task_group() as tasks:
            await tasks.start(listen)
            while not node._delivery.cursors[NAME].listeners:
                await anyio.sleep(0.001)
            await client.call("leave", NAME)
            assert NAME in node._delivery.cursors
            await client.call("comment", "one")
        gc.collect()
        assert node._delivery.cursors == {}
        assert node.subscriptions.channels == []


@pytest.mark.parametrize("event", ["stream and watch", "watch in a task"])
async def test_outside_of_a_command_that_answers_the_position_is_an_event(
    serving: Serving, event: str
) -> None:
    async with serving(app_with_streams()) as server, dial(server) as ann, dial(server) as bob:
        await ann.call("comment", payload="before", id=1)
        await bob.send(event, payload=NAME, id=1)
        subscribed = await next_but_replies(bob)
        assert subscribed["event"] == "subscribed"
        assert subscribed["payload"][NAME].keys() == {"epoch", "offset"}
        assert subscribed["payload"][NAME]["offset"] == 1
        await ann.call("comment", payload="new", id=1)
        assert await next_but_replies(bob) == commented("new", 2)


async def next_but_replies(client: Client) -> Any:
    while "id" in (frame := await client.receive()):
        pass
    return frame


async def test_a_hook_subscribes_at_once(serving: Serving) -> None:
    app = tickets.app()

    @app.on_connect
    async def watch(socket: Socket, channels: Channels) -> None:
        await channels.subscribe(socket, ticket(id=1))

    async with serving(app) as server, dial(server) as bob:
        subscribed = await bob.receive()
        assert subscribed["event"] == "subscribed"
        assert subscribed["payload"][NAME]["offset"] == 0
        await bob.send("comment", payload="one")
        assert await bob.receive() == commented("one", 1)


async def test_a_task_of_the_app_publishes_and_listens() -> None:
    app = tickets.app()
    heard: list[Any] = []
    has_heard = anyio.Event()

    @app.on_startup
    async def begin(tasks: AppTasks, channels: Channels) -> None:
        async def listen(*, task_status: Any) -> None:
            events = channels.listen(NAME)
            task_status.started()
            async for event in events:
                heard.append(event)
                has_heard.set()

        await tasks.start(listen)

    async with TestClient(app) as client:
        with anyio.fail_after(TIMEOUT):
            while not has_heard.is_set():
                await client.call("comment", "hi")
                await anyio.wait_all_tasks_blocked()
    assert heard[0] == Commented(text="hi")


async def test_a_listener_waits_for_a_log_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    app = tickets.app()
    async with TestClient(app) as client:
        await client.call("watch", [NAME])
        node = app._channels._running
        epoch = (await node._log.position(NAME)).epoch
        await client.call("publish", 3)
        read, asked = node._delivery.pages.read, 0

        async def away_at_first(channel: str, since: Position) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise Unavailable
            return await read(channel, since)

        monkeypatch.setattr(node._delivery.pages, "read", away_at_first)
        monkeypatch.setattr(listening, "PAUSE", 0.01)
        listener = app._channels.listen(NAME, Position(epoch, 0))
        assert repr(listener) == f"Listener({NAME!r})"
        assert [(await anext(listener)).text for _ in range(3)] == [0, 1, 2]
