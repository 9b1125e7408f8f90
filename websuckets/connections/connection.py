"""One connection: its handshake, its scope, its user, and its messages in their order."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from time import time
from typing import Any, Final

import anyio
from websockets import CloseCode
from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request

from websuckets.commands.concurrent import ConcurrentCommands
from websuckets.commands.dispatcher import NO_COMMAND, Dispatcher, Peer, ReceivedCommand
from websuckets.commands.hooks import Hook, Hooks
from websuckets.connections.abuse import AbuseCounters
from websuckets.connections.admission import Admission
from websuckets.di.lock import lock_factory
from websuckets.exc import ClientError, Expired, HandshakeRefused, NotAuthorized, alone
from websuckets.limits import Limits
from websuckets.middleware import Outcome
from websuckets.protocol.close_codes import EXPIRED, NOT_VERIFIED, RESTART, CloseReason
from websuckets.protocol.messages import Cancel, Control, Ping, encode_pong
from websuckets.protocol.transport import TransportConnection
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.contexts import in_context
from websuckets.runtime.failures import ENDS_THE_PROGRAM
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope, RequestScopes
from websuckets.runtime.scopes import OpenScope
from websuckets.runtime.tasks import Background, TaskSource
from websuckets.session import (
    Session,
    User,
    connected,
    connecting,
    context_of,
    disconnected,
    not_connecting,
)
from websuckets.socket import MAX_REASON, Socket

__all__ = ["Connection", "Setup"]

logger: logging.Logger = logging.getLogger("websuckets")

FAR: Final = 1e12
"""Time that never comes, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Objects and settings that the connections of a running app share."""

    scope: OpenScope
    """The APP scope."""
    connection_types: tuple[type, ...]
    dispatcher: Dispatcher
    has_streams: bool
    hooks: Hooks
    admission: Admission
    session: Session
    limits: Limits
    clock: Clock
    time_to_verify: Timeout
    request_scopes: RequestScopes
    background: Background


class Connection:
    """A connection that answers the messages of one client, from its handshake until it is gone.

    Commands that are not streams are answered one after the other if `Limits.concurrency` is 1.
    ``refused``, if there is one, is the answer to the handshake; ``gone`` is called when the
    connection is gone.
    """

    __slots__ = (
        "_abuse",
        "_close_reason",
        "_concurrent",
        "_gone",
        "_handling_since",
        "_idle",
        "_is_cancelled",
        "_is_concurrent",
        "_is_connected",
        "_is_open",
        "_is_over",
        "_life",
        "_peer",
        "_refused",
        "_reply",
        "_revocations",
        "_setup",
        "_tasks",
        "_timer",
        "_user",
        "_verify_by",
        "address",
    )

    def __init__(
        self,
        transport: TransportConnection,
        setup: Setup,
        refused: HandshakeRefused | None,
        gone: Callable[["Connection"], None],
    ) -> None:
        self._setup = setup
        self._refused = refused
        self._gone = gone
        self.address: Any = transport.socket.remote_address
        """Address of the client."""
        self._user = User(transport.socket, self)
        self._tasks = TaskSource(self, self._means_that_it_is_closed, setup.background)
        self._abuse = AbuseCounters(setup.limits)
        context = {
            Socket: transport.socket,
            **dict.fromkeys(setup.connection_types, transport.socket),
            Request: transport.socket.request,
            User: self._user,
            TaskSource: self._tasks,
        }
        self._revocations = setup.session._revocations
        self._handling_since = self._revocations.count
        self._is_concurrent = setup.limits.concurrency != 1
        some_run_beside = setup.has_streams or self._is_concurrent
        # Messages that are answered one after the other need no lock.
        lock = lock_factory if some_run_beside else None
        scope = setup.scope.session(context, lock, context_of(setup.session))
        self._life = anyio.CancelScope()
        self._peer = Peer(transport, scope, setup.request_scopes.begin(self._life))
        self._concurrent = self._concurrent_commands(self._peer) if some_run_beside else None
        self._is_open = False
        self._is_connected = False
        self._idle = False
        self._is_over = False
        self._is_cancelled = False
        self._close_reason: CloseReason | None = None
        """Close reason with which the connection is closed as soon as no command runs."""
        self._reply: str | None = None  # reply that is still to be sent
        self._timer = setup.clock.timer(self.check)
        self._verify_by = setup.time_to_verify.due()
        self._timer.by(self._verify_by, setup.time_to_verify.step)

    def _concurrent_commands(self, peer: Peer) -> ConcurrentCommands:
        setup = self._setup
        return ConcurrentCommands(
            *(peer, setup.dispatcher, setup.background, setup.request_scopes, setup.limits),
            self._revocations,
            self._answered,
        )

    def __str__(self) -> str:
        return f"connection {self._peer.transport.socket.id}"

    async def opening(self) -> HandshakeRefused | None:
        """Ask the ``on_handshake`` hooks, one after the other, until one refuses."""
        if self._refused is not None:
            return self._refused
        connecting(self._user, self._setup.session)
        scope = self._peer.scope
        for hook in self._setup.hooks.handshake:
            if self._close_reason is not None:
                break
            with self._own_request_scope() as request_scope:
                try:
                    await scope.run(hook.run(scope, request_scope))
                except BaseException as error:
                    return self._refusal(hook, error)
        return None if self._close_reason is None else HandshakeRefused(503)

    async def not_opened(self) -> None:
        """Finalise the scope of a connection that was not opened, and remove the connection."""
        try:
            with self._own_request_scope():
                try:
                    await self._tasks.stop()
                finally:
                    await self._close_scope(None)
        finally:
            not_connecting(self._user, self._setup.session)
            self._remove()

    async def serve(self) -> None:
        """Answer messages until either side closes; then finalise what the connection held."""
        self._is_open = True
        try:
            connected(self._user, self._setup.session)
            while not self._is_over:
                await self._serve_in_scope()
        finally:
            disconnected(self._user)
            self._remove()

    def _remove(self) -> None:
        self._timer.stop()
        self._gone(self)

    def disconnected(self) -> None:
        """Cancel what runs for this client alone, which has left or whose connection is closed."""
        if self._peer.request_scope.ends_on_disconnect:
            self._life.cancel()
        if self._concurrent is not None:
            self._concurrent.disconnected()

    async def drain(self) -> None:
        """Let running commands finish and their replies go out, then close with 1012."""
        await self._close_when_idle(RESTART)

    @property
    def handling_since(self) -> int | None:
        """Number of the last revocation from before the connection began what it handles now;
        ``None`` while the connection handles nothing."""
        return None if self._idle else self._handling_since

    def verification_ended(self) -> None:
        """End what runs for the user as which the client is no longer verified."""
        if self._concurrent is not None:
            self._concurrent.verification_ended()

    def cancel(self) -> None:
        """Cancel running commands; their scopes are finalised, then the connection is aborted."""
        self._is_cancelled = True
        self._life.cancel()
        if self._concurrent is not None:
            self._concurrent.cancel_all()
        if self._is_open:  # commands may wait for the client to read
            self.abort()

    def abort(self) -> None:
        """Abort the connection, whatever its commands do."""
        self._setup.background.start_soon(self._peer.transport.abort)

    def check(self) -> None:
        """Close the connection if the client may not stay; else set the timer of the next check."""
        if self._close_reason is not None:
            return
        if self._user.id is not None:
            self._verify_by = math.inf
        close_reason = self._time_is_over()
        if close_reason is None:
            self._check_later()
        else:
            self._setup.background.start_soon(self._close_when_idle, close_reason)

    def _check_later(self) -> None:
        user, clock = self._user, self._setup.clock
        if user.expires_at is not None:
            left = min(user.expires_at, FAR) - time()
            self._timer.start(clock.timeout(max(left, 0)))
        if user.id is None:
            # If the client is overdue already, a command runs that may verify the client.
            step = self._setup.time_to_verify.step
            self._timer.by(max(self._verify_by, clock.now + step), step)

    def expiry_was_set(self) -> None:
        """Set the timer for a user who is verified for another time, or no longer from now on."""
        if self._user.id is not None:
            self._verify_by = self._setup.time_to_verify.due()
            self._timer.by(self._verify_by, self._setup.time_to_verify.step)
        self._check_later()

    def _time_is_over(self) -> CloseReason | None:
        if self._user.has_expired:
            self._user.id = None
            return EXPIRED
        return NOT_VERIFIED if self._idle and self._is_overdue else None

    @property
    def _is_overdue(self) -> bool:
        """True if the client should have been verified by now, and is not."""
        return self._verify_by <= self._setup.clock.now and self._user.id is None

    async def _close_when_idle(self, close_reason: CloseReason) -> None:
        """Close the connection as soon as no command runs."""
        self._close_reason = self._close_reason or close_reason
        if self._idle:
            await self._close(*self._close_reason)

    async def _serve_in_scope(self) -> None:
        """Serve in one request scope until the connection is over or something took too long."""
        ended_by: BaseException | None = None
        with anyio.CancelScope(shield=True) as self._life:
            with self._setup.request_scopes.begin(self._life) as self._peer.request_scope:
                try:
                    if not self._is_cancelled:
                        await self._answer_messages()
                except BaseException as error:
                    ended_by = error
                if (
                    ended_by is not None
                    or self._is_cancelled
                    or not self._peer.request_scope.is_spent
                ):
                    await self._finalise(ended_by)

    async def _answer_messages(self) -> None:
        transport = self._peer.transport
        try:
            await self._connect()
            await self._send_reply()
            while not self._must_close():
                self._idle = True
                frame = await transport.receive()
                self._idle = False
                if self._close_reason is not None:  # set while the connection waited
                    break
                await self._answer(frame)
            await self._send_close()
        except transport.closed_errors:
            logger.debug("%s is gone", transport.socket.id)
        except Exception as error:
            log_incident(str(self), error)
            transport.failed(error)
            await transport.socket.close(CloseCode.INTERNAL_ERROR)
        finally:
            self._idle = False

    async def _answer(self, frame: str | bytes) -> None:
        """Answer one message, or start the command that answers the message."""
        dispatcher, peer, abuse = self._setup.dispatcher, self._peer, self._abuse
        self._handling_since = self._revocations.count
        received = dispatcher.read(frame)
        retry_after = abuse.retry_after()
        outcome: Outcome | None
        if retry_after > 0:
            outcome = await self._refuse_for_now(received, retry_after)
        elif isinstance(received, Control):
            outcome = self._control(received)
        elif (route := received.route) is not None and (self._is_concurrent or route.is_stream):
            outcome = await self._start(received)
        else:
            answering = dispatcher.answer(received, peer, peer.request_scope)
            # Does what `OpenScope.run_apart` does, inlined: every message takes this path.
            outcome = await in_context(peer.scope.context.copy().run, answering)
            if route is None or outcome.exception is not None or not abuse.is_spotless:
                self._close_reason = self._close_reason or self._close_reason_for(received, outcome)
        if self._verify_by <= self._setup.clock.now and self._is_overdue:
            self._close_reason = (
                self._close_reason or NOT_VERIFIED
            )  # the command that ran might have verified the client
        if outcome is None or outcome.frame is None:
            return
        if peer.request_scope.is_spent:  # the next request scope sends the reply
            self._reply = outcome.frame
        else:
            await peer.transport.reply(outcome.frame)

    def _control(self, message: Control) -> Outcome | None:
        if isinstance(message, Ping):
            return Outcome(encode_pong(message))
        if isinstance(message, Cancel) and self._concurrent is not None:
            self._concurrent.cancel(message.id)
        return None

    async def _start(self, received: ReceivedCommand) -> Outcome | None:
        """Start a command beside the reading of messages; return an error if that is refused."""
        assert self._concurrent is not None
        error = await self._concurrent.start(received)
        if error is None:
            return None
        return await self._refuse(ReceivedCommand(received.message, error=error))

    async def _refuse_for_now(
        self, received: ReceivedCommand | Control, retry_after: float
    ) -> Outcome:
        if not self._abuse.was_over_rate:
            limits = self._setup.limits
            logger.warning(
                "%s sends more than Limits(rate=%s, burst=%s) allows",
                self._peer.transport.socket.id,
                limits.rate,
                limits.burst,
            )
        self._close_reason = self._close_reason or self._abuse.over_rate()
        message = NO_COMMAND if isinstance(received, Control) else received.message
        details = {"retry_after": math.ceil(retry_after * 1000) / 1000}
        return await self._refuse(ReceivedCommand(message, error="rate limited", details=details))

    async def _refuse(self, received: ReceivedCommand) -> Outcome:
        """Return the outcome of a message that is answered with its error, without being run."""
        peer = self._peer
        return await peer.scope.run_apart(
            self._setup.dispatcher.answer(received, peer, peer.request_scope)
        )

    async def _answered(self, received: ReceivedCommand, outcome: Outcome) -> None:
        """Send the outcome of a command that ran beside the reading of messages."""
        close_reason = self._close_reason_for(received, outcome)
        if outcome.frame is not None:
            await self._peer.transport.reply(outcome.frame)
        if close_reason is not None:
            self._setup.background.start_soon(self._close_when_idle, close_reason)

    def _close_reason_for(self, received: ReceivedCommand, outcome: Outcome) -> CloseReason | None:
        """Count the outcome in the abuse counters; return the reason to close, if any."""
        if received.route is None:
            return self._abuse.unknown()
        self._abuse.known()
        if received.route.command.injection.guards:
            if not isinstance(outcome.exception, NotAuthorized):
                self._abuse.authorized()
            elif not isinstance(outcome.exception, Expired):
                return self._abuse.refused()
        return None

    async def _connect(self) -> None:
        """Call the ``on_connect`` hooks, until one refuses."""
        if self._is_connected or self._close_reason is not None:  # in an earlier request scope
            return
        scope = self._peer.scope
        for hook in self._setup.hooks.connect:
            try:
                await scope.run(hook.run(scope, self._peer.request_scope))
            except BaseException as error:
                self._close_reason = self._refused_by(hook, error)
                return
        self._is_connected = True

    def _refused_by(self, hook: Hook, error: BaseException) -> tuple[int, str]:
        """Return the close code and reason; raise what has to end the connection at once."""
        if self._peer.request_scope.ends_with(error):
            raise error
        cause = alone(error)
        if self._means_that_it_is_closed(cause):
            raise cause
        if isinstance(cause, ClientError):
            logger.info("%s refused %s", hook.name, self._peer.transport.socket.id)
            return CloseCode.POLICY_VIOLATION, _shortened(str(cause))
        return CloseCode.INTERNAL_ERROR, f"incident {log_incident(hook.name, error)}"

    def _refusal(self, hook: Hook, error: BaseException) -> HandshakeRefused:
        """Return the HTTP response; raise what ends the handshake without a response."""
        if self._peer.request_scope.ends_with(error):
            raise error
        cause = alone(error)
        if isinstance(cause, HandshakeRefused):
            refusal = cause
        elif isinstance(cause, ClientError):
            refusal = HandshakeRefused(403, str(cause))
        elif isinstance(cause, MultipleValuesError):  # the hook asked for one, the client sent two
            refusal = HandshakeRefused(400, f"the header {cause} came more than once")
        else:
            return HandshakeRefused(500, f"incident {log_incident(hook.name, error)}")
        logger.info(
            "%s refused %s: HTTP %d", hook.name, self._peer.transport.socket.id, refusal.status
        )
        return refusal

    def _must_close(self) -> bool:
        return self._close_reason is not None or self._peer.request_scope.is_spent

    async def _send_reply(self) -> None:
        """Send the reply that an earlier request scope, which was spent, has left."""
        if self._reply is not None and not self._peer.request_scope.is_spent:
            reply, self._reply = self._reply, None
            await self._peer.transport.reply(reply)

    async def _send_close(self) -> None:
        if self._close_reason is not None and not self._peer.request_scope.is_spent:
            await self._close(*self._close_reason)

    async def _close(self, code: int, reason: str) -> None:
        if (code, reason) != RESTART:  # a reason is not logged: it may be the program's text
            logger.info("closing %s with %d", self._peer.transport.socket.id, code)
        if self._concurrent is not None:
            await self._concurrent.drain()
        await self._peer.transport.socket.close(code, reason)

    @property
    def _is_closed(self) -> bool:
        return self._peer.transport.socket.close_code is not None

    def _means_that_it_is_closed(self, error: BaseException) -> bool:
        return isinstance(alone(error), self._peer.transport.closed_errors) and self._is_closed

    async def _finalise(self, ended_by: BaseException | None) -> None:
        """Finalise what the connection held; every step is made, even if others fail."""
        self._is_over = True
        async with AsyncExitStack() as steps:
            steps.push_async_callback(self._close_scope, ended_by)
            steps.callback(disconnected, self._user)
            steps.push_async_callback(self._tasks.stop)
            if self._is_connected:
                for hook in reversed(self._setup.hooks.disconnect):
                    steps.push_async_callback(self._disconnect, hook)
            if self._concurrent is not None:
                at_once = ended_by is not None or self._is_cancelled
                steps.push_async_callback(self._concurrent.stop, at_once=at_once)
            if not self._is_closed:
                with anyio.CancelScope(shield=True):
                    await self._peer.transport.abort()
        if ended_by is not None:
            self._pass_on(ended_by)

    def _pass_on(self, error: BaseException) -> None:
        """Raise an error that concerns others, too; log any other, which ended this connection."""
        others = (anyio.get_cancelled_exc_class(), *ENDS_THE_PROGRAM)
        if BaseExceptionGroup("", [error]).split(others)[0] is not None:
            raise error
        log_incident(str(self), error)
        self._peer.transport.failed(error)

    async def _disconnect(self, hook: Hook) -> None:
        timeout, scope = self._setup.limits.finalize_timeout, self._peer.scope
        with anyio.move_on_after(timeout, shield=True) as life:
            with self._setup.request_scopes.begin(life) as request_scope:
                try:
                    await scope.run_apart(hook.run(scope, request_scope))
                except BaseException as error:
                    _log_failure(hook, error, request_scope)
        if life.cancelled_caught:
            log_incident(hook.name, TimeoutError(f"it took more than {timeout} seconds"))

    async def _close_scope(self, ended_by: BaseException | None) -> None:
        """Close the scope in the current request scope, where objects may have entered scopes."""
        peer = self._peer
        with ExitStack() as stack:
            if peer.request_scope.is_spent:
                peer.request_scope = stack.enter_context(
                    self._setup.request_scopes.begin(self._life)
                )
            try:
                await peer.request_scope.close_scope(peer.scope, ended_by)
            except BaseException as failures:
                if peer.request_scope.ends_with(failures):
                    raise
                log_incident(f"finalisers of {self}", failures)
            if peer.request_scope.lateness is not None:
                log_incident(f"finalisers of {self}", peer.request_scope.lateness)

    @contextmanager
    def _own_request_scope(self) -> Iterator[RequestScope]:
        """Open a request scope for one step before the connection is served."""
        self._life = anyio.CancelScope()
        with self._life, self._setup.request_scopes.begin(self._life) as self._peer.request_scope:
            yield self._peer.request_scope


def _log_failure(hook: Hook, error: BaseException, request_scope: RequestScope) -> None:
    """Log the error of a hook; raise what has to end the connection at once."""
    if request_scope.ends_with(error):
        raise error
    log_incident(hook.name, error)


def _shortened(reason: str) -> str:
    """Return as much of the reason as a close frame holds."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
