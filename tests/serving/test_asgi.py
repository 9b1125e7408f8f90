"""Tests of `app.asgi`: by an ASGI server, and mounted in another application."""

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from dishka import Provider, Scope, make_async_container, provide
from dishka.integrations import fastapi as dishka_fastapi
from fastapi import FastAPI
from harness import Gate, app_with, connect, dial, errors, until
from litestar import Litestar, asgi
from litestar.testing import TestClient as LitestarClient
from ports import free_port
from serving import SERVINGS, accepting
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient as StarletteClient
from timeouts import TIMEOUT
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidStatus,
)
from websockets.http11 import Request

from websuckets import AppTasks, CommandGroup, ConnectionTasks, Limits, Payload, Socket, WebSuckets
from websuckets.app import Server
from websuckets.broker import Broker, MemoryBroker
from websuckets.di import lock_factory, provide_context, setup_dishka
from websuckets.exc import ConfigurationError, HandshakeRefused
from websuckets.session import Session, User
from websuckets.testing import TestClient
from websuckets.transports.plain import TURN

pytestmark = pytest.mark.anyio

ASGI = {name: serving for name, serving in SERVINGS.items() if name not in ("websockets", "memory")}


class Thing: ...


class Things(Provider):
    thing = provide(Thing, scope=Scope.APP)


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("request")
    async def request(socket: Socket, *, request: Request) -> list[Any]:
        assert socket.request is request
        return [request.path, request.headers["X-Test"], type(socket.remote_address).__name__]

    @group.command("length")
    async def length(socket: Socket, text: Payload[str]) -> int:
        return len(text)

    @group.command("say")
    async def say(socket: Socket, text: Payload[str]) -> str:
        return text

    @group.command("ping")
    async def ping(socket: Socket) -> None:
        await socket.ping()

    return group


@pytest.fixture
def app(group: CommandGroup) -> WebSuckets:
    return app_with(group, limits=Limits(max_size=1000))


@pytest.fixture(params=ASGI)
def serving(request: pytest.FixtureRequest, anyio_backend: str) -> Any:
    backends, serving = ASGI[request.param]
    if anyio_backend not in backends.split():
        pytest.skip(f"it does not run on {anyio_backend}")
    return serving


# By every server


async def test_the_opening_handshake(serving: Any, app: WebSuckets) -> None:
    """Expect the path, query, headers and address that the client sent."""
    async with serving(app) as server:
        url = f"{server.urls[0]}/a%20b/c?d=%20e&f"
        async with connect(url, additional_headers={"X-Test": "käse"}) as connection:
            await connection.send('{"event": "request"}')
            reply = await connection.recv()
    assert reply == '{"event":"request","payload":["/a%20b/c?d=%20e&f","käse","tuple"]}'


async def test_a_handshake_that_is_refused(serving: Any, app: WebSuckets) -> None:
    """Expect the status, text and headers that a hook chose."""

    @app.on_handshake
    async def handshake(request: Request, user: User) -> None:
        if request.path == "/nowhere":
            raise HandshakeRefused(404, "nobody häre", {"X-Why": "because"})
        if request.path == "/who":
            raise HandshakeRefused(401, "", {"Content-Type": "text/html"})
        await user.socket.send("too early")

    async with serving(app) as server:
        refused = await refusal(f"{server.urls[0]}/nowhere")
        assert (refused.status_code, refused.body.decode()) == (404, "nobody häre")
        assert refused.headers["X-Why"] == "because"
        refused = await refusal(f"{server.urls[0]}/who")
        assert (refused.status_code, refused.body) == (401, b"")
        assert refused.headers.get_all("Content-Type") == ["text/html"]
        assert (await refusal(f"{server.urls[0]}/early")).status_code == 500


async def refusal(url: str) -> Any:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url):
            pytest.fail("it is open")
    return refused.value.response


async def test_a_message_that_is_too_long(serving: Any, app: WebSuckets) -> None:
    """Expect the connection to be closed, as without ASGI."""
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("length", payload="x" * 900))["payload"] == 900
        for frame in ("x" * 1001, b"x" * 1001, "ä" * 501):
            async with dial(server) as other:
                await other.connection.send(frame)
                assert (await other.closed())[0] == 1009
        assert (await client.call("length", payload="x" * 900))["payload"] == 900


async def test_http_is_told_what_is_served_here(serving: Any, app: WebSuckets) -> None:
    """Expect 426, as RFC 9110 has it for clients that should speak another protocol."""
    async with serving(app) as server, httpx2.AsyncClient() as http:
        url = server.urls[0].replace("ws:", "http:")
        answer = await http.get(url)
        assert answer.status_code == 426
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert "WebSocket" in answer.text
        assert (await http.head(url)).status_code == 426


async def test_what_asgi_cannot_do(
    serving: Any, app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error that says what ASGI cannot do."""
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("ping"))["error"] == "internal error"
        [socket] = [user.socket for user in Session.online.values()]
        with pytest.raises(AttributeError, match="by ASGI has no 'latency'"):
            socket.latency  # noqa: B018  # it raises
    assert "an ASGI application cannot" in (errors(caplog)[0].exc_text or "")


# Started by the server itself

PROGRAM = """
from collections.abc import AsyncIterator

from dishka import Provider, Scope, provide

from websuckets import CommandGroup, Socket, WebSuckets


class Thing: ...


class Things(Provider):
    @provide(scope=Scope.APP)
    async def thing(self) -> AsyncIterator[Thing]:
        yield Thing()
        print("finalised", flush=True)


group = CommandGroup()


@group.command("say")
async def say(socket: Socket, *, thing: Thing) -> str:
    return "hello"


@group.command("close")
async def close(socket: Socket) -> None:
    await socket.close(4000, "enough")


app = WebSuckets(providers=[Things()])
app.include_command_group(group)


@app.on_startup
async def startup(thing: Thing) -> None:
    print("started", flush=True)
"""

COMMANDS = {
    "uvicorn": "uvicorn program:app --port {port}",
    "uvicorn, app.asgi": "uvicorn program:app.asgi --port {port}",
    "hypercorn": "hypercorn program:app --bind 127.0.0.1:{port}",
    "hypercorn on trio": "hypercorn program:app --worker-class trio --bind 127.0.0.1:{port}",
    "granian": "granian --interface asgi program:app --port {port}",
}


@pytest.mark.on_asyncio
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_a_server_starts_and_stops_the_app(command: str, tmp_path: Path) -> None:
    """Expect the server to start and stop the app from the command line, as in production."""
    (tmp_path / "program.py").write_text(PROGRAM)
    port = free_port()
    server = Server(port, (f"ws://127.0.0.1:{port}",))
    arguments = command.format(port=server.port).split()
    process = await anyio.open_process(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        await accepting(server)
        async with dial(server) as client:
            assert (await client.call("say"))["payload"] == "hello"
            await client.send("close")
            assert await client.closed() == (4000, "enough")
        async with dial(server) as client:
            await client.connection.send("x" * 70_000)
            assert (await client.closed())[0] == 1009
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(TIMEOUT):
            await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            assert process.stdout is not None
            output = b"".join([chunk async for chunk in process.stdout]).decode()
            await process.aclose()
    assert "started" in output and "finalised" in output
    assert "Traceback" not in output
    assert "factory" not in output


# Mounted


def starlette(app: WebSuckets, lifespan: Any) -> Any:
    routes = [Mount("/mounted", app.asgi), WebSocketRoute("/ws", app.asgi)]
    return StarletteClient(Starlette(routes=routes, lifespan=lifespan))


def fastapi(app: WebSuckets, lifespan: Any) -> Any:
    api = FastAPI(lifespan=lifespan, routes=[WebSocketRoute("/ws", app.asgi)])
    api.mount("/mounted", app.asgi)
    return StarletteClient(api)


def litestar(app: WebSuckets, lifespan: Any) -> Any:
    mounted = asgi("/mounted", is_mount=True, copy_scope=True)(app.asgi)
    at_one_path = asgi("/ws", copy_scope=True)(app.asgi)
    lifespans = [] if lifespan is None else [lifespan]
    host = Litestar([mounted, at_one_path], lifespan=lifespans, logging_config=None)
    return LitestarClient(host)


@pytest.mark.parametrize("host", [starlette, fastapi, litestar])
def test_mounted(host: Callable[[WebSuckets, Any], Any], group: CommandGroup) -> None:
    """Expect the app to work in any ASGI application, started by its host."""
    app = app_with(group, providers=[Things()])

    with host(app, app.lifespan) as client:
        for path in ("/ws", "/mounted/", "/mounted/a%20b?c=d"):
            with client.websocket_connect(path, headers={"X-Test": "x"}) as connection:
                connection.send_text('{"event": "request"}')
                assert connection.receive_json()["payload"][:2] == [path, "x"]
        assert client.get("/mounted/").status_code == 426


@pytest.mark.parametrize("host", [starlette, fastapi, litestar])
def test_an_app_with_nothing_to_start_starts_by_itself(
    host: Callable[[WebSuckets, Any], Any], app: WebSuckets
) -> None:
    """Expect the app to start by itself, and again in another event loop."""
    for _ in range(2):
        with host(app, None) as client:
            for _ in range(2):
                with client.websocket_connect("/ws") as connection:
                    connection.send_text('{"event": "say", "payload": "hi"}')
                    assert connection.receive_json() == {"event": "say", "payload": "hi"}


def test_an_app_that_runs_in_one_loop_is_not_served_in_another(app: WebSuckets) -> None:
    """Serve by a test client that starts a loop for each connection."""
    host = starlette(app, None)  # not entered as a context
    with host.websocket_connect("/ws") as first:
        with pytest.raises(RuntimeError, match="the app runs in another event loop"):
            with host.websocket_connect("/ws"):
                pytest.fail("it is open")
        first.send_text('{"event": "say", "payload": "hi"}')
        assert first.receive_json() == {"event": "say", "payload": "hi"}


def with_providers(app: WebSuckets) -> WebSuckets:
    return WebSuckets(providers=[Things()])


def with_startup(app: WebSuckets) -> WebSuckets:
    @app.on_startup
    async def startup() -> None: ...

    return app


def with_tasks(app: WebSuckets) -> WebSuckets:
    class Feed:
        def __init__(self, tasks: AppTasks) -> None: ...

    provider = Provider(scope=Scope.APP)
    provider.provide(Feed)

    @app.on_connect
    async def connect(feed: Feed) -> None: ...

    container = make_async_container(provider, *app.providers, lock_factory=lock_factory)
    setup_dishka(container, app)
    return app


def with_own_container(app: WebSuckets) -> WebSuckets:
    class Pool:
        def __init__(self, thing: Thing) -> None: ...

    @asynccontextmanager
    async def thing() -> AsyncIterator[Thing]:
        yield Thing()

    @app.on_connect
    async def connect(pool: Pool) -> None: ...

    provider = provide_context(thing, scope=Scope.APP)
    provider.provide(Pool, scope=Scope.APP)
    setup_dishka(make_async_container(provider, *app.providers, lock_factory=lock_factory), app)
    return app


def with_own_broker(app: WebSuckets) -> WebSuckets:
    @asynccontextmanager
    async def broker() -> AsyncIterator[Broker]:
        yield MemoryBroker()

    provider = provide_context(broker, scope=Scope.APP)
    setup_dishka(make_async_container(provider, *app.providers, lock_factory=lock_factory), app)
    return app


@pytest.mark.parametrize(
    "having", [with_providers, with_startup, with_tasks, with_own_container, with_own_broker]
)
def test_one_with_something_to_start_has_to_be_started(
    having: Callable[[WebSuckets], WebSuckets], app: WebSuckets
) -> None:
    """Expect an error that tells a host without lifespan what to write."""
    app = having(app)
    with starlette(app, None) as client:
        with pytest.raises(ConfigurationError, match=r"async with app\.lifespan\(\):"):
            with client.websocket_connect("/ws"):
                pytest.fail("it is open")


async def test_one_with_a_container_of_the_programs_starts_by_itself(app: WebSuckets) -> None:
    """Expect the start if no object that the app needs is finalised, whatever HTTP needs."""

    @app.on_connect
    async def connect(thing: Thing) -> None: ...

    @asynccontextmanager
    async def for_http() -> AsyncIterator[ForHttp]:
        yield ForHttp()

    container = make_async_container(
        Things(),
        provide_context(for_http, scope=Scope.APP),
        *app.providers,
        lock_factory=lock_factory,
    )
    setup_dishka(container, app)
    with starlette(app, None) as client:
        with client.websocket_connect("/ws") as connection:
            connection.send_text('{"event": "say", "payload": "hi"}')
            assert connection.receive_json()["payload"] == "hi"


class ForHttp: ...


@pytest.mark.on_asyncio
async def test_objects_are_shared_with_the_host(group: CommandGroup) -> None:
    """Expect HTTP and WebSocket to share the objects of the app."""
    seen: list[int] = []

    @group.command("thing")
    async def thing(socket: Socket, *, thing: Thing, session: Session) -> None:
        seen.extend((id(thing), id(session)))

    app = app_with(group)
    container = make_async_container(
        Things(), dishka_fastapi.FastapiProvider(), *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    api = FastAPI()
    dishka_fastapi.setup_dishka(container, api)

    @api.get("/thing")
    @dishka_fastapi.inject
    async def get_thing(
        thing: dishka_fastapi.FromDishka[Thing], session: dishka_fastapi.FromDishka[Session]
    ) -> int:
        seen.extend((id(thing), id(session)))
        return len(session.online)

    transport = httpx2.ASGITransport(api)
    async with (
        TestClient(app) as client,
        httpx2.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        await client.call("thing")
        assert (await http.get("/thing")).json() == 1
    assert seen[:2] == seen[2:]
    await container.close()


# By servers that do less, or something else


class AsgiServer:
    """An ASGI server as an application sees it: one connection, event by event."""

    def __init__(self, **scope: Any) -> None:
        self.scope = {"type": "websocket", "path": "/", "headers": [], **scope}
        self.sent: list[dict[str, Any]] = []
        self.to_client, self.from_app = anyio.create_memory_object_stream[Any](100)
        self.from_client, self.to_app = anyio.create_memory_object_stream[Any](100)
        self.from_client.send_nowait({"type": "websocket.connect"})

    async def __call__(self, app: Any) -> None:
        await app(self.scope, self.receive, self.send)

    async def receive(self) -> Any:
        event = await self.to_app.receive()
        if isinstance(event, Exception):
            raise event
        return event

    async def send(self, event: Any) -> None:
        self.sent.append(event)
        self.to_client.send_nowait(event)
        if event["type"] == "websocket.close":
            self.leaves()

    def says(self, command: str) -> None:
        self.from_client.send_nowait({"type": "websocket.receive", "text": command})

    def leaves(self) -> None:
        self.from_client.send_nowait({"type": "websocket.disconnect", "code": 1000})

    def close(self) -> None:
        for stream in (self.to_client, self.from_app, self.from_client, self.to_app):
            stream.close()

    async def next(self) -> Any:
        with anyio.fail_after(TIMEOUT):
            return await self.from_app.receive()

    async def greet(self) -> None:
        """Send the first message, and wait for its reply."""
        self.says('{"event": "greeting"}')
        while (await self.next())["type"] == "websocket.accept":
            pass


NewServer = Callable[..., AsgiServer]


def tell_of_the_end(app: WebSuckets, journal: list[Any]) -> None:
    """Announce the end once hooks have run, which may wait for something."""

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        await anyio.lowlevel.checkpoint()
        journal.append(f"disconnect {socket.close_code}")


def waiting(group: CommandGroup, journal: list[str], **options: Any) -> Gate:
    """Add a command ``wait``, which records its end; return the gate that the command waits for."""
    gate = Gate()

    @group.command("wait", **options)
    async def wait(socket: Socket) -> None:
        try:
            await gate()
        finally:
            journal.append("wait ended")

    return gate


@pytest.fixture
def new_server() -> Iterator[NewServer]:
    """Return a factory of servers that are closed after the test."""
    servers: list[AsgiServer] = []

    def new_server(**scope: Any) -> AsgiServer:
        servers.append(AsgiServer(**scope))
        return servers[-1]

    yield new_server
    for server in servers:
        server.close()


async def test_clients_that_come_at_once_start_the_app_once(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect one start, and all clients to be served."""
    servers = [new_server() for _ in range(10)]
    async with anyio.create_task_group() as connections:
        for server in servers:
            connections.start_soon(server, app.asgi)
        for server in servers:
            assert (await server.next()) == {"type": "websocket.accept"}
        assert len(Session.online) == 10
        with pytest.raises(ConfigurationError, match="runs once at a time"):
            async with app.lifespan():
                pytest.fail("it has started twice")
        for server in servers:
            server.leaves()


async def test_a_start_that_fails_is_told_to_every_client(new_server: NewServer) -> None:
    """Expect every client to get the error, not only the first."""
    app = app_with(broken_group())
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="cannot be provided"):
            await new_server()(app.asgi)


async def test_a_start_that_fails_late_is_told_to_all_who_wait(
    new_server: NewServer, app: WebSuckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect all waiting clients to get the error; the next start may succeed."""
    with monkeypatch.context() as patch:
        patch.setattr("websuckets.serving.lifecycle.RequestScopes", None)
        failures = []

        async def connect() -> None:
            with pytest.raises(TypeError) as failed:
                await new_server()(app.asgi)
            failures.append(failed)

        async with anyio.create_task_group() as connections:
            for _ in range(3):
                connections.start_soon(connect)
        assert len(failures) == 3
    server = new_server()
    server.leaves()
    await server(app.asgi)
    assert server.sent == [{"type": "websocket.accept"}]


async def test_a_server_that_can_refuse_by_403_alone(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect a refusal by 403 on a server without other statuses."""

    @app.on_handshake
    async def handshake() -> None:
        raise HandshakeRefused(404, "nobody here")

    server = new_server()
    await server(app.asgi)
    assert server.sent == [{"type": "websocket.close"}]


async def test_a_server_that_says_little_of_the_handshake(
    new_server: NewServer, group: CommandGroup
) -> None:
    """Expect values that the server leaves out to be `None`, or derived from others."""
    app = app_with(group)
    seen: list[Any] = []

    @app.on_connect
    async def connect(socket: Socket, request: Request) -> None:
        seen.append((request.path, socket.remote_address, socket.subprotocol))

    server = new_server(path="/a b/ä", query_string=b"c=d", client=None)
    server.leaves()
    await server(app.asgi)
    assert seen == [("/a%20b/%C3%A4?c=d", None, None)]


@pytest.mark.parametrize("how", ["error", "disconnect without a code"])
async def test_a_server_that_loses_its_client(
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
async def test_how_the_client_has_closed(
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


async def test_a_client_that_is_gone_before_the_handshake_is_answered(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect nothing to be opened."""

    async def send(event: Any) -> None:
        raise OSError("gone")

    server = new_server()
    with pytest.raises(OSError, match="gone"):
        await app.asgi(server.scope, server.receive, send)
    assert Session.online == {}


@pytest.mark.parametrize("error", [OSError, RuntimeError])
@pytest.mark.parametrize("command", ["say", "close", "stream"])
async def test_a_client_that_is_gone_when_it_is_sent_to(
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


async def test_a_server_that_cancels(
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
async def test_a_server_that_cancels_natively(
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


async def test_a_handler_that_ends_the_program(new_server: NewServer, group: CommandGroup) -> None:
    """Expect the program to end, whatever runs the handler."""

    @group.command("exit")
    async def exit(socket: Socket) -> None:
        sys.exit(3)

    server = new_server()
    server.says('{"event": "exit"}')
    with pytest.raises(SystemExit):
        await server(app_with(group).asgi)
    assert Session.online == {}


async def test_a_handler_that_raises_what_is_no_exception(
    serving: Any, group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an answer like that to any failure; the connection, the server and others go on."""

    class Surprise(BaseException): ...

    @group.command("surprise")
    async def surprise(socket: Socket) -> None:
        raise Surprise

    async with serving(app_with(group)) as server, dial(server) as other:
        async with dial(server) as client:
            assert (await client.call("surprise"))["error"] == "internal error"
            assert (await client.call("say", payload="on"))["payload"] == "on"
        assert (await other.call("say", payload="on"))["payload"] == "on"
    [error] = errors(caplog)
    assert error.exc_info is not None and error.exc_info[0] is Surprise


async def test_a_client_that_does_not_take_its_close(
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


@pytest.mark.parametrize("command", ["send", "stream"])
async def test_a_client_that_does_not_read(
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


async def test_a_handler_that_sends_without_ever_waiting(
    serving: Any, group: CommandGroup, journal: list[str]
) -> None:
    """Expect the handler to be told that its client has left, and others to be served."""

    @group.command("flood")
    async def flood(socket: Socket) -> None:
        try:
            while True:
                await socket.send("x")
        finally:
            journal.append("ended")

    async with serving(app_with(group)) as server, dial(server) as other:
        async with dial(server) as client:
            await client.call("say", payload="hello")
            await client.send("flood")
            await client.receive_frame()
            await client.vanish()
        assert (await other.call("say", payload="on"))["payload"] == "on"
        await until(journal, "ended")


@pytest.mark.parametrize("stuck", ["websocket.send", "websocket.close"])
async def test_closing_a_client_that_does_not_read(
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


async def test_closing_in_a_scope_that_is_cancelled(new_server: NewServer, app: WebSuckets) -> None:
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


# After its first message, a connection on asyncio receives without the task that reads


async def test_a_client_that_leaves_during_a_command(
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


async def test_commands_that_come_during_a_slow_one(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect commands to run in order, bounded by what is read ahead, again and again."""
    gate = Gate()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    @group.command("write")
    async def write(socket: Socket, text: Payload[str]) -> None:
        journal.append(text[:2])

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(group, limits=Limits(max_size=None)).asgi)
        for _ in range(2):
            await server.greet()
            gate.reached, gate.opened = anyio.Event(), anyio.Event()
            journal.clear()
            server.says('{"event": "wait"}')
            for number in range(10, 20):
                server.says(f'{{"event": "write", "payload": "{number}{"x" * 20_000}"}}')
            await gate.reached.wait()
            while server.to_app.statistics().current_buffer_used > 6:
                await anyio.sleep(0.001)
            gate.opened.set()
            await until(journal, "19")
            assert journal == [str(number) for number in range(10, 20)]
        server.leaves()


async def test_commands_that_come_during_many_short_ones(
    new_server: NewServer, group: CommandGroup
) -> None:
    """Expect these commands to be read ahead, too: a pong may stand behind them."""
    left: list[int] = []

    @group.command("work")
    async def work(socket: Socket) -> bool:
        left.append(server.to_app.statistics().current_buffer_used)
        await anyio.sleep(0.02)
        return True

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(group).asgi)
        await server.greet()
        for _ in range(20):
            server.says('{"event": "work"}')
        for _ in range(20):
            await server.next()
        server.leaves()
    assert left[10] == 0


@pytest.mark.parametrize("error", [OSError, RuntimeError])
async def test_commands_behind_a_reply_that_cannot_be_sent(
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


async def test_nobody_receives_when_it_is_closed(new_server: NewServer, app: WebSuckets) -> None:
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


async def test_a_server_that_fails_when_it_is_asked_for_more(
    new_server: NewServer, app: WebSuckets
) -> None:
    server = new_server()
    server.leaves()
    for _ in range(2):
        server.from_client.send_nowait(RuntimeError("it is gone"))
    await server(app.asgi)
    assert server.to_app.statistics().current_buffer_used == 1


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


async def test_many_messages_at_once_leave_others_their_turn(
    new_server: NewServer, group: CommandGroup
) -> None:
    """Expect others to get their turn where neither receiving nor sending waits."""
    others = [0]

    @group.command("turns")
    async def turns(socket: Socket) -> int:
        return others[0]

    async def other() -> None:
        while True:
            others[0] += 1
            await anyio.lowlevel.checkpoint()

    server = new_server()
    events = deque({"type": "websocket.receive", "text": '{"event": "turns"}'} for _ in range(80))

    async def receive() -> Any:
        if server.to_app.statistics().current_buffer_used or not events:
            return await server.receive()
        return events.popleft()

    async with anyio.create_task_group() as connections:
        connections.start_soon(other)
        await app_with(group, limits=Limits(rate=None)).asgi(
            server.scope, receive, partial(server_sends, server)
        )
        connections.cancel_scope.cancel()
    replies = [json.loads(event["text"])["payload"] for event in server.sent if "text" in event]
    assert len(replies) == 80
    assert max(Counter(replies).values()) <= 2 * TURN  # the order of turns is random on trio


async def server_sends(server: AsgiServer, event: Any) -> None:
    server.sent.append(event)
    if len(server.sent) == 81:
        server.leaves()


@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_client_that_does_not_read_its_second_reply(
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


async def test_a_second_message_that_is_too_long(new_server: NewServer, app: WebSuckets) -> None:
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(CommandGroup(), limits=Limits(max_size=50)).asgi)
        await server.greet()
        server.says("x" * 51)
        assert (await server.next())["code"] == 1009


async def test_a_second_message_that_is_binary(new_server: NewServer, app: WebSuckets) -> None:
    """Expect the message to be read like a text."""
    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app_with(CommandGroup()).asgi)
        await server.greet()
        message = {"type": "websocket.receive", "bytes": b'{"ping": 1}'}
        server.from_client.send_nowait(message)
        assert (await server.next())["text"] == '{"pong":1}'
        server.leaves()


async def test_a_server_that_fails_behind_the_first_message(
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


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_replies_that_the_server_does_not_take_at_once(
    new_server: NewServer, group: CommandGroup, concurrency: int
) -> None:
    """Expect all replies in the end, also those that come while another waits for the client."""
    full = Gate()

    async def send(event: Any) -> None:
        if "text" in event:
            await full()
            await anyio.lowlevel.checkpoint()
        await server.send(event)

    server = new_server()
    app = app_with(group, limits=Limits(concurrency=concurrency))
    async with anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, send)
        assert (await server.next())["type"] == "websocket.accept"
        for number in range(4):
            server.says(f'{{"event": "say", "payload": "{number}", "id": {number}}}')
        await full.reached.wait()
        await anyio.wait_all_tasks_blocked()
        full.opened.set()
        replies = [json.loads((await server.next())["text"]) for _ in range(4)]
        server.leaves()
    assert sorted(reply["id"] for reply in replies) == [0, 1, 2, 3]


async def test_a_server_that_loses_a_client_while_a_reply_waits(
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


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_server_whose_send_is_not_a_coroutine_function(
    new_server: NewServer, app: WebSuckets, journal: list[str], is_gone: bool
) -> None:
    """Expect replies to be sent, and an error that is raised at once to end the connection.

    Granian's ``send`` returns an awaitable of its own, and raises errors before that.
    """
    tell_of_the_end(app, journal)

    class Sending:
        def __init__(self, event: Any) -> None:
            if is_gone and "text" in event:
                raise RuntimeError("gone")
            self.event = event

        def __await__(self) -> Any:
            yield from server.send(self.event).__await__()

    server = new_server()
    async with anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, Sending)
        assert (await server.next())["type"] == "websocket.accept"
        server.says('{"event": "say", "payload": "x"}')
        if not is_gone:
            assert (await server.next())["text"] == '{"event":"say","payload":"x"}'
            server.leaves()
    assert journal == [f"disconnect {1006 if is_gone else 1000}"]


async def test_a_reply_behind_what_waits_to_be_sent(
    new_server: NewServer, group: CommandGroup, journal: list[str]
) -> None:
    """Expect the reply to wait for a client that does not read as long as earlier messages do."""
    stuck = Gate()

    @group.command("start")
    async def start(socket: Socket, *, tasks: ConnectionTasks) -> None:
        tasks.start_soon(socket.send, "x")
        await stuck.reached.wait()

    async def send(event: Any) -> None:
        if event.get("text") == "x":
            await stuck()
        await server.send(event)

    server = new_server()
    app = app_with(group, limits=Limits(outbox=(1, 100), send_timeout=0.1))
    tell_of_the_end(app, journal)

    async with app.lifespan(), anyio.create_task_group() as connections:
        connections.start_soon(app.asgi, server.scope, server.receive, send)
        await server.greet()
        server.says('{"event": "start", "id": 1}')
        assert (await server.next())["text"] == '{"event":"start","payload":null,"id":1}'
        server.says(f'{{"event": "say", "payload": "{"x" * 100}"}}')
    assert journal == ["disconnect 1006"]


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_server_that_cancels_who_waits_for_a_message(
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


async def test_closing_from_elsewhere(new_server: NewServer, app: WebSuckets) -> None:
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


async def test_commands_that_wait_are_bounded(new_server: NewServer, group: CommandGroup) -> None:
    """Expect further commands to stay with the server, which holds the client back."""
    gate = Gate()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    app = app_with(group, limits=Limits(max_size=None))
    server = new_server()
    server.says('{"event": "wait"}')
    for _ in range(10):
        server.says(f'{{"event": "length", "payload": "{"x" * 20_000}"}}')
    async with anyio.create_task_group() as connections:
        connections.start_soon(server, app.asgi)
        await gate.reached.wait()
        while server.to_app.statistics().current_buffer_used > 5:
            await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()
        assert server.to_app.statistics().current_buffer_used == 5
        gate.opened.set()
        for _ in range(11):
            await server.next()
        server.leaves()


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


async def test_the_app_itself_is_an_asgi_application(
    app: WebSuckets, new_server: NewServer
) -> None:
    """Expect the app to act like `app.asgi`, and to look like an application to ASGI servers."""
    assert await lives(app) == ["startup.complete", "shutdown.complete"]
    server = new_server()
    server.says('{"event": "say", "payload": "hi"}')
    server.leaves()
    await server(app)
    assert inspect.iscoroutinefunction(app.__call__)
    with pytest.raises(TypeError):  # by this error uvicorn knows that the app is not a factory
        app()  # type: ignore[unused-coroutine]
    assert server.sent[0] == {"type": "websocket.accept"}
    await app(scope={"type": "http", "path": "/health"}, receive=server.receive, send=server.send)
    assert server.sent[-1]["body"] == b"ok\n"


async def test_the_lifespan(group: CommandGroup, journal: list[str]) -> None:
    """Expect a failure to be told to the server, with the remedy."""

    @asynccontextmanager
    async def thing() -> AsyncIterator[Thing]:
        yield Thing()
        journal.append("finalised")

    app = app_with(group, providers=[provide_context(thing, scope=Scope.APP)])
    assert await lives(app) == ["startup.complete", "shutdown.complete"]
    fails = "nothing"

    @app.on_startup
    async def startup(thing: Thing) -> None:
        if fails == "startup":
            raise RuntimeError("broken")

    assert await lives(app) == ["startup.complete", "shutdown.complete"]
    assert journal == ["finalised"]
    fails = "startup"
    [failed] = await lives(app)
    assert failed.startswith("startup.failed Traceback") and "broken" in failed
    assert journal == ["finalised", "finalised"]
    [failed] = await lives(app_with(broken_group()))
    assert failed.startswith("startup.failed `") and "cannot be provided" in failed


def broken_group() -> CommandGroup:
    group = CommandGroup()

    @group.command("broken")
    async def broken(socket: Socket, *, thing: Thing) -> None: ...

    return group


async def lives(app: Any) -> list[str]:
    """Return the app's answers to a server that starts and stops it."""
    said: list[str] = []

    async def receive() -> Any:
        return {"type": "lifespan.shutdown" if said else "lifespan.startup"}

    async def send(event: Any) -> None:
        said.append(f"{event['type']} {event.get('message', '')}".removeprefix("lifespan.").strip())

    await app({"type": "lifespan"}, receive, send)
    return said


async def test_http_of_other_versions(new_server: NewServer, app: WebSuckets) -> None:
    """Expect no such header for other versions of HTTP."""
    server = new_server()
    await app.asgi(
        {"type": "http", "http_version": "2", "method": "GET", "path": "/"}, None, server.send
    )
    assert b"upgrade" not in dict(server.sent[0]["headers"])


async def test_what_asgi_has_besides(app: WebSuckets) -> None:
    """Expect an error for other types of scope, as the specification has it."""
    with pytest.raises(RuntimeError, match="knows nothing of 'webtransport'"):
        await app.asgi({"type": "webtransport"}, None, None)
