"""Handshakes and frames that break the protocol, or never end, harm nobody."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from harness import Gate, get, until
from hostile import MOST, UNDER_ASGI, assert_serves, errors, make_app, watched
from peers import (
    CONTINUATION,
    DEFLATE,
    PONG,
    SMALL,
    Gone,
    Peer,
    close,
    command,
    compressed,
    frame,
    handshake,
    opened,
    tcp,
    text,
)
from serving import SERVINGS, Serving
from target import alone, running_target
from timeouts import TIMEOUT
from violations import DEFLATED, PLAIN

from websuckets import WebSuckets
from websuckets.exc import HandshakeRefused

pytestmark = pytest.mark.anyio


@pytest.fixture
def serving(server: str) -> Serving:
    """Serve an app, for as long as the context lasts."""
    return SERVINGS[server][1]


# Handshakes that come to nothing.


@pytest.mark.slow
@pytest.mark.parametrize("count", [200])
async def test_handshakes_that_come_byte_by_byte_are_aborted_at_the_timeout(
    app: WebSuckets, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """Expect the handshakes to be aborted at ``open_timeout``, without hindering others."""
    timeout, ends = 5.0, list[float]()
    async with app.serve("127.0.0.1", 0, open_timeout=timeout) as server:

        async def drip() -> None:
            async with tcp(server.port) as peer:
                began = time.monotonic()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(suppressed, peer.drip, handshake(), 1)
                    await peer.read_to_end()
                    tasks.cancel_scope.cancel()
                ends.append(time.monotonic() - began)

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(drip)
            await anyio.sleep(timeout / 10)  # all handshakes have begun
            await assert_serves(server.port)
            assert ends == []
        assert len(ends) == count
        assert min(ends) > timeout * 0.9
        await assert_serves(server.port)
    assert errors(caplog) == []


async def suppressed(function: Callable[..., Any], *arguments: Any) -> None:
    with suppress(Gone):
        await function(*arguments)


@pytest.mark.parametrize("pause", [0, 0.001])
async def test_a_slow_handshake_in_time_is_accepted(
    serving: Serving, app: WebSuckets, pause: float
) -> None:
    """Expect the same service as after any handshake."""
    async with serving(app) as server, tcp(server.port) as peer:
        assert " 101 " in await peer.open(pause=pause)
        assert (await peer.call("ping"))["payload"] == "pong"


async def test_a_command_that_comes_with_its_handshake_is_answered(app: WebSuckets) -> None:
    """Expect the command to be answered: a client need not wait for the answer to its handshake."""
    async with app.serve("127.0.0.1", 0) as server, tcp(server.port) as peer:
        await peer.write(handshake() + command("ping"))
        assert " 101 " in await peer.read_head()
        assert (await peer.read_json())["payload"] == "pong"


REQUESTS = {
    "nothing": b"",
    "no HTTP": b"\x00\x01\x02\x03\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 500,
    "half": handshake()[:60],
    "a long line": handshake(headers={"X": "a" * 20_000}),
    "many headers": handshake(headers={f"X{n}": "1" for n in range(500)}),
    "no upgrade": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another method": handshake().replace(b"GET", b"POST"),
    "an old version": handshake(headers={"Sec-WebSocket-Version": "8"}),
    "a bad key": handshake(headers={"Sec-WebSocket-Key": "no"}),
    "a body": handshake(headers={"Content-Length": "5"}) + b"12345",
    "not ASCII": handshake(headers={"X": "\xff\xfe", "Sec-WebSocket-Protocol": "\xff\xfe"}),
    "a path that is none": handshake("/\xff%zz%ff?\xff"),
    "line feeds": handshake().replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("end", ["reset", "finish", "close"])
@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_malformed_handshake_ends_the_connection_without_an_error(
    server: str,
    serving: Serving,
    app: WebSuckets,
    caplog: pytest.LogCaptureFixture,
    request_: str,
    end: str,
) -> None:
    """Expect the connection to end, without an error."""
    if server == "uvicorn, wsproto" and request_ == "not ASCII":
        pytest.skip("uvicorn fails on it by itself")
    async with serving(app) as running:
        async with tcp(running.port) as peer:
            with suppress(Gone):
                await peer.write(REQUESTS[request_])
            getattr(peer, end)()
            if end == "finish":
                with anyio.fail_after(TIMEOUT):
                    await peer.read_to_end()
        await assert_serves(running.port)
    assert errors(caplog) == []


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("behind", [GET, handshake(), b"x" * 300])
async def test_what_is_pipelined_behind_a_request_ends_the_connection_without_an_error(
    behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect ``websockets`` to take the data for frames; nothing can be answered after it."""
    app = WebSuckets()
    async with app.serve("127.0.0.1", 0) as server:
        async with tcp(server.port) as peer:
            await peer.write(GET + behind)
            await peer.read_to_end()
        assert await get(server, "/health") == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("behind", [GET, handshake(), b"x" * 300])
@pytest.mark.parametrize("refuses", [False, True])
async def test_what_breaks_the_protocol_during_a_hook_ends_the_connection_without_an_error(
    refuses: bool,
    behind: bytes,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect neither an answer nor a connection, whatever the hook decides after that."""
    app, decided = make_app(journal, Gate()), anyio.Event()

    @app.on_handshake
    async def decide() -> None:
        await gate()
        decided.set()
        if refuses:
            raise HandshakeRefused(403)

    async with app.serve("127.0.0.1", 0) as server:
        async with tcp(server.port) as peer:
            await peer.write(handshake())
            await gate.reached.wait()
            await peer.write(behind)
            with anyio.fail_after(TIMEOUT):
                assert await peer.read_to_end() == 0
            gate.opened.set()
            await decided.wait()
            assert await get(server, "/health") == 200  # while the connection is not closed yet
    assert journal == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Frames that break the protocol.


@pytest.mark.parametrize("what", PLAIN)
async def test_frames_that_break_the_protocol_are_answered_with_their_close_code(
    app: WebSuckets, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Expect the close code that says why, even while a command runs."""
    data, code = PLAIN[what]
    async with app.serve("127.0.0.1", 0) as server:
        for before in (b"", command("sleep", payload=0.01)):
            async with opened(server.port) as peer:
                await peer.write(before)
                await assert_closed_with(peer, data, code)
        await assert_serves(server.port)
    assert errors(caplog) == []


@pytest.mark.on_asyncio
@pytest.mark.parametrize("name", UNDER_ASGI)
async def test_frames_that_break_the_protocol_under_asgi_cause_no_error_of_ours(
    name: str, app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no errors of ours, and nothing left; the rest is up to the server."""
    async with SERVINGS[name][1](app) as server:
        for data, _ in PLAIN.values():
            journal.clear()
            async with opened(server.port) as peer:
                await peer.write(data)
                peer.finish()
                with anyio.move_on_after(0.2):  # the server may wait for the rest of a frame
                    await peer.read_to_end()
            await until(journal, "disconnect")
        await assert_serves(server.port)
    assert [error for error in errors(caplog) if not error.startswith("uvicorn.error: ")] == []


@pytest.mark.parametrize("what", DEFLATED)
async def test_frames_that_break_compression_are_answered_with_their_close_code(
    journal: list[str], gate: Gate, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Expect the close code that says why."""
    data, code = DEFLATED[what]
    app = make_app(journal, gate, compression="deflate")
    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port, headers=DEFLATE) as peer:
            await peer.write(text(compressed(b'{"event": "ping"}'), rsv=4))
            assert (await peer.read_frame()).rsv == 4
            await assert_closed_with(peer, data, code)
        await assert_serves(server.port)
    assert errors(caplog) == []


async def assert_closed_with(peer: Peer, data: bytes, code: int) -> None:
    with anyio.fail_after(TIMEOUT):
        with suppress(Gone):  # the server need not read everything
            await peer.write(data)
        said = await peer.read_close()
        assert said is not None and said.close_code == code
        await peer.write(close(code))
        await peer.read_to_end()


@watched
async def test_frames_that_break_the_protocol_cost_no_memory(
    server: str, anyio_backend: str
) -> None:
    """Expect no memory for frames, whatever length they declare or unpack to."""
    limits = {"compression": "deflate"}
    async with running_target(server, anyio_backend, limits, {}) as target:
        target.watch()
        for data, _ in [*PLAIN.values(), *DEFLATED.values()]:
            async with opened(target.port, headers=DEFLATE) as peer:
                with suppress(Gone):
                    await peer.write(data)
                with anyio.move_on_after(0.5):  # under ASGI the server may wait for the peer
                    await peer.read_close()
        await alone(target)
        assert target.growth < MOST


ENDLESS = {
    "empty fragments": (text(b"", fin=False), frame(CONTINUATION, fin=False) * 10_000),
    "fragments of one byte": (text(b"", fin=False), frame(CONTINUATION, b"a", fin=False) * 10_000),
    "pongs": (b"", frame(PONG) * 10_000),
    "empty messages": (b"", text(b"") * 1_000),
    "commands that are none": (b"", text("{}") * 1_000),
    "commands": (b"", command("ping") * 1_000),
    "commands behind one that takes long": (
        command("sleep", payload=3600),
        command("ping") * 1_000,
    ),
    "empty messages behind a command that takes long": (
        command("sleep", payload=3600),
        text(b"") * 10_000,
    ),
}

UNPACKED = 4 * MOST
"""Bytes of memory, more than one read of a socket needs when it is full of the smallest frames.

A read has at most 256 KiB, of which uvicorn makes about 9 MiB, which no app can prevent.
"""


@watched
@pytest.mark.parametrize("what", ENDLESS)
async def test_frames_without_end_cost_little_and_do_not_hinder_others(
    server: str, anyio_backend: str, what: str
) -> None:
    """Expect no memory for the frames, and service for others; no answer is read."""
    first, rest = ENDLESS[what]
    seconds = 2
    async with (
        running_target(server, anyio_backend, {"send_timeout": 2 * seconds}, {}) as target,
        opened(target.port, receive_buffer=SMALL) as peer,
        opened(target.port) as observer,
    ):
        target.watch()
        await peer.write(first)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.flood, rest)
            with anyio.move_on_after(seconds):
                while True:
                    await observer.call("ping")
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(TIMEOUT):
            await observer.call("ping")
        assert target.growth < UNPACKED
