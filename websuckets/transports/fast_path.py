"""Fast path of both servers of ``websockets``: texts and replies that do not pass through it.

The problem: parsing a client's frame, queueing it, waking the task that waits in ``recv`` and
writing the reply's frame in ``websockets`` take more than half of a plain command on asyncio, and
two thirds on trio, whose memory channels, locks and streams each let other tasks run. Nearly all
that clients send are texts in a frame of their own, which arrived whole, at a moment when the
connection has nothing else to do.

Tried and rejected: another library (``picows``: 5 to 13 % on asyncio, nothing on uvloop,
9 KiB more for each connection, and an interface that it does not export); a parser and a writer of
our own for everything (fragments, control frames, extensions and the closing handshake are what
``websockets`` is for); waking the waiting task from the callback of the event loop that reads (no
gain); reading in the task that serves, without a task that reads (nobody would notice a close frame
or answer a ping while a command runs).

The solution: received bytes are looked at before the parser sees them. Leading frames that are a
whole text each (`frames.read_text`) are handed to the task that waits in `receive`, or, if none
waits, are put in the queue of ``websockets``, as its parser would do. A text that is sent becomes a
frame (`frames.text_frame`), and is written at once. The queue and the state belong to
``websockets``, so that any message may take either path; only what is on its way to the peer is
kept here, until it has been written.

The fallback: everything else goes to ``websockets``, as if this module did not exist: frames that
are not a whole text, all frames while the parser is inside of a frame or a message, and anything
unless the connection is open, without extensions (compression) and not debugged; and anything to
send while something is to be written first, while the peer does not read, or while a message in
fragments is being sent. The connections without the fast path (`asyncio_connection`,
`trio_connection`) work by themselves: tests run both. `can_read` and `can_write` read the state of
the protocol; besides them, the fast paths use the queue of received frames (``recv_messages``) and
what waits to be written, which ``websockets`` does not document either. A test compares what is
read with ``websockets`` itself, for any bytes.
"""

from abc import abstractmethod
from collections import deque
from math import inf
from typing import Any, Final

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, State
from websockets.streams import StreamReader

from websuckets.transports.frames import binary_frame, read_text, text_frame
from websuckets.transports.watched import WatchedConnection

__all__ = ["FastPath", "can_read", "can_write", "frame_of"]

# Attributes of an enum are looked up by a function, which would run several times a message.
OPEN: Final = State.OPEN
TEXT: Final = Opcode.TEXT

AT_EOF = StreamReader.at_eof.__code__
"""Code that the parser of ``websockets`` runs while waiting for the first byte of a frame."""


def can_read(protocol: Protocol) -> bool:
    """Return whether the next bytes begin a frame that may be read without ``websockets``."""
    if (
        protocol.state is not OPEN
        or protocol.extensions
        or protocol.debug
        or protocol.current_size is not None  # the next frame continues a message
    ):
        return False
    parser: Any = protocol.parser
    parsing_frames = parser.gi_yieldfrom  # once the handshake has been parsed
    waiting = parsing_frames and parsing_frames.gi_yieldfrom
    return waiting is not None and waiting.gi_code is AT_EOF


def can_write(protocol: Protocol, send_in_progress: Any) -> bool:
    """Return whether a message may be written, in a frame of its own, without ``websockets``.

    ``send_in_progress`` is the attribute of that name of the connection.
    """
    return not (
        protocol.state is not OPEN
        or protocol.writes
        or protocol.extensions
        or protocol.debug
        or protocol.expect_continuation_frame
        or send_in_progress is not None
    )


def frame_of(message: Any, text: bool | None) -> bytes | None:
    """Return the frame of a message; ``None`` if the message is not a ``str`` or ``bytes``.

    ``message`` and ``text`` are the arguments of ``send``. Raise ``UnicodeEncodeError`` for a text
    that has no UTF-8 form.
    """
    if isinstance(message, str):
        return (binary_frame if text is False else text_frame)(message.encode())
    if type(message) is bytes:
        return (text_frame if text else binary_frame)(message)
    return None


class WholeText(Frame):
    """The frame of a whole text, for the queue of ``websockets``.

    Its other fields have their defaults, which need not be set for each message.
    """

    opcode: Opcode = TEXT

    def __init__(self, text: bytes) -> None:
        self.data: Any = text  # declared as any buffer, and read as bytes


class FastPath(WatchedConnection):
    """A connection that takes texts before ``websockets`` parses them.

    ``FastPath`` stands before the connection class of an event loop.
    """

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_longest", "_queue")

    _longest: float
    """Greatest size of a message, in bytes."""
    _queue: deque[Frame]
    """Frames that ``websockets`` has received, for `receive`."""

    def _prepare(self) -> None:
        super()._prepare()
        sizes = (self.protocol.max_message_size, self.protocol.max_fragment_size)
        self._longest = min(size for size in (*sizes, inf) if size is not None)

    def _take_texts(self, data: bytes) -> int:
        """Take the leading texts that are one frame each. Return how many bytes were taken."""
        if not can_read(self.protocol):
            return 0
        at = 0
        while found := read_text(data, at, self._longest):
            text, at = found
            if not self._hand_over(text):
                self.recv_messages.put(WholeText(text))
        return at

    async def receive(self) -> str | bytes:
        """Return the next message; take a text in one frame without calling ``websockets``."""
        if self._program_receive is not None:
            await self._program_receive.take_back()
        messages, queue = self.recv_messages, self._queue
        text: bytes | None = None
        if not messages.get_in_progress:
            if not queue and not messages.closed:
                text = await self._next_text()
            elif queue and queue[0].opcode is TEXT and queue[0].fin:
                text = bytes(queue.popleft().data)
                messages.maybe_resume()
        if text is not None and not self.has_stopped_receiving:
            try:
                return text.decode()
            except UnicodeDecodeError:
                self._put_back(text)  # for ``websockets``, which closes the connection
        return await super().receive()

    def _put_back(self, text: bytes | None) -> None:
        if text is not None:
            self._queue.appendleft(WholeText(text))

    @abstractmethod
    async def _next_text(self) -> bytes | None:
        """Return the next text, which is not queued; ``None`` if something else has come."""

    @abstractmethod
    def _hand_over(self, text: bytes | None) -> bool:
        """Hand a text to `_next_text`, if that waits. Return whether it waited.

        ``None`` stands for whatever else has come, or for the end of the connection.
        """
