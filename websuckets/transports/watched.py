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
    """The receiving of messages, while the program does it."""

    __slots__ = ("is_over", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.is_over = anyio.Event()

    async def take_back(self) -> None:
        """Interrupt the program, and wait until it receives no more."""
        self.scope.cancel()
        await self.is_over.wait()


class WatchedConnection(Handshake):
    """Does what its watchdog says: pings the peer, and aborts where that does not read or is gone.

    It is a `TransportConnection`. As a base class it stands before ``ServerConnection``.
    """

    __slots__ = ()

    _attributes = (*Handshake._attributes, "_lent", "watchdog")

    watchdog: PeerWatchdog

    closed_errors: tuple[type[Exception], ...] = (ConnectionClosed,)

    def _prepare(self: Any) -> None:
        super()._prepare()
        self.watchdog = PeerWatchdog(self.timeouts, self._alarmed, self._can_be_pinged)
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

    def _alarmed(self: Any, on_fault: PeerFault) -> None:
        match on_fault:
            case PeerFault.STALLED:
                logger.info("%s does not read what is sent to it: aborted", self.id)
                self._abort()
            case PeerFault.PING:
                self._start(self._ping)
            case PeerFault.NO_PONG:
                logger.info("%s does not answer pings: dropped", self.id)
                self._start(self._drop)
            case _:  # nothing is read from it
                self._look_for_departure()

    def _look_for_departure(self: Any) -> None:
        """Tell of a client that has left; what it sent before is read when there is room."""
        accepted = self.accepted
        if accepted is not None and not self._is_reading and has_left(self._file_descriptor):
            accepted.disconnected()

    async def _ping(self: Any) -> None:
        with suppress(ConnectionClosed):
            self.watchdog.pinged(self._has_come(await self.ping()))

    def _give_in(self: Any) -> None:
        """More is to be sent to the peer than may wait for it."""
        logger.info("%s does not read what is sent to it, and more is: aborted", self.id)
        self._abort()

    async def receive(self: Any) -> str | bytes:
        """Return the next message. Raises `ConnectionClosed`, see `TransportConnection.receive`."""
        if self._lent is not None:
            await self._lent.take_back()
        return await self._next_message(None)  # type: ignore[no-any-return]

    async def _next_message(self: Any, decode: bool | None) -> str | bytes:
        """Return the next message as ``websockets`` does; throw away those after our close."""
        while True:
            message: str | bytes = await super().recv(decode)  # type: ignore[misc]  # of ServerConnection
            if not self.has_stopped_receiving:
                return message

    async def recv(self: Any, decode: bool | None = None) -> Any:
        """Return the next message to the program instead of handling it.

        Raises ``ConcurrencyError`` where the framework receives: as soon as it waits for a message
        itself, which it does while a stream or a task runs.
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
        """Give the next message to the program, as `recv` does: in one piece."""
        yield await self.recv(decode)

    def process_event(self: Any, event: Any) -> None:
        """Drop what comes after the close frame of this side, up to the client's answer to it."""
        if not (self.has_stopped_receiving and event.opcode in DATA_OPCODES):
            super().process_event(event)  # type: ignore[misc]  # of ServerConnection

    def _stop_receiving_if_closed(self: Any) -> None:
        """Look for a close frame of this side, whoever sends it, before anything is written.

        A close that answers one of the client, or that the client has provoked by breaking the
        protocol, is the client's: messages that it sent before are handled.
        """
        protocol = self.protocol
        if (
            protocol.close_sent is not None
            and protocol.close_rcvd is None
            and protocol.parser_exc is None
        ):
            self._stop_receiving()

    def _stop_receiving(self: Any) -> None:
        """Hand over no message any more. Read on: the client's close frame stands behind them."""
        self.has_stopped_receiving = True
        messages = self.recv_messages
        if messages.paused:
            messages.paused = False
            messages.resume()

    async def _send_message(self: Any, message: Any, text: bool | None) -> None:
        """Send it by ``websockets``.

        A message in fragments that its sender gives up midway, as when its command takes too long,
        leaves a connection on which no other message can follow: it is closed.
        """
        if isinstance(message, str):
            check_text(message)
        try:
            await super().send(message, text=text)
        except BaseException:
            protocol = self.protocol
            if (
                protocol.expect_continuation_frame
                and self.send_in_progress is None  # or else that message is another's
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
        """Drop the connection without a closing handshake, and wait until it is closed."""

    @property
    @abstractmethod
    def _is_reading(self) -> bool:
        """Whether what the peer sends is read at the moment."""

    @abstractmethod
    def _abort(self) -> None:
        """The same as `abort`, without waiting."""

    @abstractmethod
    async def _finish_closing(self) -> None:
        """Send the close frame that was made, and wait until the connection is closed."""

    @abstractmethod
    async def _drop(self) -> None:
        """Say goodbye to a peer that answers no pings, and abort."""

    @abstractmethod
    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it in a task."""

    @property
    @abstractmethod
    def _file_descriptor(self) -> int:
        """File descriptor of the TCP connection, or -1 when it is closed."""

    @staticmethod
    @abstractmethod
    def _has_come(pong: Awaitable[float]) -> Callable[[], bool]:
        """What tells whether it has."""
