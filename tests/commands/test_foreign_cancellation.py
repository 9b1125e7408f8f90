"""Tests of cancellations that the user's code or asyncio causes inside a command."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from failing_commands import Inner, Journalling, SessionThing, cancelled, commands, incident_of
from harness import app_with, on_trio, talk
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup
from websuckets.exc import ClientError

pytestmark = pytest.mark.anyio


async def test_a_finaliser_that_ends_with_a_cancellation_turns_success_into_an_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error instead of success; the other finalisers run."""
    group = CommandGroup()

    class Odd: ...

    async def odd(inner: Inner) -> AsyncIterator[Odd]:
        yield Odd()
        raise anyio.get_cancelled_exc_class()

    @group.command("use")
    async def use(socket: ServerConnection, *, odd: Odd) -> str:
        return "a false success"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(odd)
    app = app_with(group, providers=[Journalling(journal), provider])
    async with talk(app) as client:
        incident_of(await client.call("use"))
        assert [line.split(" with ")[0] for line in journal[-2:]] == ["close inner", "close outer"]


async def test_a_send_that_is_cancelled_leaves_no_garbage() -> None:
    """Expect unread data to end the handler alone, or the connection; others are not affected."""
    group = CommandGroup()

    @group.command("flood")
    async def flood(socket: ServerConnection) -> None:
        with anyio.move_on_after(0.05):
            while True:
                await socket.send("x" * 2**20)

    @group.command("fine")
    async def fine(socket: ServerConnection) -> str:
        return "fine"

    async with talk(app_with(group)) as client, client.another() as other:
        await client.send("flood", id=1)
        with anyio.fail_after(TIMEOUT):
            try:
                while (frame := await client.connection.recv())[0] == "x":
                    assert frame == "x" * 2**20
                assert json.loads(frame)["id"] == 1
            except ConnectionClosed:
                assert on_trio()
        assert (await other.call("fine"))["payload"] == "fine"


@pytest.mark.on_asyncio
async def test_a_cancellation_that_nobody_meant_is_a_bug_like_any_other(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident for a handler that waits for a task which other code cancelled."""
    group = commands(journal)

    @group.command("wait for a cancelled task")
    async def wait(socket: ServerConnection, *, inner: Inner) -> None:
        task = asyncio.ensure_future(anyio.sleep_forever())
        await asyncio.sleep(0)
        task.cancel()
        await task

    async with talk(app_with(group, providers=[Journalling(journal)])) as client:
        incident = incident_of(await client.call("wait for a cancelled task", id=1))
        assert incident in caplog.messages[-1]
        assert journal[-1] == f"close outer with {cancelled()}"
        assert (await client.call("fine"))["payload"] == "fine"


@pytest.mark.parametrize("scope", [Scope.REQUEST, Scope.SESSION])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_finaliser_lets_the_others_run(
    journal: list[str], scope: Scope, fails: bool
) -> None:
    """Expect the cancelled finaliser to end, then the connection, and no other."""
    tasks: list[Any] = []
    waiting = anyio.Event()

    class Slow: ...

    async def slow(thing: SessionThing) -> AsyncIterator[Slow]:
        yield Slow()
        tasks.append(asyncio.current_task())
        waiting.set()
        await anyio.sleep_forever()

    group = commands(journal)

    @group.command("use")
    async def use(socket: ServerConnection, *, slow: Slow) -> None:
        if fails:
            raise ClientError("failed")

    provider = Provider(scope=scope)
    provider.provide(slow)
    app = app_with(group, providers=[Journalling(journal), provider])
    async with talk(app) as client:
        async with client.another() as other:
            await other.send("use")
            if scope is Scope.SESSION:
                await other.connection.close()
            await waiting.wait()
            tasks[0].cancel()
            await other.closed()
            while not any(line.startswith("close session") for line in journal):
                await anyio.sleep(0)
        assert (await client.call("fine"))["payload"] == "fine"


@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_connection_closes_its_scopes(
    journal: list[str],
) -> None:
    """Expect everything to be finalised, as when an event loop is torn down; others go on."""
    group = commands(journal)
    tasks: list[Any] = []
    waiting = anyio.Event()

    @group.command("forever")
    async def forever(socket: ServerConnection, *, inner: Inner) -> None:
        tasks.append(asyncio.current_task())
        waiting.set()
        await anyio.sleep_forever()

    async with talk(app_with(group, providers=[Journalling(journal)])) as client:
        async with client.another() as other:
            await other.send("forever")
            await waiting.wait()
            tasks[0].cancel()
            await other.closed()
        assert journal[-3:] == [
            f"close inner with {cancelled()}",
            f"close outer with {cancelled()}",
            f"close session with {cancelled()}",
        ]
        assert (await client.call("fine"))["payload"] == "fine"
