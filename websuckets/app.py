"""The application: where everything is put together."""

import logging
import signal
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import anyio
from dishka import AsyncContainer, Provider

from websuckets.commands import CommandGroup, command_table
from websuckets.connection import Connection, Wire
from websuckets.di.container import build_container, finalize
from websuckets.di.providers import WebSucketsProvider, values_provider
from websuckets.dispatcher import Dispatcher
from websuckets.exc import ConfigurationError
from websuckets.limits import Limits
from websuckets.security import SecurityProvider
from websuckets.session import Session, running
from websuckets.transports import websockets_asyncio

__all__ = ["Server", "WebSuckets"]

logger: logging.Logger = logging.getLogger("websuckets")

CONNECTION_TYPES: Final = (websockets_asyncio.ServerConnection,)
"""What the transports' own connections can be asked for by."""


class WebSuckets:
    """A WebSocket application: command groups, the providers that serve them, and their limits.

    It lives as long as the program and may run several times, one after the other. ``providers``
    are dishka's; later ones win over earlier ones and over the framework's own, so that a provider
    of `CurrentUser` replaces the security.
    """

    def __init__(self, *, providers: Iterable[Provider] = (), limits: Limits | None = None) -> None:
        self._providers = tuple(providers)
        self._limits = limits or Limits()
        self._groups: list[CommandGroup] = []
        self._session = Session()
        self._is_running = False

    def include_command_group(self, group: CommandGroup) -> None:
        """Serve the commands of a group.

        Raises `DuplicateCommand` for a name that is taken, what `CommandGroup.commands` raises, and
        `ConfigurationError` while the app runs.
        """
        if self._is_running:
            raise ConfigurationError(
                f"{group!r} comes too late: the app runs; include every group before it starts"
            )
        command_table([*self._groups, group])
        self._groups.append(group)
        _included_groups.append(weakref.ref(group))

    async def __call__(
        self, host: str | None = None, port: int | None = None, **options: Any
    ) -> None:
        """Serve until SIGINT or SIGTERM, or until cancelled.

        ``asyncio.run(app("localhost", 9000))`` is a whole program. Takes and
        raises what `serve` does. A second signal stops at once.
        """
        groups = self._groups or _groups_of_the_program()
        with _console_logging():
            async with self._serve(groups, host, port, options):
                if groups and not self._groups:
                    logger.warning(
                        "this app included no command group: serving the %d that the program "
                        "included in another one; create WebSuckets() once",
                        len(groups),
                    )
                await _until_told_to_stop()
                logger.info("stopping")

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        backend: Literal["asyncio"] = "asyncio",
        **options: Any,
    ) -> None:
        """Serve in an event loop of its own; takes and raises what calling the app does."""

        async def main() -> None:
            await self(host, port, **options)

        anyio.run(main, backend=backend)

    @asynccontextmanager
    async def serve(
        self, host: str | None = None, port: int | None = None, **options: Any
    ) -> AsyncIterator["Server"]:
        """Serve for as long as the context lasts, beside whatever else the program does.

        Port 0 picks a free one: ``async with app.serve("localhost", 0) as server: server.port``.
        ``options`` are the keyword arguments of ``websockets.asyncio.server.serve``: ``ssl``,
        ``subprotocols``, ``path`` of a unix socket, and the others.

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
        async with self._started(groups) as connections:
            listener = await websockets_asyncio.listen(
                connections.handle, host, port, self._limits, options
            )
            try:
                server = Server(listener.port, tuple(listener.urls))
                logger.info("listening on %s", ", ".join(server.urls))
                yield server
            finally:
                with anyio.CancelScope(shield=True):
                    listener.stop_accepting()
                    await connections.drain()
                    await listener.wait_closed()

    @asynccontextmanager
    async def _started(self, groups: list[CommandGroup]) -> AsyncIterator["_Connections"]:
        """While the app runs: its container is open and its session known."""
        if self._is_running:
            raise ConfigurationError("the app runs already; one app runs once at a time")
        commands = command_table(groups)
        container = build_container(
            [
                WebSucketsProvider(CONNECTION_TYPES),
                values_provider({WebSuckets: self, Session: self._session, Limits: self._limits}),
                SecurityProvider(),
                *self._providers,
            ],
            [command.injection for command in commands.values()],
        )
        self._is_running = True
        try:
            with running(self._session):
                dispatcher = Dispatcher(commands, self._limits)
                yield _Connections(dispatcher, container, self._session, self._limits)
        finally:
            self._is_running = False
            await finalize(container, timeout=self._limits.finalize_timeout, cancelled=True)


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


class _Connections:
    """The open connections of a running app."""

    def __init__(
        self, dispatcher: Dispatcher, container: AsyncContainer, session: Session, limits: Limits
    ) -> None:
        self._dispatcher = dispatcher
        self._container = container
        self._session = session
        self._limits = limits
        self._open: set[Connection] = set()
        self._all_gone: anyio.Event | None = None  # set up when draining

    async def handle(self, wire: Wire) -> None:
        """Serve one connection until it is gone."""
        connection = Connection(
            wire,
            dispatcher=self._dispatcher,
            container=self._container,
            context=dict.fromkeys(CONNECTION_TYPES, wire.socket),
            session=self._session,
            limits=self._limits,
        )
        self._open.add(connection)
        try:
            await connection.serve()
        finally:
            self._open.discard(connection)
            if self._all_gone and not self._open:
                self._all_gone.set()

    async def drain(self) -> None:
        """Close every connection after its running command; cancel what takes too long."""
        if not self._open:
            return
        self._all_gone = anyio.Event()
        with anyio.move_on_after(self._limits.drain_timeout):
            async with anyio.create_task_group() as closing:
                for connection in self._open:
                    closing.start_soon(connection.drain)
            await self._all_gone.wait()
        if self._open:
            logger.warning("aborting %d connections that did not close", len(self._open))
        for connection in self._open:
            connection.cancel()


async def _until_told_to_stop() -> None:
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                return
    except (NotImplementedError, RuntimeError, ValueError):
        pass  # not in the main thread, or not on Windows: whoever runs us stops us
    await anyio.sleep_forever()


@contextmanager
def _console_logging() -> Iterator[None]:
    """Show what the server says, in a program that has not set up logging."""
    root = logging.getLogger("websuckets")
    if root.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = root.level
    root.addHandler(handler)
    if level == logging.NOTSET:
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
