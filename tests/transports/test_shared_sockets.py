"""A server whose sockets are shared makes way for another one without losing a client."""

import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from echoing import echo_group
from harness import Gate, app_with
from timeouts import TIMEOUT

from websuckets import CommandGroup, Socket, WebSuckets
from websuckets.transports import shared_sockets, websockets_asyncio, websockets_trio
from websuckets.transports.shared_sockets import SharedSockets

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="sockets are shared on Unix"),
]

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CLOSED_WITH_1012 = b"\x88\x11\x03\xf4service restart"


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "trio":
        return "trio"
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=["tcp", "unix"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Yield a socket that listens."""
    with socket.socket(socket.AF_INET if request.param == "tcp" else socket.AF_UNIX) as own:
        own.bind(("127.0.0.1", 0) if request.param == "tcp" else str(tmp_path / "s"))
        own.listen()
        yield own


@asynccontextmanager
async def serving(
    app: WebSuckets, listening: socket.socket, **options: Any
) -> AsyncIterator[SharedSockets]:
    shared = SharedSockets([listening.dup()])
    async with app.serve(None, None, shared_sockets=shared, **options):
        yield shared


async def dial(listening: socket.socket) -> Any:
    """Return a stream to the server."""
    name = listening.getsockname()
    return await (anyio.connect_unix(name) if isinstance(name, str) else anyio.connect_tcp(*name))


async def read(stream: Any, end: bytes) -> bytes:
    data = b""
    with anyio.fail_after(TIMEOUT):
        while not data.endswith(end):
            data += await stream.receive()
    return data


async def until_accepted(shared: SharedSockets, clients: int) -> None:
    with anyio.fail_after(TIMEOUT):
        while len(shared.handshakes) != clients:
            await anyio.sleep(0.001)


@pytest.fixture
def made_way(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """Return an event that is set when a server has ceased to accept clients."""
    event = anyio.Event()
    hand_over = shared_sockets.hand_over

    async def noticed(shared: SharedSockets) -> None:
        event.set()
        await hand_over(shared)

    for module in (websockets_asyncio, websockets_trio):
        monkeypatch.setattr(module, "hand_over", noticed)
    return event


async def test_a_server_that_makes_way_completes_handshakes_and_leaves_other_clients_to_the_next(
    listening: socket.socket, made_way: anyio.Event
) -> None:
    async def come() -> None:
        """Complete a handshake after another client has come."""
        await made_way.wait()
        other = await dial(listening)
        later.append(other)
        await other.send(REQUEST)
        with anyio.move_on_after(0.1) as scope:
            await other.receive()
        assert scope.cancelled_caught
        assert len(shared.handshakes) == 1
        await stream.send(REQUEST)
        assert (await read(stream, CLOSED_WITH_1012)).startswith(b"HTTP/1.1 101 ")
        await stream.aclose()

    later: list[Any] = []
    async with anyio.create_task_group() as tasks:
        async with serving(app_with(echo_group()), listening) as shared:
            stream = await dial(listening)
            await until_accepted(shared, 1)
            shared.has_successor = True
            tasks.start_soon(come)
    async with serving(app_with(echo_group()), listening), later[0] as other:
        assert (await read(other, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_a_client_that_sends_nothing_does_not_keep_a_server_from_making_way(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_sockets, "HANDSHAKES_MAY_TAKE", 0.05)
    async with serving(app_with(echo_group()), listening, drain_timeout=0.1) as shared:
        stream = await dial(listening)
        await until_accepted(shared, 1)
        shared.has_successor = True
    await stream.aclose()


async def test_a_server_without_a_successor_answers_clients_until_it_has_ended(
    listening: socket.socket, gate: Gate
) -> None:
    """Expect 503, by which load balancers notice, while a command is finished."""
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    async def come() -> None:
        with anyio.fail_after(TIMEOUT):
            answer = b"HTTP/1.1 101 "
            while answer.startswith(b"HTTP/1.1 101 "):
                async with await dial(listening) as stream:
                    await stream.send(REQUEST)
                    answer = await stream.receive()
        assert answer.startswith(b"HTTP/1.1 503 ")
        gate.opened.set()
        await read(client, CLOSED_WITH_1012)
        await client.aclose()

    async with anyio.create_task_group() as tasks:
        async with serving(app_with(group), listening):
            client = await dial(listening)
            await client.send(REQUEST)
            await read(client, b"\r\n\r\n")
            await client.send(masked(b'{"event": "wait"}'))
            await gate.reached.wait()
            tasks.start_soon(come)


def masked(text: bytes) -> bytes:
    """Return a text frame as a client sends it, with a mask of zeros."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_listener_that_stops_between_two_clients_accepts_nobody_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        own.setblocking(False)
        port = own.getsockname()[1]
        listener = websockets_trio._SharedListener(own)
        listener.stop_accepting()
        with socket.create_connection(("127.0.0.1", port)):
            with anyio.move_on_after(0.05) as scope:
                await listener.accept()
            assert scope.cancelled_caught
            client, _ = own.accept()  # which is there for another process
            client.close()
