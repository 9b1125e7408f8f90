"""Tests of hooks that fail: the log, the client, and the other hooks."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import pytest
from dishka import Provider, Scope
from harness import app_with, connect, dial, errors, talk, until
from hook_objects import Job, Journalling, Visit, hooked_commands
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, WebSuckets
from websuckets.app import Server
from websuckets.exc import (
    ClientError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def group(journal: list[str]) -> CommandGroup:
    return hooked_commands(journal)


@pytest.fixture
def app(journal: list[str], group: CommandGroup) -> WebSuckets:
    return app_with(group, providers=[Journalling(journal)])


async def test_a_disconnect_hook_that_fails_disturbs_nobody(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident in the log; the other hooks run, and the scope is closed."""

    @app.on_disconnect
    async def fail(visit: Visit) -> None:
        raise ClientError("nobody is there to be told")

    @app.on_disconnect
    async def second() -> None:
        journal.append("second")

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server):
            pass
        await until(journal, "close visit")
    assert journal == ["open visit", "second", "close visit"]
    (record,) = errors(caplog)
    assert re.search(r"on_disconnect .*fail failed, incident", record.getMessage())


async def test_a_disconnect_hook_that_hangs_is_cancelled(
    journal: list[str], group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the time of finalisers for the hook, so that no connection is kept for ever."""
    app = app_with(group, providers=[Journalling(journal)], limits=Limits(finalize_timeout=0.02))

    @app.on_disconnect
    async def hang(visit: Visit) -> None:
        await anyio.sleep_forever()

    @app.on_disconnect
    async def second() -> None:
        journal.append("second")

    async with talk(app):
        pass
    assert journal == ["open visit", "second", "close visit"]
    (record,) = errors(caplog)
    assert "took more than 0.02 seconds" in str(record.exc_info)


class Late: ...


def late(scope: Scope) -> Provider:
    async def late() -> AsyncIterator[Late]:
        yield Late()
        await anyio.sleep_forever()

    provider = Provider(scope=scope)
    provider.provide(late)
    return provider


async def come_and_go(server: Server, kind: str) -> None:
    """Let a client come as far as a failing hook of this kind allows."""
    if kind == "on_handshake":
        with pytest.raises(InvalidStatus, match="500"):
            async with connect(server.urls[0]):
                raise AssertionError("it was let in")
    else:
        async with dial(server) as client:
            if kind == "on_connect":
                assert (await client.closed())[0] == 1011


@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_finalisers_of_a_hook_are_bounded(
    kind: str, journal: list[str], group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the hook to fail past the bound; what follows is as usual."""
    app = app_with(group, providers=[late(Scope.REQUEST)], limits=Limits(finalize_timeout=0.02))

    @getattr(app, kind)
    async def slow(late: Late) -> None:
        journal.append("hook")

    @app.on_connect
    async def after() -> None:
        if kind == "on_connect":
            journal.append("never")

    async with app.serve("127.0.0.1", 0) as server:
        await come_and_go(server, kind)
    (record,) = errors(caplog)
    assert "finalisers took more than 0.02 seconds" in str(record.exc_info)
    assert journal == ["hook"]


@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_the_error_of_a_hook_wins_over_that_of_its_finalisers(
    kind: str, group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect both errors in the log, and that of the hook at the client."""

    class Failing: ...

    async def failing() -> AsyncIterator[Failing]:
        yield Failing()
        raise RuntimeError("of the finaliser")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(failing)
    app = app_with(group, providers=[provider])

    @getattr(app, kind)
    async def hook(failing: Failing) -> None:
        raise RuntimeError("of the hook")

    async with app.serve("127.0.0.1", 0) as server:
        await come_and_go(server, kind)
    first, second = [record.getMessage() for record in errors(caplog)]
    assert first.startswith("finalisers of")
    assert second.startswith(kind)


@pytest.mark.on_asyncio
@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_a_hook_that_waits_for_a_cancelled_task_fails(
    kind: str, app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the hook to fail, without a cancellation of its connection."""

    @getattr(app, kind)
    async def wait() -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task

    async with app.serve("127.0.0.1", 0) as server:
        await come_and_go(server, kind)
    assert len(errors(caplog)) == 1


async def test_a_startup_hook_that_fails_ends_the_start(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect no open port, and everything closed; the start may be repeated."""

    @app.on_startup
    async def fail(job: Job) -> None:
        raise RuntimeError("no database")

    for _ in range(2):
        journal.clear()
        with pytest.raises(RuntimeError, match="no database") as caught:
            async with app.serve("127.0.0.1", 0):
                raise AssertionError("it started")
        assert "on_startup" in caught.value.__notes__[0]
        assert journal == ["open job", "close job with RuntimeError"]


class Fatal(BaseException): ...


@pytest.mark.parametrize("fatal", [Fatal(), BaseExceptionGroup("", [Fatal(), ValueError()])])
@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_a_hook_that_raises_a_base_exception_disturbs_nobody_else(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    fatal: BaseException,
) -> None:
    """Expect an incident, as for any failure of a hook."""

    @getattr(app, kind)
    async def die(request: Request, visit: Visit) -> None:
        if request.path == "/":
            raise fatal

    async with app.serve("127.0.0.1", 0) as server:
        async with connect(server.urls[0] + "/other") as other:
            await come_and_go(server, kind)
            await until(journal, "close visit")
            await other.send('{"event": "run", "id": 1}')
            assert await other.recv() == '{"event":"run","payload":null,"id":1}'
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
def test_a_hook_may_end_the_program(group: CommandGroup, kind: str) -> None:
    """Expect the program to end, on asyncio as by any task."""
    app = app_with(group)

    @getattr(app, kind)
    async def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        # asyncio logs the unread error of the task once the task is collected, so in another test
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with app.serve("127.0.0.1", 0) as server:
            with suppress(OSError, InvalidHandshake, ConnectionClosed):
                async with dial(server) as client:
                    if kind != "on_disconnect":
                        await client.closed()
            await asyncio.sleep(TIMEOUT)

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(main())
