"""A connection of ``websockets`` on trio, whose sends can be cancelled."""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import trio
from websockets.http11 import SERVER
from websockets.protocol import State

from websuckets.protocol.close_codes import NO_PONG
from websuckets.runtime.event_loop import Propagate
from websuckets.transports.checks import checked_close
from websuckets.transports.handshake import serve_connection
from websuckets.transports.trio_writing import WritingConnection, acquire
from websuckets.transports.watchdog import CLOSE_FRAME_TIME

__all__ = ["TrioConnection"]


class TrioConnection(WritingConnection):
    """A connection that is closed and aborted as on asyncio, and whose sends can be cancelled.

    Messages are received and sent by the documented methods of ``ServerConnection``.
    """

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_turn",)

    _turn: trio.Lock
    """Lock of the senders of messages."""

    _is_answered = staticmethod(trio.Event.is_set)

    propagate: Propagate
    """Function that is called with a `SystemExit` or `KeyboardInterrupt` of the program.

    The nursery of the server would raise either only after waiting for every other connection.
    """

    def _prepare(self) -> None:
        super()._prepare()
        self._turn = trio.Lock()

    async def handshake(
        self,
        process_request: Any = None,
        process_response: Any = None,
        server_header: str | None = SERVER,
    ) -> None:
        try:
            await super().handshake(process_request, process_response, server_header)
        except BaseException as error:
            self.propagate(error)
            raise ConnectionAbortedError from error
        if self.response is not None and self.state is not State.OPEN:
            # The connection may have been closed just after opening, and the task that reads may
            # not have answered the close frame yet.
            with trio.move_on_after(CLOSE_FRAME_TIME):
                await self.wait_closed()
            await self.abort()

    async def serve(self) -> None:
        """Serve an open connection, as the handler for ``serve``."""
        try:
            await serve_connection(self)
        except BaseException as error:
            self.propagate(error)
        # The task that reads may wait for room in its queue, and would wait for ever.
        await self.abort()

    async def abort(self) -> None:
        self._stop_receiving()
        await trio.aclose_forcefully(self.stream)
        await self.close_stream()  # the task that closes the stream may have been cancelled

    def _stop_receiving(self) -> None:
        super()._stop_receiving()
        if self.recv_flow_control is not None:  # a closed queue does not resume reading
            self.resume_reading()

    def pause_reading(self) -> None:
        super().pause_reading()
        self.watchdog.reading_paused()

    @property
    def _file_descriptor(self) -> int:
        socket = self._socket
        if socket is None:
            assert isinstance(self.stream, trio.SSLStream)
            socket = self.stream.transport_stream.socket
        return int(socket.fileno())

    @property
    def _is_reading(self) -> bool:
        return self.recv_flow_control is None and not self.watchdog.is_blocked

    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.nursery.start_soon(function)

    async def _abort_after_fault(self) -> None:
        with trio.move_on_after(CLOSE_FRAME_TIME):
            await self.close(*NO_PONG)
        await trio.aclose_forcefully(self.stream)

    async def _finish_closing(self) -> None:
        await self.send_data()
        await self.aclose()

    async def ping(self, data: Any = None, *, ack_on_close: bool = False) -> trio.Event:
        self._check_open()
        pong: trio.Event = await super().ping(data, ack_on_close=ack_on_close)
        return pong

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.aclose(code, reason)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self._check_open()
        checked_close(code, reason)
        await super().aclose(code, reason)

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        """Send once the peer has read earlier frames, so that memory does not fill up."""
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            with self.watchdog.queued(message) as is_too_much:
                if is_too_much and self.watchdog.is_blocked:
                    self._abort_slow_peer()
                await self._turn.acquire()
        await self._send_in_turn(message, text)

    async def reply(self, text: str) -> None:
        await acquire(self._turn)
        await self._send_in_turn(text, None)

    async def _send_in_turn(self, message: Any, text: bool | None) -> None:
        """Send a message while holding the lock of the senders, and release the lock."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._unwritten:  # left by a cancelled sender
                await self._write()
            await self._send_message(message, text)
        finally:
            self._turn.release()

    def _abort(self) -> None:
        self._stop_receiving()
        self.nursery.start_soon(trio.aclose_forcefully, self.stream)

    def process_event(self, event: Any) -> None:
        with suppress(EOFError):  # aborted while an answer waited to be sent
            super().process_event(event)

    async def close_stream(self) -> None:
        try:
            await super().close_stream()
        finally:
            self.watchdog.stop()
        if self.connection_handler is not None:
            self.connection_handler.disconnected()
