"""Part of a connection that is common to both servers of ``websockets``."""

import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import anyio
from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.frames import DATA_OPCODES
from websockets.protocol import State

from websuckets.protocol.close_codes import CUT_SHORT
from websuckets.socket import path_of
from websuckets.transports.checks import check_text
from websuckets.transports.departure import has_left
from websuckets.transports.handshake import Handshake
from websuckets.transports.watchdog import PeerFault, PeerWatchdog

__all__ = ["WatchedConnection"]

logger: logging.Logger = logging.getLogger("websuckets")

FRAMEWORK_RECEIVES: Final = (
    "the framework receives the messages of this connection and runs commands for them; what the "
    "client is to send is the payload of a command"
)


class _Lent:
    """A call of `recv` by the program, during which the framework does not receive."""

    __slots__ = ("is_over", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.is_over = anyio.Event()

    async def take_back(self) -> None:
        """Interrupt the call of the program, and wait until that call has ended."""
        self.scope.cancel()
        await self.is_over.wait()


class WatchedConnection(Handshake):
    """A `TransportConnection` that reacts to the faults that its watchdog reports.

    The connection pings the peer, and aborts when the peer does not read or does not answer. As a
    base class, ``WatchedConnection`` stands before ``ServerConnection``.
    """

    __slots__ = ()

    _attributes = (*Handshake._attributes, "_lent", "watchdog")

    watchdog: PeerWatchdog

    closed_errors: tuple[type[Exception], ...] = (ConnectionClosed,)

    def _prepare(self: Any) -> None:
        super()._prepare()
        self.watchdog = PeerWatchdog(self.timeouts, self._on_fault, self._can_be_pinged)
        self._lent = None

    @property
    def socket(self) -> Any:
        return self

    @property
    def request_path(self: Any) -> str:
        return path_of(self.request)

    def failed(self, error: BaseException) -> None: ...

    def _can_be_pinged(self: Any) -> bool:
        return self.state is State.OPEN and self._is_reading

    def _on_fault(self: Any, fault: PeerFault) -> None:
        match fault:
            case PeerFault.STALLED:
                logger.info("%s does not read what is sent to it: aborted", self.id)
                self._abort()
            case PeerFault.PING:
                self._start(self._ping)
            case PeerFault.NO_PONG:
                logger.info("%s does not answer pings: aborted", self.id)
                self._start(self._abort_after_fault)
            case _:  # PeerFault.NOT_READ
                self._check_departure()

    def _check_departure(self: Any) -> None:
        """Tell the connection handler if the client has left; its messages are still read later."""
        handler = self.handler
        if handler is not None and not self._is_reading and has_left(self._file_descriptor):
            handler.disconnected()

    async def _ping(self: Any) -> None:
        with suppress(ConnectionClosed):
            self.watchdog.pinged(self._is_answered_by(await self.ping()))

    def _abort_slow_peer(self: Any) -> None:
        """Abort, as more waits to be sent to the peer than the outbox allows."""
        logger.info("%s does not read what is sent to it, and more is: aborted", self.id)
        self._abort()

    async def receive(self: Any) -> str | bytes:
        """Return the next message. Raise `ConnectionClosed`, see `TransportConnection.receive`."""
        if self._lent is not None:
            await self._lent.take_back()
        return await self._next_message(None)  # type: ignore[no-any-return]

    async def _next_message(self: Any, decode: bool | None) -> str | bytes:
        """Return the next message as ``websockets`` does; discard messages after our close."""
        while True:
            message: str | bytes = await super().recv(decode)  # type: ignore[misc]  # of ServerConnection
            if not self.has_stopped_receiving:
                return message

    async def recv(self: Any, decode: bool | None = None) -> Any:
        """Return the next message to the program instead of handling it.

        Raise ``ConcurrencyError`` as soon as the framework itself waits for a message, which the
        framework does while a stream or a task runs.
        """
        if self._lent is not None:
            raise ConcurrencyError(FRAMEWORK_RECEIVES)
        self._lent = lent = _Lent()
        try:
            with lent.scope:
                return await self._next_message(decode)
        except ConcurrencyError:
            pass
        finally:
            self._lent = None
            lent.is_over.set()
        raise ConcurrencyError(FRAMEWORK_RECEIVES)

    async def recv_streaming(self: Any, decode: bool | None = None) -> AsyncIterator[Any]:
        """Yield the next message to the program as `recv` returns it, in one piece."""
        yield await self.recv(decode)

    def process_event(self: Any, event: Any) -> None:
        """Discard data frames that come after this side has sent its close frame."""
        if not (self.has_stopped_receiving and event.opcode in DATA_OPCODES):
            super().process_event(event)  # type: ignore[misc]  # of ServerConnection

    def _stop_receiving_if_closed(self: Any) -> None:
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

    def _stop_receiving(self: Any) -> None:
        """Return no more messages, but read on, as the client's close frame comes after them."""
        self.has_stopped_receiving = True
        messages = self.recv_messages
        if messages.paused:
            messages.paused = False
            messages.resume()

    async def _send_message(self: Any, message: Any, text: bool | None) -> None:
        """Send a message by ``websockets``.

        After a message in fragments whose sender was cancelled midway, as when a command takes too
        long, no other message can follow, so the connection is closed.
        """
        if isinstance(message, str):
            check_text(message)
        try:
            await super().send(message, text=text)
        except BaseException:
            protocol = self.protocol
            if (
                protocol.expect_continuation_frame
                and self.send_in_progress is None  # else the message is another sender's
                and protocol.state is State.OPEN
            ):
                logger.warning(
                    "%s is closed: sending a message in fragments was given up midway", self.id
                )
                protocol.send_close(*CUT_SHORT)
                self._stop_receiving_if_closed()
                self._start(self._finish_closing)
            raise

    @abstractmethod
    async def abort(self) -> None:
        """Abort the connection, and wait until the connection is closed."""

    @property
    @abstractmethod
    def _is_reading(self) -> bool:
        """True while what the peer sends is read."""

    @abstractmethod
    def _abort(self) -> None:
        """Abort the connection without waiting."""

    @abstractmethod
    async def _finish_closing(self) -> None:
        """Send the close frame that is ready, and wait until the connection is closed."""

    @abstractmethod
    async def _abort_after_fault(self) -> None:
        """Send a close frame to a peer that answers no pings, and abort the connection."""

    @abstractmethod
    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function in a task of its own."""

    @property
    @abstractmethod
    def _file_descriptor(self) -> int:
        """File descriptor of the TCP connection, or -1 once the connection is closed."""

    @staticmethod
    @abstractmethod
    def _is_answered_by(pong: Awaitable[float]) -> Callable[[], bool]:
        """Return a function that tells whether a pong has come."""
