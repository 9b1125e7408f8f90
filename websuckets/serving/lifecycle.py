"""Start and stop of an app, whichever transport serves its connections."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
from dishka import AsyncContainer

from websuckets.broker import Broker, MemoryBroker
from websuckets.channels import Channels
from websuckets.clock import SYSTEM_CLOCK, WallClock
from websuckets.commands.dispatcher import Dispatcher
from websuckets.connections.admission import Admission
from websuckets.connections.readiness import Readiness, ReadinessLog
from websuckets.connections.registry import Connections
from websuckets.connections.setup import HttpPages, Setup
from websuckets.di.context_managers import DOUBTFUL
from websuckets.di.graph import factories_of, scopes_of
from websuckets.di.scope_factory import ScopeBinder
from websuckets.exc import ConfigurationError
from websuckets.history import EventLog, MemoryLog
from websuckets.limits import Limits
from websuckets.middleware import Middleware
from websuckets.resuming import Resuming
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import EventLoop, Propagate, propagate, spawn
from websuckets.runtime.finalisers import read_generators
from websuckets.runtime.loop_monitor import report_blocked_loop
from websuckets.runtime.request_scope import RequestScopes
from websuckets.runtime.scopes import OpenScope, sources_of_generators
from websuckets.runtime.tasks import Background
from websuckets.serving.compiled_app import CompiledApp
from websuckets.serving.container import log_defaults
from websuckets.session import Session, as_current, context_of, running
from websuckets.store import SessionStore
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["RunningApp", "UntilTheLoopEnds", "started", "stop"]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(frozen=True, slots=True)
class RunningApp:
    """An app that has started."""

    compiled: CompiledApp
    container: AsyncContainer
    connections: Connections
    background: Background
    limits: Limits
    clock: Clock
    timeouts: PeerTimeouts
    """Timeouts of clients that the app does not serve by ``websockets``."""
    loop: EventLoop

    @property
    def has_ended(self) -> bool:
        """True if nothing is left of a stopped app: tasks and connections may ignore the stop."""
        return self.background.has_ended and not self.connections.are_left

    def log(self, how: str, *arguments: object) -> None:
        """Log that the app runs, and which parameters of its functions are never filled."""
        logger.info(f"{how}, commands: %d", *arguments, len(self.compiled.commands))
        if not self.compiled.commands:
            logger.warning(
                "there is no command; include a group before the app starts: "
                "app.include_command_group(group)"
            )
        for factory in factories_of(self.container):
            if (doubt := getattr(factory.source, DOUBTFUL, None)) is not None:
                logger.warning("%s", doubt)
        for injection in self.compiled.injections:
            if injection is not self.compiled.identification.injection:
                log_defaults(injection, self.container)


@asynccontextmanager
async def started(
    compiled: CompiledApp,
    container: AsyncContainer,
    session: Session,
    channels: Channels,
    limits: Limits,
    admission: Admission,
    middleware: Iterable[Middleware] = (),
    *,
    readiness_log: ReadinessLog,
    pages: HttpPages | None,
    finalise: bool,
    propagate: Propagate = propagate,
) -> AsyncIterator[RunningApp]:
    """Run an app for as long as the context lasts: its hooks have run, its tasks are running.

    ``readiness_log`` lives as long as the app. ``pages`` are served beside the connections, if
    there are any. ``finalise`` says that the container is the app's
    own: its objects are finalised at the end. ``propagate`` is called with an error by which a task
    of the app ends the program. Raises what an ``on_startup`` hook raises.
    """
    read_generators(sources_of_generators(container))
    clock = Clock()
    request_scopes = RequestScopes(clock, limits.finalize_timeout)
    scope = OpenScope(container, context_of(session))
    background = Background(limits.finalize_timeout, propagate)
    setup = Setup(
        scope,
        connection_types=compiled.context.connection_types,
        dispatcher=Dispatcher(
            *(compiled.commands, clock, limits.handler_timeout, middleware, compiled.hooks.errors),
            has_history=channels.have_history,
        ),
        has_streams=any(command.is_stream for command in compiled.commands.values()),
        hooks=compiled.hooks,
        identification=(
            compiled.identification if compiled.verifies_at_handshake(container) else None
        ),
        admission=admission,
        session=session,
        limits=limits,
        clock=clock,
        time_to_verify=clock.timeout(limits.auth_timeout),
        request_scopes=request_scopes,
        background=background,
        pages=pages,
    )
    timeouts = PeerTimeouts.of(clock, limits, {})
    scope.binder = ScopeBinder(compiled.context.scopes, container)
    with running(session):
        async with background, AsyncExitStack() as steps:
            background.start_soon(clock.run)
            compiled.context.scopes.begin(scope, request_scopes)
            steps.callback(compiled.context.scopes.stop)
            background.start_soon(report_blocked_loop, setup.dispatcher.command_of)
            if finalise:
                steps.push_async_callback(_close, scope, request_scopes)
            await _use_wall_clock(scope, session, clock, steps)
            await compiled.tasks.begin(background)  # which the log of channels may use
            steps.push_async_callback(compiled.tasks.stop)
            steps.push_async_callback(channels._stop)
            broker = await _broker(scope)
            await channels._start(limits, background, broker, await _log(scope, channels, broker))
            await _begin_resuming(scope, session, limits, background, steps)
            steps.push_async_callback(compiled.tasks.stop)  # tasks may use channels to their end
            with as_current(session):
                await _run_startup_hooks(setup)
            readiness = Readiness(setup, readiness_log)
            steps.push_async_callback(readiness.stop)
            yield RunningApp(
                compiled,
                container,
                Connections(setup, readiness),
                background,
                limits,
                clock,
                timeouts,
                EventLoop(),
            )


async def _use_wall_clock(
    scope: OpenScope, session: Session, clock: Clock, steps: AsyncExitStack
) -> None:
    """Let users expire by the wall clock that is provided, until ``steps`` are left."""
    wall: WallClock = await scope.get(WallClock)
    clock.compare_with(wall.time)
    session._clock = wall
    steps.callback(setattr, session, "_clock", SYSTEM_CLOCK)


async def _broker(scope: OpenScope) -> Broker:
    """Return the broker that the program provides, or else a broker for this process alone."""
    if not scopes_of(scope.container, Broker):
        return MemoryBroker()
    broker: Broker = await scope.get(Broker)
    return broker


async def _log(scope: OpenScope, channels: Channels, broker: Broker) -> EventLog:
    """Return the log of the channels with a history.

    Raises `ConfigurationError` for a log of this process alone in an app with several nodes.
    """
    if not channels.have_history:
        return MemoryLog()
    log: EventLog = await scope.get(EventLog)
    if not log.is_shared and not isinstance(broker, MemoryBroker):
        raise ConfigurationError(
            f"channels with a history: the nodes that {type(broker).__name__} connects need one "
            "log, and the default one is in the memory of each process; give "
            "RedisProvider(url, history=True), SqlProvider(AsyncSession), or a provider of an "
            "EventLog of your own"
        )
    return log


async def _begin_resuming(
    scope: OpenScope,
    session: Session,
    limits: Limits,
    background: Background,
    steps: AsyncExitStack,
) -> None:
    """Begin resuming if the program provides a `SessionStore`; end it when ``steps`` are left."""
    if not scopes_of(scope.container, SessionStore):
        return
    resuming = Resuming(session, await scope.get(SessionStore), limits, background)
    background.start_soon(resuming.watch)
    steps.callback(resuming.stop)
    session._persistence = resuming
    steps.callback(setattr, session, "_persistence", None)


async def _run_startup_hooks(setup: Setup) -> None:
    for hook in setup.hooks.startup:
        with anyio.CancelScope() as life, setup.request_scopes.begin(life) as request_scope:
            try:
                await hook.run(setup.scope, request_scope)
            except Exception as error:
                error.add_note(f"while running {hook.name}")
                raise


async def _close(scope: OpenScope, request_scopes: RequestScopes) -> None:
    """Finalise the objects of the app; raise the failure of finalisers, but for being late."""
    failure: BaseException | None = None
    with anyio.CancelScope() as life, request_scopes.begin(life) as request_scope:
        failure = await request_scope.close_scope(scope)
    if isinstance(failure, TimeoutError):
        logger.error("%s and were cancelled", failure)
    elif failure is not None:
        raise failure


async def stop(
    connections: Connections,
    timeout: float | None,
    close: Callable[[], Awaitable[None]] | None = None,
    hand_over: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Wait for running commands and closing handshakes, then cancel the rest.

    ``hand_over`` is the first step of a transport whose clients another process accepts from now
    on. ``close`` is the last step of the transport, whose port says until then that the app stops.
    ``timeout`` bounds all of it, in seconds.
    """
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(timeout):
                if hand_over is not None:
                    await hand_over()
                await connections.drain()
                if close is not None:
                    await close()
        finally:
            await connections.abort(timeout)


class UntilTheLoopEnds:
    """Runner of an app that is never stopped: from the first start until the event loop ends."""

    def __init__(self, run: Callable[[], AbstractAsyncContextManager[RunningApp]]) -> None:
        self._run = run
        self._task: object = None
        self._started: anyio.Event | None = None
        self._error: Exception | None = None

    async def start(self) -> None:
        """Start the app, or wait for a start under way; raise the errors of the start."""
        if self._started is None:
            self._started, self._error = anyio.Event(), None
            self._task = spawn(self._live)
        await self._started.wait()
        if self._error is not None:
            raise self._error

    async def _live(self) -> None:
        assert self._started is not None
        try:
            async with self._run():
                self._started.set()
                await anyio.sleep_forever()
        except Exception as error:
            self._error = error
        finally:
            self._started.set()
            self._started = None
