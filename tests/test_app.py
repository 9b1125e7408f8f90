"""Starting, serving, stopping."""

import asyncio
import logging
import os
import signal
import socket as sockets
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from dishka import Provider, Scope
from harness import Client, app_with, dial, talk
from websockets.asyncio.client import connect, unix_connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from websuckets import CommandGroup, Limits, WebSuckets
from websuckets import app as app_module
from websuckets.exc import ConfigurationError, DuplicateCommand

pytestmark = pytest.mark.anyio


def echo_group(prefix: str = "") -> CommandGroup:
    group = CommandGroup(prefix)

    @group.command("echo")
    async def echo(socket: ServerConnection) -> str | None:
        return socket.subprotocol

    return group


# What goes through to websockets -----------------------------------------------------------------


async def test_tls() -> None:
    """`ssl` makes it wss."""
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
    """`path` makes it one; there is no port."""
    path = str(tmp_path / "s")
    async with app_with(echo_group()).serve(path=path) as server:
        assert (server.port, server.urls) == (None, (f"unix:{path}",))
        async with unix_connect(path) as connection:
            client = Client(connection, server)
            assert (await client.call("echo", id=1))["id"] == 1


async def test_ipv6() -> None:
    """The address is written as in a URL."""
    async with app_with(echo_group()).serve("::1", 0) as server, dial(server) as client:
        assert client.server.urls == (f"ws://[::1]:{client.server.port}",)
        assert (await client.call("echo", id=1))["id"] == 1


async def test_subprotocols() -> None:
    """Agreed on in the handshake, seen by the handler."""
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0, subprotocols=["chat"]) as server:
        async with dial(server, subprotocols=["other", "chat"]) as client:
            assert (await client.call("echo"))["payload"] == "chat"


async def test_other_options_have_their_own_names() -> None:
    """`process_request` refuses, `create_connection` is what handlers get."""

    class MyConnection(ServerConnection):
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
            await connect(client.server.urls[0] + "/nothing", proxy=None)


async def test_an_unknown_option_is_an_error() -> None:
    """As for `websockets`; nothing keeps running."""
    with pytest.raises(TypeError, match="nonsense"):
        async with app_with(echo_group()).serve("127.0.0.1", 0, nonsense=1):
            raise AssertionError("it started")


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
    """By `Limits`, or by the option of `websockets`."""
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
    """Past `max_size` the connection is closed with 1009; the next client is served."""
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


async def test_a_port_that_is_taken_is_an_error() -> None:
    """What was opened for the app is closed again."""
    closed: list[str] = []
    with sockets.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match="address already in use"):
            async with app_with(echo_group()).serve("127.0.0.1", other.getsockname()[1]):
                raise AssertionError("it started")
    assert closed == []


# Running -----------------------------------------------------------------------------------------


async def test_an_app_runs_again_but_once_at_a_time() -> None:
    """One after the other, with fresh APP objects."""

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
    """Groups are included before the app starts; between two runs is early enough."""
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match=r"CommandGroup.*comes too late"):
            app.include_command_group(echo_group("late"))
    app.include_command_group(echo_group("late"))
    async with talk(app) as client:
        assert (await client.call("late echo", id=1))["id"] == 1


async def test_commands_that_are_added_to_an_included_group_are_served() -> None:
    """The group is read when the app starts."""
    group = echo_group()
    app = app_with(group)

    @group.command("more")
    async def more(socket: ServerConnection) -> int:
        return 1

    async with talk(app) as client:
        assert (await client.call("more"))["payload"] == 1


async def test_one_group_may_serve_two_apps() -> None:
    """Each with its own providers."""

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
    """Over earlier ones of the same app."""

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
    """Short, and of what was registered."""
    group = echo_group("a")
    assert repr(group) == "CommandGroup('a', 1 commands)"
    assert repr(app_with(group)) == "WebSuckets(1 groups)"


async def test_an_error_of_the_framework_itself_closes_only_that_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With 1011 and an incident in the log."""
    from websuckets.dispatcher import Dispatcher

    answer = Dispatcher.answer

    async def broken(self: Dispatcher, frame: Any, peer: Any) -> Any:
        if frame == "break":
            raise RuntimeError("bug canary")
        return await answer(self, frame, peer)

    monkeypatch.setattr(Dispatcher, "answer", broken)
    async with talk(app_with(echo_group())) as client, client.another() as other:
        await client.connection.send("break")
        assert (await client.closed())[0] == 1011
        assert "bug canary" in caplog.text
        assert (await other.call("echo", id=1))["id"] == 1


async def test_a_client_that_does_not_answer_the_close_is_aborted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server is down within `drain_timeout`, whatever its clients do."""
    app = app_with(echo_group(), limits=Limits(drain_timeout=0.05))
    async with app.serve("127.0.0.1", 0, close_timeout=30) as server:
        connection = await connect(server.urls[0], proxy=None)
        connection.transport.pause_reading()  # type: ignore[attr-defined]
        await Client(connection, server).send("echo")
        while not app._session.online:
            await anyio.sleep(0)
    assert "aborting 1 connections" in caplog.text
    connection.transport.abort()
    await connection.wait_closed()


async def test_a_connection_that_comes_while_stopping_is_refused() -> None:
    """The port is closed before running commands are waited for."""
    started, go_on = anyio.Event(), anyio.Event()
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: ServerConnection) -> str:
        started.set()
        await go_on.wait()
        return "done"

    app = app_with(group)
    async with anyio.create_task_group() as tasks:
        stop, stopping = anyio.Event(), anyio.Event()

        async def run() -> None:
            async with app.serve("127.0.0.1", 0) as server:
                urls.append(server.urls[0])
                ready.set()
                await stop.wait()
                stopping.set()

        urls: list[str] = []
        ready = anyio.Event()
        tasks.start_soon(run)
        await ready.wait()
        async with connect(urls[0], proxy=None) as connection:
            await connection.send('{"event":"wait"}')
            await started.wait()
            stop.set()
            await stopping.wait()
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(OSError):
                await connect(urls[0], proxy=None)
            go_on.set()
            assert await connection.recv() == '{"event":"wait","payload":"done"}'


# As a program ------------------------------------------------------------------------------------


@pytest.fixture
def no_other_groups(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[CommandGroup]]:
    """Hides the groups of other tests from apps that have none."""
    groups: list[weakref.ref[CommandGroup]] = []
    monkeypatch.setattr(app_module, "_included_groups", groups)
    return groups


@contextmanager
def unconfigured_logging() -> Iterator[None]:
    """As in a program that has not set up logging: pytest has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield


def free_port() -> int:
    with sockets.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def in_background(port: int, then: Callable[[], None], replies: list[Any]) -> threading.Thread:
    """Talks to the program from another thread, then ends it."""

    async def talk_to_it() -> None:
        while True:
            try:
                connection = await connect(f"ws://127.0.0.1:{port}", proxy=None)
                break
            except OSError:
                await asyncio.sleep(0.01)
        async with connection:
            client = Client(connection, None)  # type: ignore[arg-type]
            replies.append(await client.call("echo", id=1))
            then()
            replies.append(await client.closed())

    thread = threading.Thread(target=lambda: asyncio.run(talk_to_it()))
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("documented", [True, False])
def test_a_program_serves_until_it_is_told_to_stop(
    number: signal.Signals,
    documented: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It says where it listens, answers, and ends by itself after a signal."""
    port, replies = free_port(), list[Any]()
    thread = in_background(port, lambda: os.kill(os.getpid(), number), replies)
    app = app_with(echo_group())
    with unconfigured_logging():
        if documented:
            asyncio.run(app("127.0.0.1", port))
        else:
            app.run("127.0.0.1", port)
    thread.join()
    assert replies == [
        {"event": "echo", "payload": None, "id": 1},
        (1012, "service restart"),
    ]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith(f"INFO websuckets: listening on ws://127.0.0.1:{port}")
    assert lines[-1].endswith("INFO websuckets: stopping")
    assert logging.getLogger("websuckets").handlers == []
    assert logging.getLogger("websuckets").level == logging.NOTSET


async def test_cancelling_the_program_stops_it() -> None:
    """What ends `asyncio.run` from within."""
    port = free_port()
    app = app_with(echo_group())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, "127.0.0.1", port)
        while True:
            try:
                connection = await connect(f"ws://127.0.0.1:{port}", proxy=None)
                break
            except OSError:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    await connection.wait_closed()
    assert connection.close_code == 1012


def test_outside_the_main_thread_it_leaves_signals_alone() -> None:
    """Whoever runs it there cancels it."""
    port, replies, tasks = free_port(), list[Any](), list[Any]()

    async def main() -> None:
        tasks.append((asyncio.get_running_loop(), asyncio.current_task()))
        await app_with(echo_group())("127.0.0.1", port)

    def program() -> None:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())

    running = threading.Thread(target=program)
    running.start()
    loop_and_task = lambda: tasks[0][0].call_soon_threadsafe(tasks[0][1].cancel)  # noqa: E731
    in_background(port, loop_and_task, replies).join()
    running.join()
    assert replies[1] == (1012, "service restart")


async def until_listening(app: WebSuckets, port: int, *calls: str) -> list[Any]:
    replies = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, "127.0.0.1", port)
        while not app._is_running:
            await anyio.sleep(0)
        while True:
            try:
                connection = await connect(f"ws://127.0.0.1:{port}", proxy=None)
                break
            except OSError:
                await anyio.sleep(0.01)
        async with connection:
            client = Client(connection, None)  # type: ignore[arg-type]
            for event in calls:
                replies.append(await client.call(event, id=1))
        tasks.cancel_scope.cancel()
    return replies


async def test_an_app_without_groups_serves_those_of_the_program(
    no_other_groups: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The documented programs create the app a second time; a warning says so, once it listens."""
    caplog.set_level(logging.INFO, logger="websuckets")
    groups = [echo_group(), echo_group("second")]
    for group in groups:
        app_with(group)  # the app itself is gone at once, as in the documented programs
    replies = await until_listening(WebSuckets(), free_port(), "echo", "second echo")
    assert [reply.get("event") for reply in replies] == ["echo", "second echo"]
    messages = [r.getMessage() for r in caplog.records if r.name == "websuckets"]
    assert messages[0].startswith("listening on")
    assert messages[1].startswith("this app included no command group: serving the 2")


async def test_an_app_with_groups_serves_its_own_alone(
    no_other_groups: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No warning, no commands of others."""
    kept = echo_group("kept")
    app_with(kept)
    replies = await until_listening(app_with(echo_group()), free_port(), "echo", "kept echo")
    assert [reply.get("error") for reply in replies] == [None, "unknown command"]
    assert "included no command group" not in caplog.text


async def test_a_program_without_any_group_knows_no_command(
    no_other_groups: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The first documented program: every message is an error; nothing to warn of."""
    replies = await until_listening(WebSuckets(), free_port(), "echo")
    assert replies[0]["error"] == "unknown command"
    assert "included no command group" not in caplog.text


async def test_names_of_groups_so_merged_are_unique(no_other_groups: Any) -> None:
    """As within one app."""
    groups = [echo_group(), echo_group()]
    for group in groups:
        app_with(group)
    with pytest.raises(DuplicateCommand):
        await WebSuckets()("127.0.0.1", 0)


async def test_embedded_an_app_without_groups_serves_nothing() -> None:
    """Only a program's start looks further."""
    kept = echo_group()
    app_with(kept)
    async with talk(WebSuckets()) as client:
        assert (await client.call("echo"))["error"] == "unknown command"


# Logging -----------------------------------------------------------------------------------------


def test_configured_logging_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A program that has set up handlers gets no other."""
    with app_module._console_logging():
        assert logging.getLogger("websuckets").handlers == []


def test_a_level_that_was_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quieter than INFO stays quieter."""
    logger = logging.getLogger("websuckets")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    with unconfigured_logging(), app_module._console_logging():
        assert logger.level == logging.ERROR
    assert logger.level == logging.ERROR


@pytest.mark.parametrize("configured", [False, True])
async def test_what_websockets_would_log_of_messages_is_not_logged(
    configured: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with everything at DEBUG; only who asks for it by name gets it."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", logging.DEBUG if configured else logging.NOTSET)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    caplog.set_level(logging.DEBUG)
    async with talk(app_with(echo_group())) as client:
        await client.call("echo", token="canary", id=1)
    server_lines = [r for r in caplog.records if r.name == "websockets.server"]
    assert any("canary" in record.getMessage() for record in server_lines) == configured
    assert not any("canary" in r.getMessage() for r in caplog.records if r.name == "websuckets")
