"""Fast path of connections on asyncio: texts by a future, replies in one write.

`fast_path` says why there is a fast path, and when it is not taken. A text is handed over by a
future. Here writing is not the costly part, but its system call: replies to messages that came
together leave together, in the next turn of the event loop or when there are many. Whatever else is
to be written is written after the replies that wait.
"""

import asyncio
from typing import Any, Final

from websuckets.protocol.transport import Texts
from websuckets.transports.asyncio_connection import AsyncioConnection
from websuckets.transports.fast_path import FastPath, can_write, frame_of
from websuckets.transports.frames import frames_of, text_frame

__all__ = ["FastAsyncioConnection"]

ENOUGH: Final = 64 * 1024
"""Bytes of replies that are collected before they are written, without waiting for the loop."""


class FastAsyncioConnection(FastPath, AsyncioConnection):
    """A connection that reads and writes most messages without ``websockets``."""

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_awaited", "_replies")

    _awaited: asyncio.Future[bytes | None] | None
    """Future of the next text, while `_next_text` waits."""
    _replies: bytearray | None
    """Frames that are written together, in the next turn of the event loop."""

    def _prepare(self) -> None:
        super()._prepare()
        self._awaited = None
        self._replies = None

    # Receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._queue = self.recv_messages.frames.queue

    def data_received(self, data: bytes) -> None:
        taken = self._take_texts(data)
        if taken < len(data):
            super().data_received(data[taken:] if taken else data)
            if self._queue:
                self._hand_over(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._hand_over(None)
        self._replies = None

    def _hand_over(self, text: bytes | None) -> bool:
        awaited = self._awaited
        if awaited is None or awaited.done():
            return False
        awaited.set_result(text)
        return True

    async def _next_text(self) -> bytes | None:
        self.recv_messages.get_in_progress = True  # so that nothing else can receive
        self._awaited = awaited = self.loop.create_future()
        try:
            text: bytes | None = await awaited
            return text
        except asyncio.CancelledError:
            if awaited.done() and not awaited.cancelled():  # a text came at the same moment
                self._put_back(awaited.result())
            raise
        finally:
            self.recv_messages.get_in_progress = False
            self._awaited = None

    # Sending

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        frame = frame_of(message, text) if self._can_write else None
        if frame is None:
            await super().send(message, text=text)
            return
        self._write(frame)
        if self.paused or self.transport.is_closing():
            await self._wait_after_writing()

    async def send_texts(self, texts: Texts) -> None:
        """Send texts in one write, or one by one where ``websockets`` has to send them."""
        if not self._can_write:
            for text in texts.texts:
                await self.send(text, text=True)
            return
        self._write(frames_of(texts))
        if self.paused or self.transport.is_closing():
            await self._wait_after_writing()

    async def reply(self, text: str) -> None:
        if self._replies is None and not self._can_write:  # while replies wait, it may write
            await super().reply(text)
            return
        frame = text_frame(text.encode())
        if self._queue:  # leaves together with the replies to the messages that have come already
            self._write_later(frame)
            return
        self._write(frame)
        if self.paused or self.transport.is_closing():
            await self._wait_after_writing()

    async def _wait_after_writing(self) -> None:
        """Wait until the peer has read enough. Raise `ConnectionClosed` if the peer is lost."""
        async with self.send_context():
            pass

    def offer(self, frame: bytes) -> bool:
        if not self._can_write:
            return super().offer(frame)
        self._write(text_frame(frame))
        return True

    def send_data(self) -> None:
        if self._replies is not None:
            self._write_replies()
        super().send_data()

    @property
    def _can_write(self) -> bool:
        return (
            not self.paused
            and not self.transport.is_closing()
            and can_write(self.protocol, self.send_in_progress)
        )

    def _write(self, frame: bytes) -> None:
        if self._replies is None:
            self.transport.write(frame)
        else:
            self._replies += frame
            self._write_replies()

    def _write_later(self, frame: bytes) -> None:
        if self._replies is None:
            self._replies = bytearray()
            self.loop.call_soon(self._write_replies)
        self._replies += frame
        if len(self._replies) >= ENOUGH:
            self._write_replies()

    def _write_replies(self) -> None:
        """Write the replies that wait; called before anything else is written."""
        replies, self._replies = self._replies, None
        if replies and not self.transport.is_closing():
            self.transport.write(replies)
