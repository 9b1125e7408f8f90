"""Receiving on both servers of ``websockets``: by the framework, or by the program meanwhile."""

from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
from websockets.exceptions import ConcurrencyError
from websockets.frames import DATA_OPCODES

from websuckets.transports.handshake import Handshake

__all__ = ["ReceivingConnection"]

FRAMEWORK_RECEIVES: Final = (
    "the framework receives the messages of this connection and runs commands for them; what the "
    "client is to send is the payload of a command"
)


class _ProgramReceive:
    """A call of `recv` by the program, during which the framework does not receive."""

    __slots__ = ("is_over", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.is_over = anyio.Event()

    async def take_back(self) -> None:
        """Interrupt the call of the program, and wait until that call has ended."""
        self.scope.cancel()
        await self.is_over.wait()


class ReceivingConnection(Handshake):
    """A connection that returns no message any more once this side has closed or aborted it."""

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_program_receive", "has_stopped_receiving")

    has_stopped_receiving: bool
    _program_receive: _ProgramReceive | None

    def _prepare(self) -> None:
        super()._prepare()
        self.has_stopped_receiving = False
        self._program_receive = None

    async def receive(self) -> str | bytes:
        """Return the next message. Raise `ConnectionClosed`, see `TransportConnection.receive`."""
        if self._program_receive is not None:
            await self._program_receive.take_back()
        return await self._next_message(None)

    async def _next_message(self, decode: bool | None) -> str | bytes:
        """Return the next message as ``websockets`` does; discard messages after our close."""
        while True:
            message: str | bytes = await super().recv(decode)
            if not self.has_stopped_receiving:
                return message

    async def recv(self, decode: bool | None = None) -> Any:
        """Return the next message to the program instead of handling it.

        Raise ``ConcurrencyError`` as soon as the framework itself waits for a message, which the
        framework does while a stream or a task runs.
        """
        if self._program_receive is not None:
            raise ConcurrencyError(FRAMEWORK_RECEIVES)
        self._program_receive = call = _ProgramReceive()
        try:
            with call.scope:
                return await self._next_message(decode)
        except ConcurrencyError:
            pass
        finally:
            self._program_receive = None
            call.is_over.set()
        raise ConcurrencyError(FRAMEWORK_RECEIVES)

    async def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Any]:
        """Yield the next message to the program as `recv` returns it, in one piece."""
        yield await self.recv(decode)

    def process_event(self, event: Any) -> None:
        """Process an event, but for data frames after this side has sent its close frame.

        ``websockets`` has no hook to keep these frames out of its queue, where nobody would read
        them any more; once the queue was full, the client's close frame would not be read either.
        """
        if not (self.has_stopped_receiving and event.opcode in DATA_OPCODES):
            super().process_event(event)

    def _stop_receiving_if_closed(self) -> None:
        """Stop receiving if this side closes; called before anything is written.

        A close frame that answers the client's, or that the client has caused by breaking the
        protocol, does not count: messages that the client sent before are handled.
        """
        protocol = self.protocol
        if (
            protocol.close_sent is not None
            and protocol.close_rcvd is None
            and protocol.parser_exc is None
        ):
            self._stop_receiving()

    def _stop_receiving(self) -> None:
        """Return no more messages, but read on, as the client's close frame comes after them."""
        self.has_stopped_receiving = True
        messages = self.recv_messages
        if messages.paused:
            messages.paused = False
            messages.resume()
