"""Tests of hostile and broken peers, and of the other clients, who must not notice them."""

import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from itertools import product
from typing import Any

import anyio
import pytest
from census import census, until_as_before, without_tracebacks
from harness import Client, Gate, app_with, dial, get, until
from peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    PONG,
    SMALL,
    Gone,
    Peer,
    client_process,
    close,
    command,
    compressed,
    fragments,
    frame,
    handshake,
    opened,
    tcp,
    text,
)
from serving import SERVINGS, Serving
from target import CAN_BE_WATCHED, MIB, alone, running_target, until_online
from target import group as commands_of_the_target
from timeouts import TIMEOUT
from visits import HALF_A_COMMAND, LONG_VISITS, VISITS, Visit, pay

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets

pytestmark = pytest.mark.anyio
heavy = pytest.mark.heavy
can_be_watched = pytest.mark.skipif(
    not CAN_BE_WATCHED, reason="memory is watched where Linux shows it"
)


def watched(test: Any) -> Any:
    """Mark a test that measures what a server in a process of its own takes."""
    return heavy(can_be_watched(test))


UNDER_ASGI = ["uvicorn, websockets-sansio", "uvicorn, wsproto"]
"""ASGI servers, without hypercorn 0.18: some of these tests end its whole server on trio."""
ON_SOCKETS = ["websockets", *UNDER_ASGI]

MOST = 5 * MIB
"""Bytes of memory that one peer may cost."""


def runs_on(backends: str, anyio_backend: str) -> None:
    if anyio_backend not in backends.split():
        pytest.skip(f"it does not run on {anyio_backend}")


@pytest.fixture(params=ON_SOCKETS)
def server(request: pytest.FixtureRequest, anyio_backend: str) -> str:
    """Ways to serve the app."""
    name: str = request.param
    runs_on(SERVINGS[name][0], anyio_backend)
    return name


@pytest.fixture
def serving(server: str) -> Serving:
    """Serve an app, for as long as the context lasts."""
    return SERVINGS[server][1]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    return make_app(journal, gate, send_timeout=1)


def make_app(journal: list[str], gate: Gate, **limits: Any) -> WebSuckets:
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("echo")
    async def echo(socket: Socket, model: Payload[Any]) -> Any:
        return model

    @group.command("sleep")
    async def sleep(socket: Socket, model: Payload[float]) -> None:
        await anyio.sleep(model)
        journal.append("slept")

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "at last"

    @group.command("wait and send")
    async def wait_and_send(socket: Socket) -> None:
        await gate()
        while True:
            await socket.send("at last")

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        gate.reached.set()
        while True:
            yield 1
            await anyio.sleep(0.001)

    app = app_with(group, limits=Limits(**limits))

    @app.on_connect
    async def connect() -> None:
        journal.append("connect")

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnect")

    return app


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what an operator would be woken up for, whichever logger wrote it."""
    return [
        f"{record.name}: {record.getMessage()}"
        for record in caplog.records
        if record.levelno >= logging.ERROR
    ]


async def assert_serves(port: int) -> None:
    """Check that the next client finds a working server."""
    with anyio.fail_after(TIMEOUT):
        async with opened(port) as peer:
            assert (await peer.call("ping", id=1))["payload"] == "pong"


# Peers that do not read.

PUSHES = [
    "by a stream",
    "by the handler",
    "by a task of the connection",
    "by a task of the app",
    "by a task for each message",
    "by broadcast",
]
"""Ways in which programs push: see `target`."""


async def flood_with_pings(peer: Peer) -> None:
    await peer.flood(frame(PING, b"p" * 125) * 500)


def pushed(how: str) -> Callable[[Peer], Any]:
    async def attack(peer: Peer) -> None:
        await peer.write(command(f"push {how}"))

    return attack


SOONER = ["by a task for each message", "by broadcast"]
"""Ways in which frames pile up."""

ATTACKS = {**{how: pushed(how) for how in PUSHES}, "ping flood": flood_with_pings}


@watched
@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_peer_that_does_not_read(server: str, anyio_backend: str, attack: str) -> None:
    """Expect the peer to cost no memory or time, and to be aborted at `Limits.send_timeout`.

    The peer is aborted sooner if more is sent to it meanwhile than `Limits.outbox` allows.
    """
    skip_what_cannot_be(server, attack)
    timeout = Limits().send_timeout
    assert timeout == 10
    async with (
        running_target(server, anyio_backend, {}, {}) as target,
        AsyncExitStack() as stack,
    ):
        observer = await stack.enter_async_context(opened(target.port))
        stalled = await stack.enter_async_context(
            opened(target.port, "/listen", receive_buffer=SMALL)
        )
        sockets = target.sockets
        target.watch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ATTACKS[attack], stalled)
            began = time.monotonic()
            with anyio.fail_after(timeout + 3):
                slowest = await observe(observer, 1)
            took = time.monotonic() - began
            tasks.cancel_scope.cancel()
        assert target.growth < MOST
        assert took >= timeout or attack in SOONER
        assert slowest < timeout / 2
        # Under ASGI only the server could abort the connection, and it does not do so.
        assert target.sockets == sockets - (server == "websockets")
        assert (await observer.call("errors"))["payload"] == []


def skip_what_cannot_be(server: str, attack: str) -> None:
    if server.startswith("uvicorn") and attack == "by broadcast":
        pytest.skip("websockets broadcasts to connections of its own")
    if server.startswith("uvicorn") and attack == "ping flood":
        pytest.skip("uvicorn answers pings by itself and keeps what is not read of that: unbounded")


async def observe(observer: Peer, count: int) -> float:
    """Call until this many clients are online; return how long the slowest call took."""
    slowest, online = 0.0, math.inf
    while online != count:
        began = time.monotonic()
        online = (await observer.call("online"))["payload"]
        slowest = max(slowest, time.monotonic() - began)
        await anyio.sleep(0.02)
    return slowest


async def test_what_it_has_not_read_is_thrown_away(anyio_backend: str) -> None:
    """Expect unread data to be thrown away with the connection: the system would keep megabytes."""
    async with (
        running_target("websockets", anyio_backend, {"send_timeout": 0.5}, {}) as target,
        opened(target.port) as observer,
        opened(target.port, receive_buffer=SMALL) as stalled,
    ):
        await stalled.write(command("push by the handler"))
        with anyio.fail_after(TIMEOUT):
            await until_online(observer, 1)
            assert await stalled.read_to_end() < MIB


@watched
@pytest.mark.parametrize("how", PUSHES[3:])
async def test_others_that_are_pushed_to(server: str, anyio_backend: str, how: str) -> None:
    """Expect the others to get everything that follows, once the peer is aborted."""
    skip_what_cannot_be(server, how)
    async with (
        running_target(server, anyio_backend, {"send_timeout": 0.5}, {}) as target,
        opened(target.port) as observer,
        opened(target.port, "/listen", receive_buffer=SMALL) as stalled,
        opened(target.port, "/listen") as reader,
        anyio.create_task_group() as tasks,
    ):
        received: list[int] = []

        async def read() -> None:
            while True:
                received.append(len((await reader.read_frame()).data))

        tasks.start_soon(read)
        await stalled.write(command(f"push {how}"))
        with anyio.fail_after(TIMEOUT):
            await until_online(observer, 2)
            before = len(received)
            while len(received) < before + 10:
                await anyio.sleep(0.01)
        assert set(received[1:]) == {64 * 1024}  # the first may be an acknowledgement
        tasks.cancel_scope.cancel()


async def test_one_that_reads_slowly(server: str, anyio_backend: str) -> None:
    """Expect the peer to be served for as long as each frame gets through in time."""
    limits = {"send_timeout": 3}
    async with (
        running_target(server, anyio_backend, limits, {}) as target,
        opened(target.port) as observer,
        opened(target.port, receive_buffer=SMALL) as slow,
    ):
        await slow.write(command("push by a stream"))
        for _ in range(40):
            await slow.read()
            await anyio.sleep(0.05)
        assert (await observer.call("online"))["payload"] == 2


# Peers that leave without a word.


ENDS = ["reset", "finish", "close"]


@pytest.mark.parametrize(
    ("busy", "end"),
    [
        *product(["wait", "stream", "ping", "half"], ENDS),
        ("wait and send", "reset"),
        ("wait and send", "close"),
        pytest.param("wait and send", "finish", marks=heavy),
    ],
)
async def test_one_that_leaves_in_the_middle_of_a_command(
    serving: Serving,
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    busy: str,
    end: str,
) -> None:
    """Expect the handlers to end and the connection to close, without an error."""
    async with serving(app) as server:
        async with opened(server.port) as peer:
            if busy == "half":
                await peer.write(HALF_A_COMMAND)
            else:
                await peer.write(command(busy))
            if busy not in ("half", "ping"):
                await gate.reached.wait()
            getattr(peer, end)()
            gate.opened.set()
            # A peer that reads nothing more has close_timeout, 10 seconds, for data on its way.
            await until(journal, "disconnect", 2 * TIMEOUT)
        assert journal == ["connect", "disconnect"]
        await assert_serves(server.port)
    assert errors(caplog) == []


@pytest.mark.parametrize("end", ["reset", "finish", "close"])
async def test_one_that_leaves_behind_many_commands_is_noticed_while_a_command_runs(
    journal: list[str], gate: Gate, end: str
) -> None:
    """Expect what runs for this client alone to be cancelled, though nothing is read meanwhile."""
    group = CommandGroup()

    @group.command("wait", cancel_on_disconnect=True)
    async def wait(socket: Socket) -> None:
        try:
            await gate()
        finally:
            journal.append("cancelled")

    @group.command("note")
    async def note(socket: Socket) -> None:
        journal.append("note")

    app = app_with(group)

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnect")

    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port) as peer:
            await peer.write(command("wait") + command("note") * 40)
            await gate.reached.wait()
            getattr(peer, end)()
            await until(journal, "disconnect")
        assert journal[0] == "cancelled"
        assert journal[-1] == "disconnect"


async def test_where_the_system_does_not_tell_who_has_left_the_next_read_does(
    journal: list[str], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run without the poll event that macOS and Windows lack."""
    monkeypatch.setattr("websuckets.transports.departure.PEER_HAS_SHUT_DOWN", 0)
    app = make_app(journal, gate)
    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port) as peer:
            await peer.write(command("sleep", payload=1.5) + command("ping") * 40)
            peer.finish()
            await until(journal, "disconnect")
    assert journal == ["connect", "slept", "disconnect"]


@pytest.mark.parametrize("end", ["reset", "finish", "close"])
async def test_what_has_left_is_noticed_while_a_command_runs(
    serving: Serving, app: WebSuckets, gate: Gate, end: str
) -> None:
    """Expect a handler to be able to check whether its client is still there."""
    noticed = anyio.Event()
    group = CommandGroup()

    @group.command("notice")
    async def notice(socket: Socket) -> None:
        gate.reached.set()
        while socket.close_code is None:
            await anyio.sleep(0.001)
        noticed.set()

    app.include_command_group(group)
    async with serving(app) as server, opened(server.port) as peer:
        await peer.write(command("notice"))
        await gate.reached.wait()
        getattr(peer, end)()
        with anyio.fail_after(TIMEOUT):
            await noticed.wait()


FROZEN = {"ping_interval": 0.1, "ping_timeout": 0.1, "close_timeout": 0.1}


@pytest.mark.parametrize("frames", [[], ['{"event": "wait"}'], ['{"event": "stream"}']])
async def test_one_whose_machine_hangs(
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    frames: list[str],
) -> None:
    """Expect missing pongs to show that the peer is gone, even while one of its commands runs."""
    async with app.serve("127.0.0.1", 0, **FROZEN) as server:
        async with client_process(server.port, *frames) as client:
            if frames:
                await gate.reached.wait()
            client.freeze()
            if "wait" in "".join(frames):
                with anyio.fail_after(TIMEOUT):
                    await until_offline(app)
                gate.opened.set()
            await until(journal, "disconnect")
        await assert_serves(server.port)
    assert errors(caplog) == []


async def until_offline(app: WebSuckets) -> None:
    """Wait until every connection is closed, though a handler may still run."""
    while any(user.socket.close_code is None for user in app._session.online.values()):
        await anyio.sleep(0.01)


# Handshakes that come to nothing.


@pytest.mark.parametrize("count", [200])
async def test_handshakes_that_come_byte_by_byte(
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
async def test_a_slow_handshake_in_time(serving: Serving, app: WebSuckets, pause: float) -> None:
    """Expect the same service as after any handshake."""
    async with serving(app) as server, tcp(server.port) as peer:
        assert " 101 " in await peer.open(pause=pause)
        assert (await peer.call("ping"))["payload"] == "pong"


async def test_a_handshake_with_the_first_command(app: WebSuckets) -> None:
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
async def test_a_handshake_that_is_none(
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


# Frames that break the protocol.

BOMB = text(compressed(b" " * 50 * MIB), rsv=4)

PLAIN: dict[str, tuple[bytes, int]] = {
    "the first reserved bit": (text("{}", rsv=4), 1002),
    "the second reserved bit": (text("{}", rsv=2), 1002),
    "the third reserved bit": (text("{}", rsv=1), 1002),
    "an unknown data frame": (frame(3, b"a"), 1002),
    "an unknown control frame": (frame(0xB, b"a"), 1002),
    "not masked": (text("{}", masked=False), 1002),
    "a bare continuation": (frame(CONTINUATION, b"a"), 1002),
    "a message within a message": (text("{", fin=False) + text("{}"), 1002),
    "a fragmented ping": (frame(PING, b"a", fin=False), 1002),
    "a long ping": (frame(PING, b"a" * 126), 1002),
    "a fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a close code of one byte": (frame(CLOSE, b"a"), 1002),
    "a close code that is none": (close(999), 1002),
    "a close code that is never sent": (close(1005), 1002),
    "a close reason that is no UTF-8": (close(1000, b"\xff"), 1007),
    "no UTF-8": (text(b"\xff\xfe"), 1007),
    "half a character": (text(b"\xe2\x82"), 1007),
    "a surrogate": (text(b'{"event": "\xed\xa0\x80"}'), 1007),
    "no UTF-8, in fragments": (text(b"a", fin=False) + frame(CONTINUATION, b"\xff"), 1007),
    "too long": (text(b"a" * (64 * 1024 + 1)), 1009),
    "too long, and binary": (frame(BINARY, b"a" * (64 * 1024 + 1)), 1009),
    "too long, in fragments": (fragments(5, b"a" * 16 * 1024), 1009),
    "2^62 bytes, not sent": (text(b"a", length=1 << 62), 1009),
    "2^64 - 1 bytes, not sent": (text(b"a", length=(1 << 64) - 1), 1009),
}
"""Bytes that break the protocol, with the close code for each."""

DEFLATED: dict[str, tuple[bytes, int]] = {
    "a bomb": (BOMB, 1009),
    "a bomb in fragments": (BOMB[:1].replace(b"\xc1", b"\x41") + BOMB[1:], 1009),
    "no compressed data": (text(b"\xff" * 100, rsv=4), 1002),
    "a compressed ping": (frame(PING, b"a", rsv=4), 1002),
    "another reserved bit": (text(compressed(b"{}"), rsv=6), 1002),
    "no UTF-8, compressed": (text(compressed(b"\xff"), rsv=4), 1007),
    "too long by one byte": (text(compressed(b"a" * (64 * 1024 + 1)), rsv=4), 1009),
}


@pytest.mark.parametrize("what", PLAIN)
async def test_what_breaks_the_protocol(
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
async def test_what_breaks_the_protocol_under_asgi(
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
async def test_what_breaks_compression(
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
async def test_frames_without_end(server: str, anyio_backend: str, what: str) -> None:
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


# Commands that come faster than they are answered.


@pytest.mark.parametrize(
    ("count", "each", "timeout"),
    [(100, 0.02, 0.1), pytest.param(300, 0.2, 1, marks=[heavy, pytest.mark.timeout(120)])],
)
async def test_many_commands_at_once_to_a_slow_handler(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    count: int,
    each: float,
    timeout: float,
) -> None:
    """Expect answers in order: the client is well, and its pongs come behind its commands."""
    options = {"ping_interval": timeout, "ping_timeout": timeout}
    async with app.serve("127.0.0.1", 0, **options) as server:
        async with dial(server, ping_interval=None) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(send_all, client, count, each)
            ids = [(await client.receive())["id"] for _ in range(count)]
            assert ids == list(range(count))
            await client.close()
    assert errors(caplog) == []


async def send_all(client: Client, count: int, each: float) -> None:
    for id in range(count):
        await client.send("sleep", payload=each, id=id)


@pytest.mark.parametrize(
    ("count", "each", "timeout"),
    [(100, 0.05, 0.1), pytest.param(300, 0.2, 1, marks=[heavy, pytest.mark.timeout(120)])],
)
async def test_one_that_dies_with_many_commands_waiting(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    count: int,
    each: float,
    timeout: float,
) -> None:
    """Expect the end of the peer to be found once there is room to read its answer to a ping."""
    options = {"ping_interval": timeout, "ping_timeout": timeout, "close_timeout": timeout}
    sleep = f'{{"event": "sleep", "payload": {each}}}'
    async with app.serve("127.0.0.1", 0, **options) as server:
        async with client_process(server.port, *[sleep] * count) as client:
            client.freeze()
            with anyio.fail_after(2 * count * each + TIMEOUT):
                while "disconnect" not in journal:
                    await anyio.sleep(0.01)
        await assert_serves(server.port)
    assert errors(caplog) == []


# Nothing is left.


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=heavy)])
async def test_nothing_is_left_of_connections_that_are_gone(
    serving: Serving, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """Expect no objects, tasks or descriptors to be left, however connections ended."""
    visits = random.Random(count).choices(VISITS, k=count)
    await assert_nothing_is_left(serving, visits)
    assert errors(caplog) == []


@heavy
@pytest.mark.parametrize("visit", LONG_VISITS, ids=lambda visit: visit.__name__)
async def test_nothing_is_left_of(serving: Serving, visit: Visit) -> None:
    """Expect nothing to be left by visits that take longer, either."""
    await assert_nothing_is_left(serving, [visit] * 3)


async def assert_nothing_is_left(serving: Serving, visits: list[Visit]) -> None:
    app = app_with(commands_of_the_target, limits=Limits(send_timeout=1))
    with without_tracebacks("uvicorn.error"):
        await assert_nothing_is_left_in(app, serving, visits)


async def assert_nothing_is_left_in(app: WebSuckets, serving: Serving, visits: list[Visit]) -> None:
    async with serving(app) as server:
        for visit in VISITS * 2:
            await pay(server.port, visit)
        before = census()
        for visit in visits:
            await pay(server.port, visit)
        await until_as_before(before, TIMEOUT)
        await assert_serves(server.port)


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
