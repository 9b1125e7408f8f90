"""The application: where everything is put together."""

import logging
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
from dishka import Provider
from dishka.provider import BaseProvider

from websuckets.commands import Command, CommandGroup, check_groups, command_table
from websuckets.di.container import Override
from websuckets.exc import ConfigurationError
from websuckets.hooks import HookDeclarations, Kind
from websuckets.lifecycle import Running, started, stop
from websuckets.limits import Limits
from websuckets.program import console_logging, told_to_stop
from websuckets.session import Session
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
        self._is_running = False

    def include_command_group(self, group: CommandGroup) -> None:
        """Serve the commands of a group.

        Raises `DuplicateCommand` for a name that is taken, `InvalidHandlerSignature` for handlers
        that could not be read before and are wrong, and `ConfigurationError` while the app runs.
        """
        if not isinstance(group, CommandGroup):
            raise ConfigurationError(f"{group!r} is no CommandGroup")
        self._check_not_running(f"{group!r} comes too late; include every group before it starts")
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

        Raises `ConfigurationError` while the app runs, and for what is no provider.
        """
        self._check_not_running("override providers before it starts")
        override = Override(tuple(_provider(given) for given in providers), dict(values or {}))
        self._overrides.append(override)
        try:
            yield
        finally:
            self._overrides.remove(override)

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
        commands = command_table(groups)
        async with self._started(commands, limits) as app:
            listener = running_transport().listen(
                app.connections.accept,
                partial(stop, app.connections, timeout=limits.drain_timeout),
                host,
                port,
                limits,
                options,
            )
            async with listener as listening:
                logger.info(
                    "listening on %s, %d commands", ", ".join(listening.urls), len(commands)
                )
                app.tell_defaults()
                yield Server(listening.port, listening.urls)

    @asynccontextmanager
    async def _started(
        self, commands: dict[str, Command], limits: Limits
    ) -> AsyncIterator[Running]:
        self._check_not_running("one app runs once at a time")
        values = {WebSuckets: self}
        self._is_running = True
        try:
            async with started(
                commands,
                self._hooks,
                self._providers,
                self._overrides,
                values,
                self._session,
                limits,
            ) as app:
                yield app
        finally:
            self._is_running = False

    def _check_not_running(self, why: str) -> None:
        if self._is_running:
            raise ConfigurationError(f"the app runs already: {why}")

    def _add_hook(self, kind: Kind, hook: HookFunction) -> HookFunction:
        self._check_not_running(f"register on_{kind} hooks before it starts")
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
