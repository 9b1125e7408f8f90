"""The sending side of a connection, to a peer that may be slow to read."""

import logging
from collections.abc import Awaitable, Callable

from websuckets.socket import Socket
from websuckets.transports.close_state import CloseState
from websuckets.transports.watchdog import PeerFault, PeerTimeouts, PeerWatchdog

__all__ = ["Sender"]

logger: logging.Logger = logging.getLogger("websuckets")


class Sender:
    """Sends frames, watches for a peer that does not read them, and then aborts the connection.

    ``write`` sends a frame, and waits as long as no more frames can be sent; ``abort`` aborts the
    connection without waiting. The server below sends pings, if any; the watchdog here sends none.
    """

    __slots__ = ("_abort", "_socket", "_state", "_timeouts", "_write", "watchdog")

    def __init__(
        self,
        socket: Socket,
        state: CloseState,
        timeouts: PeerTimeouts,
        write: Callable[[str | bytes], Awaitable[None]],
        abort: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._state = state
        self._timeouts = timeouts
        self._write = write
        self._abort = abort
        self.watchdog: PeerWatchdog = PeerWatchdog(timeouts, self)

    async def send(self, frame: str | bytes) -> None:
        """Send a frame; abort if more frames wait than the outbox allows.

        Raise `ConnectionClosed` once the connection is closed.
        """
        if not self.watchdog.waiting:
            await self._write_watched(frame)
            return
        with self.watchdog.queued(frame) as is_too_much:
            if is_too_much:
                logger.info(
                    "%s does not read what is sent to it, and more is: aborted (%s)",
                    *(self._socket.id, self._timeouts.overflow_text),
                )
                self._abort()
                raise self._state.error()
            await self._write_watched(frame)

    async def reply(self, text: str) -> None:
        """Send a reply, which may wait whatever its length, and however many others wait."""
        self._state.check_open()
        await self._write_watched(text)
        self._state.check_open()

    async def _write_watched(self, frame: str | bytes) -> None:
        self.watchdog.blocked()
        try:
            await self._write(frame)
        finally:
            self.watchdog.unblocked()

    def stop(self) -> None:
        """Watch no more, as the connection is closed."""
        self.watchdog.stop()

    def peer_fault(self, fault: PeerFault) -> None:
        assert fault is PeerFault.STALLED
        logger.info(
            "%s does not read what is sent to it: aborted (%s)",
            *(self._socket.id, self._timeouts.stalled_text),
        )
        self._abort()
