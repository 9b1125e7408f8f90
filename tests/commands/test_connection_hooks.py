"""Tests of hooks that greet a client and end its visit: when each runs, and in which order."""

import re
from contextlib import AsyncExitStack

import anyio
import pytest
from harness import Client, app_with, connect, dial, errors, until
from hook_objects import Job, Journalling, Visit, hooked_commands
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, Socket, WebSuckets
from websuckets.exc import ClientError
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(journal: list[str]) -> WebSuckets:
    return app_with(hooked_commands(journal), providers=[Journalling(journal)])


def with_all_hooks(app: WebSuckets, journal: list[str]) -> WebSuckets:
    for n in (1, 2):

        @app.on_startup
        async def startup(session: Session, job: Job, n: int = n) -> None:
            assert Session.online is session.online
            journal.append(f"startup {n}")

        @app.on_handshake
        async def handshake(request: Request, user: User, visit: Visit, n: int = n) -> None:
            assert user.socket.id not in Session.online
            journal.append(f"handshake {n}")

        @app.on_connect
        async def connected(socket: Socket, user: User, visit: Visit, n: int = n) -> None:
            assert Session.online[socket.id] is user
            await socket.send(f"hello {n}")
            journal.append(f"connect {n}")

        @app.on_disconnect
        async def gone(socket: Socket, user: User, visit: Visit, n: int = n) -> None:
            assert Session.online[socket.id] is user
            assert socket.close_code is not None
            journal.append(f"disconnect {n}")

    return app


async def test_each_hook_runs_once_in_order(app: WebSuckets, journal: list[str]) -> None:
    """Expect startup before the port opens, and one SESSION scope from handshake to disconnect."""
    async with with_all_hooks(app, journal).serve("127.0.0.1", 0) as server:
        startup = ["open job", "startup 1", "close job", "open job", "startup 2", "close job"]
        assert journal == startup
        for _ in range(2):
            journal.clear()
            async with dial(server) as client:
                assert [await client.receive_frame() for _ in "12"] == ["hello 1", "hello 2"]
                await client.call("run", id=1)
            await until(journal, "close visit")
            assert journal == [
                *("open visit", "handshake 1", "handshake 2", "connect 1", "connect 2"),
                *("run", "disconnect 1", "disconnect 2", "close visit"),
            ]


async def test_a_client_that_vanishes_is_disconnected_once(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect the hook after the last command, also when its reply cannot be sent any more."""
    running, go_on = anyio.Event(), anyio.Event()
    slow = CommandGroup()

    @slow.command("slow")
    async def wait(socket: ServerConnection) -> str:
        running.set()
        await go_on.wait()
        journal.append("slow")
        return "nobody hears it"

    app.include_command_group(slow)
    async with with_all_hooks(app, journal).serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.send("slow")
            await running.wait()
            await client.vanish()
        go_on.set()
        await until(journal, "close visit")
        assert journal[-4:] == ["slow", "disconnect 1", "disconnect 2", "close visit"]


async def test_hooks_still_run_when_the_server_stops(app: WebSuckets, journal: list[str]) -> None:
    """Expect hooks to run for clients that answer the close, and for cancelled handlers."""
    slow = CommandGroup()
    running = anyio.Event()

    @slow.command("slow")
    async def wait(socket: ServerConnection) -> None:
        running.set()
        await anyio.sleep_forever()

    app = app_with(slow, providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    async with with_all_hooks(app, journal).serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("slow")
        await running.wait()
        journal.clear()
    assert journal == ["disconnect 1", "disconnect 2", "close visit"]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ClientError("no seat left", {"not": "told"}), 1008, "no seat left"),
        (ClientError("ж" * 100), 1008, "ж" * 61),
        (RuntimeError("canary"), 1011, r"incident [0-9a-f]{16}"),
        (ExceptionGroup("", [ClientError("alone")]), 1008, "alone"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_connection_may_be_refused(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: int,
    reason: str,
) -> None:
    """Expect a close code before any command; no disconnect hook runs."""
    sent = anyio.Event()

    @app.on_connect
    async def refuse(job: Job, visit: Visit) -> None:
        await sent.wait()
        raise error

    @app.on_connect
    async def never() -> None:
        journal.append("never")

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("run")
        sent.set()
        got = await client.closed()
        await until(journal, "close visit")
    assert got[0] == code and re.fullmatch(reason, got[1] or "")
    closed = f"close job with {type(error).__name__}"
    assert journal == ["open job", "open visit", closed, "close visit"]
    assert len(errors(caplog)) == (code == 1011)


async def test_a_client_that_leaves_while_it_is_greeted_was_never_connected(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no incident; the client was never connected."""
    greeting, left = anyio.Event(), anyio.Event()

    @app.on_connect
    async def greet(socket: Socket, visit: Visit) -> None:
        greeting.set()
        await left.wait()
        with anyio.fail_after(TIMEOUT):
            while True:
                await socket.send("hello")
                await anyio.sleep(0.001)

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await greeting.wait()
            await client.vanish()
        left.set()
        await until(journal, "close visit")
    assert journal == ["open visit", "close visit"]
    assert errors(caplog) == []


async def test_who_is_greeted_while_the_server_stops_is_disconnected_too(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect the disconnect hook to end what the connect hook began."""
    greeting, go_on = anyio.Event(), anyio.Event()

    @app.on_connect
    async def greet(request: Request) -> None:
        if request.path == "/slow":
            greeting.set()
            await go_on.wait()
        journal.append("connect")

    @app.on_disconnect
    async def part() -> None:
        journal.append("disconnect")

    async def when_stopping(other: Client) -> None:
        await other.closed()
        go_on.set()

    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0) as server:
            other = await later.enter_async_context(dial(server))
            tasks = await later.enter_async_context(anyio.create_task_group())
            slow = await later.enter_async_context(connect(server.urls[0] + "/slow"))
            await greeting.wait()
            tasks.start_soon(when_stopping, other)
        await slow.wait_closed()
        assert slow.close_code == 1012
    assert sorted(journal) == ["connect"] * 2 + ["disconnect"] * 2


async def test_a_connect_hook_that_still_runs_when_the_server_stops_is_cancelled(
    journal: list[str],
) -> None:
    """Expect a cancellation at the deadline, and no disconnect hook, for want of a connection."""
    app = app_with(providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    running = anyio.Event()

    @app.on_connect
    async def hang(visit: Visit, job: Job) -> None:
        running.set()
        await anyio.sleep_forever()

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    async with app.serve("127.0.0.1", 0) as server, dial(server):
        await running.wait()
    assert journal[:2] == ["open visit", "open job"]
    assert journal[2].startswith("close job with Cancelled") and journal[3:] == ["close visit"]


@pytest.mark.slow
async def test_disconnect_hooks_have_their_time_when_the_server_stops(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect time for each hook, also after a command that had to be cancelled.

    All hooks together take longer than the timeouts that do not count the hooks, which are five.
    """
    hooks, pause, timeout = 24, 0.25, 1.1
    assert hooks * pause > 5 * timeout
    group = CommandGroup()
    running = anyio.Event()

    @group.command("hang")
    async def hang(socket: ServerConnection) -> None:
        running.set()
        await anyio.sleep_forever()

    app = app_with(
        group,
        providers=[Journalling(journal)],
        limits=Limits(drain_timeout=0.01, finalize_timeout=timeout),
    )
    for n in range(hooks):

        @app.on_disconnect
        async def slow(visit: Visit, n: int = n) -> None:
            await anyio.sleep(pause)
            journal.append(f"disconnect {n}")

    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("hang")
        await running.wait()
    assert journal == ["open visit", *(f"disconnect {n}" for n in range(hooks)), "close visit"]
    assert errors(caplog) == []
