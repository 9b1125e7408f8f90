"""Texts and replies that pass ``websockets`` by on trio, as if they did not."""

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from chunks import HANDSHAKE, MOST, any_chunks
from peers import BINARY, frame, text
from timeouts import TIMEOUT
from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.server import ServerProtocol
from websockets.trio.server import ServerConnection

from websuckets.limits import Limits
from websuckets.runtime.clock import Clock
from websuckets.transports.frames import text_frame
from websuckets.transports.handshake import options_with
from websuckets.transports.trio_fast_path import TURN
from websuckets.transports.websockets_trio import CONNECTION

pytestmark = pytest.mark.anyio

MANY = 3 * TURN


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def ours() -> Any:
    """Return the connection class of websuckets."""
    limits = Limits(max_size=MOST)
    acceptor: Any = SimpleNamespace(has_subprotocols=False)  # no client is accepted
    made = options_with(acceptor, limits, Clock(), CONNECTION, ServerConnection, {})
    return made["create_connection"]


class Client:
    """The other end of a connection, which reads only when it is told to."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self.received = b""

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until the connection has done all that it can with them."""
        self._own.sendall(data)
        await trio.testing.wait_all_tasks_blocked()

    async def read(self) -> bytes:
        """Return all that has come."""
        await trio.testing.wait_all_tasks_blocked()
        try:
            while data := self._own.recv(65536):
                self.received += data
        except BlockingIOError:
            pass
        return self.received

    def end(self) -> None:
        self._own.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._own.close()


@asynccontextmanager
async def connected(
    connection_type: Any, *, debug: bool = False
) -> AsyncIterator[tuple[Any, Client]]:
    """Yield a connection whose handshake is over, and its client."""
    logger = logging.getLogger("debugged" if debug else "not debugged")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    protocol = ServerProtocol(max_size=MOST, logger=logger)
    own, other = socket.socketpair()
    own.setblocking(False)
    other.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(own))
    with other:
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as tasks:
                connection = connection_type(
                    tasks, stream, protocol, SimpleNamespace(logger=logger), ping_interval=None
                )
                client = Client(other)
                await client.send(HANDSHAKE)
                protocol.send_response(protocol.accept(connection.request))
                protocol.data_to_send()
                yield connection, client
                tasks.cancel_scope.cancel()


def seen(connection: Any) -> Any:
    """Return the waiting messages, and the state of the connection."""
    protocol, messages = connection.protocol, connection.recv_messages
    frames = [(f.opcode, bytes(f.data), f.fin) for f in messages.send_frames._state.data]
    closing = (protocol.close_rcvd, protocol.close_sent, protocol.close_rcvd_then_sent)
    return frames, messages.paused, protocol.state, closing


async def received(
    connection_type: Any, method: str, chunks: Sequence[bytes], *, awaited: bool, debug: bool
) -> list[Any]:
    """Return what is known after each chunk, and after the client has left."""
    known: list[Any] = []
    async with connected(connection_type, debug=debug) as (connection, client):

        async def receive_all() -> None:
            try:
                while True:
                    known.append(await getattr(connection, method)())
            except ConnectionClosed as error:
                known.append(str(error))

        async with trio.open_nursery() as tasks:
            if awaited:
                tasks.start_soon(receive_all)
            for chunk in chunks:
                try:
                    await client.send(chunk)
                except BrokenPipeError:
                    known.append("closed")
                known.append(seen(connection))
            client.end()
            if not awaited:
                tasks.start_soon(receive_all)
        return [*known, await client.read()]


@any_chunks
def test_a_connection_reads_as_one_of_websockets(
    chunks: list[bytes], awaited: bool, debug: bool
) -> None:
    """Any bytes in any chunks are read alike, whether a task waits for them or not."""

    async def compare() -> tuple[list[Any], list[Any]]:
        how = {"awaited": awaited, "debug": debug}
        return (
            await received(ours(), "receive", chunks, **how),
            await received(ServerConnection, "recv", chunks, **how),
        )

    read, expected = trio.run(compare)
    assert read == expected


async def test_who_is_cancelled_before_anything_came_takes_nothing() -> None:
    async with connected(ours()) as (connection, client):
        with trio.move_on_after(0):
            await connection.receive()
        await client.send(text("first"))
        assert await connection.receive() == "first"


async def test_what_comes_together_with_a_cancellation_is_not_lost() -> None:
    """The message is received by the task that was cancelled at the same time, or the next one."""
    async with connected(ours()) as (connection, _):
        taken = []

        async def receive() -> None:
            with scope:
                taken.append(await connection.receive())

        scope = trio.CancelScope()
        async with trio.open_nursery() as tasks:
            tasks.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            connection._take_texts(text("first") + text("second"))
            scope.cancel()
        taken += [await connection.receive() for _ in range(2 - len(taken))]
        assert taken == ["first", "second"]


async def test_only_one_receives() -> None:
    """A second receiver is refused, as by ``websockets`` itself, and takes no message."""
    async with connected(ours()) as (connection, client), trio.open_nursery() as tasks:
        taken = []

        async def receive() -> None:
            taken.append(await connection.receive())

        tasks.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for other in connection.recv, connection.receive:
            with pytest.raises(ConcurrencyError):
                await other()
        await client.send(text("first"))
        assert taken == ["first"]


async def test_who_waits_as_the_connection_is_closed_is_told() -> None:
    async with connected(ours()) as (connection, _), trio.open_nursery() as tasks:

        async def receive() -> None:
            with pytest.raises(ConnectionClosed):
                await connection.receive()

        tasks.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await connection.close_stream()


async def test_others_run_while_many_messages_wait() -> None:
    """A client that sends many messages at once does not keep the event loop for itself."""
    async with connected(ours()) as (connection, client):
        runs = 0

        async def run() -> None:
            nonlocal runs
            while True:
                runs += 1
                await trio.lowlevel.checkpoint()

        await client.send(text("x") * MANY)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(run)
            for _ in range(MANY):
                await connection.reply(await connection.receive())
            tasks.cancel_scope.cancel()
        assert runs >= MANY // TURN - 1
        assert await client.read() == text_frame(b"x") * MANY


async def test_a_reader_that_was_woken_for_nothing_waits_again() -> None:
    """The system may report bytes that are not there any more when they are read."""

    class Thief(trio.abc.Instrument):
        """Reads what has come just before the task that reads runs."""

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if "recv_events" in task.name and not stolen:
                stolen.append(os.read(descriptor, 100))

    async with connected(ours()) as (connection, client):
        stolen: list[bytes] = []
        descriptor = connection._socket.fileno()
        trio.lowlevel.add_instrument(Thief())
        await client.send(text("stolen"))
        assert len(stolen) == 1
        await client.send(text("first"))
        assert await connection.receive() == "first"


# Replies


async def test_a_reply_is_written_at_once() -> None:
    """Nothing else runs before the reply is written."""
    async with connected(ours()) as (connection, client):
        await connection.reply("x" * 1000)
        assert client._own.recv(2000) == text_frame(b"x" * 1000)


async def test_a_reply_to_who_reads_nothing_waits_and_is_sent_whole() -> None:
    """The rest of a reply, and the replies after it, follow when the client reads."""
    size = 4 * 1024 * 1024
    expected = text_frame(b"a" * size) + text_frame(b"b") + text_frame(b"c")
    async with connected(ours()) as (connection, client), trio.open_nursery() as tasks:
        tasks.start_soon(connection.reply, "a" * size)
        await trio.testing.wait_all_tasks_blocked()
        assert len(tasks.child_tasks) == 1
        for reply in "bc":
            tasks.start_soon(connection.reply, reply)
            await trio.testing.wait_all_tasks_blocked()
        while len(await client.read()) < len(expected):
            pass
        assert client.received == expected


async def test_a_reply_whose_sender_is_cancelled_is_sent_whole() -> None:
    size = 4 * 1024 * 1024
    expected = text_frame(b"a" * size) + text_frame(b"b")
    async with connected(ours()) as (connection, client):
        async with trio.open_nursery() as tasks:
            tasks.start_soon(connection.reply, "a" * size)
            await trio.testing.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        async with trio.open_nursery() as tasks:
            tasks.start_soon(connection.send, "b")
            while len(await client.read()) < len(expected):
                pass
        assert client.received == expected


async def test_a_reply_waits_for_room_if_there_is_none_at_all() -> None:
    async with connected(ours()) as (connection, client), trio.open_nursery() as tasks:
        filled = 0
        try:
            while True:
                filled += os.write(connection._socket.fileno(), b"\0" * 100_000)
        except BlockingIOError:
            pass
        tasks.start_soon(connection.reply, "a")
        await trio.testing.wait_all_tasks_blocked()
        assert len(tasks.child_tasks) == 1
        while len(await client.read()) < filled + 3:
            pass
        assert client.received[filled:] == text_frame(b"a")


Send = Callable[[Any], Awaitable[None]]


@pytest.mark.parametrize(
    "send", [lambda c: c.reply("x"), lambda c: c.send("x"), lambda c: c.send(b"x")]
)
async def test_an_error_of_the_socket_is_told(send: Send) -> None:
    """The sender gets `ConnectionClosed`, with the error as its cause."""
    async with connected(ours()) as (connection, client):
        client.close()
        with pytest.raises(ConnectionClosed) as raised:
            await send(connection)
        assert isinstance(raised.value.__cause__, BrokenPipeError)


async def test_an_error_while_reading_is_told() -> None:
    """The receiver gets `ConnectionClosed`, with the error of trio as its cause."""
    async with connected(ours()) as (connection, client):
        await connection.reply("not read")  # so that closing resets the connection
        client.close()
        with pytest.raises(ConnectionClosed) as raised:
            await connection.receive()
        assert isinstance(raised.value.__cause__, trio.BrokenResourceError)


async def test_a_cancelled_sender_sends_nothing() -> None:
    async with connected(ours()) as (connection, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.send("x")
        assert scope.cancelled_caught
        assert await client.read() == b""


async def test_a_message_does_not_get_between_the_fragments_of_another() -> None:
    async with connected(ours()) as (connection, client), trio.open_nursery() as tasks:

        async def parts() -> AsyncIterator[str]:
            yield "a"
            tasks.start_soon(connection.reply, "c")
            await trio.testing.wait_all_tasks_blocked()
            yield "b"

        await connection.send(parts())
        await trio.testing.wait_all_tasks_blocked()
        assert await client.read() == b"\x01\x01a\x00\x01b\x80\x00" + text_frame(b"c")


async def test_an_event_that_is_offered_is_written_at_once_or_by_another_task() -> None:
    """A frame that is offered while another is being written is refused, and not sent."""
    size = 4 * 1024 * 1024
    expected = text_frame(b"a") + text_frame(b"b" * size)
    async with connected(ours()) as (connection, client):
        assert connection.offer(b"a")
        assert connection.offer(b"b" * size)
        assert not connection.offer(b"c")
        while len(await client.read()) < len(expected):
            pass
        assert client.received == expected
        assert connection.offer(b"d")


async def test_who_is_gone_takes_no_event_that_is_offered() -> None:
    """The loss of the connection is found out by the task that writes the event."""
    async with connected(ours()) as (connection, client):
        client.close()
        assert connection.offer(b"lost")
        with pytest.raises(ConnectionClosed) as raised:
            await connection.receive()
        assert isinstance(raised.value.__cause__, BrokenPipeError)


async def test_the_stream_of_a_connection_is_a_stream_of_trio() -> None:
    """A program that reads the attribute finds the methods that it expects."""
    async with connected(ours()) as (connection, client):
        stream = connection.stream
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"x")
        await stream.send_eof()
        assert await client.read() == b"x"
        await client.send(frame(BINARY, b"binary"))
        assert await connection.receive() == b"binary"
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
