"""The application: where everything is put together."""

import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import anyio
from dishka import AsyncContainer, Provider
from dishka.provider import BaseProvider

from websuckets.commands import Command, CommandGroup, check_groups, command_table
from websuckets.connection import TICKS_IN_TIME, Connections
from websuckets.di.container import build_container, close, tell_defaults
from websuckets.di.providers import WebSucketsProvider, values_provider
from websuckets.dispatcher import Dispatcher
from websuckets.exc import ConfigurationError
from websuckets.limits import Limits
from websuckets.program import console_logging, told_to_stop
from websuckets.security import SecurityProvider
from websuckets.session import Session, as_current, running
from websuckets.transports import connection_types, running_transport

__all__ = ["Server", "WebSuckets"]

logger: logging.Logger = logging.getLogger("websuckets")


class WebSuckets:
    """A WebSocket application: command groups, the providers that serve them, and their limits.

    It lives as long as the program and may run several times, one after the other. ``providers``
    are dishka's; later ones win over earlier ones and over the framework's own, so that a provider
    of `CurrentUser` replaces the security.
    """

    def __init__(self, *, providers: Iterable[Provider] = (), limits: Limits | None = None) -> None:
        self._providers = tuple(_provider(given) for given in providers)
        self._limits = limits or Limits()
        self._groups: list[CommandGroup] = []
        self._session = Session()
        self._is_running = False

    def include_command_group(self, group: CommandGroup) -> None:
        """Serve the commands of a group.

        Raises `DuplicateCommand` for a name that is taken, `InvalidHandlerSignature` for handlers
        that could not be read before and are wrong, and `ConfigurationError` while the app runs.
        """
        if not isinstance(group, CommandGroup):
            raise ConfigurationError(f"{group!r} is no CommandGroup")
        if self._is_running:
            raise ConfigurationError(
                f"{group!r} comes too late: the app runs; include every group before it starts"
            )
        check_groups([*self._groups, group])
        self._groups.append(group)
        _included_groups.append(weakref.ref(group))

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
            async with self._serve(groups, host, port, options):
                if groups and not self._groups:
                    logger.warning(
                        "this app included no command group: serving the %d that the program "
                        "included in another one; create WebSuckets() once",
                        len(groups),
                    )
                await told_to_stop()
                logger.info("stopping")

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
        transport = running_transport()
        async with AsyncExitStack() as stack:
            container, connections = await stack.enter_async_context(
                self._started(commands, limits)
            )
            if limits.finalize_timeout is not None:
                seconds = limits.finalize_timeout / TICKS_IN_TIME
                stack.enter_context(transport.ticking(connections.tick, seconds))

            async def stop(wait_closed: Callable[[], Awaitable[None]]) -> None:
                with anyio.CancelScope(shield=True):
                    await _stop(connections, wait_closed, limits.drain_timeout)

            listener = await stack.enter_async_context(
                transport.listen(connections.serve, stop, host, port, limits, options)
            )
            logger.info("listening on %s, %d commands", ", ".join(listener.urls), len(commands))
            for command in commands.values():
                tell_defaults(command.injection, container)
            yield Server(listener.port, listener.urls)

    @asynccontextmanager
    async def _started(
        self, commands: dict[str, Command], limits: Limits
    ) -> AsyncIterator[tuple[AsyncContainer, Connections]]:
        """While the app runs: its container is open and its session known."""
        if self._is_running:
            raise ConfigurationError("the app runs already; one app runs once at a time")
        types = connection_types()
        values = {WebSuckets: self, Session: self._session, Limits: limits}
        container = build_container(
            [
                WebSucketsProvider(types),
                values_provider(values),
                SecurityProvider(),
                *self._providers,
            ],
            [command.injection for command in commands.values()],
        )
        dispatcher = Dispatcher(commands, limits)
        connections = Connections(dispatcher, container, self._session, limits, types)
        self._is_running = True
        try:
            with running(self._session):
                try:
                    yield container, connections
                finally:
                    with as_current(self._session):
                        await close(container, timeout=limits.finalize_timeout)
        finally:
            self._is_running = False


async def _stop(
    connections: Connections, wait_closed: Callable[[], Awaitable[None]], timeout: float | None
) -> None:
    """Wait for running commands and closing handshakes, then cancel what is left."""
    try:
        with anyio.move_on_after(timeout):
            await connections.drain()
            await wait_closed()
    finally:
        await connections.abort()


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
