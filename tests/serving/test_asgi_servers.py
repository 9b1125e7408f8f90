"""Tests of `app.asgi` by every ASGI server, from within a test and from the command line."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from harness import app_with, connect, dial, errors, until
from ports import free_port
from serving import SERVINGS, accepting
from timeouts import TIMEOUT
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, Socket, WebSuckets
from websuckets.app import Server
from websuckets.exc import HandshakeRefused
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio

ASGI = {name: serving for name, serving in SERVINGS.items() if name not in ("websockets", "memory")}


@pytest.fixture(params=ASGI)
def serving(request: pytest.FixtureRequest, anyio_backend: str) -> Any:
    backends, serving = ASGI[request.param]
    if anyio_backend not in backends.split():
        pytest.skip(f"it does not run on {anyio_backend}")
    return serving


# By every server


async def test_a_handshake_reaches_the_app_as_the_client_sent_it(
    serving: Any, app: WebSuckets
) -> None:
    """Expect the path, query, headers and address that the client sent."""
    async with serving(app) as server:
        url = f"{server.urls[0]}/a%20b/c?d=%20e&f"
        async with connect(url, additional_headers={"X-Test": "käse"}) as connection:
            await connection.send('{"event": "request"}')
            reply = await connection.recv()
    assert reply == '{"event":"request","payload":["/a%20b/c?d=%20e&f","käse","tuple"]}'


async def test_a_refusal_has_the_status_text_and_headers_that_a_hook_chose(
    serving: Any, app: WebSuckets
) -> None:
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


async def test_a_message_that_is_too_long_closes_its_connection_alone(
    serving: Any, app: WebSuckets
) -> None:
    """Expect the connection to be closed, as without ASGI."""
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("length", payload="x" * 900))["payload"] == 900
        for frame in ("x" * 1001, b"x" * 1001, "ä" * 501):
            async with dial(server) as other:
                await other.connection.send(frame)
                assert (await other.closed())[0] == 1009
        assert (await client.call("length", payload="x" * 900))["payload"] == 900


async def test_http_is_told_to_upgrade_to_websocket(serving: Any, app: WebSuckets) -> None:
    """Expect 426, as RFC 9110 has it for clients that should speak another protocol."""
    async with serving(app) as server, httpx2.AsyncClient() as http:
        url = server.urls[0].replace("ws:", "http:")
        answer = await http.get(url)
        assert answer.status_code == 426
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert "WebSocket" in answer.text
        assert (await http.head(url)).status_code == 426


async def test_an_error_names_the_feature_that_asgi_lacks(
    serving: Any, app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error that says what ASGI cannot do."""
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("ping"))["error"] == "internal error"
        [socket] = [user.socket for user in Session.online.values()]
        with pytest.raises(AttributeError, match="by ASGI has no 'latency'"):
            socket.latency  # noqa: B018  # it raises
    assert "an ASGI application cannot" in (errors(caplog)[0].exc_text or "")


async def test_an_error_that_is_not_an_exception_is_answered_like_any_other(
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


async def test_a_handler_that_never_waits_is_told_that_its_client_has_left(
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


@pytest.mark.slow
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
