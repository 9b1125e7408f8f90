"""Tests of commands whose connection ends, or whose server stops, while they run."""

import logging
from typing import Any

import anyio
import pytest
from failing_commands import Inner, Journalling, cancelled, commands, incident_of
from harness import Gate, app_with, dial, errors, talk
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, Limits
from websuckets.session import Session

pytestmark = pytest.mark.anyio


def gated(journal: list[str], gate: Gate) -> CommandGroup:
    group = commands(journal)

    @group.command("wait")
    async def wait(socket: ServerConnection, *, inner: Inner) -> str:
        await gate()
        journal.append("handler went on")
        return "done"

    @group.command("wait for the end")
    async def wait_for_the_end(socket: ServerConnection, *, inner: Inner) -> str:
        gate.reached.set()
        await socket.wait_closed()
        for _ in range(10):
            await anyio.sleep(0)
        journal.append("handler went on")
        gate.opened.set()
        return "nobody is there to read this"

    @group.command("wait and send")
    async def wait_and_send(socket: ServerConnection, *, inner: Inner) -> None:
        await gate()
        await socket.wait_closed()
        await socket.send("x")

    @group.command("send to the first")
    async def send_to_first(socket: ServerConnection, *, session: Session) -> None:
        first = next(iter(session.online.values()))
        await first.socket.close()
        await first.socket.send("x")

    return group


def closed_in_order(journal: list[str], error: str | None) -> bool:
    suffix = f" with {error}" if error else ""
    index = journal.index(f"close inner{suffix}")
    return journal[index + 1 : index + 3] == [f"close outer{suffix}", "close session"]


async def test_a_client_that_vanishes_does_not_stop_its_command(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the handler to end, its changes to be kept, every scope closed, and no error."""
    gate = Gate()
    app = app_with(gated(journal, gate), providers=[Journalling(journal)])
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.send("wait for the end")
            await gate.reached.wait()
            await client.vanish()
            await gate.opened.wait()  # the handler opens the gate when it has seen the end
    assert "handler went on" in journal
    assert closed_in_order(journal, None)
    assert journal[-1] == "close app"
    assert not errors(caplog)


async def test_sending_to_a_client_that_vanished_rolls_back_without_an_incident(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no incident for the caller's own connection, which has ended."""
    caplog.set_level(logging.DEBUG, logger="websuckets")
    gate = Gate()
    app = app_with(gated(journal, gate), providers=[Journalling(journal)])
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.send("wait and send")
            await gate.reached.wait()
            await client.vanish()
            gate.opened.set()
    assert closed_in_order(journal, "ConnectionClosedError")
    assert not errors(caplog)
    assert "left while 'wait and send' ran" in caplog.text


async def test_a_bug_after_closing_ones_own_connection_is_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an incident, though no client is there to be told."""
    group = CommandGroup()

    @group.command("close and fail")
    async def close_and_fail(socket: ServerConnection) -> None:
        await socket.close()
        raise RuntimeError("canary")

    async with talk(app_with(group)) as client:
        await client.send("close and fail")
        await client.closed()
    [incident] = errors(caplog)
    assert incident.exc_info is not None and incident.exc_info[0] is RuntimeError


async def test_sending_to_another_client_that_is_gone_is_an_internal_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an internal error at the caller; the handler should expect that error."""
    app = app_with(gated(journal, Gate()), providers=[Journalling(journal)])
    async with talk(app) as first, first.another() as second:
        incident_of(await second.call("send to the first"))
        assert len(errors(caplog)) == 1


async def test_a_server_that_stops_lets_the_running_command_finish(journal: list[str]) -> None:
    """Expect the reply before the connection is closed with 1012; no further command starts."""
    gate = Gate()
    app = app_with(gated(journal, gate), providers=[Journalling(journal)])
    async with anyio.create_task_group() as tasks, app.serve("127.0.0.1", 0) as server:

        async def client() -> None:
            async with dial(server) as idle, dial(server) as busy:
                await idle.call("fine")
                await busy.send("wait")
                await busy.send("fine")
                connected.set()
                assert (await busy.receive())["payload"] == "done"
                assert await busy.closed() == (1012, "service restart")
                assert await idle.closed() == (1012, "service restart")
                clients_done.set()

        connected, clients_done = anyio.Event(), anyio.Event()
        tasks.start_soon(client)
        await connected.wait()
        await gate.reached.wait()
        release_when_blocked(tasks, gate)
    assert clients_done.is_set()
    assert journal[-1] == "close app"
    assert journal.count("handler") == 1


def release_when_blocked(tasks: Any, gate: Gate) -> None:
    """Open the gate once the server is stopping."""

    async def release() -> None:
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    tasks.start_soon(release)


async def test_a_command_that_does_not_finish_is_cancelled_at_the_deadline(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the command to be cancelled past `drain_timeout`, and every scope closed."""
    group = commands(journal)
    started = anyio.Event()

    @group.command("forever")
    async def forever(socket: ServerConnection, *, inner: Inner) -> None:
        started.set()
        await anyio.sleep_forever()

    app = app_with(group, providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    async with talk(app) as client:
        await client.send("forever")
        await started.wait()
    assert journal[-4:] == [
        f"close inner with {cancelled()}",
        f"close outer with {cancelled()}",
        f"close session with {cancelled()}",
        "close app",
    ]
    assert (
        "aborting 1 connections that did not close, 'forever' (1) (Limits.drain_timeout is 0.05)"
    ) in caplog.messages
    assert not errors(caplog)


@pytest.mark.on_asyncio  # on trio such a handler stops the whole event loop
async def test_a_command_that_ignores_its_cancellation_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the server to stop nevertheless, with an error in the log."""
    group = CommandGroup()
    started, enough, ended = anyio.Event(), anyio.Event(), anyio.Event()

    @group.command("forever")
    async def forever(socket: ServerConnection) -> None:
        started.set()
        while not enough.is_set():
            try:
                await enough.wait()
            except BaseException:
                continue
        ended.set()

    limits = Limits(drain_timeout=0.05, finalize_timeout=0.05)
    try:
        async with talk(app_with(group, limits=limits)) as client:
            await client.send("forever")
            await started.wait()
    finally:
        enough.set()  # else the event loop would wait for the handler for good
    await ended.wait()
    assert (
        "1 connections ignore their cancellation, 'forever' (1) (Limits.finalize_timeout is 0.05)"
    ) in caplog.messages


async def test_a_handler_may_close_its_connection_with_its_own_code(journal: list[str]) -> None:
    """Expect the handler's own close code."""
    group = CommandGroup()

    @group.command("bye")
    async def bye(socket: ServerConnection, *, inner: Inner) -> None:
        await socket.close(4000, "bye")

    async with talk(app_with(group, providers=[Journalling(journal)])) as client:
        await client.send("bye", id=1)
        assert await client.closed() == (4000, "bye")
    assert closed_in_order(journal, None)


async def test_sending_after_closing_ones_own_connection_is_not_an_incident(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no incident for ConnectionClosed of the own socket, whoever closed it."""
    group = CommandGroup()

    @group.command("bye")
    async def bye(socket: ServerConnection) -> None:
        await socket.close()
        with pytest.raises(ConnectionClosed):
            await socket.send("x")
        await socket.send("x")

    async with talk(app_with(group)) as client:
        await client.send("bye")
        assert await client.closed() == (1000, "")
    assert not errors(caplog)
