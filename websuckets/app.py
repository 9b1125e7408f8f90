"""The application that a program creates: `WebSuckets`, its groups, hooks, and ways to serve it."""

import logging
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any, Concatenate, Final, Literal, NoReturn, TypeVar, overload

import anyio
from dishka import AsyncContainer, Provider
from dishka.plotter import render_mermaid
from dishka.provider import BaseProvider
from websockets.http11 import Request

from websuckets.asyncapi.docs import Docs, DocsPages
from websuckets.asyncapi.document import asyncapi_document
from websuckets.channels import Channel, Channels
from websuckets.commands.groups import Command, CommandGroup, check_subscribes
from websuckets.commands.hooks import Kind, check_error_class
from websuckets.commands.listing import CommandInfo, listing_of
from websuckets.connections.admission import Admission
from websuckets.connections.readiness import ReadinessLog
from websuckets.delivery.declarations import ChannelDeclarations
from websuckets.exc import ClientError, ConfigurationError, InvalidHandlerSignature
from websuckets.introspection.strings import plain_string
from websuckets.limits import Limits
from websuckets.middleware import Middleware, checked
from websuckets.protocol.transport import HttpResponse
from websuckets.runtime.event_loop import Propagate, event_loop_runs, exit_scope, propagate
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.stop_times import time_to_undo_a_start
from websuckets.runtime.tracebacks import leave_out_our_frames
from websuckets.serving.asgi import AsgiApplication
from websuckets.serving.compiled_app import CompiledApp
from websuckets.serving.definition import AppDefinition, groups_of_the_program
from websuckets.serving.lifecycle import RunningApp, UntilTheLoopEnds, started, stop
from websuckets.serving.process import Program, console_logging
from websuckets.session import Session
from websuckets.transports import running_transport
from websuckets.transports.asgi_events import AsgiReceive, AsgiScope, AsgiSend
from websuckets.transports.listener import one_port

__all__ = ["CommandInfo", "Server", "WebSuckets"]

logger: logging.Logger = logging.getLogger("websuckets")

HookFunction = TypeVar("HookFunction", bound=Callable[..., Coroutine[Any, Any, object]])
ErrorFunction = TypeVar(
    "ErrorFunction",
    bound=Callable[Concatenate[Any, ...], ClientError | Awaitable[ClientError | None] | None],
)


class WebSuckets:
    """A WebSocket application: command groups, the providers that serve them, and their limits.

    An app lives as long as the program and may run several times, one after the other.
    ``providers`` are dishka's; later ones override earlier ones and the framework's own, so that a
    provider of `CurrentUser` replaces the security.

    ``middleware`` runs around every command, the first outermost; see `Middleware`.

    ``channels`` are the declarations of the channels that the app has; see `Channel`. Channels with
    other names need no declaration.

    ``origins`` are the pages from which browsers may connect, compared as a whole
    (``"https://example.org"``); ``None`` among them stands for clients that send no ``Origin``,
    which browsers always do. Any other client gets HTTP 403. Without ``origins`` any page may
    connect.

    ``trusted_proxies`` are addresses and networks of proxies whose ``X-Forwarded-For`` is believed,
    and ``"unix"`` for proxies that connect to a unix socket: ``socket.remote_address`` is then the
    client's.

    ``subprotocols`` are the subprotocols that the app speaks: the first of them that a client
    offers is agreed on, and none if the client offers none of them.

    ``path`` is where clients connect; at any other path they get HTTP 404. Without ``path`` they
    may connect at any. At ``health`` a GET request is answered with 200, and with 503 while the app
    stops; ``None`` turns this answer off. Where the app is mounted, both paths are relative to the
    place where the app is mounted.

    ``ready`` is an ``async def`` that decides about the answer at ``health``. The parameters of
    ``ready`` are dependencies, like those of an `on_startup` hook. If ``ready`` returns ``None`` or
    something true, the answer is 200. If ``ready`` returns ``False``, raises an error, or takes
    more than `Limits.ready_timeout`, the answer is 503, with a text that tells nothing of an error.
    A `ClientError` says, like ``False``, that the app is not ready; any other error is an incident,
    and so is a run that takes too long. A failure is logged when ``ready`` begins to fail, and not
    again until the app is ready, which is logged once, too. One run of ``ready`` at a time answers
    all who ask while the run lasts, also if the client that asked first has left. While the app
    stops, ``ready`` is not called. Under ASGI, an app that starts by itself is started by the first
    request for its health, and an app that its host has not started answers 503.

    ``title`` and ``version`` are those of the app in its document; see `asyncapi`. ``docs`` serves
    the document; see `Docs`. ``None`` serves it nowhere.

    Raises `InvalidHandlerSignature` for a ``ready`` that is not an async function of dependencies,
    and `ConfigurationError` for other values that are not valid.
    """

    def __init__(
        self,
        *,
        providers: Iterable[Provider] = (),
        limits: Limits | None = None,
        middleware: Iterable[Middleware] = (),
        channels: Iterable[Channel] = (),
        origins: Iterable[str | None] | None = None,
        trusted_proxies: Iterable[str] = (),
        subprotocols: Iterable[str] = (),
        path: str | None = None,
        health: str | None = "/health",
        ready: Callable[..., Coroutine[Any, Any, bool | None]] | None = None,
        title: str = "websuckets",
        version: str = "0.1.0",
        docs: Docs | None = None,
    ) -> None:
        if limits is not None and not isinstance(limits, Limits):
            raise ConfigurationError(f"limits={limits!r}: write Limits(...)")
        for name, text in (("title", title), ("version", version)):
            if not isinstance(text, str) or not text:
                raise ConfigurationError(f"{name}={text!r:.80}: write a str that is not empty")
        self._title, self._version = plain_string(title), plain_string(version)
        self._definition = AppDefinition(providers)
        self._limits = limits or Limits()
        self._middleware = checked(middleware)
        self._admission = Admission.of(origins, trusted_proxies, subprotocols, path, health)
        self._readiness_log = ReadinessLog()
        self._has_ready = ready is not None
        if ready is not None:
            if health is None:
                raise ConfigurationError(_READY_WITHOUT_HEALTH)
            if not callable(ready):
                raise InvalidHandlerSignature(f"ready={ready!r}: write an async function")
            self._definition.add_hook("ready", ready)
        if docs is not None:
            if not isinstance(docs, Docs):
                raise ConfigurationError(f"docs={docs!r:.80}: write Docs(...)")
            if health in docs.paths:
                raise ConfigurationError(f"health={health!r}: it is a path of {docs!r:.80}, too")
            if docs.authorize is not None:
                self._definition.add_hook("docs", docs.authorize)
        self._docs = docs
        self._session = Session()
        self._declarations = ChannelDeclarations(channels)
        self._channels = Channels(self._session, self._declarations)
        self._is_running = False
        self._running: RunningApp | None = None
        self._by_itself = UntilTheLoopEnds(partial(self._started, self._limits))
        self._asgi = AsgiApplication(self.lifespan, self._entered, self._answer)
        # ASGI servers ask whether this attribute is a coroutine function. They call the method of
        # the class, which is not a coroutine function. To uvicorn, a callable that raises TypeError
        # at once when called without arguments is an application, and anything else a factory.
        self.__call__ = self._asgi.__call__  # type: ignore[method-assign, assignment]

    def include_command_group(self, group: CommandGroup) -> None:
        """Serve the commands of a group.

        Raises `DuplicateCommand` for a name that is taken, `InvalidHandlerSignature` for wrong
        handlers that could not be read before, and `ConfigurationError` while the app runs.
        """
        if not isinstance(group, CommandGroup):
            raise ConfigurationError(
                f"include_command_group({group!r}): it is not a CommandGroup; include the group: "
                "app.include_command_group(group)"
            )
        self._check_not_running(f"{group!r} comes too late; include every group before it starts")
        self._definition.include(group)

    def on_startup(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` when the app starts, before its port opens.

        The parameters of the hook are dependencies, found by their type hints, in a REQUEST scope
        of its own; objects of a connection or a message are not among them. An error that the hook
        raises ends the start. Returns ``hook`` unchanged, as all of these decorators do.

        Hooks of each kind run in the order in which they were decorated. Each of these decorators
        raises `InvalidHandlerSignature` for a function that is not a hook, and `ConfigurationError`
        while the app runs.
        """
        return self._add_hook("startup", hook)

    def on_handshake(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` for each client that wants to connect.

        The hook has the dependencies of `on_connect`; ``request: websockets.http11.Request`` is the
        opening handshake. Raising `HandshakeRefused` answers with an HTTP status, a `ClientError`
        with 403 and its name, any other error with 500 and an incident. Nothing can be sent yet,
        and the user is not in `Session.online`, but ``user: User`` may be verified by setting its
        id. Returns ``hook`` unchanged.
        """
        return self._add_hook("handshake", hook)

    def on_connect(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` for each new connection, before its first message.

        The parameters of the hook are dependencies in a REQUEST scope of its own; there is neither
        a `Message` nor a `CurrentUser`. Raising closes the connection: with 1008 and the error's
        name for a `ClientError`, with 1011 and an incident for any other error. Returns ``hook``
        unchanged.
        """
        return self._add_hook("connect", hook)

    def on_disconnect(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` once for each connection that has ended.

        The hook runs only for connections that every ``on_connect`` hook has accepted, after the
        last command and stream, with the user still in `Session`. It has the dependencies of
        `on_connect`. An error that it raises is logged with an incident. It may take
        `Limits.finalize_timeout`. Returns ``hook`` unchanged.
        """
        return self._add_hook("disconnect", hook)

    def on_error(self, error: type[Exception]) -> Callable[[ErrorFunction], ErrorFunction]:
        """Return a decorator of a function that maps errors of the class ``error`` to replies.

        The function, sync or async, gets the error first; its further parameters are dependencies,
        those of `on_connect`, in a REQUEST scope of its own. Returning a `ClientError` replies with
        that, as if it had been raised: nothing is logged. Returning ``None`` leaves the error an
        incident. A function that raises makes an incident of both errors. The decorator returns the
        function unchanged; several decorators may stand above one function.

        The function of the most specific class runs, when everything that the error has ended was
        finalised with the error, and so rolled back; it may take `Limits.finalize_timeout`. It runs
        for errors of commands with their dependencies, finalisers and guards, of streams, of
        middleware, and of ``on_handshake`` and ``on_connect`` hooks, where a `ClientError` refuses
        the client. Nobody waits for an answer of other hooks and of tasks: their errors are not
        mapped. The only error in an exception group is mapped as that error.

        Raises `ConfigurationError` for anything but a subclass of ``Exception``, for `ClientError`,
        for a class that has such a function, and while the app runs. The decorator raises
        `InvalidHandlerSignature` for a function that cannot be called with the error.
        """
        check_error_class(error)

        def register(function: ErrorFunction) -> ErrorFunction:
            self._check_not_running("register on_error functions before it starts")
            self._definition.add_error_function(error, function)
            return function

        return register

    @contextmanager
    def override(
        self, *providers: Provider, values: Mapping[Any, object] | None = None
    ) -> Iterator[None]:
        """Return a context that replaces providers of the app for as long as it lasts.

        The context is for tests, and is entered before the app starts. ``providers`` replace the
        factories for their types. ``values`` are objects by the type that they replace, in whatever
        scope the type is provided: ``values={WallClock: clock}``. Everything that depends on a
        replaced type gets the replacement, guards included. Overrides nest; the innermost wins.

        Raises `ConfigurationError` while the app runs, for an object that is not a provider, and
        for an app with a container that was built by the program.
        """
        self._check_not_running("override providers before it starts")
        with self._definition.override(providers, {} if values is None else values):
            yield

    @property
    def commands(self) -> Mapping[str, CommandInfo]:
        """The commands that the app answers, by name, sorted by name; the mapping is read-only.

        Before the app starts, they are the commands of all groups that are included so far; while
        it runs, those that it serves. Raises `ConfigurationError` for groups that are wrong.
        """
        return listing_of(self._commands(), self._limits.handler_timeout)

    def _commands(self) -> Mapping[str, Command]:
        running = self._running
        return self._definition.commands() if running is None else running.compiled.commands

    def asyncapi(self) -> dict[str, Any]:
        """Return the AsyncAPI 3.0.0 document of the app: a new dict, which is JSON.

        The document has all commands of `commands` with the types of their payloads and replies,
        the errors that they declare, and the declared channels with their events. Everything of it
        comes from the handlers and declarations, and the same app has the same document.

        Raises `ConfigurationError` for groups that are wrong, or that need channels which the app
        does not include.
        """
        commands = self._commands()
        check_subscribes(commands.values(), self._declarations)
        return asyncapi_document(
            self._title,
            self._version,
            self._admission.path or "/",
            commands,
            listing_of(commands, self._limits.handler_timeout),
            self._declarations.channels,
        )

    @property
    def providers(self) -> tuple[BaseProvider, ...]:
        """The providers that a container built by the program must contain, for `setup_dishka`.

        None of them provides the security: a container for protected commands also needs a provider
        of `CurrentUser`, such as `SecurityProvider`. Once these providers have been read, neither
        groups nor hooks can be added: they would be missing in the container. Raises a
        `ConfigurationError` for groups and hooks that are wrong.
        """
        return self._definition.seal(self._values(self._limits)).providers

    @property
    def asgi(self) -> AsgiApplication:
        """The app as an ASGI 3 application: for an ASGI server, or mounted in another one.

        An ASGI server starts and stops the app. Mounted applications are not started and stopped by
        their host, so the host has to enter `lifespan`. Only an app with nothing to start or
        finalise starts by itself: one without providers of its own, ``on_startup`` hooks,
        `AppTasks`, and objects of a container that are finalised when the program closes the
        container.
        """
        return self._asgi

    @asynccontextmanager
    async def lifespan(self, host: object = None) -> AsyncIterator[None]:
        """Return a context in which the app runs, while a host brings connections to `asgi`.

        Starts and stops the app as `serve` does, and raises the same errors. This may be the
        lifespan of the host itself, ``FastAPI(lifespan=app.lifespan)``: the argument ``host``,
        which is not used, is then that host.
        """
        async with self._embedded():
            yield

    def graph(self) -> str:
        """Return an HTML page that shows the dependencies, scope by scope.

        The page is dishka's plot, drawn by Mermaid; it includes guards, and the commands and hooks
        that depend on something. Raises the errors with which the start of the app would fail.
        """
        return render_mermaid(self._proved()[1])

    @overload
    async def __call__(
        self, host: str | Sequence[str] | None = None, port: int | None = None, **options: Any
    ) -> None: ...

    @overload
    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None: ...

    def __call__(  # type: ignore[misc]  # ``scope`` and the others may be among the options
        self, host: Any = None, port: Any = None, *asgi: Any, **options: Any
    ) -> Coroutine[Any, Any, None]:
        """Serve until SIGINT or SIGTERM, or until cancelled.

        ``asyncio.run(app("localhost", 9000))`` is a whole program, and so is
        ``trio.run(app, "localhost", 9000)``. Takes the arguments of `serve` and raises its errors.
        A signal that comes before the app has started ends the start, and everything that has
        started is finalised. A second signal stops at once. A program that cannot stop, because a
        handler ignores its cancellation or blocks a thread, is ended with exit code 1 after
        `Limits.drain_timeout` and the time that finalisers may take.

        Called as an ASGI server calls an application, the app is `asgi`. Called without arguments,
        the app raises `TypeError`.
        """
        if isinstance(host, MutableMapping):
            return self._asgi(host, port, *asgi)
        if "scope" in options:  # as Daphne names it
            return self._asgi(**options)
        if host is None and port is None and not options:
            raise TypeError(_NOWHERE)
        # An app without groups, started as the program, serves the groups included in other apps.
        theirs = () if self._definition.groups else groups_of_the_program()
        return self._run_as_program(host, port, *asgi, theirs=theirs, **options)

    async def _run_as_program(
        self,
        host: str | Sequence[str] | None,
        port: int | None,
        *,
        theirs: tuple[CommandGroup, ...] = (),
        beside: Callable[["RunningApp", "Server"], Coroutine[Any, Any, None]] | None = None,
        **options: Any,
    ) -> None:
        """Serve as `__call__` does.

        ``theirs`` are groups included in other apps, which take the place of the app's own.
        ``beside`` runs in a task of its own from the time at which the app listens until the app
        has stopped.
        """
        with (
            console_logging(),
            anyio.CancelScope() as starting,
            Program(starting, time_to_undo_a_start(self._limits)) as program,
            exit_scope() as propagate,
        ):
            try:
                serving = self._serve(theirs or None, host, port, options, propagate)
                async with serving as server:
                    if theirs:
                        logger.warning(_SERVES_OTHERS, len(theirs))
                    assert self._running is not None
                    running = self._running
                    if beside is not None:
                        running.background.start_soon(beside, running, server)
                    connections = running.connections
                    await program.wait_for_signal(connections.time_to_stop, connections.what_runs)
                if not running.has_ended:
                    program.exit()
            except Exception as error:
                if theirs and isinstance(error, ConfigurationError):
                    error.add_note(_SERVES_OTHERS % len(theirs))
                leave_out_our_frames(error)
                raise

    def run(
        self,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        backend: Literal["asyncio", "trio"] = "asyncio",
        **options: Any,
    ) -> None:
        """Serve in a new event loop, until the program is told to end.

        ``host``, ``port``, ``options`` and the errors are those of calling the app.
        ``backend="trio"`` needs the extra ``trio``. Raises `ConfigurationError` where an event loop
        runs already, as in a notebook: there, ``await app(host, port)`` serves.
        """

        if event_loop_runs():
            raise ConfigurationError(_RUNS_IN_A_LOOP)
        if backend not in ("asyncio", "trio"):
            raise ConfigurationError(_NO_BACKEND % (backend,))
        if backend == "trio" and find_spec("trio") is None:
            raise ConfigurationError(_NO_TRIO)

        async def main() -> None:
            await self(host, port, **options)

        try:
            anyio.run(main, backend=backend)
        except Exception as error:
            leave_out_our_frames(error)
            raise

    def serve(
        self, host: str | Sequence[str] | None = None, port: int | None = None, **options: Any
    ) -> AbstractAsyncContextManager["Server"]:
        """Return a context in which the app serves, beside the rest of the program.

        Port 0 picks a free port, the same on every address of the host:
        ``async with app.serve("localhost", 0) as server: server.port``.
        ``options`` are the keyword arguments of ``serve`` in ``websockets.asyncio.server`` or
        ``websockets.trio.server``, whichever event loop runs: ``ssl``, ``subprotocols``, ``path``
        of a unix socket, and the others.

        When the context is left, running commands finish and their replies are sent before
        connections close with 1012; after `Limits.drain_timeout` commands are cancelled.

        Raises a `ConfigurationError` for a program that is wrong, before the port opens, and
        ``OSError`` where the port cannot be opened, before any hook runs.
        """
        return _Serving(self._serve(None, host, port, options))

    def __repr__(self) -> str:
        return f"WebSuckets(groups={len(self._definition.groups)})"

    @asynccontextmanager
    async def _serve(
        self,
        groups: tuple[CommandGroup, ...] | None,
        host: str | Sequence[str] | None,
        port: int | None,
        options: dict[str, Any],
        propagate: Propagate = propagate,
    ) -> AsyncIterator["Server"]:
        self._check_not_running(_RUNS_ONCE)
        if port is None and not options.keys() & PLACES:
            raise ConfigurationError(_NOWHERE)
        # An option with the name of one of these limits sets that limit; two are of websockets.
        names = [name for name in ("compression", "max_size", "drain_timeout") if name in options]
        limits = replace(self._limits, **{name: options.pop(name) for name in names})
        if port:  # a port that is taken raises before anything has started
            await one_port(host, port, options)
        async with self._started(limits, groups, propagate) as app:
            if port == 0:
                port = await one_port(host, port, options)
            listener = running_transport().listen(
                app.connections,
                partial(stop, app.connections, limits.drain_timeout),
                host,
                port,
                limits,
                app.clock,
                options,
                propagate,
            )
            async with AsyncExitStack() as stack:
                try:
                    listening = await stack.enter_async_context(listener)
                except TypeError as error:
                    error.add_note(_NO_SUCH_OPTION)
                    raise
                app.log("listening on %s", ", ".join(listening.urls))
                yield Server(listening.port, listening.urls)

    @asynccontextmanager
    async def _embedded(self, most: float = math.inf) -> AsyncIterator[RunningApp]:
        """Run the app; at the end, its connections have at most ``most`` seconds to finish."""
        async with self._started(self._limits) as app:
            app.log("started")
            try:
                yield app
            finally:
                timeout = self._limits.drain_timeout
                await stop(app.connections, most if timeout is None else min(timeout, most))

    @asynccontextmanager
    async def _started(
        self,
        limits: Limits,
        groups: tuple[CommandGroup, ...] | None = None,
        propagate: Propagate = propagate,
    ) -> AsyncIterator[RunningApp]:
        self._check_not_running(_RUNS_ONCE)
        self._is_running = True
        try:
            compiled, container = self._proved(limits, groups)
            async with started(
                compiled,
                container,
                self._session,
                self._channels,
                limits,
                self._admission,
                self._middleware,
                readiness_log=self._readiness_log,
                pages=None if self._docs is None else DocsPages(self._docs, self.asyncapi),
                finalise=self._definition.has_own_container,
                propagate=propagate,
            ) as self._running:
                yield self._running
        finally:
            self._is_running = False
            self._running = None

    def _proved(
        self, limits: Limits | None = None, groups: tuple[CommandGroup, ...] | None = None
    ) -> tuple[CompiledApp, AsyncContainer]:
        """Return the compiled app and its container, once all is proved that a start proves.

        Neither opens a scope nor runs a hook. ``groups`` take the place of the app's groups. The
        command line calls this method, too. Raises `ConfigurationError`, or dishka's own errors
        for faults of the providers.
        """
        limits = limits or self._limits
        compiled, container = self._definition.ready(self._values(limits), groups)
        check_subscribes(compiled.commands.values(), self._declarations)
        if self._admission.origins is None and compiled.verifies_at_handshake(container):
            raise ConfigurationError(_NO_ORIGINS)
        return compiled, container

    def _values(self, limits: Limits) -> dict[Any, object]:
        """Return the objects of the app by the type that each is injected as."""
        return {
            WebSuckets: self,
            Session: self._session,
            Channels: self._channels,
            Limits: limits,
        }

    async def _entered(self) -> RunningApp:
        """Return the running app for a new connection; start an app that starts by itself."""
        if self._running is None:
            if self._definition.needs_lifespan(self._values(self._limits)):
                raise ConfigurationError(_NOT_STARTED)
            await self._by_itself.start()
        assert self._running is not None
        self._running.loop.check(_OTHER_LOOP)
        return self._running

    async def _answer(self, path: str, request: Request) -> HttpResponse:
        """Return the answer to a request that is not an opening handshake."""
        running = self._running
        if self._has_ready and path == self._admission.health:
            try:
                running = await self._entered()
            except Exception as error:
                self._readiness_log.failed("the start of the app for a health check", error)
                return self._admission.answer(path, closing=False, is_ready=False)
        if self._docs is not None and path in self._docs.paths:
            try:
                running = await self._entered()
            except Exception as error:
                number = log_incident("the start of the app for its document", error)
                return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, f"incident {number}\n")
        if running is not None:
            return await running.connections.answer(path, request)
        return self._admission.answer(path, closing=False)

    def _use_container(self, container: AsyncContainer) -> None:
        """Use a container that was built by the program, on behalf of `setup_dishka`."""
        self._check_not_running("call setup_dishka() before it starts")
        self._definition.use_container(container)

    def _check_not_running(self, why: str) -> None:
        if self._is_running:
            raise ConfigurationError(f"the app runs already: {why}")

    def _add_hook(self, kind: Kind, hook: HookFunction) -> HookFunction:
        self._check_not_running(f"register on_{kind} hooks before it starts")
        self._definition.add_hook(kind, hook)
        return hook


PLACES: Final = {"path", "sock", "listeners", "shared_sockets"}
"""Options that say where to listen, instead of host and port."""

_RUNS_ONCE = "one app runs once at a time (another client of a TestClient is client.connect())"

_NOWHERE = """where? app("localhost", 9000) serves there, port 0 picks a free one; path="..." is a \
unix socket"""

_RUNS_IN_A_LOOP = """app.run() starts an event loop, and one runs already, as in a notebook: write
    await app("localhost", 9000)
or, to do other things meanwhile,
    async with app.serve("localhost", 9000) as server: ..."""

_NO_BACKEND = """app.run(backend=%r): it is asyncio or trio; another event loop of asyncio serves \
by itself, as uvloop.run(app("localhost", 9000))"""

_NO_TRIO = """app.run(backend='trio') needs trio: install websuckets with its extra "trio", from a \
checkout by: pip install ".[trio]\""""

_NO_SUCH_OPTION = """the options of app.serve(), app.run() and app() are those of serve() of \
websockets; the rest is given to WebSuckets(...), or to the command `websuckets run`"""

_SERVE_IS_A_CONTEXT = """app.serve() is a context:
    async with app.serve("localhost", 9000) as server: ...
To serve until the program is told to stop, write
    await app("localhost", 9000)"""

_NOT_STARTED = """the app has not started, and has something to start or to finalise: providers of \
its own, objects of a container that are finalised, on_startup hooks or AppTasks. An application \
that is mounted is not told when its host starts; let the host start it:
    @asynccontextmanager
    async def lifespan(host):
        async with app.lifespan():
            yield
An ASGI server that runs app.asgi itself starts it, unless its lifespan is switched off."""


_READY_WITHOUT_HEALTH = """ready=... decides about the answer at health=..., which is None: give a \
path, or leave ready out"""


_OTHER_LOOP = """the app runs in another event loop than the one that brings a connection: start \
it in that one, by its lifespan; where a test client starts a loop for each connection, enter the \
client as a context, so that it has one for all"""


_NO_ORIGINS = """clients are verified at their handshake, by what browsers send from any page that \
connects: say which pages may, WebSuckets(origins=["https://example.org"]); None among them lets \
clients in that are not browsers"""


_SERVES_OTHERS = (
    "this app included no command group: serving the %d that the program included in another one; "
    "create WebSuckets() once"
)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: the value of the context `WebSuckets.serve`, alive while that lasts."""

    port: int | None
    """The TCP port; ``None`` on a unix socket."""
    urls: tuple[str, ...]
    """URLs to which clients connect, one for each listening socket."""


class _Serving(AbstractAsyncContextManager[Server]):
    """Context in which an app is served: the result of `WebSuckets.serve`."""

    def __init__(self, serving: AbstractAsyncContextManager[Server]) -> None:
        self._serving = serving

    async def __aenter__(self) -> Server:
        try:
            return await self._serving.__aenter__()
        except Exception as error:
            leave_out_our_frames(error)
            raise

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._serving.__aexit__(*error)

    def __await__(self) -> NoReturn:
        raise ConfigurationError(_SERVE_IS_A_CONTEXT)
