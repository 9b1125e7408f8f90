"""The application: where everything is put together."""

import logging
import math
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
from dishka import AsyncContainer, Provider
from dishka.plotter import render_mermaid
from dishka.provider import BaseProvider

from websuckets.asgi import AsgiApplication
from websuckets.blueprint import Blueprint, read_blueprint
from websuckets.commands import CommandGroup, check_groups
from websuckets.di.container import Override, needs
from websuckets.exc import ConfigurationError
from websuckets.hooks import HookDeclarations, Kind
from websuckets.lifecycle import Running, UntilTheLoopEnds, started, stop
from websuckets.limits import Limits
from websuckets.program import console_logging, told_to_stop
from websuckets.session import Session
from websuckets.tasks import AppTasks
from websuckets.transports import running_transport

__all__ = ["Server", "WebSuckets"]

logger: logging.Logger = logging.getLogger("websuckets")

HookFunction = TypeVar("HookFunction", bound=Callable[..., Coroutine[Any, Any, object]])


class WebSuckets:
    """A WebSocket application: command groups, the providers that serve them, and their limits.

    It lives as long as the program and may run several times, one after the other. ``providers``
    are dishka's; later ones win over earlier ones and over the framework's own, so that a provider
    of `CurrentUser` replaces the security.
    """

    def __init__(self, *, providers: Iterable[Provider] = (), limits: Limits | None = None) -> None:
        if isinstance(providers, BaseProvider):
            raise ConfigurationError(f"providers={providers!r}: write a list, [{providers!r}]")
        if limits is not None and not isinstance(limits, Limits):
            raise ConfigurationError(f"limits={limits!r}: write Limits(...)")
        self._providers = tuple(_provider(given) for given in providers)
        self._limits = limits or Limits()
        self._groups: list[CommandGroup] = []
        self._hooks = HookDeclarations()
        self._overrides: list[Override] = []
        self._session = Session()
        self._blueprint: Blueprint | None = None  # once a container may have been built for it
        self._container: AsyncContainer | None = None  # the program's
        self._is_running = False
        self._running: Running | None = None
        self._by_itself = UntilTheLoopEnds(partial(self._started, self._groups, self._limits))
        self._asgi = AsgiApplication(self.lifespan, self._entered)

    def include_command_group(self, group: CommandGroup) -> None:
        """Serve the commands of a group.

        Raises `DuplicateCommand` for a name that is taken, `InvalidHandlerSignature` for handlers
        that could not be read before and are wrong, and `ConfigurationError` while the app runs.
        """
        if not isinstance(group, CommandGroup):
            raise ConfigurationError(f"{group!r} is no CommandGroup")
        self._check_not_running(f"{group!r} comes too late; include every group before it starts")
        self._check_not_read(f"include {group!r}")
        check_groups([*self._groups, group])
        self._groups.append(group)
        _included_groups.append(weakref.ref(group))

    def on_startup(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` when the app starts, before its port opens.

        Its parameters are dependencies, found by their type hints, in a REQUEST scope of its own;
        what belongs to a connection or a message is not among them. What it raises ends the start.

        This and the other hooks run in the order in which they were decorated. They raise
        `InvalidHandlerSignature` for what is no hook, and `ConfigurationError` while the app runs.
        """
        return self._add_hook("startup", hook)

    def on_handshake(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` for each client that wants to connect.

        Its dependencies are those of `on_connect`; ``request: websockets.http11.Request`` is the
        opening handshake. Raising `HandshakeRefused` answers with an HTTP status, a `ClientError`
        with 403 and its name, anything else with 500 and an incident. Nothing can be sent yet, and
        the user is not in `Session.online`, but ``user: User`` may be verified by setting its id.
        """
        return self._add_hook("handshake", hook)

    def on_connect(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` for each new connection, before its first message.

        Its parameters are dependencies in a REQUEST scope of its own; there is no `Message` and no
        `CurrentUser`. Raising closes the connection: with 1008 and its name for a `ClientError`,
        with 1011 and an incident for anything else.
        """
        return self._add_hook("connect", hook)

    def on_disconnect(self, hook: HookFunction) -> HookFunction:
        """Run the decorated ``async def`` once for each connection that is gone.

        Only for those that all ``on_connect`` hooks let in; after the last command and stream, with
        the user still in `Session`. Dependencies are those of `on_connect`. What it raises is
        logged with an incident. It may take `Limits.finalize_timeout`.
        """
        return self._add_hook("disconnect", hook)

    @contextmanager
    def override(
        self, *providers: Provider, values: Mapping[Any, object] | None = None
    ) -> Iterator[None]:
        """Put other providers in the place of the app's own, for as long as the context lasts.

        It is for tests, and entered before the app starts. ``values`` are objects by the type that
        they stand for, in whatever scope that is provided: ``values={Clock: FrozenClock()}``. What
        depends on what is replaced gets the replacement, guards included. Overrides nest; the
        innermost wins.

        Raises `ConfigurationError` while the app runs, for what is no provider, and for an app with
        a container that was built by the program.
        """
        self._check_not_running("override providers before it starts")
        if self._container is not None:
            raise ConfigurationError(
                "the app runs with a container that setup_dishka() gave to it, which cannot be "
                "changed any more; build one for the test, with the other providers last, and give "
                "that to setup_dishka()"
            )
        override = Override(tuple(_provider(given) for given in providers), dict(values or {}))
        self._overrides.append(override)
        try:
            yield
        finally:
            self._overrides.remove(override)

    @property
    def providers(self) -> tuple[BaseProvider, ...]:
        """What a container that the program builds has to contain, to be given to `setup_dishka`.

        No security is among them: a container for protected commands needs a provider of
        `CurrentUser`, too, as `SecurityProvider` is one. Afterwards neither groups nor hooks can be
        added: they would be missing in the container. Raises what is wrong with those that are.
        """
        if self._blueprint is None:
            self._blueprint = self._read(self._groups, self._limits)
        return self._blueprint.providers

    @property
    def asgi(self) -> AsgiApplication:
        """The app as an ASGI 3 application: for an ASGI server, or mounted in another one.

        A server starts and stops it. Mounted applications are not told when to, so there the host
        has to enter `lifespan`, but for an app with nothing to start or finalise: one without
        providers of its own, ``on_startup`` hooks and `AppTasks`. That starts by itself.
        """
        return self._asgi

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """While the app runs and others bring its connections: `asgi`, mounted in another app.

        Starts and stops as `serve` does, and raises the same.
        """
        async with self._embedded():
            yield

    def graph(self) -> str:
        """What depends on what, commands, guards and hooks included, scope by scope.

        dishka's plot, an HTML page that draws it by Mermaid. Raises what starting the app does.
        """
        return render_mermaid(self._ready(self._groups, self._limits)[1])

    async def __call__(
        self, host: str | None = None, port: int | None = None, **options: Any
    ) -> None:
        """Serve until SIGINT or SIGTERM, or until cancelled.

        ``asyncio.run(app("localhost", 9000))`` is a whole program, and so is
        ``trio.run(app, "localhost", 9000)``. Takes and raises what `serve` does. A second signal
        stops at once.
        """
        groups = self._groups or _groups_of_the_program()
        with console_logging():
            try:
                async with self._serve(groups, host, port, options):
                    if groups and not self._groups:
                        logger.warning(_SERVES_OTHERS, len(groups))
                    await told_to_stop()
                    logger.info("stopping")
            except ConfigurationError as error:
                if groups and not self._groups:
                    error.add_note(_SERVES_OTHERS % len(groups))
                raise

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        backend: Literal["asyncio", "trio"] = "asyncio",
        **options: Any,
    ) -> None:
        """Serve in an event loop of its own; takes and raises what calling the app does.

        ``backend="trio"`` needs the extra ``trio``.
        """

        async def main() -> None:
            await self(host, port, **options)

        anyio.run(main, backend=backend)

    @asynccontextmanager
    async def serve(
        self, host: str | None = None, port: int | None = None, **options: Any
    ) -> AsyncIterator["Server"]:
        """Serve for as long as the context lasts, beside whatever else the program does.

        Port 0 picks a free one: ``async with app.serve("localhost", 0) as server: server.port``.
        ``options`` are the keyword arguments of ``serve`` in ``websockets.asyncio.server`` or
        ``websockets.trio.server``, whichever event loop runs: ``ssl``, ``subprotocols``, ``path``
        of a unix socket, and the others.

        On leaving, running commands finish and their replies go out before connections close with
        1012; after `Limits.drain_timeout` they are cancelled.

        Raises a `ConfigurationError` for a program that is wrong, before the port opens, and
        ``OSError`` where the port cannot be had.
        """
        async with self._serve(self._groups, host, port, options) as server:
            yield server

    def __repr__(self) -> str:
        return f"WebSuckets({len(self._groups)} groups)"

    @asynccontextmanager
    async def _serve(
        self,
        groups: list[CommandGroup],
        host: str | None,
        port: int | None,
        options: dict[str, Any],
    ) -> AsyncIterator["Server"]:
        # What websockets calls as we call our limits is one of these, whoever names it.
        given = {name: options.pop(name) for name in ("compression", "max_size") if name in options}
        limits = replace(self._limits, **given)
        async with self._started(groups, limits) as app:
            listener = running_transport().listen(
                app.connections.accept,
                partial(stop, app.connections, limits.drain_timeout),
                host,
                port,
                limits,
                options,
            )
            async with listener as listening:
                app.log("listening on %s", ", ".join(listening.urls))
                yield Server(listening.port, listening.urls)

    @asynccontextmanager
    async def _embedded(self, most: float = math.inf) -> AsyncIterator[Running]:
        """While it runs; at the end, connections have ``most`` seconds to finish what they do."""
        async with self._started(self._groups, self._limits) as app:
            app.log("started")
            try:
                yield app
            finally:
                timeout = self._limits.drain_timeout
                await stop(app.connections, most if timeout is None else min(timeout, most))

    @asynccontextmanager
    async def _started(self, groups: list[CommandGroup], limits: Limits) -> AsyncIterator[Running]:
        self._check_not_running("one app runs once at a time")
        self._is_running = True
        try:
            blueprint, container = self._ready(groups, limits)
            is_ours = container is not self._container
            async with started(
                blueprint, container, self._session, limits, finalise=is_ours
            ) as self._running:
                yield self._running
        finally:
            self._is_running = False
            self._running = None

    def _ready(
        self, groups: list[CommandGroup], limits: Limits
    ) -> tuple[Blueprint, AsyncContainer]:
        """Raises a `ConfigurationError` for what is wrong with the program."""
        blueprint = self._blueprint or self._read(groups, limits)
        if self._container is None:
            return blueprint, blueprint.build_container(self._providers, self._overrides)
        blueprint.check_container(self._container)
        return blueprint, self._container

    def _read(self, groups: list[CommandGroup], limits: Limits) -> Blueprint:
        values = {WebSuckets: self, Session: self._session, Limits: limits}
        return read_blueprint(groups, self._hooks, values)

    async def _entered(self) -> Running:
        """The running app, for one more connection."""
        if self._running is None:
            if self._needs_lifespan():
                raise ConfigurationError(_NOT_STARTED)
            await self._by_itself.start()
        assert self._running is not None
        return self._running

    def _needs_lifespan(self) -> bool:
        """Whether there is anything to start, or to finalise."""
        if self._hooks.has("startup") or (self._providers and self._container is None):
            return True
        blueprint, container = self._ready(self._groups, self._limits)
        return needs(container, blueprint.injections, AppTasks)

    def _use_container(self, container: AsyncContainer) -> None:
        """For `setup_dishka`."""
        self._check_not_running("call setup_dishka() before it starts")
        if self._providers or self._overrides:
            raise ConfigurationError(
                "setup_dishka(container, app): the app has providers of its own, which would not "
                "be in the container; give them to make_async_container() rather than to the app"
            )
        self._container = container

    def _check_not_running(self, why: str) -> None:
        if self._is_running:
            raise ConfigurationError(f"the app runs already: {why}")

    def _check_not_read(self, what: str) -> None:
        if self._blueprint is not None:
            raise ConfigurationError(
                f"app.providers was read already, and a container built of it perhaps: {what} "
                "before\n    container = make_async_container(..., *app.providers, ...)"
            )

    def _add_hook(self, kind: Kind, hook: HookFunction) -> HookFunction:
        self._check_not_running(f"register on_{kind} hooks before it starts")
        self._check_not_read(f"register on_{kind} hooks")
        self._hooks.add(kind, hook)
        return hook


def _provider(given: Any) -> BaseProvider:
    if isinstance(given, BaseProvider):
        return given
    if isinstance(given, type) and issubclass(given, BaseProvider):
        remedy = f"create it: {given.__name__}()"
    else:
        remedy = "pass a dishka.Provider(), or what provide_context(...) makes"
    raise ConfigurationError(f"providers=[...]: {given!r} is no provider; {remedy}")


_NOT_STARTED = """the app has not started, and has something to start or to finalise: providers of \
its own, on_startup hooks or AppTasks. An application that is mounted is not told when its host \
starts; let the host start it:
    @asynccontextmanager
    async def lifespan(host):
        async with app.lifespan():
            yield
An ASGI server that runs app.asgi itself starts it, unless its lifespan is switched off."""


# The documented programs include their groups in one app and run another, made later under the same
# name. So an app without groups, started as the program itself, serves what the program included.
_SERVES_OTHERS = (
    "this app included no command group: serving the %d that the program included in another one; "
    "create WebSuckets() once"
)
_included_groups: list[weakref.ref[CommandGroup]] = []


def _groups_of_the_program() -> list[CommandGroup]:
    """Every group that was included in any app and is still there, in that order."""
    alive = (reference() for reference in _included_groups)
    return list(dict.fromkeys(group for group in alive if group is not None))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, as `WebSuckets.serve` gives it; it lives as long as that context."""

    port: int | None
    """The TCP port; ``None`` on a unix socket."""
    urls: tuple[str, ...]
    """Where clients connect to, one for each listening socket."""
