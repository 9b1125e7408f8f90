"""Frames read and written without ``websockets`` are equal to those of ``websockets``."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Final

import pytest
from chunks import HANDSHAKE, MOST, any_chunks
from peers import BINARY, CLOSE, CONTINUATION, PING, PONG, frame, text
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from websuckets.limits import Limits
from websuckets.runtime.clock import Clock
from websuckets.transports.frames import binary_frame, read_text, text_frame
from websuckets.transports.handshake import options_with
from websuckets.transports.websockets_asyncio import CONNECTION

SIZES: Final = [0, 1, 125, 126, 300, 65_535, 65_536]
"""Bytes; the header of a frame is longer past each bound between two of the sizes."""


@pytest.mark.parametrize("size", SIZES)
def test_written_frames_are_those_of_websockets(size: int) -> None:
    payload = b"x" * size
    text, binary = Frame(Opcode.TEXT, payload), Frame(Opcode.BINARY, payload)
    assert text_frame(payload) == text.serialize(mask=False)
    assert binary_frame(payload) == binary.serialize(mask=False)


@pytest.mark.parametrize("size", SIZES)
def test_a_text_is_read_from_its_offset(size: int) -> None:
    """A text is read from its offset to its end, unless its length has 64 bits."""
    data = b"before" + text(b"x" * size)
    expected = None if size > 65_535 else (b"x" * size, len(data))
    assert read_text(data + b"after", 6, size) == expected


@pytest.mark.parametrize("size", [0, 125, 126, 300])
def test_incomplete_long_and_other_frames_are_not_read(size: int) -> None:
    """A frame that is incomplete, too long, or not a single text is not read."""
    data = text(b"x" * size)
    for end in range(len(data)):
        assert read_text(data[:end], 0, MOST) is None
    assert read_text(data, 0, size - 1) is None
    for other in [
        text(b"x" * size, masked=False),
        text(b"x" * size, fin=False),
        *(text(b"x" * size, rsv=rsv) for rsv in (1, 2, 4)),
        *(frame(opcode, b"x" * size) for opcode in (CONTINUATION, BINARY, CLOSE, PING, PONG, 3)),
    ]:
        assert read_text(other, 0, MOST) is None


class Transport(asyncio.Transport):
    """An asyncio transport that keeps the bytes written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_lost = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, data: Any) -> None:
        self.write(b"".join(data))

    def write_eof(self) -> None:
        self.written.append(b"EOF")

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.is_lost

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.is_lost = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


def ours() -> Any:
    """Return the connection class of websuckets."""
    limits = Limits(max_size=MOST)
    acceptor: Any = SimpleNamespace(has_subprotocols=False)  # no client is accepted
    made = options_with(acceptor, limits, Clock(), CONNECTION, ServerConnection, {})
    return made["create_connection"]


async def handled(connection: Any) -> None:
    """Handle a connection by doing nothing."""


def connected(connection_type: Any, *, debug: bool = False) -> Any:
    """Return a connection whose handshake is over."""
    logger = logging.getLogger("debugged" if debug else "not debugged")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    protocol = ServerProtocol(max_size=MOST, logger=logger)
    server = SimpleNamespace(handler=handled, handler_tasks=set(), logger=logger)
    connection = connection_type(protocol, server, ping_interval=None)
    connection.connection_made(Transport())
    connection.data_received(HANDSHAKE)
    protocol.send_response(protocol.accept(connection.request))
    protocol.data_to_send()
    return connection


def seen(connection: Any) -> Any:
    """Return the waiting messages, and the state of the connection."""
    protocol, messages = connection.protocol, connection.recv_messages
    frames = [(f.opcode, bytes(f.data), f.fin) for f in messages.frames.queue]
    closing = (protocol.close_rcvd, protocol.close_sent, protocol.close_rcvd_then_sent)
    return frames, messages.paused, protocol.state, closing


async def received(connection: Any, receive: Any, chunks: Sequence[bytes]) -> list[Any]:
    """Return what is known after each chunk, and after the connection is lost.

    Without ``receive``, messages are received only after the loss.
    """
    known: list[Any] = []

    async def receive_all() -> None:
        try:
            while True:
                known.append(await receive())
        except ConnectionClosed as error:
            known.append(str(error))

    receiving = asyncio.create_task(receive_all()) if receive else None
    for chunk in chunks:
        connection.data_received(chunk)
        for _ in range(10):
            await asyncio.sleep(0)
        known.append(seen(connection))
    connection.connection_lost(None)
    receive = receive or connection.recv
    await (receiving or receive_all())
    return [*known, b"".join(connection.transport.written)]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@any_chunks
def test_a_connection_reads_as_one_of_websockets(
    runner: asyncio.Runner, chunks: list[bytes], awaited: bool, debug: bool
) -> None:
    """Any bytes in any chunks are read alike, whether a task waits for them or not."""

    async def compare() -> tuple[list[Any], list[Any]]:
        mine, theirs = connected(ours(), debug=debug), connected(ServerConnection, debug=debug)
        return (
            await received(mine, mine.receive if awaited else None, chunks),
            await received(theirs, theirs.recv if awaited else None, chunks),
        )

    read, expected = runner.run(compare())
    assert read == expected


def test_what_comes_together_with_a_cancellation_is_not_lost(runner: asyncio.Runner) -> None:
    """The next receiver gets the message, and those after it."""

    async def receive() -> list[Any]:
        connection = connected(ours())
        receiving = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        connection.data_received(text("first"))
        receiving.cancel()
        connection.data_received(text("second"))
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        return [await connection.receive() for _ in range(2)]

    assert runner.run(receive()) == ["first", "second"]


def test_who_is_cancelled_before_anything_came_takes_nothing(runner: asyncio.Runner) -> None:
    async def receive() -> Any:
        connection = connected(ours())
        receiving = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        connection.data_received(text("first"))
        return await connection.receive()

    assert runner.run(receive()) == "first"


def test_who_is_cancelled_as_the_connection_is_lost_takes_nothing(runner: asyncio.Runner) -> None:
    async def receive() -> Any:
        connection = connected(ours())
        receiving = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        connection.connection_lost(None)
        receiving.cancel()
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        with pytest.raises(ConnectionClosed):
            await connection.receive()

    runner.run(receive())


def test_only_one_receives(runner: asyncio.Runner) -> None:
    """A second receiver is refused, as by ``websockets`` itself, and takes no message."""

    async def receive() -> Any:
        connection = connected(ours())
        receiving = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        for other in connection.recv, connection.receive:
            with pytest.raises(ConcurrencyError):
                await other()
        connection.data_received(text("first"))
        return await receiving

    assert runner.run(receive()) == "first"


@pytest.mark.parametrize("blocks", ["before", "by what is sent"])
def test_sending_to_who_does_not_read_tells_of_a_connection_that_is_lost(
    runner: asyncio.Runner, blocks: str
) -> None:
    """A blocked send raises `ConnectionClosed`, whatever was sent."""

    async def send() -> None:
        connection = connected(ours())
        if blocks == "before":
            connection.pause_writing()
        else:
            connection.transport.write = lambda data: connection.pause_writing()
        sending = asyncio.create_task(connection.send("text"))
        await asyncio.sleep(0)
        assert not sending.done()
        connection.transport.abort()
        connection.connection_lost(ConnectionResetError())
        with pytest.raises(ConnectionClosed):
            await sending

    runner.run(send())


Step = Callable[[Any], Awaitable[Any]]


async def replying(connection: Any, count: int) -> None:
    """Reply to the first ``count`` of three messages that arrive at once."""
    connection.data_received(text("1") + text("2") + text("3"))
    for _ in range(count):
        await connection.reply(f"reply to {await connection.receive()}")


def replies(count: int) -> bytes:
    return b"".join(text_frame(b"reply to %d" % number) for number in range(1, count + 1))


def test_replies_to_what_has_come_leave_together(runner: asyncio.Runner) -> None:
    """The replies leave in one write, at once after the last message."""

    async def reply() -> Any:
        connection = connected(ours())
        await replying(connection, 3)
        return connection.transport.written

    assert runner.run(reply()) == [replies(3)]


@pytest.mark.parametrize(
    ("step", "written"),
    [
        (lambda connection: asyncio.sleep(0), b""),
        (lambda connection: connection.send("text"), text_frame(b"text")),
        (lambda connection: connection.send(b"bytes"), binary_frame(b"bytes")),
        (lambda connection: connection.send(bytearray(b"bytes")), binary_frame(b"bytes")),
        (lambda connection: connection.ping(b"ping"), b"\x89\x04ping"),
        (lambda connection: asyncio.to_thread(str), b""),
    ],
)
def test_nothing_gets_before_replies(runner: asyncio.Runner, step: Step, written: bytes) -> None:
    """Replies are written before another message, or in the next turn of the event loop."""

    async def reply() -> Any:
        connection = connected(ours())
        await replying(connection, 2)
        assert connection.transport.written == []
        await step(connection)
        return b"".join(connection.transport.written)

    assert runner.run(reply()) == replies(2) + written


def test_what_is_offered_comes_after_replies(runner: asyncio.Runner) -> None:
    async def reply() -> Any:
        connection = connected(ours())
        await replying(connection, 2)
        assert connection.offer(b"offered")
        return connection.transport.written

    assert runner.run(reply()) == [replies(2) + text_frame(b"offered")]


def test_replies_do_not_pile_up(runner: asyncio.Runner) -> None:
    """Replies of many bytes are written at once."""

    async def reply() -> Any:
        connection = connected(ours())
        connection.data_received(text("1") + text("2") + text("3"))
        for _ in range(2):
            await connection.receive()
            await connection.reply("x" * 40_000)
        return connection.transport.written

    assert runner.run(reply()) == [text_frame(b"x" * 40_000) * 2]


@pytest.mark.parametrize("is_lost", [True, False])
def test_replies_to_who_is_gone_are_thrown_away(runner: asyncio.Runner, is_lost: bool) -> None:
    async def reply() -> Any:
        connection = connected(ours())
        await replying(connection, 2)
        connection.transport.abort()
        if is_lost:
            connection.connection_lost(None)
        await asyncio.sleep(0)
        return connection.transport.written

    assert runner.run(reply()) == []
