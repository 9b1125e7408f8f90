"""Fast path of connections on trio: texts by rescheduling their task, replies by one system call.

`fast_path` says why there is a fast path, and when it is not taken. On trio, reading and writing
cost more than parsing: ``websockets`` reads through a stream and a socket of trio, which try to
read before they wait; passes a frame through a memory channel; and writes through two locks, a
stream and a socket. Each of these lets other tasks run, which is a turn of trio's loop.

Here `TextStream` stands between ``websockets`` and the stream of a TCP connection. ``websockets``
receives from it whatever is not a whole text in a frame of its own. Such texts are handed to the
task that waits in `receive`, by rescheduling that task. A frame that is sent is written to the file
descriptor at once, if nothing waits to be written; the rest of a frame that the socket does not
take goes the way of `trio_writing`, and so does an error, which is told as ever. So a reply takes
no turn of the loop, and `receive` gives others one after `TURN` messages that wait already.

TLS, and systems whose sockets are not file descriptors, keep to the plain path.
"""

import os
from typing import Any, Final

import outcome
import trio

from websuckets.protocol.transport import Texts
from websuckets.transports.fast_path import FastPath, can_write, frame_of
from websuckets.transports.frames import frames_of, text_frame
from websuckets.transports.trio_connection import TrioConnection

__all__ = ["FastTrioConnection", "TextStream"]

TURN: Final = 16
"""Number of queued messages that a connection may take in a row before other tasks run."""

READ_SIZE: Final = 64 * 1024
"""Bytes that are read at once."""

HAS_DESCRIPTORS: Final = os.name == "posix"
"""True where a socket is a file descriptor."""


class FastTrioConnection(FastPath, TrioConnection):
    """A connection that reads and writes most messages without ``websockets``."""

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_receiver", "_taken")

    _receiver: trio.lowlevel.Task | None
    """Task that waits in `_next_text`."""
    stream: Any
    """Stream of ``websockets``, or a `TextStream` around it."""
    _taken: int
    """Number of messages that were taken from the queue."""

    def _prepare(self) -> None:
        super()._prepare()
        self._queue = self.recv_messages.send_frames._state.data  # as ``websockets`` itself does
        self._receiver = None
        self._taken = 0
        if HAS_DESCRIPTORS and isinstance(self.stream, trio.SocketStream):
            self.stream = TextStream(self.stream, self)

    # ``websockets`` gets the addresses from a stream of trio only:

    @property
    def local_address(self) -> Any:
        return super().local_address if self._socket is None else self._socket.getsockname()

    @property
    def remote_address(self) -> Any:
        if self._address is None and self._socket is not None:
            return self._socket.getpeername()
        return super().remote_address

    # Receiving

    async def receive(self) -> str | bytes:
        if self._queue:
            self._taken += 1
            if self._taken % TURN == 0:
                await trio.lowlevel.checkpoint()
        return await super().receive()

    def process_event(self, event: Any) -> None:
        super().process_event(event)
        if self._queue:
            self._hand_over(None)

    async def close_stream(self) -> None:
        try:
            await super().close_stream()
        finally:
            self._hand_over(None)

    def _hand_over(self, text: bytes | None) -> bool:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return False
        trio.lowlevel.reschedule(receiver, outcome.Value(text))
        return True

    async def _next_text(self) -> bytes | None:
        self.recv_messages.get_in_progress = True  # so that nothing else can receive
        self._receiver = trio.lowlevel.current_task()
        try:
            text: bytes | None = await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
            return text
        finally:
            self.recv_messages.get_in_progress = False

    def _stop_waiting(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    # Sending

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        frame = frame_of(message, text) if self._can_write else None
        if frame is None:
            await super().send(message, text=text)
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._write_frame(frame)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_texts(self, texts: Texts) -> None:
        """Send texts in one write, or one by one where ``websockets`` has to send them."""
        if not self._can_write:
            for text in texts.texts:
                await self.send(text, text=True)
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._write_frame(frames_of(texts))
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reply(self, text: str) -> None:
        if self._can_write:
            await self._write_frame(text_frame(text.encode()))
        else:
            await super().reply(text)

    @property
    def _can_write(self) -> bool:
        return (
            not self._unwritten
            and isinstance(self.stream, TextStream)
            and can_write(self.protocol, self.send_in_progress)
        )

    def offer(self, frame: bytes) -> bool:
        """Send a text frame if that needs no waiting. Return whether no other try is needed."""
        if not self._can_write:
            return False
        if not self._write_at_once(text_frame(frame)):
            self.nursery.start_soon(self._write_rest, trio.Event())
        return True

    async def _write_frame(self, frame: bytes) -> None:
        """Write the frame, and wait only if the socket does not take all of it."""
        if not self._write_at_once(frame):
            async with self.send_context():  # writes the rest, and raises if the peer is lost
                pass

    def _write_at_once(self, frame: bytes) -> bool:
        """Write as much as the socket takes, and leave the rest. Return whether none is left.

        The rest after an error meets that error again, and ``websockets`` tells of it.
        """
        assert self._socket is not None
        try:
            written = os.write(self._socket.fileno(), frame)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._remember(error)
            written = 0
        if written < len(frame):
            self._unwritten.append(memoryview(frame)[written:])
        return written == len(frame)


class TextStream(trio.abc.HalfCloseableStream):
    """The stream of a TCP connection, from which texts in one frame are taken before it is read."""

    __slots__ = ("_connection", "_stream")

    def __init__(self, stream: trio.SocketStream, connection: FastTrioConnection) -> None:
        self._stream = stream
        self._connection: FastTrioConnection | None = connection

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes that are not the whole frame of a text; ``b""`` at the end."""
        while self._connection is not None:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                data = os.read(self._descriptor, max_bytes or READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
            taken = self._connection._take_texts(data)
            if taken < len(data) or not data:
                return data[taken:]
            if self._connection.recv_flow_control is not None:
                await self._connection.recv_flow_control.wait()
        raise trio.ClosedResourceError

    @property
    def _descriptor(self) -> int:
        descriptor = self._stream.socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError
        return descriptor

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._connection = None  # no cycle
        await self._stream.aclose()
