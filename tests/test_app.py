"""Start, service and stop of an app."""

import asyncio
import gc
import logging
import os
import signal
import socket as sockets
import ssl
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import anyio
import pytest
import trio
import trustme
import websockets.trio.server
from dishka import Provider, Scope
from harness import Client, Gate, app_with, connect, dial, get, on_trio, talk, unix_client
from timeouts import TIMEOUT
from websockets.asyncio.client import connect as connect_on_asyncio
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from websuckets import CommandGroup, Limits, WebSuckets
from websuckets.app import Server
from websuckets.commands.dispatcher import Dispatcher
from websuckets.commands.hooks import Hooks
from websuckets.connections.admission import Admission
from websuckets.connections.registry import Connections
from websuckets.connections.setup import Setup
from websuckets.di.injectables import WebSucketsProvider
from websuckets.exc import ClientError, ConfigurationError, DuplicateCommand
from websuckets.runtime.clock import Clock
from websuckets.runtime.request_scope import RequestScopes
from websuckets.runtime.scopes import OpenScope
from websuckets.runtime.tasks import Background
from websuckets.security import SecurityProvider
from websuckets.serving import definition
from websuckets.serving.container import build_container
from websuckets.serving.process import console_logging
from websuckets.session import Session, current_session

pytestmark = pytest.mark.anyio


def echo_group(prefix: str = "") -> CommandGroup:
    group = CommandGroup(prefix)

    @group.command("echo")
    async def echo(socket: ServerConnection) -> str | None:
        return socket.subprotocol

    return group


# What goes through to websockets -----------------------------------------------------------------


async def test_tls() -> None:
    """Expect the option `ssl` to make the URL a wss one."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0, ssl=server_context) as server:
        assert server.urls == (f"wss://127.0.0.1:{server.port}",)
        async with dial(server, ssl=client_context) as client:
            assert (await client.call("echo", id=1))["id"] == 1


async def test_a_unix_socket(tmp_path: Path) -> None:
    """Expect a unix socket, and no port, for the option `path`."""
    path = str(tmp_path / "s")
    async with app_with(echo_group()).serve(path=path) as server:
        assert (server.port, server.urls) == (None, (f"unix:{path}",))
        async with await unix_client(path) as connection:
            client = Client(connection, server)
            assert (await client.call("echo", id=1))["id"] == 1


async def test_ipv6() -> None:
    """Expect the URL to have the address in brackets."""
    async with app_with(echo_group()).serve("::1", 0) as server, dial(server) as client:
        assert client.server.urls == (f"ws://[::1]:{client.server.port}",)
        assert (await client.call("echo", id=1))["id"] == 1


async def test_subprotocols() -> None:
    """Expect the handler to see the subprotocol that the handshake agreed on."""
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0, subprotocols=["chat"]) as server:
        async with dial(server, subprotocols=["other", "chat"]) as client:
            assert (await client.call("echo"))["payload"] == "chat"


async def test_other_options_have_their_own_names() -> None:
    """Expect `process_request` to refuse, and handlers to get what `create_connection` makes."""

    ours: Any = websockets.trio.server.ServerConnection if on_trio() else ServerConnection

    class MyConnection(ours):
        pass

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(404, "") if request.path == "/nothing" else None

    group = CommandGroup()

    @group.command("mine")
    async def mine(socket: MyConnection) -> bool:
        return isinstance(socket, MyConnection)

    app = app_with(group)
    options: dict[str, Any] = {"process_request": refuse, "create_connection": MyConnection}
    async with talk(app, **options) as client:
        assert (await client.call("mine"))["payload"] is True
        with pytest.raises(InvalidStatus):
            async with connect(client.server.urls[0] + "/nothing"):
                raise AssertionError("it was let in")


@pytest.mark.parametrize("how", ["class", "partial", "function", "none"])
async def test_create_connection_is_whatever_websockets_takes(how: str) -> None:
    """Expect handlers to get what `create_connection` makes, whatever its attributes."""
    ours: Any = websockets.trio.server.ServerConnection if on_trio() else ServerConnection

    class MyConnection(ours):
        def __init__(self, *arguments: Any, colour: str = "red", **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.path = self.colour = colour

    def create(*arguments: Any, **keywords: Any) -> Any:
        return MyConnection(*arguments, colour="blue", **keywords)

    ways = {
        "class": (MyConnection, "red"),
        "partial": (partial(MyConnection, colour="green"), "green"),
        "function": (create, "blue"),
        "none": (None, "no colour"),
    }
    created, colour = ways[how]
    group = CommandGroup()

    @group.command("colour")
    async def colour_of(socket: ServerConnection) -> str:
        await socket.ping(b"x")
        return getattr(socket, "colour", "no colour")

    app = app_with(group)
    async with app.serve("127.0.0.1", 0, create_connection=created) as server:
        for _ in range(2):
            async with dial(server) as client:
                for id in range(3):
                    assert (await client.call("colour", id=id))["payload"] == colour
                await client.close()


@pytest.mark.parametrize(
    ("frames", "code"), [([100], None), ([60, 60], None), ([101], 1009), ([60, 60, 60], 1009)]
)
async def test_messages_and_their_fragments_may_be_bounded(
    frames: list[int], code: int | None
) -> None:
    """Expect a pair to bound the whole message and each of its frames, as in `websockets`."""
    app = app_with(echo_group())
    async with talk(app, max_size=(150, 100)) as client:
        await client.connection.send(iter(["x" * size for size in frames]))
        if code is None:
            assert (await client.receive())["error"] == "invalid message"
        else:
            assert (await client.closed())[0] == code


async def test_an_unknown_option_is_an_error() -> None:
    """Expect the error of `websockets`; nothing keeps running, and no port stays open."""
    with pytest.raises(TypeError, match="nonsense"):
        async with app_with(echo_group()).serve("127.0.0.1", 0, nonsense=1):
            raise AssertionError("it started")
    gc.collect()  # a listening socket that was not closed would warn


@pytest.mark.parametrize(
    ("limits", "options", "compressed"),
    [
        (Limits(), {}, False),
        (Limits(compression="deflate"), {}, True),
        (Limits(), {"compression": "deflate"}, True),
        (Limits(compression="deflate"), {"compression": None}, False),
    ],
)
async def test_compression_is_off_unless_asked_for(
    limits: Limits, options: dict[str, Any], compressed: bool
) -> None:
    """Expect compression only if `Limits` or the option of `websockets` asks for it."""
    async with talk(app_with(echo_group(), limits=limits), **options) as client:
        assert bool(client.connection.protocol.extensions) == compressed
        assert (await client.call("echo", id=1))["id"] == 1


@pytest.mark.parametrize(
    ("limits", "options", "size", "accepted"),
    [
        (Limits(), {}, 64 * 1024, True),
        (Limits(), {}, 64 * 1024 + 1, False),
        (Limits(max_size=100), {}, 100, True),
        (Limits(max_size=100), {}, 101, False),
        (Limits(max_size=None), {}, 2**21, True),
        (Limits(max_size=100), {"max_size": 200}, 200, True),
    ],
)
async def test_the_size_of_a_message_is_bounded(
    limits: Limits, options: dict[str, Any], size: int, accepted: bool
) -> None:
    """Expect 1009 past `max_size`; the next client is served."""
    app = app_with(echo_group(), limits=limits)
    async with app.serve("127.0.0.1", 0, **options) as server:
        async with dial(server) as client:
            await client.connection.send('{"event":"echo","id":1}'.ljust(size))
            if accepted:
                assert (await client.receive())["id"] == 1
            else:
                assert (await client.closed())[0] == 1009
        async with dial(server) as client:
            assert (await client.call("echo", id=2))["id"] == 2


async def test_options_that_are_limits_are_the_limits_of_that_run() -> None:
    """Expect the injected `Limits` to be the enforced ones."""
    group = CommandGroup()

    @group.command("limits")
    async def limits(socket: ServerConnection, *, limits: Limits) -> list[Any]:
        return [limits.max_size, limits.compression]

    app = app_with(group)
    async with talk(app, max_size=200, compression="deflate") as client:
        assert (await client.call("limits"))["payload"] == [200, "deflate"]
    async with talk(app) as client:
        assert (await client.call("limits"))["payload"] == [64 * 1024, None]


async def test_a_port_that_is_taken_is_an_error() -> None:
    """Expect the app not to run, and to start elsewhere afterwards."""
    app = app_with(echo_group())
    with sockets.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            async with app.serve("127.0.0.1", other.getsockname()[1]):
                raise AssertionError("it started")
    async with talk(app) as client:
        assert (await client.call("echo", id=1))["id"] == 1


# Running -----------------------------------------------------------------------------------------


async def test_an_app_runs_again_but_once_at_a_time() -> None:
    """Expect runs one after the other to work, each with new APP objects."""

    class Thing: ...

    group = CommandGroup()
    seen: list[Thing] = []

    @group.command("thing")
    async def thing(socket: ServerConnection, *, thing: Thing) -> None:
        seen.append(thing)

    provider = Provider(scope=Scope.APP)
    provider.provide(Thing)
    app = app_with(group, providers=[provider])
    for _ in range(2):
        async with talk(app) as client:
            await client.call("thing", id=1)
            await client.call("thing", id=1)
            with pytest.raises(ConfigurationError, match="the app runs already"):
                async with app.serve("127.0.0.1", 0):
                    raise AssertionError("it started")
    assert seen[0] is seen[1] is not seen[2] is seen[3]


async def test_a_group_that_comes_too_late_is_refused() -> None:
    """Expect groups to be refused while the app runs; between two runs is early enough."""
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match=r"CommandGroup.*comes too late"):
            app.include_command_group(echo_group("late"))
    app.include_command_group(echo_group("late"))
    async with talk(app) as client:
        assert (await client.call("late echo", id=1))["id"] == 1


async def test_commands_that_are_added_to_an_included_group_are_served() -> None:
    """Expect the group to be read when the app starts."""
    group = echo_group()
    app = app_with(group)

    @group.command("more")
    async def more(socket: ServerConnection) -> int:
        return 1

    async with talk(app) as client:
        assert (await client.call("more"))["payload"] == 1


async def test_one_group_may_serve_two_apps() -> None:
    """Expect each app to use its own providers."""

    class Name(str): ...

    group = CommandGroup()

    @group.command("name")
    async def name(socket: ServerConnection, *, name: Name) -> str:
        return name

    def naming(name: str) -> Provider:
        provider = Provider(scope=Scope.APP)
        provider.provide(lambda: Name(name), provides=Name)
        return provider

    first = app_with(group, providers=[naming("first")])
    second = app_with(group, providers=[naming("second")])
    async with talk(first) as one, talk(second) as two:
        assert (await one.call("name"))["payload"] == "first"
        assert (await two.call("name"))["payload"] == "second"


async def test_later_providers_win() -> None:
    """Expect later providers to override earlier ones of the same app."""

    class Name(str): ...

    group = CommandGroup()

    @group.command("name")
    async def name(socket: ServerConnection, *, name: Name) -> str:
        return name

    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: Name("first"), provides=Name)
    later = Provider(scope=Scope.REQUEST)
    later.provide(lambda: Name("later"), provides=Name)
    async with talk(app_with(group, providers=[provider, later])) as client:
        assert (await client.call("name"))["payload"] == "later"


def test_reprs() -> None:
    """Expect a short repr that names what was registered."""
    group = echo_group("a")
    assert repr(group) == "CommandGroup('a', 1 commands)"
    assert repr(app_with(group)) == "WebSuckets(1 groups)"


async def test_an_error_of_the_framework_itself_closes_only_that_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect 1011 and an incident in the log."""
    read = Dispatcher.read

    def broken(self: Dispatcher, frame: Any) -> Any:
        if frame == "break":
            raise RuntimeError("bug canary")
        return read(self, frame)

    monkeypatch.setattr(Dispatcher, "read", broken)
    async with talk(app_with(echo_group())) as client, client.another() as other:
        await client.connection.send("break")
        assert (await client.closed())[0] == 1011
        assert "bug canary" in caplog.text
        assert (await other.call("echo", id=1))["id"] == 1


@pytest.mark.on_asyncio
async def test_a_client_that_does_not_answer_the_close_is_aborted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the server to stop within `drain_timeout`, whatever its clients do."""
    app = app_with(echo_group(), limits=Limits(drain_timeout=0.05))
    async with app.serve("127.0.0.1", 0, close_timeout=30) as server:
        connection = await connect_on_asyncio(server.urls[0], proxy=None)
        connection.transport.pause_reading()
        while not Session.online:
            await anyio.sleep(0)
    assert "aborting 1 connections" in caplog.text
    connection.transport.abort()
    await connection.wait_closed()


async def test_a_handshake_that_does_not_end_does_not_hold_up_the_stop() -> None:
    """Expect the stop to be quick before the request has come, and with half of the request."""
    app = app_with(echo_group(), limits=Limits(drain_timeout=0.05))
    with anyio.fail_after(5):
        async with app.serve("127.0.0.1", 0, open_timeout=30) as server:
            assert server.port is not None
            silent = await anyio.connect_tcp("127.0.0.1", server.port)
            slow = await anyio.connect_tcp("127.0.0.1", server.port)
            await slow.send(b"GET / HTTP/1.1\r\nHost: ")
            async with dial(server) as client:  # so that both clients have been accepted
                assert (await client.call("echo", id=1))["id"] == 1
    await silent.aclose()
    await slow.aclose()


class FakeTransport:
    """A transport for events that a real socket has only at moments that no test can choose."""

    id = uuid.uuid4()
    request = Request("/", Headers())
    remote_address = None
    request_path = "/"
    has_stopped_receiving = False
    closed_errors = (EOFError,)

    def __init__(self, receive: Any) -> None:
        self.receive = receive
        self.socket = self
        self.close_code: int | None = None
        self.sent: list[str] = []

    async def send(self, message: str) -> None:
        self.sent.append(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.close_code = code

    async def reply(self, text: str) -> None:
        await self.send(text)

    async def abort(self) -> None: ...

    def failed(self, error: BaseException) -> None: ...


@asynccontextmanager
async def connections_and_transport(receive: Any) -> AsyncIterator[tuple[Connections, Any]]:
    transport: Any = FakeTransport(receive)
    clock = Clock()
    async with Background(None) as background:
        setup = Setup(
            OpenScope(
                build_container([WebSucketsProvider(), SecurityProvider()], []), copy_context()
            ),
            connection_types=(),
            dispatcher=Dispatcher({}, clock, None),
            has_streams=False,
            hooks=Hooks(),
            identification=None,
            admission=Admission.of(None, (), (), None, None),
            session=Session(),
            limits=Limits(),
            clock=clock,
            time_to_verify=clock.timeout(None),
            request_scopes=RequestScopes(clock, None),
            background=background,
        )
        yield Connections(setup), transport


async def test_a_handshake_that_comes_while_stopping_is_turned_away() -> None:
    """Expect 503."""

    async def never() -> str:
        raise AssertionError("it was read from")

    async with connections_and_transport(never) as (connections, transport):
        await connections.drain()
        connection = connections.accept(transport)
        refusal = await connection.opening()
        await connection.not_opened()
    assert refusal is not None
    assert refusal.status == 503


async def test_a_handshake_that_ends_while_stopping_is_closed_at_once() -> None:
    """Expect 1012 before any message is read."""

    async def never() -> str:
        raise AssertionError("it was read from")

    async with connections_and_transport(never) as (connections, transport):
        connection = connections.accept(transport)
        assert await connection.opening() is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connections.drain)
            await anyio.wait_all_tasks_blocked()
            await connection.serve()
    assert transport.socket.close_code == 1012


async def test_a_handshake_that_is_aborted_does_not_begin() -> None:
    """Expect nothing to begin if the timeout passes between the handshake and the first message."""

    async def never() -> str:
        raise AssertionError("it was read from")

    async with connections_and_transport(never) as (connections, transport):
        connection = connections.accept(transport)
        assert await connection.opening() is None
        connection.cancel()
        await connection.serve()
        assert not connections.are_left


async def test_a_command_that_comes_in_the_moment_of_stopping_is_not_begun() -> None:
    """Expect the command not to begin, because its reply could not be sent any more."""

    async def receive() -> str:
        tasks.start_soon(connections.drain)
        await anyio.wait_all_tasks_blocked()
        return '{"event": "too late"}'

    async with (
        connections_and_transport(receive) as (connections, transport),
        anyio.create_task_group() as tasks,
    ):
        await connections.accept(transport).serve()
    assert (transport.socket.close_code, transport.socket.sent) == (1012, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_size": -1},
        {"max_size": (1, -1)},
        {"max_size": (1, 2, 3)},
        {"finalize_timeout": 0},
        {"drain_timeout": -1},
    ],
)
def test_limits_are_sane(wrong: dict[str, Any]) -> None:
    """Expect values to be checked; `None` turns a limit off."""
    with pytest.raises(ValueError, match="or None"):
        Limits(**wrong)


@pytest.mark.parametrize("timeout", [None, 0.05])
async def test_limits_may_be_off(timeout: float | None) -> None:
    """Expect everything to work without any timeout."""
    limits = Limits(finalize_timeout=timeout, drain_timeout=None, max_size=None)
    async with talk(app_with(echo_group(), limits=limits)) as client:
        assert (await client.call("echo", id=1))["id"] == 1


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.on_asyncio
async def test_a_stop_that_is_cancelled_itself_still_ends_in_order(times: int) -> None:
    """Expect handlers to be finalised first, then their scopes, the app's scope last."""
    journal: list[str] = []
    started = anyio.Event()

    class Pool: ...

    class Transaction: ...

    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        journal.append("pool")

    async def transaction(pool: Pool) -> AsyncIterator[Transaction]:
        yield Transaction()
        await anyio.sleep(0)
        journal.append("transaction")

    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: ServerConnection, *, transaction: Transaction) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("handler")

    provider = Provider()
    provider.provide(pool, scope=Scope.APP)
    provider.provide(transaction, scope=Scope.REQUEST)
    app = app_with(group, providers=[provider])

    async def serve() -> None:
        async with app.serve("127.0.0.1", 0) as server:
            servers.append(server)
            ready.set()
            await stop.wait()

    servers: list[Server] = []
    ready, stop = anyio.Event(), anyio.Event()
    task = asyncio.ensure_future(serve())
    await ready.wait()
    connection = await connect_on_asyncio(servers[0].urls[0], proxy=None)
    await Client(connection, servers[0]).send("wait")
    await started.wait()
    stop.set()
    await until_refused(servers[0])
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    await connection.wait_closed()
    assert task.cancelled()
    assert journal == ["handler", "transaction", "pool"]


async def test_finalisers_of_the_app_see_its_session() -> None:
    """Expect `Session` to stand for the session of that app, even when another app runs."""
    seen: list[Any] = []

    class Pool: ...

    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        seen.append(current_session())

    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, pool: Pool, session: Session) -> None:
        seen.append(session)

    provider = Provider(scope=Scope.APP)
    provider.provide(pool)
    async with talk(app_with(echo_group())):
        async with talk(app_with(group, providers=[provider])) as client:
            await client.call("use", id=1)
    assert seen[0] is seen[1]
    assert len(seen) == 2


async def until_refused(server: Server) -> None:
    """Wait until new clients are refused: the stop has begun."""
    with anyio.fail_after(TIMEOUT):
        while await get(server, "/health") != 503:
            pass


async def test_while_commands_are_waited_for_nobody_is_accepted() -> None:
    """Expect 503 for new clients; the reply of the running command is still sent."""
    started, go_on = anyio.Event(), anyio.Event()
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: ServerConnection) -> str:
        started.set()
        await go_on.wait()
        return "done"

    async def talk_to_it(server: Server) -> None:
        async with dial(server) as client:
            await client.send("wait")
            await started.wait()
            stop.set()
            await until_refused(server)
            with pytest.raises(InvalidStatus) as refused:
                async with dial(server):
                    pass
            assert refused.value.response.status_code == 503
            go_on.set()
            assert (await client.receive())["payload"] == "done"
            assert (await client.closed())[0] == 1012

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with app_with(group).serve("127.0.0.1", 0) as server:
            tasks.start_soon(talk_to_it, server)
            await stop.wait()


# As a program ------------------------------------------------------------------------------------


@contextmanager
def unconfigured_logging() -> Iterator[None]:
    """Remove the logging that pytest sets up, as in a program that has not set up logging."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield


@contextmanager
def listening() -> Iterator["Queue[str]"]:
    """Yield the addresses on which programs listen, as their log names them."""
    urls: Queue[str] = Queue()

    def note(record: logging.LogRecord) -> bool:
        if record.msg.startswith("listening on"):
            urls.put(record.getMessage().split()[2].rstrip(","))
        return True

    logger = logging.getLogger("websuckets")
    logger.addFilter(note)
    try:
        yield urls
    finally:
        logger.removeFilter(note)


@contextmanager
def in_background(urls: "Queue[str]", then: Callable[[], None]) -> Iterator[list[Any]]:
    """Talk to a program from another thread, then call ``then`` to end it; yield the answers."""
    replies: list[Any] = []

    async def talk_to_it() -> None:
        async with connect(urls.get(timeout=TIMEOUT)) as connection:
            client = Client(connection, None)
            replies.append(await client.call("echo", id=1))
            then()
            replies.append(await client.closed())

    thread = threading.Thread(target=lambda: asyncio.run(talk_to_it()), daemon=True)
    thread.start()
    yield replies
    thread.join(TIMEOUT)


ANSWERED = [{"event": "echo", "payload": None, "id": 1}, (1012, "service restart")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "start",
    [
        lambda app: asyncio.run(app("127.0.0.1", 0)),
        lambda app: trio.run(app, "127.0.0.1", 0),
        lambda app: app.run("127.0.0.1", 0),
        lambda app: app.run("127.0.0.1", 0, backend="trio"),
    ],
)
def test_a_program_serves_until_it_is_told_to_stop(
    number: signal.Signals, start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Expect the program to log where it listens, to answer, and to end after a signal."""
    app = app_with(echo_group())
    with (
        unconfigured_logging(),
        listening() as urls,
        in_background(urls, lambda: os.kill(os.getpid(), number)) as replies,
    ):
        start(app)
    assert replies == ANSWERED
    lines = capfd.readouterr().err.splitlines()
    assert "INFO websuckets: listening on ws://127.0.0.1:" in lines[0]
    assert lines[0].endswith(", commands: 1")
    assert lines[-1].endswith("INFO websuckets: stopping")
    assert logging.getLogger("websuckets").handlers == []
    assert logging.getLogger("websuckets").level == logging.NOTSET


def test_outside_the_main_thread_it_leaves_signals_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Expect no signal handlers in another thread: the program is cancelled there."""
    caplog.set_level(logging.INFO, logger="websuckets")
    running: list[Any] = []

    async def main() -> None:
        running.extend((asyncio.get_running_loop(), asyncio.current_task()))
        await app_with(echo_group())("127.0.0.1", 0)

    def program() -> None:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())

    def cancel() -> None:
        loop, task = running
        loop.call_soon_threadsafe(task.cancel)

    thread = threading.Thread(target=program, daemon=True)
    with listening() as urls, in_background(urls, cancel) as replies:
        thread.start()
    thread.join(TIMEOUT)
    assert replies == ANSWERED


async def until_listening(app: WebSuckets, *calls: str) -> tuple[list[Any], int | None]:
    """Run the app as a program; return its answers, and how it closes when cancelled."""
    replies = []
    with listening() as urls, anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            program = anyio.CancelScope()

            async def run() -> None:
                with program:
                    await app("127.0.0.1", 0)

            tasks.start_soon(run)
            while urls.empty():
                await anyio.sleep(0.001)
            async with connect(urls.get()) as connection:
                client = Client(connection, None)
                for event in calls:
                    replies.append(await client.call(event, id=1))
                program.cancel()
                close_code, _ = await client.closed()
    return replies, close_code


@pytest.fixture
def no_other_groups(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Hide the groups of other tests from apps without groups."""
    monkeypatch.setattr(definition, "_included_groups", [])
    caplog.set_level(logging.INFO, logger="websuckets")


async def test_cancelling_the_program_stops_it(no_other_groups: None) -> None:
    """Expect the same stop as on leaving `serve`."""
    _, close_code = await until_listening(app_with(echo_group()))
    assert close_code == 1012


async def test_an_app_without_groups_serves_those_of_the_program(
    no_other_groups: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the documented programs, which create the app twice, to run, with a warning."""
    groups = [echo_group(), echo_group("second")]
    for group in groups:
        app_with(group)  # the app is garbage at once, as in the documented programs
    replies, _ = await until_listening(WebSuckets(), "echo", "second echo")
    assert [reply.get("event") for reply in replies] == ["echo", "second echo"]
    messages = [r.getMessage() for r in caplog.records if r.name == "websuckets"]
    assert messages[0].startswith("listening on")
    assert messages[1].startswith("this app included no command group: serving the 2")


async def test_what_is_wrong_with_groups_of_the_program_says_whose_they_are(
    no_other_groups: None,
) -> None:
    """Expect the error to say why the app has groups that were included in another."""

    class Missing: ...

    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: ServerConnection, *, missing: Missing) -> None: ...

    app_with(group)
    with pytest.raises(ConfigurationError) as caught:
        await WebSuckets()("127.0.0.1", 0)
    assert "serving the 1 that the program included in another one" in caught.value.__notes__[0]
    with pytest.raises(ConfigurationError) as caught:
        await app_with(group)("127.0.0.1", 0)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [({"providers": Provider()}, "write a list"), ({"limits": {"streams": 1}}, "write Limits")],
)
def test_arguments_of_the_wrong_kind(arguments: dict[str, Any], remedy: str) -> None:
    """Expect an error where the argument is given."""
    with pytest.raises(ConfigurationError, match=remedy):
        WebSuckets(**arguments)


async def test_an_app_with_groups_serves_its_own_alone(
    no_other_groups: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no warning, and no commands of other groups."""
    kept = echo_group("kept")
    app_with(kept)
    replies, _ = await until_listening(app_with(echo_group()), "echo", "kept echo")
    assert [reply.get("error") for reply in replies] == [None, "unknown command"]
    assert "included no command group" not in caplog.text


async def test_a_program_without_any_group_knows_no_command(
    no_other_groups: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error for every message, as in the first documented program, and no warning."""
    replies, _ = await until_listening(WebSuckets(), "echo")
    assert replies[0]["error"] == "unknown command"
    assert "included no command group" not in caplog.text


async def test_names_of_groups_so_merged_are_unique(no_other_groups: None) -> None:
    """Expect an error for a name that is taken, as within one app."""
    groups = [echo_group(), echo_group()]
    for group in groups:
        app_with(group)
    with pytest.raises(DuplicateCommand):
        await WebSuckets()("127.0.0.1", 0)


async def test_embedded_an_app_without_groups_serves_nothing() -> None:
    """Expect the groups of other apps to be used only when a program starts."""
    kept = echo_group()
    app_with(kept)
    async with talk(WebSuckets()) as client:
        assert (await client.call("echo"))["error"] == "unknown command"


# Logging -----------------------------------------------------------------------------------------


async def test_configured_logging_is_left_alone(no_other_groups: None) -> None:
    """Expect no other handler in a program that has set up handlers, as pytest has."""
    logger = logging.getLogger("websuckets")
    handlers: list[Any] = []
    group = echo_group()

    @group.command("look")
    async def look(socket: ServerConnection) -> None:
        handlers.append(list(logger.handlers))

    await until_listening(app_with(group), "look")
    with console_logging():
        handlers.append(list(logger.handlers))
    assert handlers == [[], []]


def test_a_level_that_was_set_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Expect a level higher than INFO to be kept."""
    logger = logging.getLogger("websuckets")
    logger.setLevel(logging.ERROR)
    try:
        with unconfigured_logging(), console_logging():
            logger.info("canary")
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(logging.NOTSET)
    assert "canary" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("root", "own", "websockets"),
    [
        (logging.DEBUG, logging.NOTSET, logging.INFO),
        (logging.WARNING, logging.NOTSET, logging.WARNING),
        (logging.WARNING, logging.DEBUG, logging.DEBUG),
    ],
)
async def test_the_log_of_websockets_is_only_made_quieter(
    monkeypatch: pytest.MonkeyPatch, root: int, own: int, websockets: int
) -> None:
    """Expect only the log below INFO, which shows messages, to be disabled."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", own)
    monkeypatch.setattr(logging.getLogger(), "level", root)
    async with app_with(echo_group()).serve("127.0.0.1", 0):
        assert logger.getEffectiveLevel() == websockets


@pytest.mark.parametrize("configured", [False, True])
async def test_what_websockets_would_log_of_messages_is_not_logged(
    configured: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect no messages in the log, even at DEBUG, unless that logger itself is set."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", logging.DEBUG if configured else logging.NOTSET)
    logger.manager._clear_cache()  # patching does not clear the cache that setLevel clears
    caplog.set_level(logging.DEBUG)
    async with talk(app_with(echo_group())) as client:
        await client.call("echo", token="canary", id=1)
    server_lines = [r for r in caplog.records if r.name == "websockets.server"]
    assert any("canary" in record.getMessage() for record in server_lines) == configured
    assert not any("canary" in r.getMessage() for r in caplog.records if r.name == "websuckets")


@pytest.mark.parametrize("how", ["stopped", "refused"])
async def test_a_connection_whose_client_is_far_ahead_closes_at_once(how: str) -> None:
    """Expect the close not to wait for the client's answer behind commands that nobody reads."""
    gate = Gate()
    group = echo_group()

    @group.command("wait")
    async def wait(socket: ServerConnection) -> None:
        await gate()

    app = app_with(group, limits=Limits(drain_timeout=None))
    if how == "refused":

        @app.on_connect
        async def refuse() -> None:
            await gate()
            raise ClientError("no")

    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0, close_timeout=None) as server:
            client = await later.enter_async_context(dial(server))
            await client.send("wait")
            for _ in range(100):
                await client.send("echo")
            await gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            if how == "refused":
                gate.opened.set()
                assert await client.closed() == (1008, "no")
            else:
                tasks = await later.enter_async_context(anyio.create_task_group())
                tasks.start_soon(open_when_stopping, gate, server)
        assert (await client.closed())[0] in (1008, 1012)


async def open_when_stopping(gate: Gate, server: Server) -> None:
    await until_refused(server)
    gate.opened.set()
