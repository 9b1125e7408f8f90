"""One peer: its handshake, its scope, its record, and its messages in order."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from dishka import AsyncContainer, Scope
from dishka.exceptions import ExitError
from websockets import CloseCode
from websockets.http11 import Request

from websuckets.di.lock import lock_factory
from websuckets.di.work import Work, Works
from websuckets.dispatcher import Dispatcher, Peer
from websuckets.exc import ClientError, HandshakeRefused, alone
from websuckets.hooks import Hook, Hooks
from websuckets.incidents import log_incident
from websuckets.limits import Limits
from websuckets.session import Session, User, as_current, connected, connecting, not_connecting
from websuckets.socket import MAX_REASON, Socket, Wire
from websuckets.streams import RunningStreams
from websuckets.tasks import Background, TaskSource

__all__ = ["Connection", "Setup"]

logger: logging.Logger = logging.getLogger("websuckets")

RESTART: Final = (CloseCode.SERVICE_RESTART, "service restart")
"""How a stopping server closes."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the connections of a running app share."""

    container: AsyncContainer
    """The APP scope."""
    connection_types: tuple[type, ...]
    dispatcher: Dispatcher
    has_streams: bool
    hooks: Hooks
    session: Session
    limits: Limits
    works: Works
    background: Background


class Connection:
    """One client from its handshake until it is gone; serves its messages one after the other.

    ``gone`` is told when it is.
    """

    def __init__(self, wire: Wire, setup: Setup, gone: Callable[["Connection"], None]) -> None:
        self._setup = setup
        self._gone = gone
        self._user = User(wire.socket)
        self._tasks = TaskSource(
            f"connection {wire.socket.id}", self._means_that_it_is_closed, setup.background
        )
        self._streams = RunningStreams(
            setup.dispatcher, setup.background, setup.works, setup.limits.streams
        )
        context = {
            Socket: wire.socket,
            **dict.fromkeys(setup.connection_types, wire.socket),
            Request: wire.socket.request,
            User: self._user,
            TaskSource: self._tasks,
        }
        # Messages that come one after the other do without a lock; streams run beside them.
        lock = lock_factory if setup.has_streams else None
        container = setup.container(context, lock, Scope.SESSION)
        self._life = anyio.CancelScope()
        self._peer = Peer(wire, container, self._streams, setup.works.begin(self._life))
        self._streams.peer = self._peer
        self._is_connected = False
        self._idle = False
        self._draining = False
        self._is_over = False
        self._farewell: tuple[int, str] | None = None  # that has still to be said
        self._reply: str | None = None  # that has still to be sent

    async def opening(self) -> HandshakeRefused | None:
        """Ask the ``on_handshake`` hooks, one after the other, until one refuses."""
        connecting(self._user, self._setup.session)
        with as_current(self._setup.session):
            for hook in self._setup.hooks.handshake:
                if self._draining:
                    break
                with self._apart() as work:
                    try:
                        await hook.run(self._peer.container, work)
                    except BaseException as error:
                        return self._refusal(hook, error)
        return HandshakeRefused(503) if self._draining else None

    async def discard(self) -> None:
        """Give up a connection that was not opened; its scope is finalised."""
        try:
            with as_current(self._setup.session), self._apart():
                try:
                    await self._tasks.end()
                finally:
                    await self._close_scope(None)
        finally:
            not_connecting(self._user, self._setup.session)
            self._gone(self)

    async def serve(self) -> None:
        """Answer messages until either side closes; then finalise what the connection held."""
        peer, setup = self._peer, self._setup
        self._life = anyio.CancelScope(shield=True)
        try:
            with as_current(setup.session), ExitStack() as record, self._life:
                record.enter_context(connected(self._user, setup.session))
                while not self._is_over:
                    with setup.works.begin(self._life) as peer.work:
                        await self._live(record)
        finally:
            self._gone(self)

    def leave(self) -> None:
        """Close with 1012 as soon as no command runs."""
        self._draining = True

    async def drain(self) -> None:
        """Let the running command finish and its reply go out, then close with 1012."""
        self._draining = True
        if self._idle:
            await self._close(*RESTART)

    def cancel(self) -> None:
        """Cancel the running command; its scope is finalised, then the connection aborted."""
        self._life.cancel()

    async def _live(self, record: ExitStack) -> None:
        """Until the connection is over, or until a scope was not closed in time."""
        ended_by: BaseException | None = None
        try:
            await self._answer_messages()
        except BaseException as error:
            ended_by = error
        if ended_by is not None or not self._peer.work.is_late:
            await self._end(record, ended_by)

    async def _answer_messages(self) -> None:
        peer, wire = self._peer, self._peer.wire
        try:
            await self._connect()
            await self._send_reply()
            while not self._has_to_leave():
                self._idle = True
                frame = await wire.receive()
                self._idle = False
                if self._draining:  # since we began to wait
                    break
                self._reply = await self._setup.dispatcher.answer(frame, peer)
                await self._send_reply()
            await self._say_goodbye()
        except wire.closed_errors:
            logger.debug("%s is gone", wire.socket.id)
        except Exception as error:
            log_incident(f"connection {wire.socket.id}", error)
            wire.failed(error)
            await wire.socket.close(CloseCode.INTERNAL_ERROR)

    async def _connect(self) -> None:
        """Call the ``on_connect`` hooks, until one refuses."""
        if self._is_connected or self._farewell is not None:  # in a work that was late
            return
        for hook in self._setup.hooks.connect:
            try:
                await hook.run(self._peer.container, self._peer.work)
            except BaseException as error:
                self._farewell = self._refused_by(hook, error)
                return
        self._is_connected = True

    def _refused_by(self, hook: Hook, error: BaseException) -> tuple[int, str]:
        """The close code and reason; raises what has to end the connection at once."""
        _raise_if_it_ends(error, self._peer.work)
        cause = alone(error)
        if self._means_that_it_is_closed(cause):
            raise cause
        if isinstance(cause, ClientError):
            logger.info("%s refused %s", hook.name, self._peer.wire.socket.id)
            return CloseCode.POLICY_VIOLATION, _shortened(str(cause))
        return CloseCode.INTERNAL_ERROR, f"incident {log_incident(hook.name, error)}"

    def _refusal(self, hook: Hook, error: BaseException) -> HandshakeRefused:
        """The HTTP response; raises what ends the handshake without one."""
        _raise_if_it_ends(error, self._peer.work)
        cause = alone(error)
        if isinstance(cause, HandshakeRefused):
            refusal = cause
        elif isinstance(cause, ClientError):
            refusal = HandshakeRefused(403, str(cause))
        else:
            return HandshakeRefused(500, f"incident {log_incident(hook.name, error)}")
        logger.info("%s refused %s: HTTP %d", hook.name, self._peer.wire.socket.id, refusal.status)
        return refusal

    def _has_to_leave(self) -> bool:
        return self._draining or self._farewell is not None or self._peer.work.is_late

    async def _send_reply(self) -> None:
        """Not in a work that is late: the next one does it."""
        if self._reply is not None and not self._peer.work.is_late:
            reply, self._reply = self._reply, None
            await self._peer.wire.socket.send(reply)

    async def _say_goodbye(self) -> None:
        if not self._peer.work.is_late:
            await self._close(*(self._farewell or RESTART))

    async def _close(self, code: int, reason: str) -> None:
        self._streams.cancel_all()
        await self._streams.wait()
        # The client's answer to the close stands behind the commands that it has sent.
        self._setup.background.start_soon(self._peer.wire.discard)
        await self._peer.wire.socket.close(code, reason)

    @property
    def _is_closed(self) -> bool:
        return self._peer.wire.socket.close_code is not None

    def _means_that_it_is_closed(self, error: BaseException) -> bool:
        return isinstance(alone(error), self._peer.wire.closed_errors) and self._is_closed

    async def _end(self, record: ExitStack, ended_by: BaseException | None) -> None:
        """Finalise what the connection held. Each step is made, whatever becomes of the others."""
        self._is_over = True
        async with AsyncExitStack() as steps:
            steps.push_async_callback(self._close_scope, ended_by)
            steps.callback(record.close)
            steps.push_async_callback(self._tasks.end)
            if self._is_connected:
                for hook in reversed(self._setup.hooks.disconnect):
                    steps.push_async_callback(self._disconnect, hook)
            steps.push_async_callback(self._streams.end)
            if not self._is_closed:
                with anyio.CancelScope(shield=True):
                    await self._peer.wire.abort()
        if ended_by is not None:
            self._pass_on(ended_by)

    def _pass_on(self, error: BaseException) -> None:
        """Raise what concerns others, too; whatever else a handler raised, ended its connection."""
        others = (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit, GeneratorExit)
        if BaseExceptionGroup("", [error]).split(others)[0] is not None:
            raise error
        log_incident(f"connection {self._peer.wire.socket.id}", error)
        self._peer.wire.failed(error)

    async def _disconnect(self, hook: Hook) -> None:
        timeout = self._setup.limits.finalize_timeout
        with anyio.move_on_after(timeout, shield=True) as life:
            with self._setup.works.begin(life) as work:
                try:
                    await hook.run(self._peer.container, work)
                except BaseException as error:
                    _log_failure(hook, error, work)
        if life.cancelled_caught:
            log_incident(hook.name, TimeoutError(f"it took more than {timeout} seconds"))

    async def _close_scope(self, ended_by: BaseException | None) -> None:
        """In the current work, because objects of the scope may have entered scopes in it."""
        peer = self._peer
        with ExitStack() as stack:
            if peer.work.is_late:
                peer.work = stack.enter_context(self._setup.works.begin(self._life))
            try:
                await peer.work.close(peer.container, ended_by)
            except ExitError as failures:
                log_incident(f"finalisers of connection {peer.wire.socket.id}", failures)
            if peer.work.lateness is not None:
                log_incident(f"finalisers of connection {peer.wire.socket.id}", peer.work.lateness)

    @contextmanager
    def _apart(self) -> Iterator[Work]:
        """A work of its own, before the connection is served."""
        self._life = anyio.CancelScope()
        with self._life, self._setup.works.begin(self._life) as self._peer.work:
            yield self._peer.work


def _log_failure(hook: Hook, error: BaseException, work: Work) -> None:
    """Raises what has to end the connection at once."""
    _raise_if_it_ends(error, work)
    log_incident(hook.name, error)


def _raise_if_it_ends(error: BaseException, work: Work) -> None:
    """What cancels a hook, or ends the program; anything else is a hook's failure."""
    cancelled = anyio.get_cancelled_exc_class()
    group = BaseExceptionGroup("", [error])  # whether it is one or not
    if group.split((KeyboardInterrupt, SystemExit))[0] is not None:
        raise error
    if group.split((cancelled, GeneratorExit))[1] is None and work.ends_with(error):
        raise error


def _shortened(reason: str) -> str:
    """As much of it as a close frame holds."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
