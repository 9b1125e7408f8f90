"""Part of a connection that is common to both servers of ``websockets``."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from websockets.exceptions import ConnectionClosed, PayloadTooBig
from websockets.protocol import State

from websuckets.protocol.close_codes import CUT_SHORT
from websuckets.socket import path_of
from websuckets.transports.checks import check_text
from websuckets.transports.departure import has_left
from websuckets.transports.receiving import ReceivingConnection
from websuckets.transports.watchdog import PeerFault, PeerWatchdog

__all__ = ["WatchedConnection"]

logger: logging.Logger = logging.getLogger("websuckets")


class WatchedConnection(ReceivingConnection):
    """A `TransportConnection` that reacts to the faults that its watchdog reports.

    The connection pings the peer, and aborts when the peer does not read or does not answer. As a
    base class, ``WatchedConnection`` stands before ``ServerConnection``.
    """

    __slots__ = ()

    _attributes: tuple[str, ...] = ("watchdog",)

    watchdog: PeerWatchdog

    closed_errors: tuple[type[Exception], ...] = (ConnectionClosed,)

    _is_answered: Callable[[Any], bool]
    """Function that tells whether the pong has come that `ping` has returned."""

    def _prepare(self) -> None:
        super()._prepare()
        self.watchdog = PeerWatchdog(self.timeouts, self, pinged=self)

    @property
    def socket(self) -> Any:
        return self

    @property
    def request_path(self) -> str:
        assert self.request is not None  # since before the app learned of the connection
        return path_of(self.request)

    @property
    def has_exceeded_size(self) -> bool:
        return isinstance(self.protocol.parser_exc, PayloadTooBig)

    def failed(self, error: BaseException) -> None: ...

    def peer_is_read(self) -> bool:
        return self.state is State.OPEN and self._is_reading

    def peer_fault(self, fault: PeerFault) -> None:
        match fault:
            case PeerFault.STALLED:
                logger.info(
                    "%s does not read what is sent to it: aborted (%s)",
                    *(self.id, self.timeouts.stalled_text),
                )
                self._abort()
            case PeerFault.PING:
                self._start(self._ping)
            case PeerFault.NO_PONG:
                logger.info("%s does not answer pings: aborted", self.id)
                self._start(self._abort_after_fault)
            case _:  # PeerFault.NOT_READ
                self._check_departure()

    def _check_departure(self) -> None:
        """Tell the connection handler if the client has left; its messages are still read later."""
        handler = self.connection_handler
        if handler is not None and not self._is_reading and has_left(self._file_descriptor):
            handler.disconnected()

    async def _ping(self) -> None:
        with suppress(ConnectionClosed):
            self.watchdog.pinged(partial(self._is_answered, await self.ping()))

    def _abort_slow_peer(self) -> None:
        """Abort, as more waits to be sent to the peer than the outbox allows."""
        if not self.has_stopped_receiving:  # else it is aborted already, or is being closed
            logger.info(
                "%s does not read what is sent to it, and more is: aborted (%s)",
                *(self.id, self.timeouts.overflow_text),
            )
        self._abort()

    async def _send_message(self, message: Any, text: bool | None) -> None:
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

    @property
    @abstractmethod
    def _is_reading(self) -> bool:
        """True while the connection reads from the peer."""

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
