"""One peer: its scope, its record, and its messages in order."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
from dishka import AsyncContainer, Scope
from dishka.exceptions import ExitError
from websockets.http11 import Request

from websuckets.di.container import finalize
from websuckets.dispatcher import Dispatcher, Peer, log_incident
from websuckets.limits import Limits
from websuckets.session import Session, User, as_current
from websuckets.socket import Socket

__all__ = ["Connection", "Wire"]

logger: logging.Logger = logging.getLogger("websuckets")

INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
"""Close codes of RFC 6455, section 7.4.1, and of IANA's WebSocket Close Code registry."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What a transport hands over for each connection, after its opening handshake."""

    socket: Socket
    """What handlers get."""
    receive: Callable[[], Awaitable[str | bytes]]
    """The next frame, text or binary."""
    abort: Callable[[], None]
    """Drop the connection without a closing handshake."""
    closed_errors: tuple[type[Exception], ...]
    """What ``receive`` and ``send`` raise once the connection is closed."""


class Connection:
    """One client from its handshake until it is gone; serves its messages one after the other."""

    def __init__(
        self,
        wire: Wire,
        *,
        dispatcher: Dispatcher,
        container: AsyncContainer,
        context: dict[Any, Any],
        session: Session,
        limits: Limits,
    ) -> None:
        self._wire = wire
        self._dispatcher = dispatcher
        self._session = session
        self._limits = limits
        self._user = User(wire.socket)
        values = {
            Socket: wire.socket,
            Request: wire.socket.request,
            User: self._user,
            **context,
        }
        self._container = container(values, scope=Scope.SESSION)
        self._work = anyio.CancelScope()
        self._idle = False
        self._draining = False

    async def serve(self) -> None:
        """Answer messages until either side closes; then finalise what the connection held."""
        # The shield is around everything once, so that no message pays for one of its own.
        with anyio.CancelScope(shield=True), as_current(self._session):
            fatal: BaseException | None = None
            try:
                with self._session.connected(self._user), self._work:
                    await self._answer_messages()
            except BaseException as error:
                fatal = error
                raise
            finally:
                try:
                    await self._close_scope(fatal)
                finally:
                    if fatal is not None or self._work.cancelled_caught:
                        self._wire.abort()

    async def drain(self) -> None:
        """Let the running command finish and its reply go out, then close with 1012."""
        self._draining = True
        if self._idle:
            await self._wire.socket.close(SERVICE_RESTART, "service restart")

    def cancel(self) -> None:
        """Cancel the running command; its scope is finalised, then the connection aborted."""
        self._work.cancel()

    async def _answer_messages(self) -> None:
        wire, socket = self._wire, self._wire.socket
        peer = Peer(socket, self._container, wire.closed_errors, lambda: self._work.cancel_called)
        try:
            while not self._draining:
                self._idle = True
                frame = await wire.receive()
                self._idle = False
                reply = await self._dispatcher.answer(frame, peer)
                if reply is not None:
                    await socket.send(reply)
            await socket.close(SERVICE_RESTART, "service restart")
        except wire.closed_errors:
            logger.debug("%s is gone", socket.id)
        except Exception as error:
            log_incident(f"connection {socket.id}", error)
            await socket.close(INTERNAL_ERROR)

    async def _close_scope(self, error: BaseException | None) -> None:
        try:
            await finalize(self._container, error, timeout=self._limits.finalize_timeout)
        except ExitError as failures:
            log_incident(f"finalisers of connection {self._wire.socket.id}", failures)
