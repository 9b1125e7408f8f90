"""One connection, driven by its transport from the opening handshake until it is gone.

The problem. A connection ends in many ways, and at any moment: its client leaves or breaks the
protocol, a hook refuses it, its user expires or is revoked, a message takes too long, the server
stops, or the code of a program fails. In each case running commands have to end as they were
promised to, every object has to be finalised, in the task and inside of the cancel scopes in which
it was built, and the client is to be told why, once.

Tried and rejected: flags for each of these cases, which made combinations that nobody had thought
of; a task for each message, which cannot leave the cancel scopes of another task; a cancel scope
for each message, which costs more than most handlers.

The solution. One task serves the connection, `Connection.serve`; the others only tell it what has
happened, by an event of the state machine in `websuckets.connections.state`, or by cancelling
`ConnectionScope.life`. The task goes through these steps:

1. ``on_connect`` hooks; one that refuses is a reason to close.
2. Messages are answered, by `MessageLoop.run`, until there is a reason to close.
3. Running commands finish, and the closing handshake is made.
4. All that the connection held is finalised: a connection that is still open is aborted, streams
   end, ``on_disconnect`` hooks run, tasks of the connection end, objects of its SESSION scope are
   finalised, in this order.

All steps run in one request scope. When that is spent, because something took too long in it, the
steps go on in another, from where they were. If the steps raise an error, the last one follows at
once. See also `websuckets.runtime.request_scope`, and `websuckets.runtime.failures`.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import anyio
from websockets import CloseCode

from websuckets.connections.hook_calls import call_on_connect, call_on_handshake, shortened
from websuckets.connections.message_loop import MessageLoop
from websuckets.connections.scope import ConnectionScope
from websuckets.connections.setup import Setup
from websuckets.connections.state import ConnectionState, State
from websuckets.connections.verification_deadlines import VerificationDeadlines
from websuckets.exc import HandshakeRefused
from websuckets.limits import limit_text
from websuckets.protocol.close_codes import (
    NOT_VERIFIED,
    RESTART,
    TOO_FAST,
    TOO_MANY_REFUSALS,
    TOO_MANY_UNKNOWN,
    CloseReason,
)
from websuckets.protocol.transport import TransportConnection
from websuckets.runtime.failures import Cancelled, Meaning, judge_end
from websuckets.runtime.incidents import log_incident
from websuckets.session import connected, connecting, disconnected, not_connecting

__all__ = ["Connection"]

logger: logging.Logger = logging.getLogger("websuckets")

LIMITS_BY_REASON: Final[Mapping[CloseReason, str]] = {
    NOT_VERIFIED: "auth_timeout",
    TOO_FAST: "rate",
    TOO_MANY_REFUSALS: "auth_failures",
    TOO_MANY_UNKNOWN: "unknown_streak",
}
"""Limits past which a connection is closed, by the close reason."""


class Registry(Protocol):
    """Registry of the connections of a running app."""

    def gone(self, connection: "Connection") -> None:
        """Take note that a connection is gone."""
        ...


class Connection:
    """A connection that answers the messages of one client, from its handshake until it is gone.

    ``refused``, if there is one, is the answer to the handshake.
    """

    __slots__ = (
        "_deadlines",
        "_has_connected",
        "_messages",
        "_refused",
        "_registry",
        "_scope",
        "_setup",
        "_state",
        "address",
    )

    def __init__(
        self,
        transport: TransportConnection,
        setup: Setup,
        refused: HandshakeRefused | None,
        registry: "Registry",
    ) -> None:
        self._setup = setup
        self._refused = refused
        self._registry = registry
        self.address: Any = transport.socket.remote_address
        """Address of the client."""
        self._state = ConnectionState()
        self._has_connected = False  # every `on_connect` hook has let the client in
        self._scope = ConnectionScope(transport, setup, self)
        user = self._scope.user
        self._deadlines = VerificationDeadlines(
            *(user, setup.clock, setup.time_to_verify, self._state, self)
        )
        self._messages = MessageLoop(self._scope.peer, setup, self._state, self._deadlines, self)

    def __str__(self) -> str:
        return f"connection {self._scope.peer.socket.id}"

    # Methods that the transport drives:

    async def opening(self) -> HandshakeRefused | None:
        """Verify the user, and ask the ``on_handshake`` hooks, until one refuses."""
        if self._refused is not None:
            return self._refused
        setup, scope = self._setup, self._scope
        connecting(scope.user, setup.session, self._messages)
        first = () if setup.identification is None else (setup.identification,)
        for hook in (*first, *setup.hooks.handshake):
            if self._state.present is not State.OPENING:
                break
            refusal: HandshakeRefused | None = None
            with scope.request_scope():  # which ends early if the server stops
                refusal = await call_on_handshake(hook, scope.peer, setup.hooks.errors)
            if refusal is not None:
                if refusal.close_code is None:
                    return refusal
                # The client is let in to be told the reason by a close frame.
                self._state.close((refusal.close_code, shortened(refusal.text)))
                return None
        return None if self._state.present is State.OPENING else HandshakeRefused(503)

    async def not_opened(self) -> None:
        """Finalise the scope of a connection that was not opened, and remove the connection."""
        try:
            await self._scope.finalise_unopened()
        finally:
            not_connecting(self._scope.user, self._setup.session)
            self._remove()

    async def serve(self) -> None:
        """Answer messages until either side closes; then finalise the objects of the connection."""
        scope, state, request_scopes = self._scope, self._state, self._setup.request_scopes
        state.opened()
        try:
            if state.close_reason is None:
                connected(scope.user, self._setup.session)
            else:  # the client was let in to be told why it may not connect
                not_connecting(scope.user, self._setup.session)
            while state.present is not State.CLOSED:
                with anyio.CancelScope(shield=True) as scope.life:
                    with request_scopes.begin(scope.life) as scope.peer.request_scope:
                        error: BaseException | None = None
                        try:
                            if state.present is not State.ABORTING:
                                await self._connect()
                                await self._messages.run()
                                await self._close_if_to_be_closed()
                        except BaseException as raised:
                            error = await self._handle(raised)
                        at_once = error is not None or state.present is State.ABORTING
                        if at_once or not scope.peer.request_scope.is_spent:
                            await self._finalise(error, at_once=at_once)
        finally:
            disconnected(scope.user)
            self._remove()

    def disconnected(self) -> None:
        """Cancel commands of this client alone, which has left or whose connection is closed."""
        if self._scope.peer.request_scope.ends_on_disconnect:
            self._scope.life.cancel()
        if self._messages.concurrent is not None:
            self._messages.concurrent.disconnected()

    def cancel(self) -> None:
        """Cancel running commands, whose scopes are finalised, and abort the connection."""
        was_served = self._state.cancel()
        self._scope.life.cancel()
        if self._messages.concurrent is not None:
            self._messages.concurrent.cancel_all()
        if was_served:  # commands may wait for the client to read
            self.abort()

    # Methods for the rest of the app:

    async def drain(self) -> None:
        """Let running commands finish and their replies go out, then close with 1012."""
        self._state.close(RESTART)
        await self._close_if_waiting()

    def close(self, reason: CloseReason) -> None:
        """Close the connection as soon as no command runs, unless it is closing already."""
        self._state.close(reason)
        if self.is_waiting:
            self._setup.background.start_soon(self._close_if_waiting)

    def abort(self) -> None:
        """Abort the connection, whatever its commands do."""
        self._setup.background.start_soon(self._scope.peer.transport.abort)

    def check(self) -> None:
        """Close the connection if the client may not stay."""
        self._deadlines.ring()

    @property
    def is_waiting(self) -> bool:
        """True while the connection waits for a message."""
        return self._messages.handling_since is None

    # The steps:

    async def _connect(self) -> None:
        """Call the ``on_connect`` hooks, until one refuses."""
        if self._has_connected or self._state.close_reason is not None:
            return
        hooks = self._setup.hooks
        for hook in hooks.connect:
            reason = await call_on_connect(hook, self._scope.peer, hooks.errors)
            if reason is not None:
                self._state.close(reason)
                return
        self._has_connected = True

    async def _close_if_waiting(self) -> None:
        """Close the connection; if a command runs, the task that serves closes it afterwards."""
        if self.is_waiting and self._state.close_reason is not None:
            await self._close(self._state.close_reason)

    async def _close_if_to_be_closed(self) -> None:
        """Close the connection if there is a reason to; not in a request scope that is spent."""
        reason = self._state.close_reason
        if reason is not None and not self._scope.peer.request_scope.is_spent:
            await self._close(reason)

    async def _handle(self, error: BaseException) -> BaseException | None:
        """Handle an error of the steps; return an error that ends the connection at once."""
        peer = self._scope.peer
        if isinstance(error, peer.transport.closed_errors):
            logger.debug("%s is gone", peer.socket.id)
            return None
        if not isinstance(error, Exception):
            return error
        log_incident(str(self), error)
        peer.transport.failed(error)
        try:
            await peer.socket.close(CloseCode.INTERNAL_ERROR)
        except BaseException as failure:
            return failure
        return None

    async def _close(self, reason: CloseReason) -> None:
        socket = self._scope.peer.socket
        if reason != RESTART:  # a reason is not logged: it may be the program's text
            limit = LIMITS_BY_REASON.get(reason)
            value = getattr(self._setup.limits, limit or "", None)
            why = "" if limit is None else f" ({limit_text(limit, value)})"
            logger.info("closing %s with %d%s", socket.id, reason[0], why)
        if self._messages.concurrent is not None:
            await self._messages.concurrent.drain()
        await socket.close(*reason)

    async def _finalise(self, error: BaseException | None, *, at_once: bool) -> None:
        """Finalise the objects of the connection; ``error`` has ended it, if it is not ``None``."""
        self._state.ended()
        await self._scope.finalise(
            *(error, self._messages.concurrent),
            was_connected=self._has_connected,
            at_once=at_once,
        )
        if error is not None:
            self._pass_on(error)

    def _pass_on(self, error: BaseException) -> None:
        """Raise an error that concerns others, too; log any other, which ended this connection."""
        if judge_end(error, lambda: Cancelled.ENDED).meaning is Meaning.PROPAGATE:
            raise error
        log_incident(str(self), error)
        self._scope.peer.transport.failed(error)

    def _remove(self) -> None:
        transport = self._scope.peer.transport
        if transport.has_exceeded_size:
            limit = limit_text("max_size", self._setup.limits.max_size)
            logger.info("%s sent too large a message: closed (%s)", transport.socket.id, limit)
        self._deadlines.stop()
        self._registry.gone(self)
