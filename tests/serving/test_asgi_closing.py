"""Tests of connections that `app.asgi` closes: in time, in order, with nothing left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgi_server import NewServer, tell_of_the_end
from dishka import Provider, Scope, provide
from harness import Gate, app_with
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Socket, WebSuckets
from websuckets.session import Session

pytestmark = pytest.mark.anyio


class Thing: ...


async def test_a_client_that_does_not_take_its_close_is_aborted(
    new_server: NewServer,
    group: CommandGroup,
    journal: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Expect the connection to be aborted when the client does not take its close frame."""
    monkeypatch.setattr("websuckets.transports.asgi_connection.ABORT_TIMEOUT", 0.01)
    gate = Gate()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    app = app_with(group, limits=Limits(drain_timeout=0))
    tell_of_the_end(app, journal)

    async def send(event: Any) -> None:
        if event["type"] == "websocket.close":
            await anyio.sleep_forever()

    server = new_server()
    server.says('{"event": "wait"}')
    async with anyio.create_task_group() as connections:
        async with app.lifespan():
            connections.start_soon(app.asgi, server.scope, server.receive, send)
            await gate.reached.wait()
    assert journal == ["disconnect 1011"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["send", "stream"])
async def test_a_client_that_does_not_read_does_not_hold_up_the_stop(
    new_server: NewServer, group: CommandGroup, journal: list[str], command: str
) -> None:
    """Expect the app to stop; senders that wait for the client are told that it is closed."""

    @group.command("send")
    async def send_for_good(socket: Socket) -> None:
        try:
            await socket.send("x")
        finally:
            journal.append("ended")

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            journal.append("ended")

    app = app_with(group, limits=Limits(drain_timeout=0.01))
    stuck = anyio.Event()

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send":
            stuck.set()
            await anyio.sleep_forever()

    server = new_server()
    server.says(f'{{"event": "{command}"}}')
    async with anyio.create_task_group() as connections:
        with anyio.fail_after(TIMEOUT):
            async with app.lifespan():
                connections.start_soon(app.asgi, server.scope, server.receive, send)
                await stuck.wait()
    assert journal == ["ended"]


@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_client_that_does_not_read_its_second_reply_is_aborted(
    new_server: NewServer, journal: list[str], is_slow: bool
) -> None:
    """Expect the connection to be aborted, with everything that waits for it."""
    app = app_with(CommandGroup(), limits=Limits(drain_timeout=0.01))
    stuck = anyio.Event()
    tell_of_the_end(app, journal)

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send" and len(server.sent) == 2:
            stuck.set()
            try:
                await anyio.sleep_forever()
            finally:
                if is_slow:  # so that the connection is closed while the command is being cancelled
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.01)
        await server.send(event)

    async def connect() -> None:
        await app.asgi(server.scope, server.receive, send)
        journal.append("returned")

    server = new_server()
    async with anyio.create_task_group() as connections:
        with anyio.fail_after(TIMEOUT):
            async with app.lifespan():
                connections.start_soon(connect)
                await server.greet()
                server.says('{"event": "unknown"}')
                await stuck.wait()
    assert journal == ["disconnect 1011", "returned"]


@pytest.mark.slow
@pytest.mark.parametrize("stuck", ["websocket.send", "websocket.close"])
async def test_closing_a_client_that_does_not_read_is_bounded(
    new_server: NewServer, group: CommandGroup, monkeypatch: pytest.MonkeyPatch, stuck: str
) -> None:
    """Expect waiting senders to be released, and the close itself to be bounded."""
    monkeypatch.setattr("websuckets.transports.asgi_connection.CLOSE_TIMEOUT", 0.01)
    waiting = anyio.Event()

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        yield 1

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send":
            waiting.set()
        if event["type"] == stuck:
            await anyio.sleep_forever()

    server = new_server()
    server.says('{"event": "stream", "id": 1}')
    async with anyio.create_task_group() as connections:
        with anyio.fail_after(TIMEOUT):
            connections.start_soon(app_with(group).asgi, server.scope, server.receive, send)
            await waiting.wait()
            [user] = Session.online.values()
            await user.socket.close(4401, "revoked")
            while Session.online:
                await anyio.sleep(0.001)


async def test_closing_in_a_scope_that_is_cancelled_sends_the_close_code(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect the client to get its close code in a cancelled scope, too."""
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app.asgi)
        await server.next()
        await anyio.wait_all_tasks_blocked()
        [user] = Session.online.values()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await user.socket.close(4401, "revoked")
        assert (await server.next())["code"] == 4401


async def test_a_close_from_elsewhere_is_sent_before_the_connection_is_over(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect the close to be sent before the server is told that the connection is over."""
    server = new_server()
    sending = Gate()

    async def send(event: Any) -> None:
        if event["type"] == "websocket.close":
            await sending()
        await server.send(event)

    async def connect() -> None:
        await app.asgi(server.scope, server.receive, send)
        assert server.sent[-1]["type"] == "websocket.close"

    async with anyio.create_task_group() as connections:
        connections.start_soon(connect)
        assert (await server.next())["type"] == "websocket.accept"
        [user] = Session.online.values()
        connections.start_soon(user.socket.close, 4000, "enough")
        await sending.reached.wait()
        await anyio.wait_all_tasks_blocked()
        await user.socket.close(4001)  # the connection is closing already
        sending.opened.set()
    assert server.sent[1:] == [{"type": "websocket.close", "code": 4000, "reason": "enough"}]


async def test_nobody_receives_when_a_connection_is_closed(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect the receive to end, as granian requires, without an error for the connection."""
    server, endings, receiving = new_server(), list[object](), 0

    class Held(Provider):
        @provide(scope=Scope.SESSION)
        async def thing(self) -> AsyncIterator[Thing]:
            endings.append((yield Thing()))

    group = CommandGroup()

    @group.command("hold")
    async def hold(socket: Socket, *, thing: Thing) -> str:
        return "held"

    async def receive() -> Any:
        nonlocal receiving
        receiving += 1
        try:
            return await server.receive()
        finally:
            receiving -= 1

    async def send(event: Any) -> None:
        assert event["type"] != "websocket.close" or receiving == 0
        await server.send(event)

    app = app_with(group, providers=[Held()])
    async with app.lifespan(), anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, receive, send)
        assert (await server.next())["type"] == "websocket.accept"
        for _ in range(2):
            server.says('{"event": "hold"}')
            await server.next()
        await anyio.wait_all_tasks_blocked()
        assert receiving == 1
        [user] = Session.online.values()
        await user.socket.close(4000, "enough")
        assert (await server.next())["code"] == 4000
    assert endings == [None]


@pytest.mark.parametrize("who", ["client", "server", "nobody says"])
async def test_nothing_is_left_with_the_server(
    new_server: NewServer, group: CommandGroup, who: str
) -> None:
    """Expect all that the client has sent to be taken: hypercorn waits for that, without limit."""
    gate = Gate()

    @group.command("close")
    async def close(socket: Socket) -> str:
        await gate()
        if who == "server":
            await socket.close()
        return "done"

    async def send(event: Any) -> None:
        if who == "nobody says" and "done" in event.get("text", ""):
            raise OSError
        await server.send(event)

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(app_with(group).asgi, server.scope, server.receive, send)
        await server.greet()
        server.says('{"event": "close"}')
        if who == "client":
            server.leaves()
        await gate.reached.wait()
        gate.opened.set()
        for _ in range(5):
            server.says('{"event": "close"}')
        if who == "server":
            server.leaves()
    assert server.to_app.statistics().current_buffer_used == 0


@pytest.mark.on_asyncio
@pytest.mark.parametrize("who", ["server", "client", "reply"])
async def test_hooks_do_not_run_in_a_task_that_is_cancelled(
    new_server: NewServer, journal: list[Any], who: str
) -> None:
    """Expect hooks to run outside a cancelled task, whoever closes a connection that waits."""
    app = app_with(CommandGroup())
    stuck = anyio.Event()

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        journal.append(task.cancelling())
        await asyncio.sleep(0.001)
        journal.append(socket.close_code)

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send" and len(server.sent) == 2 and who == "reply":
            stuck.set()
            await anyio.sleep_forever()
        await server.send(event)

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, send)
        await server.greet()
        if who == "reply":
            server.says('{"event": "unknown"}')
            await stuck.wait()
        await anyio.wait_all_tasks_blocked()
        if who == "client":
            server.leaves()
        else:
            [user] = Session.online.values()
            await user.socket.close(1000)
    assert journal == [0, 1000]


async def test_what_is_sent_after_a_close_is_not_read(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect a command not to run that waits while its connection is closed."""

    @group.command("close")
    async def close(socket: Socket) -> None:
        while server.to_app.statistics().current_buffer_used > 0:  # the next command is read ahead
            await anyio.sleep(0.001)
        await socket.close()

    @group.command("write")
    async def write(socket: Socket) -> None:
        journal.append("written")

    server = new_server()
    for command in ("close", "write"):
        server.says(f'{{"event": "{command}"}}')
    await server(app_with(group).asgi)
    assert journal == []
