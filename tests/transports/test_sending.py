"""Sending: to slow readers, in fragments, cancelled midway, and of impossible messages."""

import inspect
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import trio
import trustme
from handlers import Model
from harness import Gate, app_with, connect, dial, errors, on_trio, talk, until
from peers import SMALL, command, opened
from serving import Serving
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, Limits, Socket, WebSuckets
from websuckets.transports import running_transport

pytestmark = pytest.mark.anyio

LARGE = 1_200_000
"""Bytes; more than `Limits.outbox` allows to wait."""

MORE_THAN_BUFFERS_HOLD = 16 * 1024 * 1024


@pytest.fixture
def group() -> CommandGroup:
    return CommandGroup()


@pytest.fixture
def gate() -> Gate:
    return Gate()


# Slow readers


@pytest.mark.parametrize("how", ["reply", "stream"])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_replies_of_any_size_wait_for_a_slow_reader(
    on_sockets: Serving, group: CommandGroup, how: str, concurrency: int
) -> None:
    """A client that pipelines commands gets all replies, however many wait at once."""

    @group.command("reply")
    async def reply(socket: Socket) -> str:
        return "x" * LARGE

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[str]:
        yield "x" * LARGE

    app = app_with(group, limits=Limits(concurrency=concurrency))
    async with (
        on_sockets(app) as server,
        opened(server.port, receive_buffer=SMALL) as client,
    ):
        await client.write(b"".join(command(how, id=id) for id in range(4)))
        with anyio.fail_after(3 * TIMEOUT):
            received = [await client.read_json() for _ in range(4 if how == "reply" else 8)]
        large = [reply["id"] for reply in received if reply["payload"] is not None]
        assert sorted(large) == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True])
async def test_a_send_that_waits_for_its_reader_can_be_cancelled(
    group: CommandGroup, gate: Gate, secure: bool
) -> None:
    """The message is sent whole all the same, and the next one follows it."""
    gate.opened.set()
    async with slow_client(stuck_app(group, gate), secure=secure) as client:
        await client.send('{"event": "stuck", "id": 1}')
        await gate.reached.wait()
        with anyio.fail_after(3 * TIMEOUT):
            sizes = [len(await client.recv()) for _ in range(4)]
            assert sizes == [1, 1, 1, MORE_THAN_BUFFERS_HOLD]
            assert await client.recv() == '{"event":"stuck","payload":"cancelled","id":1}'


async def test_a_client_that_vanishes_from_the_rest_of_a_cancelled_send(
    group: CommandGroup, gate: Gate, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The connection ends like any other."""
    app = stuck_app(group, gate)

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnect")

    async with (
        app.serve("127.0.0.1", 0) as server,
        opened(server.port, receive_buffer=SMALL) as client,
    ):
        await client.write(command("stuck"))
        await gate.reached.wait()
        client.reset()
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
        await until(journal, "disconnect")
    assert errors(caplog) == []


def stuck_app(group: CommandGroup, gate: Gate) -> WebSuckets:
    @group.command("stuck")
    async def stuck(socket: Socket) -> str:
        """Cancel a send that is blocked."""
        for _ in range(3):
            await socket.send("x")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.send, "x" * MORE_THAN_BUFFERS_HOLD)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await gate()
        return "cancelled"

    return app_with(group)


@asynccontextmanager
async def slow_client(app: WebSuckets, *, secure: bool) -> AsyncIterator[Any]:
    """Yield a client that reads no more than a few messages before it is asked for them."""
    options: dict[str, Any] = {}
    served: dict[str, Any] = {}
    if secure:
        authority = trustme.CA()
        served["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(served["ssl"])
        options["ssl"] = ssl.create_default_context()
        authority.configure_trust(options["ssl"])
    async with (
        app.serve("127.0.0.1", 0, **served) as server,
        connect(server.urls[0], max_queue=1, max_size=None, **options) as client,
    ):
        yield client


async def test_a_client_that_vanishes_behind_tls_is_noticed_while_nothing_is_read(
    group: CommandGroup, gate: Gate, journal: list[str]
) -> None:
    """The loss is noticed although earlier messages of the client are not read yet."""

    @group.command("wait", cancel_on_disconnect=True)
    async def wait(socket: Socket) -> None:
        try:
            await gate()
        finally:
            journal.append("cancelled")

    async with slow_client(app_with(group), secure=True) as client:
        await client.send('{"event": "wait"}')
        for _ in range(40):
            await client.send('{"event": "nobody"}')
        await gate.reached.wait()
        if on_trio():
            await trio.aclose_forcefully(client.stream)
        else:
            client.transport.abort()
        await until(journal, "cancelled")


# Messages in fragments


async def test_what_a_message_is_made_of_can_be_cancelled(group: CommandGroup, gate: Gate) -> None:
    """A cancellation before anything was sent leaves the connection open."""

    @group.command("parts")
    async def parts(socket: ServerConnection) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.send, never(gate))
            await gate.reached.wait()
            tasks.cancel_scope.cancel()
        return "cancelled"

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        assert (await client.call("parts", id=1))["payload"] == "cancelled"


async def never(gate: Gate) -> AsyncIterator[str]:
    await gate()
    yield "never"


async def test_a_message_that_times_out_in_the_middle_closes_its_connection(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is closed with 1011, as no message can follow half of another, and logged
    once."""

    @group.command("parts", timeout=0.02)
    async def parts(socket: ServerConnection) -> None:
        async def forever() -> AsyncIterator[str]:
            yield "a part"
            await anyio.sleep_forever()

        await socket.send(forever())

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as other:
        async with dial(server) as client:
            await client.send("parts", id=1)
            assert await client.closed() == (1011, "message cut short")
        assert (await other.call("nothing", id=1))["error"] == "unknown command"
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [line.split(" ", 1)[1] for line in warnings] == [
        "is closed: sending a message in fragments was given up midway",
        f"from {warnings[0].split()[0]} took longer than 0.02 seconds and was cancelled "
        "(the timeout= of its command or group is 0.02)",
    ]


async def test_a_message_whose_parts_fail_closes_its_connection(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """`websockets` closes with 1011; the error of the parts is the command's incident."""

    @group.command("parts")
    async def parts(socket: ServerConnection) -> None:
        async def failing() -> AsyncIterator[str]:
            yield "a part"
            raise RuntimeError("no more parts")

        await socket.send(failing())

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("parts")
        assert await client.closed() == (1011, "error in fragmented message")
    [incident] = errors(caplog)
    assert "'parts'" in incident.getMessage()


async def test_who_waits_for_the_parts_of_another_message_can_be_cancelled(
    group: CommandGroup, gate: Gate
) -> None:
    """The message in fragments is sent to its end."""

    @group.command("parts")
    async def parts(socket: ServerConnection) -> None:
        async def slowly() -> AsyncIterator[str]:
            yield "first, "
            await gate()
            yield "last"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.send, slowly())
            await gate.reached.wait()
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel, scope)
                await socket.send("another")
            gate.opened.set()

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("parts")
        assert await client.receive_frame() == "first, last"
        assert (await client.call("nobody"))["error"] == "unknown command"


async def _cancel(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


# Messages that cannot be sent


@pytest.mark.parametrize("message", ["a lone \ud800", "\udfff"])
async def test_a_text_without_utf_8_is_refused(
    serving: Serving, group: CommandGroup, journal: list[str], message: str
) -> None:
    """Every transport raises the same error; the connection goes on."""

    @group.command("send")
    async def send(socket: Socket) -> None:
        for text in (None, True, False):
            try:
                await socket.send(message, text=text)
            except UnicodeEncodeError:
                journal.append("refused")

    async with serving(app_with(group)) as server, dial(server) as client:
        for _ in range(2):
            assert (await client.call("send", id=1))["payload"] is None
    assert journal == ["refused"] * 6


@pytest.mark.parametrize("reason", ["x" * 124, "\ud800"])
async def test_a_reason_that_no_close_frame_holds_is_refused(
    serving: Serving, group: CommandGroup, journal: list[str], reason: str
) -> None:
    """The connection goes on."""

    @group.command("close")
    async def close(socket: Socket) -> None:
        try:
            await socket.close(4000, reason)
        except ValueError:
            journal.append("refused")

    async with serving(app_with(group)) as server, dial(server) as client:
        assert (await client.call("close", id=1))["payload"] is None
    assert journal == ["refused"]


# Methods of connections of `websockets`


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_stream_cannot_receive(
    group: CommandGroup, caplog: pytest.LogCaptureFixture, streaming: bool
) -> None:
    """The framework receives; the error is the command's incident, and the connection goes on."""

    @group.command("receive")
    async def receive(socket: ServerConnection) -> AsyncIterator[str]:
        if streaming:
            async for part in socket.recv_streaming():
                yield str(part)
        else:
            yield str(await socket.recv())

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        for id in range(3):
            assert (await client.call("receive", id=id))["error"] == "internal error"
            assert (await client.call("nobody", id=id))["error"] == "unknown command"
    incidents = errors(caplog)
    assert len(incidents) == 3
    for incident in incidents:
        assert "'receive'" in incident.getMessage()
        assert incident.exc_info is not None and "the framework receives" in str(
            incident.exc_info[1]
        )


async def test_a_command_that_nothing_runs_beside_may_receive(group: CommandGroup) -> None:
    """The message that the command receives is not taken for another command."""

    @group.command("receive")
    async def receive(socket: ServerConnection) -> list[Any]:
        first = await socket.recv()
        return [first, *[part async for part in socket.recv_streaming(decode=True)]]

    async with app_with(group).serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("receive")
        for frame in ("one", b"two"):
            await client.connection.send(frame)
        assert (await client.receive())["payload"] == ["one", "two"]
        assert (await client.call("nobody", id=1))["error"] == "unknown command"


async def test_only_one_receives_at_a_time(group: CommandGroup) -> None:
    """Expect the error that `websockets` raises."""

    @group.command("receive")
    async def receive(socket: ServerConnection) -> str:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel, scope)
                tasks.start_soon(_refused, socket)
                await socket.recv()
        return "done"

    async def _refused(socket: ServerConnection) -> None:
        with pytest.raises(RuntimeError, match="the framework receives"):
            await socket.recv()

    async with app_with(group).serve("127.0.0.1", 0) as server, dial(server) as client:
        assert (await client.call("receive", id=1))["payload"] == "done"


async def test_methods_take_what_those_of_websockets_take() -> None:
    """Methods take the same arguments, with the same defaults, as those of `websockets`."""
    transport: Any = running_transport()
    ours, theirs = transport.CONNECTION, transport.ServerConnection
    shared = [
        name
        for name in dir(ours)
        if not name.startswith("_") and callable(getattr(theirs, name, None))
    ]
    assert {"send", "ping", "pong", "handshake"} <= set(shared)
    for name in shared:
        assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name)), name


def parameters(function: Any) -> list[Any]:
    """Return the names, kinds and defaults of the parameters."""
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


async def test_pings_and_pongs_by_keyword(group: CommandGroup) -> None:
    """Pings and pongs take the arguments that `websockets` documents."""

    @group.command("ping")
    async def ping(socket: ServerConnection) -> None:
        await socket.pong(data=b"unsolicited")
        options: dict[str, Any] = {"ack_on_close": True} if on_trio() else {}
        pong: Any = await socket.ping(data=b"x", **options)
        await (pong.wait() if on_trio() else pong)

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        assert (await client.call("ping", id=1))["payload"] is None


async def test_nothing_is_sent_before_the_handshake_is_answered(group: CommandGroup) -> None:
    """Expect an error in place of a wait without end."""
    app = app_with(group)
    refused = []

    @app.on_handshake
    async def handshake(socket: ServerConnection) -> None:
        calls: list[Any] = [socket.send("x"), socket.ping(), socket.pong(), socket.close()]
        for call in calls:
            with pytest.raises(RuntimeError, match="not open before"):
                await call
            refused.append(True)

    async with app.serve("127.0.0.1", 0) as server, dial(server):
        assert len(refused) >= 4


async def test_a_broken_connection_is_told_to_its_sender(
    group: CommandGroup, journal: list[str]
) -> None:
    """The sender gets the error of `websockets`."""

    @group.command("send")
    async def send(socket: Socket) -> None:
        try:
            while True:
                await socket.send("x" * LARGE)
        except ConnectionClosed:
            journal.append("closed")
            raise

    async with app_with(group).serve("127.0.0.1", 0) as server:
        async with opened(server.port, receive_buffer=SMALL) as client:
            await client.write(command("send"))
            await client.read()
            client.reset()
            await until(journal, "closed")


@pytest.mark.parametrize("kind", ["dict", "model", "number", "list", "parts"])
async def test_who_sends_an_object_is_told_of_client_events(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the error of `websockets`, with a note for what has no parts to be sent."""

    async def parts() -> AsyncIterator[Any]:
        yield 1

    objects: dict[str, Any] = {
        "dict": {"a": 1},
        "model": Model(value=1),
        "number": 1,
        "list": [1],
        "parts": parts(),
    }
    group = CommandGroup()

    @group.command("send")
    async def send(socket: Socket) -> None:
        await socket.send(objects[kind])

    async with talk(app_with(group)) as client:
        await client.send("send", id=1)
        with suppress(ConnectionClosed):  # where parts had begun
            assert (await client.receive())["error"] == "internal error"
    is_told = kind in ("dict", "model", "number")
    assert "TypeError" in caplog.text
    assert ("write ClientEvent(event, payload)" in caplog.text) == is_told
