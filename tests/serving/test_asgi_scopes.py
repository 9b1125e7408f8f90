"""Tests of the start, lifespan, handshake and HTTP scopes of `app.asgi`, event by event."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgi_server import NewServer
from dishka import Scope
from harness import app_with
from websockets.http11 import Request

from websuckets import CommandGroup, Socket, WebSuckets
from websuckets.di import provide_context
from websuckets.exc import ConfigurationError, HandshakeRefused
from websuckets.session import Session

pytestmark = pytest.mark.anyio


class Thing: ...


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


async def test_a_server_without_other_statuses_refuses_by_403(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect a refusal by 403 on a server without other statuses."""

    @app.on_handshake
    async def handshake() -> None:
        raise HandshakeRefused(404, "nobody here")

    server = new_server()
    await server(app.asgi)
    assert server.sent == [{"type": "websocket.close"}]


async def test_values_that_the_server_leaves_out_are_none_or_derived(
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


async def test_a_client_that_is_gone_before_its_answer_opens_nothing(
    new_server: NewServer, app: WebSuckets
) -> None:
    """Expect nothing to be opened."""

    async def send(event: Any) -> None:
        raise OSError("gone")

    server = new_server()
    with pytest.raises(OSError, match="gone"):
        await app.asgi(server.scope, server.receive, send)
    assert Session.online == {}


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


async def test_the_lifespan_tells_the_server_of_success_and_failure(
    group: CommandGroup, journal: list[str]
) -> None:
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
    assert failed.startswith("startup.failed command ") and "cannot be provided" in failed


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


async def test_http_2_gets_no_upgrade_header(new_server: NewServer, app: WebSuckets) -> None:
    """Expect no such header for other versions of HTTP."""
    server = new_server()
    await app.asgi(
        {"type": "http", "http_version": "2", "method": "GET", "path": "/"}, None, server.send
    )
    assert b"upgrade" not in dict(server.sent[0]["headers"])


async def test_other_types_of_scope_are_refused(app: WebSuckets) -> None:
    """Expect an error for other types of scope, as the specification has it."""
    with pytest.raises(RuntimeError, match="knows nothing of 'webtransport'"):
        await app.asgi({"type": "webtransport"}, None, None)
