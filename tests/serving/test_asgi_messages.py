"""Tests of messages and replies by `app.asgi`: their order, their bounds, and their turns."""

import gc
import json
from collections import Counter, deque
from functools import partial
from types import CoroutineType, coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgi_server import AsgiServer, NewServer, tell_of_the_end
from harness import Gate, app_with, until

from websuckets import CommandGroup, ConnectionTasks, Limits, Payload, Socket, WebSuckets
from websuckets.connections.message_loop import MessageLoop
from websuckets.transports.plain import TURN

pytestmark = pytest.mark.anyio

MANY = 5 * TURN


async def test_commands_that_wait_are_bounded(new_server: NewServer, group: CommandGroup) -> None:
    """Expect further commands to stay with the server, which holds the client back."""
    gate = Gate()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    app = app_with(group, limits=Limits(max_size=None))
    server = new_server()
    server.says('{"event": "wait"}')
    for _ in range(10):
        server.says(f'{{"event": "length", "payload": "{"x" * 20_000}"}}')
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app.asgi)
        await gate.reached.wait()
        while server.to_app.statistics().current_buffer_used > 5:
            await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()
        assert server.to_app.statistics().current_buffer_used == 5
        gate.opened.set()
        for _ in range(11):
            await server.next()
        server.leaves()


# After its first message, a connection on asyncio receives without the task that reads


async def test_commands_that_come_during_a_slow_one_run_in_order(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect commands to run in order, bounded by what is read ahead, again and again."""
    gate = Gate()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    @group.command("write")
    async def write(socket: Socket, text: Payload[str]) -> None:
        journal.append(text[:2])

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(group, limits=Limits(max_size=None)).asgi)
        for _ in range(2):
            await server.greet()
            gate.reached, gate.opened = anyio.Event(), anyio.Event()
            journal.clear()
            server.says('{"event": "wait"}')
            for number in range(10, 20):
                server.says(f'{{"event": "write", "payload": "{number}{"x" * 20_000}"}}')
            await gate.reached.wait()
            while server.to_app.statistics().current_buffer_used > 6:
                await anyio.sleep(0.001)
            gate.opened.set()
            await until(journal, "19")
            assert journal == [str(number) for number in range(10, 20)]
        server.leaves()


async def test_commands_that_come_during_many_short_ones_are_read_ahead(
    new_server: NewServer, group: CommandGroup
) -> None:
    """Expect these commands to be read ahead, too: a pong may stand behind them."""
    left: list[int] = []

    @group.command("work")
    async def work(socket: Socket) -> bool:
        left.append(server.to_app.statistics().current_buffer_used)
        await anyio.sleep(0.02)
        return True

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(group).asgi)
        await server.greet()
        for _ in range(20):
            server.says('{"event": "work"}')
        for _ in range(20):
            await server.next()
        server.leaves()
    not_begun = [len(left) - 1 - number for number in range(len(left))]
    assert any(unread < waiting for unread, waiting in zip(left, not_begun, strict=True))


async def test_many_messages_at_once_leave_others_their_turn(
    new_server: NewServer, group: CommandGroup
) -> None:
    """Expect others to get their turn where neither receiving nor sending waits."""
    others = [0]

    @group.command("turns")
    async def turns(socket: Socket) -> int:
        return others[0]

    async def other() -> None:
        while True:
            others[0] += 1
            await anyio.lowlevel.checkpoint()

    server = new_server()
    events = deque({"type": "websocket.receive", "text": '{"event": "turns"}'} for _ in range(MANY))

    async def receive() -> Any:
        if server.to_app.statistics().current_buffer_used or not events:
            return await server.receive()
        return events.popleft()

    async with anyio.create_task_group() as connections:
        connections.start_soon(other)
        await app_with(group, limits=Limits(rate=None)).asgi(
            server.scope, receive, partial(server_sends, server)
        )
        connections.cancel_scope.cancel()
    replies = [json.loads(event["text"])["payload"] for event in server.sent if "text" in event]
    assert len(replies) == MANY
    assert max(Counter(replies).values()) <= 2 * TURN  # the order of turns is random on trio


@pytest.mark.on_asyncio
async def test_a_server_may_send_by_a_generator_that_can_be_awaited(
    new_server: NewServer, group: CommandGroup
) -> None:
    server = new_server()

    @coroutine
    def send(event: Any) -> Any:
        yield from server.send(event).__await__()

    async with anyio.create_task_group() as connections:
        connections.start_soon(app_with(group).asgi, server.scope, server.receive, send)
        await server.greet()
        server.says('{"event": "greeting", "id": 2}')
        assert json.loads((await server.next())["text"])["id"] == 2
        server.leaves()


async def test_a_reply_that_waits_keeps_nothing_else_of_its_message(
    new_server: NewServer, group: CommandGroup
) -> None:
    server, waits = new_server(), anyio.Event()

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send":
            waits.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as connections:
        connections.start_soon(app_with(group).asgi, server.scope, server.receive, send)
        server.says('{"event": "greeting", "token": "canary"}')
        await waits.wait()
        await anyio.wait_all_tasks_blocked()
        kept = [
            repr(list(each.cr_frame.f_locals.values()))
            for each in gc.get_objects()
            if type(each) is CoroutineType and each.cr_code is MessageLoop.run.__code__
            if each.cr_frame is not None
        ]
        connections.cancel_scope.cancel()
    assert any("unknown command" in values for values in kept)  # the reply
    assert not any("canary" in values for values in kept)


async def server_sends(server: AsgiServer, event: Any) -> None:
    server.sent.append(event)
    if len(server.sent) == MANY + 1:
        server.leaves()


async def test_a_second_message_that_is_too_long_closes_the_connection(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect 1009 past `max_size` where the reading task does not receive, too."""
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(CommandGroup(), limits=Limits(max_size=50)).asgi)
        await server.greet()
        server.says("x" * 51)
        assert (await server.next())["code"] == 1009


async def test_a_second_message_that_is_binary_is_read_like_a_text(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect the message to be read like a text."""
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(CommandGroup()).asgi)
        await server.greet()
        message = {"type": "websocket.receive", "bytes": b'{"ping": 1}'}
        server.from_client.send_nowait(message)
        assert (await server.next())["text"] == '{"pong":1}'
        server.leaves()


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_replies_that_the_server_does_not_take_at_once_are_sent_in_the_end(
    new_server: NewServer, group: CommandGroup, concurrency: int
) -> None:
    """Expect all replies in the end, also those that come while another waits for the client."""
    full = Gate()

    async def send(event: Any) -> None:
        if "text" in event:
            await full()
            await anyio.lowlevel.checkpoint()
        await server.send(event)

    server = new_server()
    app = app_with(group, limits=Limits(concurrency=concurrency))
    async with anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, send)
        assert (await server.next())["type"] == "websocket.accept"
        for number in range(4):
            server.says(f'{{"event": "say", "payload": "{number}", "id": {number}}}')
        await full.reached.wait()
        await anyio.wait_all_tasks_blocked()
        full.opened.set()
        replies = [json.loads((await server.next())["text"]) for _ in range(4)]
        server.leaves()
    assert sorted(reply["id"] for reply in replies) == [0, 1, 2, 3]


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_send_that_is_not_a_coroutine_function_is_awaited(
    new_server: NewServer, app: WebSuckets, journal: list[str], is_gone: bool
) -> None:
    """Expect replies to be sent, and an error that is raised at once to end the connection.

    Granian's ``send`` returns an awaitable of its own, and raises errors before that.
    """
    tell_of_the_end(app, journal)

    class Sending:
        def __init__(self, event: Any) -> None:
            if is_gone and "text" in event:
                raise RuntimeError("gone")
            self.event = event

        def __await__(self) -> Any:
            yield from server.send(self.event).__await__()

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, Sending)
        assert (await server.next())["type"] == "websocket.accept"
        server.says('{"event": "say", "payload": "x"}')
        if not is_gone:
            assert (await server.next())["text"] == '{"event":"say","payload":"x"}'
            server.leaves()
    assert journal == [f"disconnect {1006 if is_gone else 1000}"]


async def test_a_reply_waits_behind_earlier_messages(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect the reply to wait for a client that does not read as long as earlier messages do."""
    stuck = Gate()

    @group.command("start")
    async def start(socket: Socket, *, tasks: ConnectionTasks) -> None:
        tasks.start_soon(socket.send, "x")
        await stuck.reached.wait()

    async def send(event: Any) -> None:
        if event.get("text") == "x":
            await stuck()
        await server.send(event)

    server = new_server()
    app = app_with(group, limits=Limits(outbox=(1, 100), send_timeout=0.1))
    tell_of_the_end(app, journal)

    async with app.lifespan(), anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, send)
        await server.greet()
        server.says('{"event": "start", "id": 1}')
        assert (await server.next())["text"] == '{"event":"start","payload":null,"id":1}'
        server.says(f'{{"event": "say", "payload": "{"x" * 100}"}}')
    assert journal == ["disconnect 1006"]
