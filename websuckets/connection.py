"""One peer: its scope, its record, and its messages in order; and all peers of an app."""

import logging
from contextlib import ExitStack
from typing import Any, Final

import anyio
from dishka import AsyncContainer, Scope
from dishka.exceptions import ExitError
from websockets.http11 import Request

from websuckets.di.container import Work
from websuckets.dispatcher import Dispatcher, Peer, log_incident
from websuckets.limits import Limits
from websuckets.session import Session, User, as_current, connected
from websuckets.socket import Socket, Wire

__all__ = ["TICKS_IN_TIME", "Connection", "Connections"]

logger: logging.Logger = logging.getLogger("websuckets")

INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
"""Close codes of RFC 6455, section 7.4.1, and of IANA's WebSocket Close Code registry."""


TICKS_IN_TIME: Final = 4
"""How finely a timeout is measured: one that takes up to a quarter longer costs no timers."""


class Connections:
    """The open connections of a running app."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        container: AsyncContainer,
        session: Session,
        limits: Limits,
        connection_types: tuple[type, ...],
    ) -> None:
        self._dispatcher = dispatcher
        self._container = container
        self._session = session
        self._limits = limits
        self._connection_types = connection_types
        self._open: set[Connection] = set()
        self._draining = False
        self._all_gone: anyio.Event | None = None  # while somebody waits for that

    async def serve(self, wire: Wire) -> None:
        """Serve one connection until it is gone."""
        context = {
            Socket: wire.socket,
            **dict.fromkeys(self._connection_types, wire.socket),
            Request: wire.socket.request,
        }
        connection = Connection(
            wire, self._dispatcher, self._container, context, self._session, self._limits
        )
        self._open.add(connection)
        if self._draining:  # it completed its handshake in the moment of stopping
            await connection.drain()
        try:
            await connection.serve()
        finally:
            self._open.discard(connection)
            if self._all_gone is not None and not self._open:
                self._all_gone.set()

    def tick(self) -> None:
        """To be called `TICKS_IN_TIME` times in `Limits.finalize_timeout`."""
        for connection in list(self._open):
            connection.tick()

    async def drain(self) -> None:
        """Close every connection after its running command, and wait until all are gone."""
        self._draining = True
        async with anyio.create_task_group() as closing:
            for connection in self._open:
                closing.start_soon(connection.drain)
        await self._wait_until_gone()

    async def abort(self) -> None:
        """Cancel what still runs, and wait until it has been finalised.

        A handler that ignores its cancellation is left behind, and an error is logged.
        """
        if not self._open:
            return
        logger.warning("aborting %d connections that did not close", len(self._open))
        for connection in self._open:
            connection.cancel()
        timeout = self._limits.finalize_timeout
        interruption: BaseException | None = None
        # One for the scope of the message, one for that of the connection, one to spare.
        with anyio.move_on_after(None if timeout is None else 3 * timeout) as scope:
            while self._open:
                try:
                    await self._wait_until_gone()
                except anyio.get_cancelled_exc_class() as cancellation:
                    if scope.cancel_called:
                        raise
                    interruption = cancellation  # asyncio's own: what comes after us has to wait
        if self._open:
            logger.error("%d connections ignore their cancellation", len(self._open))
        if interruption is not None:
            raise interruption

    async def _wait_until_gone(self) -> None:
        if self._open:
            self._all_gone = anyio.Event()
            await self._all_gone.wait()


class Connection:
    """One client from its handshake until it is gone; serves its messages one after the other."""

    def __init__(
        self,
        wire: Wire,
        dispatcher: Dispatcher,
        container: AsyncContainer,
        context: dict[Any, Any],
        session: Session,
        limits: Limits,
    ) -> None:
        self._dispatcher = dispatcher
        self._session = session
        self._finalize_timeout = limits.finalize_timeout
        self._user = User(wire.socket)
        self._peer = Peer(
            wire,
            container({**context, User: self._user}, scope=Scope.SESSION),
            life=anyio.CancelScope(shield=True),
            work=Work(),
        )
        self._idle = False
        self._draining = False
        self._is_over = False
        self._reply: str | None = None  # that has still to be sent

    async def serve(self) -> None:
        """Answer messages until either side closes; then finalise what the connection held."""
        peer = self._peer
        try:
            with as_current(self._session), ExitStack() as record, peer.life:
                record.enter_context(connected(self._user, self._session))
                while not self._is_over:
                    with peer.work.scope:
                        await self._live(record)
                    peer.work = Work()
        finally:
            if peer.wire.socket.close_code is None:
                with anyio.CancelScope(shield=True):
                    await peer.wire.abort()

    async def drain(self) -> None:
        """Let the running command finish and its reply go out, then close with 1012."""
        self._draining = True
        if self._idle:
            await self._peer.wire.socket.close(SERVICE_RESTART, "service restart")

    def cancel(self) -> None:
        """Cancel the running command; its scope is finalised, then the connection aborted."""
        self._peer.life.cancel()

    def tick(self) -> None:
        """Cancel finalisers that have taken `TICKS_IN_TIME` ticks."""
        self._peer.work.tick(TICKS_IN_TIME)

    async def _live(self, record: ExitStack) -> None:
        """Until the connection is over, or until a message was not finalised in time."""
        ended_by: BaseException | None = None
        try:
            await self._answer_messages()
        except BaseException as error:
            ended_by = error
        await self._end(record, ended_by)

    async def _answer_messages(self) -> None:
        peer, wire = self._peer, self._peer.wire
        try:
            await self._send_reply()
            while not self._has_to_leave():
                self._idle = True
                frame = await wire.receive()
                self._idle = False
                if self._draining:  # since we began to wait
                    break
                self._reply = await self._dispatcher.answer(frame, peer)
                await self._send_reply()
            await self._say_goodbye()
        except wire.closed_errors:
            logger.debug("%s is gone", wire.socket.id)
        except Exception as error:
            log_incident(f"connection {wire.socket.id}", error)
            await wire.socket.close(INTERNAL_ERROR)

    def _has_to_leave(self) -> bool:
        return self._draining or self._peer.work.is_late

    async def _send_reply(self) -> None:
        """Not in a work that is late: the next one does it."""
        if self._reply is not None and not self._peer.work.is_late:
            reply, self._reply = self._reply, None
            await self._peer.wire.socket.send(reply)

    async def _say_goodbye(self) -> None:
        if not self._peer.work.is_late:
            await self._peer.wire.socket.close(SERVICE_RESTART, "service restart")

    async def _end(self, record: ExitStack, ended_by: BaseException | None) -> None:
        """Finalise what the connection held, unless it goes on in another work."""
        if ended_by is None and self._peer.work.is_late:
            return
        self._is_over = True
        record.close()
        await self._close_scope(ended_by)
        if ended_by is not None:
            raise ended_by

    async def _close_scope(self, ended_by: BaseException | None) -> None:
        """In the current work, because objects of the scope may have entered scopes in it."""
        peer = self._peer
        with ExitStack() as stack:
            if peer.work.is_late:
                peer.work = Work()
                stack.enter_context(peer.work.scope)
            try:
                await peer.work.close(peer.container, ended_by)
            except ExitError as failures:
                log_incident(f"finalisers of connection {peer.wire.socket.id}", failures)
            self._log_late_finalisers()

    def _log_late_finalisers(self) -> None:
        if self._peer.work.is_late:
            error = TimeoutError(f"they took more than {self._finalize_timeout} seconds")
            log_incident(f"finalisers of connection {self._peer.wire.socket.id}", error)
