"""Tests of clients of `app.asgi` that leave or are lost, and of servers that cancel."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgi_server import NewServer, tell_of_the_end, waiting
from harness import Gate, app_with, errors
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.session import Session

pytestmark = pytest.mark.anyio


# The client leaves, or is lost


@pytest.mark.parametrize("how", ["error", "disconnect without a code"])
async def test_a_client_that_the_server_loses_is_disconnected_with_1006(
    new_server: NewServer, app: WebSuckets, journal: list[str], how: str
) -> None:
    """Expect the end of the connection, whatever the server says of it."""

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        journal.append(f"{socket.close_code} {socket.close_reason}")

    server = new_server()
    server.from_client.send_nowait(
        RuntimeError("lost") if how == "error" else {"type": "websocket.disconnect"}
    )
    await server(app.asgi)
    assert journal == ["1006 "]


@pytest.mark.parametrize(
    ("code", "error"), [(1005, ConnectionClosedOK), (1006, ConnectionClosedError)]
)
async def test_the_error_of_a_send_tells_how_the_client_has_closed(
    new_server: NewServer, group: CommandGroup, code: int, error: type[Exception]
) -> None:
    """Expect the errors of ``websockets`` to tell how the client has closed."""
    seen: list[type[Exception]] = []

    @group.command("send")
    async def send(socket: Socket) -> None:
        while socket.close_code is None:
            await anyio.sleep(0.001)
        try:
            await socket.send("x")
        except ConnectionClosed as raised:
            seen.append(type(raised))

    server = new_server()
    server.says('{"event": "send"}')
    server.from_client.send_nowait({"type": "websocket.disconnect", "code": code})
    await server(app_with(group).asgi)
    assert seen == [error]


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError, RuntimeError])
@pytest.mark.parametrize("command", ["say", "close", "stream"])
async def test_sending_to_a_client_that_is_gone_is_not_an_incident(
    new_server: NewServer,
    group: CommandGroup,
    journal: list[str],
    command: str,
    error: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect no incident when the server raises `OSError`, or another error of its own."""

    @group.command("close")
    async def close(socket: Socket) -> None:
        await socket.close(4000)

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            journal.append("stream ended")

    app = app_with(group)
    tell_of_the_end(app, journal)

    server = new_server()

    async def send(event: Any) -> None:
        if event["type"] != "websocket.accept":
            raise error("gone")

    server.says(f'{{"event": "{command}", "payload": "x"}}')
    with anyio.fail_after(TIMEOUT):
        await app.asgi(server.scope, server.receive, send)
    assert journal[-1] == ("disconnect 4000" if command == "close" else "disconnect 1006")
    assert ("stream ended" in journal) == (command == "stream")
    assert errors(caplog) == []


async def test_commands_that_came_before_the_client_left_are_run(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect these commands to run, as under ``websockets``."""

    @group.command("write")
    async def write(socket: Socket, text: Payload[str]) -> None:
        journal.append(text)

    server = new_server()
    for number in range(3):
        server.says(f'{{"event": "write", "payload": "{number}"}}')
    server.leaves()
    await server(app_with(group).asgi)
    assert journal == ["0", "1", "2"]


async def test_a_client_that_leaves_cancels_what_runs_for_it_alone(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect the departure to be noticed; what runs for this client alone is cancelled."""
    gate = waiting(group, journal, cancel_on_disconnect=True)
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(group).asgi)
        await server.greet()
        server.says('{"event": "wait"}')
        await gate.reached.wait()
        server.leaves()
    assert journal == ["wait ended"]


async def test_a_server_that_fails_after_the_first_message_is_not_an_incident(
    new_server: NewServer, app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the end of the connection, without an incident."""
    tell_of_the_end(app, journal)
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app.asgi)
        await server.greet()
        await anyio.wait_all_tasks_blocked()
        server.from_client.send_nowait(RuntimeError("lost"))
    assert journal == ["disconnect 1006"]
    assert errors(caplog) == []


async def test_a_client_that_is_lost_while_a_reply_waits_is_not_an_incident(
    new_server: NewServer, app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the end of the connection, without an incident."""
    tell_of_the_end(app, journal)

    async def send(event: Any) -> None:
        await server.send(event)
        if "text" in event:
            await anyio.lowlevel.checkpoint()
            raise OSError("gone")

    server = new_server()
    server.says('{"event": "say", "payload": "x"}')
    await app.asgi(server.scope, server.receive, send)
    assert journal == ["disconnect 1006"]
    assert errors(caplog) == []


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError, RuntimeError])
async def test_commands_behind_a_reply_that_cannot_be_sent_do_not_begin(
    new_server: NewServer, group: CommandGroup, journal: list[str], error: type[Exception]
) -> None:
    """Expect the commands not to begin, without any cancellation: later endings are as usual."""
    gate = Gate()

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "done"

    @group.command("write")
    async def write(socket: Socket) -> None:
        journal.append("begun")

    async def send(event: Any) -> None:
        if "done" in event.get("text", ""):
            raise error("gone")
        await server.send(event)

    app = app_with(group)
    tell_of_the_end(app, journal)

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, send)
        await server.greet()
        for command in ("wait", "write", "write"):
            server.says(f'{{"event": "{command}"}}')
        await gate.reached.wait()
        while server.to_app.statistics().current_buffer_used:  # the commands are read ahead
            await anyio.sleep(0.001)
        gate.opened.set()
    assert journal == ["disconnect 1006"]


async def test_a_server_that_has_failed_is_not_asked_for_more(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect the rest to stay with the server when a receive fails after the client has left."""
    server = new_server()
    server.leaves()
    for _ in range(2):
        server.from_client.send_nowait(RuntimeError("it is gone"))
    await server(app.asgi)
    assert server.to_app.statistics().current_buffer_used == 1


# The server cancels


async def test_a_cancellation_by_the_server_finalises_streams_and_concurrency(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect running commands to be cancelled and finalised, with nothing left."""
    gate = waiting(group, journal)
    app = app_with(group)
    tell_of_the_end(app, journal)

    for command in ("wait", "say"):
        server, gate.reached = new_server(), anyio.Event()
        server.says(f'{{"event": "{command}", "payload": "x"}}')
        async with app.lifespan(), anyio.create_task_group() as connections:
            connections.start_soon(server, app.asgi)
            await (gate.reached.wait() if command == "wait" else server.next())
            await anyio.wait_all_tasks_blocked()
            connections.cancel_scope.cancel()
    assert journal == ["wait ended", "disconnect 1006", "disconnect 1006"]


@pytest.mark.on_asyncio
@pytest.mark.parametrize("is_idle", [False, True])
async def test_a_native_cancellation_by_the_server_leaves_nothing(
    new_server: NewServer, group: CommandGroup, journal: list[str], is_idle: bool
) -> None:
    """Expect a cancellation as by uvicorn when clients do not leave in time to be handled."""
    gate = waiting(group, journal)
    server = new_server()
    task = asyncio.create_task(server(app_with(group).asgi))
    await server.greet()
    if is_idle:
        await anyio.wait_all_tasks_blocked()
    else:
        server.says('{"event": "wait"}')
        await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal == ([] if is_idle else ["wait ended"]) and Session.online == {}


@pytest.mark.parametrize("is_late", [False, True])
async def test_cancelling_a_connection_that_waits_for_a_message_leaves_nothing(
    new_server: NewServer, app: WebSuckets, is_late: bool
) -> None:
    """Expect nothing to be left, also when the server announces the end at the same moment."""
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app.asgi)
        await server.greet()
        await anyio.wait_all_tasks_blocked()
        if is_late:
            server.leaves()
        connections.cancel_scope.cancel()
    assert Session.online == {}


async def test_a_handler_may_end_the_program(new_server: NewServer, group: CommandGroup) -> None:
    """Expect the program to end, whatever runs the handler."""

    @group.command("exit")
    async def exit(socket: Socket) -> None:
        sys.exit(3)

    server = new_server()
    server.says('{"event": "exit"}')
    with pytest.raises(SystemExit):
        await server(app_with(group).asgi)
    assert Session.online == {}
