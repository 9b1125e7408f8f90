"""A blocked event loop is told, with the command and the line that block it."""

import inspect
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from harness import app_with, talk

from websuckets import CommandGroup, Message, Payload, Socket, WebSuckets
from websuckets.middleware import CallNext, Outcome
from websuckets.runtime.loop_monitor import BLOCKED, STEP, _Loop

pytestmark = pytest.mark.anyio

LONG = BLOCKED + 4 * STEP


def blocks(seconds: float) -> None:
    time.sleep(seconds)


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("block")
    async def block(socket: Socket, seconds: Payload[float]) -> bool:
        blocks(seconds)
        return True

    @group.command("items")
    async def items(socket: Socket, seconds: Payload[float]) -> AsyncIterator[int]:
        yield 1
        blocks(seconds)
        yield 2

    @group.command("wait")
    async def wait(socket: Socket, seconds: Payload[float]) -> bool:
        await anyio.sleep(seconds)
        return True

    return group


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "websuckets" and record.levelno == logging.WARNING
    ]


LINE = inspect.getsourcelines(blocks)[1] + 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["block", "items"])
async def test_a_command_that_blocks_the_loop_is_named_with_its_line(
    group: CommandGroup, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with talk(app_with(group)) as client:
        text = await until_told(client, caplog, command, LONG)
    assert f"blocked for more than 0.5 seconds by the command '{command}'" in text
    assert f"in blocks ({__file__}, line {LINE})" in text


async def test_middleware_that_blocks_the_loop_is_named_with_its_command(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(message: Message, socket: Socket, call_next: CallNext) -> Outcome:
        blocks(LONG)
        return await call_next()

    async with talk(app_with(group, middleware=[slow])) as client:
        text = await until_told(client, caplog, "wait", 0)
    assert "by the command 'wait', in blocks (" in text


async def until_told(client: Any, caplog: pytest.LogCaptureFixture, *call: Any) -> str:
    """Call a command until a warning is there: a busy machine may hold up the thread, too."""
    for _ in range(10):
        await client.send(call[0], payload=call[1], id=1)
        while (await client.receive()).get("more"):
            pass
        if found := warnings(caplog):
            return found[0]
    raise AssertionError("nothing was told")


@pytest.mark.slow
async def test_a_hook_that_blocks_the_loop_is_named_by_its_line(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(group)

    @app.on_connect
    async def connected() -> None:
        blocks(LONG)

    async with talk(app) as client:
        for _ in range(10):
            async with client.another() as other:
                await other.call("wait", payload=0)
            if warnings(caplog):
                break
    assert "for more than 0.5 seconds, in blocks (" in warnings(caplog)[0]


@pytest.mark.slow
async def test_a_blockage_is_told_once_at_most(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    async with talk(app_with(group)) as client:
        await client.call("block", payload=2 * LONG)
    assert len(warnings(caplog)) <= 1


async def test_a_command_that_waits_is_not_told(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    async with talk(app_with(group)) as client:
        await client.call("wait", payload=LONG)
    assert warnings(caplog) == []


async def test_the_thread_ends_after_the_last_app(group: CommandGroup) -> None:
    from websuckets.runtime.loop_monitor import _monitor

    async with app_with(group).lifespan():
        assert _monitor._thread is not None
        thread = _monitor._thread
    await anyio.to_thread.run_sync(thread.join, 20)
    assert not thread.is_alive() or _monitor._loops


def test_a_thread_that_has_ended_blocks_by_nothing_that_could_be_named() -> None:
    assert _Loop(-1, lambda frame: None)._by_what() == ""


def test_an_app_that_has_not_started_is_not_watched(group: CommandGroup) -> None:
    from websuckets.runtime.loop_monitor import _monitor

    before = len(_monitor._loops)
    WebSuckets()
    assert len(_monitor._loops) == before
