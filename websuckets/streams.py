"""Streams: commands whose handlers yield, answered beside the queue of messages."""

import logging

import anyio
from websockets import CloseCode

from websuckets.di.work import Works
from websuckets.dispatcher import Call, Dispatcher, Peer
from websuckets.envelope import encode_error, encode_event
from websuckets.incidents import log_incident
from websuckets.tasks import Background, wait_through

__all__ = ["RunningStreams"]

logger: logging.Logger = logging.getLogger("websuckets")


class RunningStreams:
    """The streams that one connection has running, each in a task and a scope of its own.

    It lives as long as the connection; ``most`` may run at once.
    """

    __slots__ = ("_all_gone", "_background", "_dispatcher", "_most", "_running", "_works", "peer")

    peer: Peer

    def __init__(
        self, dispatcher: Dispatcher, background: Background, works: Works, most: int | None
    ) -> None:
        self._dispatcher = dispatcher
        self._background = background
        self._works = works
        self._most = most
        self._running: set[_Stream] = set()
        self._all_gone: anyio.Event | None = None  # while somebody waits for that

    async def start(self, call: Call) -> str | None:
        """Answer it beside the messages that follow; if that cannot be, the error to reply.

        Returns when the handler has begun, so that what it does first comes before them.
        """
        id = call.message.id
        # Those that are over, too: their last replies may wait for a client that does not read.
        if self._most is not None and len(self._running) >= self._most:
            return encode_error("too many streams", None, id)
        if id is not None and any(stream.answers(id) for stream in self._running):
            return encode_error("id in use", None, id)
        stream = _Stream(call)
        self._background.start_soon(self._run, stream)
        self._running.add(stream)
        await stream.begun.wait()
        return None

    def cancel(self, id: str | int) -> None:
        """End the stream that answers the command ``id``, if it runs: with its last reply."""
        for stream in self._running:
            if stream.answers(id):
                stream.life.cancel()

    def cancel_all(self) -> None:
        """End them without a last reply, because the connection ends."""
        for stream in self._running:
            stream.is_over = True
            stream.life.cancel()

    async def wait(self) -> None:
        """Wait until none is left."""
        if self._running:
            await self._gone().wait()

    async def end(self) -> None:
        """Cancel all, and wait until they are finalised, also when this is cancelled."""
        if self._running:
            self.cancel_all()
            await wait_through(self._gone())

    def _gone(self) -> anyio.Event:
        self._all_gone = self._all_gone or anyio.Event()
        return self._all_gone

    async def _run(self, stream: "_Stream") -> None:
        try:
            await self._answer(stream)
        except self.peer.wire.closed_errors:
            logger.debug("%s is gone", self.peer.wire.socket.id)
        except BaseException as error:  # none that the dispatcher could tell
            if stream.is_over or isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            log_incident(f"stream {stream.call.message.event!r}", error)
            await self.peer.wire.socket.close(CloseCode.INTERNAL_ERROR)
        finally:
            stream.begun.set()
            self._running.discard(stream)
            if self._all_gone is not None and not self._running:
                self._all_gone.set()
                self._all_gone = None

    async def _answer(self, stream: "_Stream") -> None:
        message, reply = stream.call.message, None
        with stream.life, self._works.begin(stream.life) as work:
            reply = await self._dispatcher.answer_stream(
                stream.call, self.peer, work, stream.begun.set
            )
        if stream.life.cancelled_caught and message.id is not None:
            reply = encode_event(message.event, None, message.id)
        if reply is not None and not stream.is_over:
            stream.is_over = True  # its id is free before the client knows
            await self.peer.wire.socket.send(reply)


class _Stream:
    """One of them. When it is over, it may still be finalised."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.life = anyio.CancelScope()
        self.begun = anyio.Event()
        self.is_over = False

    def answers(self, id: str | int) -> bool:
        """Whether it still has to answer the command ``id``."""
        return self.call.message.id == id and not self.is_over
