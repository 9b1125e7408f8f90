"""One peer: its handshake, its scope, its record, and its messages in order."""

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

from websuckets.commands.concurrent import RunningCalls
from websuckets.commands.dispatcher import NO_COMMAND, Call, Dispatcher, Peer
from websuckets.commands.hooks import Hook, Hooks
from websuckets.connections.abuse import Conduct
from websuckets.connections.admission import Entrance
from websuckets.di.lock import lock_factory
from websuckets.exc import ClientError, Expired, HandshakeRefused, NotAuthorized, alone
from websuckets.limits import Limits
from websuckets.middleware import Outcome
from websuckets.protocol.close_codes import EXPIRED, NOT_VERIFIED, RESTART, Farewell
from websuckets.protocol.messages import Cancel, Control, Ping, encode_pong
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.contexts import in_context
from websuckets.runtime.failures import ENDS_THE_PROGRAM
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import Work, Works
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
from websuckets.socket import MAX_REASON, Socket, Wire

__all__ = ["Connection", "Setup"]

logger: logging.Logger = logging.getLogger("websuckets")

FAR: Final = 1e12
"""Seconds since the epoch: a time that does not come."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the connections of a running app share."""

    scope: OpenScope
    """The APP scope."""
    connection_types: tuple[type, ...]
    dispatcher: Dispatcher
    has_streams: bool
    hooks: Hooks
    entrance: Entrance
    session: Session
    limits: Limits
    clock: Clock
    time_to_verify: Timeout
    works: Works
    background: Background


class Connection:
    """One client from its handshake until it is gone; answers its messages.

    One after the other, if `Limits.concurrency` says so. ``refused`` is how to answer its
    handshake in any case; ``gone`` is told when it is.
    """

    __slots__ = (
        "_calls",
        "_conduct",
        "_farewell",
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
        wire: Wire,
        setup: Setup,
        refused: HandshakeRefused | None,
        gone: Callable[["Connection"], None],
    ) -> None:
        self._setup = setup
        self._refused = refused
        self._gone = gone
        self.address: Any = wire.socket.remote_address
        """The client's."""
        self._user = User(wire.socket, self)
        self._tasks = TaskSource(self, self._means_that_it_is_closed, setup.background)
        self._conduct = Conduct(setup.limits)
        context = {
            Socket: wire.socket,
            **dict.fromkeys(setup.connection_types, wire.socket),
            Request: wire.socket.request,
            User: self._user,
            TaskSource: self._tasks,
        }
        self._revocations = setup.session._revocations
        self._handling_since = self._revocations.count
        self._is_concurrent = setup.limits.concurrency != 1
        some_run_beside = setup.has_streams or self._is_concurrent
        # Messages that come one after the other do without a lock.
        lock = lock_factory if some_run_beside else None
        scope = setup.scope.session(context, lock, context_of(setup.session))
        self._life = anyio.CancelScope()
        self._peer = Peer(wire, scope, setup.works.begin(self._life))
        self._calls = self._calls_of(self._peer) if some_run_beside else None
        self._is_open = False
        self._is_connected = False
        self._idle = False
        self._is_over = False
        self._is_cancelled = False
        self._farewell: Farewell | None = None
        """How it has to end, as soon as no command runs."""
        self._reply: str | None = None  # that has still to be sent
        self._timer = setup.clock.timer(self.look)
        self._verify_by = setup.time_to_verify.due()
        self._timer.by(self._verify_by, setup.time_to_verify.step)

    def _calls_of(self, peer: Peer) -> RunningCalls:
        setup = self._setup
        return RunningCalls(
            *(peer, setup.dispatcher, setup.background, setup.works, setup.limits),
            self._revocations,
            self._answered,
        )

    def __str__(self) -> str:
        return f"connection {self._peer.wire.socket.id}"

    async def opening(self) -> HandshakeRefused | None:
        """Ask the ``on_handshake`` hooks, one after the other, until one refuses."""
        if self._refused is not None:
            return self._refused
        connecting(self._user, self._setup.session)
        scope = self._peer.scope
        for hook in self._setup.hooks.handshake:
            if self._farewell is not None:
                break
            with self._apart() as work:
                try:
                    await scope.run(hook.run(scope, work))
                except BaseException as error:
                    return self._refusal(hook, error)
        return None if self._farewell is None else HandshakeRefused(503)

    async def discard(self) -> None:
        """Give up a connection that was not opened; its scope is finalised."""
        try:
            with self._apart():
                try:
                    await self._tasks.end()
                finally:
                    await self._close_scope(None)
        finally:
            not_connecting(self._user, self._setup.session)
            self._leave()

    async def serve(self) -> None:
        """Answer messages until either side closes; then finalise what the connection held."""
        self._is_open = True
        try:
            connected(self._user, self._setup.session)
            while not self._is_over:
                await self._live()
        finally:
            disconnected(self._user)
            self._leave()

    def _leave(self) -> None:
        self._timer.stop()
        self._gone(self)

    def disconnected(self) -> None:
        """End what is for this client alone: the connection is closed, or the client has left."""
        if self._peer.work.ends_on_disconnect:
            self._life.cancel()
        if self._calls is not None:
            self._calls.disconnected()

    async def drain(self) -> None:
        """Let running commands finish and their replies go out, then close with 1012."""
        await self._part(RESTART)

    @property
    def handling_since(self) -> int | None:
        """The number of the last revocation from before what is handled now, if anything is."""
        return None if self._idle else self._handling_since

    def verification_ended(self) -> None:
        """The user is not verified any more as it was: end what runs for that user."""
        if self._calls is not None:
            self._calls.verification_ended()

    def cancel(self) -> None:
        """Cancel running commands; their scopes are finalised, then the connection aborted."""
        self._is_cancelled = True
        self._life.cancel()
        if self._calls is not None:
            self._calls.cancel_all()
        if self._is_open:  # they may wait for the client to read
            self.abandon()

    def abandon(self) -> None:
        """Abort the connection, whatever its commands do."""
        self._setup.background.start_soon(self._peer.wire.abort)

    def look(self) -> None:
        """Part from the client if it may not stay; else look again when that may have changed."""
        if self._farewell is not None:
            return
        if self._user.id is not None:
            self._verify_by = math.inf
        farewell = self._time_is_over()
        if farewell is None:
            self._look_later()
        else:
            self._setup.background.start_soon(self._part, farewell)

    def _look_later(self) -> None:
        user, clock = self._user, self._setup.clock
        if user.expires_at is not None:
            left = min(user.expires_at, FAR) - time()
            self._timer.start(clock.timeout(max(left, 0)))
        if user.id is None:
            # If it is overdue already, something runs that may verify it.
            step = self._setup.time_to_verify.step
            self._timer.by(max(self._verify_by, clock.now + step), step)

    def expiry_was_set(self) -> None:
        """The user will be verified for another time; or will not be any more, from now on."""
        if self._user.id is not None:
            self._verify_by = self._setup.time_to_verify.due()
            self._timer.by(self._verify_by, self._setup.time_to_verify.step)
        self._look_later()

    def _time_is_over(self) -> Farewell | None:
        if self._user.has_expired:
            self._user.id = None
            return EXPIRED
        return NOT_VERIFIED if self._idle and self._is_overdue else None

    @property
    def _is_overdue(self) -> bool:
        """Whether it should have been verified by now."""
        return self._verify_by <= self._setup.clock.now and self._user.id is None

    async def _part(self, farewell: Farewell) -> None:
        """Close as soon as no command runs."""
        self._farewell = self._farewell or farewell
        if self._idle:
            await self._close(*self._farewell)

    async def _live(self) -> None:
        """Until the connection is over, or until something has taken too long."""
        ended_by: BaseException | None = None
        with anyio.CancelScope(shield=True) as self._life:
            with self._setup.works.begin(self._life) as self._peer.work:
                try:
                    if not self._is_cancelled:
                        await self._answer_messages()
                except BaseException as error:
                    ended_by = error
                if ended_by is not None or self._is_cancelled or not self._peer.work.is_spent:
                    await self._end(ended_by)

    async def _answer_messages(self) -> None:
        wire = self._peer.wire
        try:
            await self._connect()
            await self._send_reply()
            while not self._has_to_leave():
                self._idle = True
                frame = await wire.receive()
                self._idle = False
                if self._farewell is not None:  # since we began to wait
                    break
                await self._answer(frame)
            await self._say_goodbye()
        except wire.closed_errors:
            logger.debug("%s is gone", wire.socket.id)
        except Exception as error:
            log_incident(str(self), error)
            wire.failed(error)
            await wire.socket.close(CloseCode.INTERNAL_ERROR)
        finally:
            self._idle = False

    async def _answer(self, frame: str | bytes) -> None:
        """Answer one message, or start what does."""
        dispatcher, peer, conduct = self._setup.dispatcher, self._peer, self._conduct
        self._handling_since = self._revocations.count
        call = dispatcher.read(frame)
        retry_after = conduct.retry_after()
        outcome: Outcome | None
        if retry_after > 0:
            outcome = await self._refuse_for_now(call, retry_after)
        elif isinstance(call, Control):
            outcome = self._control(call)
        elif (route := call.route) is not None and (self._is_concurrent or route.is_stream):
            outcome = await self._start(call)
        else:
            answering = dispatcher.answer(call, peer, peer.work)
            # As `OpenScope.run_apart`, in place: every message comes by here.
            outcome = await in_context(peer.scope.context.copy().run, answering)
            if route is None or outcome.exception is not None or not conduct.is_spotless:
                self._farewell = self._farewell or self._judged(call, outcome)
        if self._verify_by <= self._setup.clock.now and self._is_overdue:
            self._farewell = self._farewell or NOT_VERIFIED  # what ran might have verified it
        if outcome is None or outcome.frame is None:
            return
        if peer.work.is_spent:  # the next one sends it
            self._reply = outcome.frame
        else:
            await peer.wire.reply(outcome.frame)

    def _control(self, message: Control) -> Outcome | None:
        if isinstance(message, Ping):
            return Outcome(encode_pong(message))
        if isinstance(message, Cancel) and self._calls is not None:
            self._calls.cancel(message.id)
        return None

    async def _start(self, call: Call) -> Outcome | None:
        """Answer it beside the reading of messages, if that can be."""
        assert self._calls is not None
        error = await self._calls.start(call)
        if error is None:
            return None
        return await self._refuse(Call(call.message, error=error))

    async def _refuse_for_now(self, call: Call | Control, retry_after: float) -> Outcome:
        if not self._conduct.was_over_rate:
            limits = self._setup.limits
            logger.warning(
                "%s sends more than Limits(rate=%s, burst=%s) allows",
                self._peer.wire.socket.id,
                limits.rate,
                limits.burst,
            )
        self._farewell = self._farewell or self._conduct.over_rate()
        message = NO_COMMAND if isinstance(call, Control) else call.message
        details = {"retry_after": math.ceil(retry_after * 1000) / 1000}
        return await self._refuse(Call(message, error="rate limited", details=details))

    async def _refuse(self, call: Call) -> Outcome:
        """Answer with the error of a call that is not run."""
        peer = self._peer
        return await peer.scope.run_apart(self._setup.dispatcher.answer(call, peer, peer.work))

    async def _answered(self, call: Call, outcome: Outcome) -> None:
        """For what runs beside the reading of messages."""
        farewell = self._judged(call, outcome)
        if outcome.frame is not None:
            await self._peer.wire.reply_beside(outcome.frame)
        if farewell is not None:
            self._setup.background.start_soon(self._part, farewell)

    def _judged(self, call: Call, outcome: Outcome) -> Farewell | None:
        """How the client has to leave because of what it sent, if so."""
        if call.route is None:
            return self._conduct.unknown()
        self._conduct.known()
        if call.route.command.injection.guards:
            if not isinstance(outcome.exception, NotAuthorized):
                self._conduct.authorized()
            elif not isinstance(outcome.exception, Expired):
                return self._conduct.refused()
        return None

    async def _connect(self) -> None:
        """Call the ``on_connect`` hooks, until one refuses."""
        if self._is_connected or self._farewell is not None:  # in a work that was late
            return
        scope = self._peer.scope
        for hook in self._setup.hooks.connect:
            try:
                await scope.run(hook.run(scope, self._peer.work))
            except BaseException as error:
                self._farewell = self._refused_by(hook, error)
                return
        self._is_connected = True

    def _refused_by(self, hook: Hook, error: BaseException) -> tuple[int, str]:
        """The close code and reason; raises what has to end the connection at once."""
        if self._peer.work.ends_with(error):
            raise error
        cause = alone(error)
        if self._means_that_it_is_closed(cause):
            raise cause
        if isinstance(cause, ClientError):
            logger.info("%s refused %s", hook.name, self._peer.wire.socket.id)
            return CloseCode.POLICY_VIOLATION, _shortened(str(cause))
        return CloseCode.INTERNAL_ERROR, f"incident {log_incident(hook.name, error)}"

    def _refusal(self, hook: Hook, error: BaseException) -> HandshakeRefused:
        """The HTTP response; raises what ends the handshake without one."""
        if self._peer.work.ends_with(error):
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
        logger.info("%s refused %s: HTTP %d", hook.name, self._peer.wire.socket.id, refusal.status)
        return refusal

    def _has_to_leave(self) -> bool:
        return self._farewell is not None or self._peer.work.is_spent

    async def _send_reply(self) -> None:
        """Of a work that was spent."""
        if self._reply is not None and not self._peer.work.is_spent:
            reply, self._reply = self._reply, None
            await self._peer.wire.reply(reply)

    async def _say_goodbye(self) -> None:
        if self._farewell is not None and not self._peer.work.is_spent:
            await self._close(*self._farewell)

    async def _close(self, code: int, reason: str) -> None:
        if (code, reason) != RESTART:  # whose reason may be the program's own text
            logger.info("closing %s with %d", self._peer.wire.socket.id, code)
        if self._calls is not None:
            await self._calls.finish()
        await self._peer.wire.socket.close(code, reason)

    @property
    def _is_closed(self) -> bool:
        return self._peer.wire.socket.close_code is not None

    def _means_that_it_is_closed(self, error: BaseException) -> bool:
        return isinstance(alone(error), self._peer.wire.closed_errors) and self._is_closed

    async def _end(self, ended_by: BaseException | None) -> None:
        """Finalise what the connection held. Each step is made, whatever becomes of the others."""
        self._is_over = True
        async with AsyncExitStack() as steps:
            steps.push_async_callback(self._close_scope, ended_by)
            steps.callback(disconnected, self._user)
            steps.push_async_callback(self._tasks.end)
            if self._is_connected:
                for hook in reversed(self._setup.hooks.disconnect):
                    steps.push_async_callback(self._disconnect, hook)
            if self._calls is not None:
                at_once = ended_by is not None or self._is_cancelled
                steps.push_async_callback(self._calls.end, at_once=at_once)
            if not self._is_closed:
                with anyio.CancelScope(shield=True):
                    await self._peer.wire.abort()
        if ended_by is not None:
            self._pass_on(ended_by)

    def _pass_on(self, error: BaseException) -> None:
        """Raise what concerns others, too; whatever else a handler raised, ended its connection."""
        others = (anyio.get_cancelled_exc_class(), *ENDS_THE_PROGRAM)
        if BaseExceptionGroup("", [error]).split(others)[0] is not None:
            raise error
        log_incident(str(self), error)
        self._peer.wire.failed(error)

    async def _disconnect(self, hook: Hook) -> None:
        timeout, scope = self._setup.limits.finalize_timeout, self._peer.scope
        with anyio.move_on_after(timeout, shield=True) as life:
            with self._setup.works.begin(life) as work:
                try:
                    await scope.run_apart(hook.run(scope, work))
                except BaseException as error:
                    _log_failure(hook, error, work)
        if life.cancelled_caught:
            log_incident(hook.name, TimeoutError(f"it took more than {timeout} seconds"))

    async def _close_scope(self, ended_by: BaseException | None) -> None:
        """In the current work, because objects of the scope may have entered scopes in it."""
        peer = self._peer
        with ExitStack() as stack:
            if peer.work.is_spent:
                peer.work = stack.enter_context(self._setup.works.begin(self._life))
            try:
                await peer.work.close_scope(peer.scope, ended_by)
            except BaseException as failures:
                if peer.work.ends_with(failures):
                    raise
                log_incident(f"finalisers of {self}", failures)
            if peer.work.lateness is not None:
                log_incident(f"finalisers of {self}", peer.work.lateness)

    @contextmanager
    def _apart(self) -> Iterator[Work]:
        """A work of its own, before the connection is served."""
        self._life = anyio.CancelScope()
        with self._life, self._setup.works.begin(self._life) as self._peer.work:
            yield self._peer.work


def _log_failure(hook: Hook, error: BaseException, work: Work) -> None:
    """Raises what has to end the connection at once."""
    if work.ends_with(error):
        raise error
    log_incident(hook.name, error)


def _shortened(reason: str) -> str:
    """As much of it as a close frame holds."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
