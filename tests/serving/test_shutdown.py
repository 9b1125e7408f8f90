"""Shutdown of a program: its last replies, its answers meanwhile, and the end of the process."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest
import stubborn
from harness import Client, app_with, dial, errors, get
from repository import SUPPORT
from stubborn import started
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, InvalidStatus

from websuckets import AppTasks, CommandGroup, Limits, Socket, WebSuckets
from websuckets.app import Server

pytestmark = pytest.mark.anyio

RESTART = (1012, "service restart")
heavy = pytest.mark.heavy

SIGNALS = [pytest.param(signal.SIGINT, marks=heavy), signal.SIGTERM]
SOON = {"drain_timeout": 0.2, "finalize_timeout": 0.05}
NEVER: dict[str, Any] = {"drain_timeout": None, "handler_timeout": None}


@pytest.fixture(params=[pytest.param("the loop's run", marks=heavy), "app.run"])
def start(request: pytest.FixtureRequest, anyio_backend: str) -> str:
    """Give both ways in which the documentation starts a program, on this backend."""
    if request.param == "app.run":
        return f"app.run on {anyio_backend}"
    return f"{anyio_backend}.run"


@pytest.fixture
async def clients() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack that keeps clients open until the test is over."""
    async with AsyncExitStack() as stack:
        yield stack


async def until_stopping(server: Server) -> None:
    """Wait until the health check reports that the server stops."""
    with anyio.fail_after(TIMEOUT):
        while await get(server, "/health") != 503:
            pass


async def begin(client: Client, event: str, **fields: Any) -> None:
    """Send a command, and wait until its handler runs."""
    await client.send(event, **fields)
    with anyio.fail_after(TIMEOUT):
        assert await client.connection.recv() == "begun"


async def refused(server: Server) -> int:
    """Return the HTTP status with which an opening handshake is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with dial(server):
            pass
    return int(caught.value.response.status_code)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
async def test_a_hundred_commands_in_flight_are_all_answered(
    start: str, number: signal.Signals
) -> None:
    """On a hundred connections, all replies arrive, then 1012, and the exit code is 0."""
    async with started(start, **NEVER) as program, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dial(program.server)) for _ in range(100)]
        for index, client in enumerate(clients):
            await begin(client, "wait", id=index)
        program.signal(number)
        await program.logs("stopping")
        await until_stopping(program.server)
        await program.go_on()
        for index, client in enumerate(clients):
            assert await client.receive() == {"event": "wait", "payload": "done", "id": index}
            assert await client.closed() == RESTART
        assert await program.ended() == 0
    assert not program.errors()
    warnings = program.errors("WARNING")  # the loop stands still where others keep the processor
    assert not [line for line in warnings if "the event loop has been blocked" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
async def test_idle_connections_are_told_to_connect_elsewhere(
    start: str, number: signal.Signals
) -> None:
    """Idle connections are closed with 1012, and so are those that never sent anything."""
    async with started(start) as program, dial(program.server) as one, dial(program.server) as two:
        assert (await one.call("note", id=1))["id"] == 1
        program.signal(number)
        assert [await client.closed() for client in (one, two)] == [RESTART, RESTART]
        assert await program.ended() == 0


async def test_commands_that_run_side_by_side_are_all_answered(start: str) -> None:
    """Four commands run on each of four connections; each reply arrives before the close."""
    async with started(start, concurrency=4, **NEVER) as program, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dial(program.server)) for _ in range(4)]
        for client in clients:
            for index in range(4):
                await begin(client, "wait", id=index)
        program.signal(signal.SIGTERM)
        await until_stopping(program.server)
        await program.go_on()
        for client in clients:
            replies = [await client.receive() for _ in range(4)]
            assert {reply["payload"] for reply in replies} == {"done"}
            assert {reply["id"] for reply in replies} == {0, 1, 2, 3}
            assert await client.closed() == RESTART
        assert await program.ended() == 0


@pytest.mark.slow
async def test_while_it_stops_it_says_so(start: str) -> None:
    """The health check turns from 200 to 503, and new connections are refused with 503."""
    async with started(start, **NEVER) as program, dial(program.server) as client:
        assert await get(program.server, "/health") == 200
        await begin(client, "wait")
        program.signal(signal.SIGTERM)
        await program.logs("stopping")
        await until_stopping(program.server)
        assert await refused(program.server) == 503
        assert await get(program.server, "/health") == 503
        await program.go_on()
        assert (await client.receive())["payload"] == "done"
        assert await program.ended() == 0


@pytest.mark.slow
async def test_what_waits_behind_the_last_command_is_not_begun(start: str) -> None:
    """No command is begun on a connection that is being closed."""
    async with started(start, **NEVER) as program, dial(program.server) as client:
        await begin(client, "wait", id=1)
        await client.send("note", id=2)
        program.signal(signal.SIGTERM)
        await until_stopping(program.server)
        await client.send("note", id=3)
        await program.go_on()
        assert (await client.receive())["id"] == 1
        assert await client.closed() == RESTART
        with pytest.raises(ConnectionClosed):
            await client.connection.recv()
        assert await program.ended() == 0
        assert program.output == ""


async def test_no_command_is_half_done(start: str) -> None:
    """Each command that began has ended and was answered, though clients never stop sending."""
    answered = []

    async def go_on_sending(client: Client) -> None:
        with suppress(ConnectionClosed):
            while True:
                answered.append(await client.call("note", id=len(answered)))
                if len(answered) == 50:
                    program.signal(signal.SIGTERM)

    async with started(start) as program, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dial(program.server)) for _ in range(10)]
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for client in clients:
                    tasks.start_soon(go_on_sending, client)
        assert [await client.closed() for client in clients] == [RESTART] * 10
        assert await program.ended() == 0
        steps = program.output.split()
        assert steps.count("begin") == steps.count("end") == len(answered)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "first", "second"),
    [
        ("wait", signal.SIGTERM, signal.SIGINT),
        pytest.param("wait", signal.SIGINT, signal.SIGINT, marks=heavy),
        pytest.param("wait", signal.SIGINT, signal.SIGTERM, marks=heavy),
        pytest.param("wait", signal.SIGTERM, signal.SIGTERM, marks=heavy),
        pytest.param("ignore", signal.SIGTERM, signal.SIGINT, marks=heavy),
        ("thread", signal.SIGTERM, signal.SIGINT),
        ("block", signal.SIGTERM, signal.SIGINT),
        ("wait in C", signal.SIGINT, signal.SIGTERM),
        pytest.param("compute", signal.SIGINT, signal.SIGTERM, marks=heavy),
    ],
)
async def test_a_second_signal_stops_at_once(
    start: str, way: str, first: signal.Signals, second: signal.Signals
) -> None:
    """The second signal ends the process, whatever runs."""
    async with started(start, **NEVER) as program, dial(program.server) as client:
        if way == "wait":
            await begin(client, "wait")
        else:
            await begin(client, "stay", payload=way)
        program.signal(first)
        if way not in (
            "block",
            "wait in C",
            "compute",
        ):  # then the event loop cannot say that it stops
            await until_stopping(program.server)
        program.signal(second)
        assert await program.ended() != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        "ignore",
        pytest.param("shield", marks=heavy),
        pytest.param("thread", marks=heavy),
        "block",
        "wait in C",
        pytest.param("compute", marks=heavy),
    ],
)
async def test_a_handler_that_ignores_everything_does_not_keep_the_program(
    start: str, way: str
) -> None:
    """The handler is aborted at the deadline, its name is logged, and the exit code is 1."""
    async with started(start, **SOON) as program, dial(program.server) as client:
        await begin(client, "stay", payload=way)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        assert program.errors("CRITICAL")
        assert "'stay' (1)" in "".join(program.log)


@pytest.mark.slow
@pytest.mark.on_asyncio
@pytest.mark.parametrize("way", ["executor", "pool"])
async def test_a_thread_that_a_handler_has_left_does_not_keep_the_program(
    start: str, way: str
) -> None:
    """The handler can be cancelled, but Python waits for its thread before it ends."""
    async with started(start, **SOON) as program, dial(program.server) as client:
        await begin(client, "stay", payload=way)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        [line] = program.errors("CRITICAL")
        assert "threads that run: " in line


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wait with the GIL", pytest.param("match", marks=heavy)])
async def test_a_handler_that_keeps_python_to_itself_does_not_keep_the_program(
    start: str, way: str
) -> None:
    """The process ends though no line of Python can run; the log has a traceback."""
    async with started(start, **SOON) as program, dial(program.server) as client:
        await begin(client, "stay", payload=way)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        assert "Timeout (" in "".join(program.log)


@heavy
@pytest.mark.parametrize("way", ["ignore", "shield", "thread", "block"])
async def test_nor_does_one_that_begins_to_while_it_stops(start: str, way: str) -> None:
    """The deadline does not depend on the event loop, which may be blocked for good."""
    async with started(start, **SOON | {"drain_timeout": 0.5}) as program:
        async with dial(program.server) as client:
            await begin(client, "stay later", payload=way)
            program.signal(signal.SIGTERM)
            await program.logs("stopping")
            await program.go_on()
            assert await program.ended() == 1
            assert program.errors("CRITICAL")
            assert "'stay later' (1)" in "".join(program.log)


@heavy
@pytest.mark.parametrize("way", ["ignore", "shield", "thread"])
@pytest.mark.parametrize(
    "place", ["a stream", "a task of the app", "a task of the connection", "on_disconnect"]
)
async def test_nothing_else_keeps_the_program(start: str, place: str, way: str) -> None:
    """The process exits with code 1, and logs it, whatever ignores its cancellation."""
    async with started(start, **SOON) as program, dial(program.server) as client:
        await begin(client, f"stay in {place}", payload=way)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        assert program.errors("CRITICAL")


@heavy
@pytest.mark.parametrize("scope", ["message", "connection", "app"])
async def test_finalisers_do_not_keep_the_program(start: str, scope: str) -> None:
    """A finaliser of any scope does not prevent the exit."""
    async with started(start, **SOON) as program, dial(program.server) as client:
        await begin(client, f"stay in a finaliser of the {scope}", payload="ignore")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        assert program.errors("CRITICAL")


# Shutdown without an exit -------------------------------------------------------------------------


async def test_leaving_serve_is_the_same_stop(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving `serve` sends replies, answers 503 meanwhile and closes with 1012."""
    app = app_with(stubborn.group, providers=[stubborn.Late()], limits=Limits(**NEVER))
    stop = anyio.Event()

    async def talk_to_it(server: Server) -> None:
        async with dial(server) as idle, dial(server) as busy:
            assert await get(server, "/health") == 200
            await begin(busy, "wait", id=1)
            stop.set()
            await until_stopping(server)
            assert await refused(server) == 503
            assert await idle.closed() == RESTART
            go_on.set()
            assert await busy.receive() == {"event": "wait", "payload": "done", "id": 1}
            assert await busy.closed() == RESTART

    with pytest.MonkeyPatch.context() as patch:
        go_on = anyio.Event()
        patch.setattr(stubborn, "go_on", go_on)
        async with anyio.create_task_group() as tasks:
            async with app.serve("127.0.0.1", 0) as server:
                tasks.start_soon(talk_to_it, server)
                await stop.wait()
    assert not errors(caplog)


async def test_leaving_serve_leaves_behind_what_ignores_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the handler and the task of the app, and the program goes on."""
    enough, ended = anyio.Event(), []
    group = CommandGroup()

    async def ignore(name: str) -> None:
        with anyio.CancelScope(shield=True):
            await enough.wait()
        ended.append(name)

    @group.command("stay")
    async def stay(socket: Socket, *, tasks: AppTasks) -> None:
        tasks.start_soon(ignore, "task")
        await socket.send("begun")
        await ignore("handler")

    app = app_with(group, limits=Limits(**SOON))
    try:
        async with AsyncExitStack() as later:
            async with app.serve("127.0.0.1", 0) as server:
                client = await later.enter_async_context(dial(server))
                await begin(client, "stay")
            assert (await client.closed())[0] == 1006
    finally:
        enough.set()
    messages = [record.getMessage() for record in errors(caplog)]
    assert messages == [
        "1 connections ignore their cancellation, 'stay' (1) (Limits.finalize_timeout is 0.05)",
        "tasks of the app ignore their cancellation (Limits.finalize_timeout is 0.05)",
    ]
    with anyio.fail_after(TIMEOUT):
        while sorted(ended) != ["handler", "task"]:
            await anyio.sleep(0)


async def test_after_that_stop_the_app_may_be_served_again(app: WebSuckets) -> None:
    """The health check is 200 again, and connections are accepted."""
    for _ in range(2):
        async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
            assert await get(server, "/health") == 200
            assert (await client.call("note", id=1))["event"] == "note"


@pytest.fixture
def app() -> WebSuckets:
    return app_with(stubborn.group, providers=[stubborn.Late()])


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_that_comes_as_soon_as_the_port_is_open(
    start: str, number: signal.Signals
) -> None:
    """The signal handlers are set before the port is open, so everything is finalised."""
    program = (
        "import sys\nfrom stubborn import STARTS\nfrom websuckets import WebSuckets\n"
        "from websuckets.transports import websockets_asyncio, websockets_trio\n"
        "def signalled(open):\n"
        "    def listen(*arguments):\n"
        f"        signal.raise_signal({int(number)})\n"
        "        return open(*arguments)\n"
        "    return listen\n"
        "import signal\n"
        "for transport in (websockets_asyncio, websockets_trio):\n"
        "    transport.listen = signalled(transport.listen)\n"
        f"STARTS[{start!r}](WebSuckets())\n"
    )
    with anyio.fail_after(TIMEOUT):
        done = await anyio.run_process([sys.executable, "-c", program], check=False, cwd=SUPPORT)
    assert b"stopping" in done.stderr
    assert done.returncode == 0
