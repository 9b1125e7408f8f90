"""From the start of an app to its stop, whatever transport serves its connections."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from dishka import AsyncContainer, Provider, Scope
from dishka.provider import BaseProvider

from websuckets.commands import Command
from websuckets.connection import Setup
from websuckets.connections import Connections
from websuckets.di.container import Override, build_container, tell_defaults
from websuckets.di.providers import Injection, WebSucketsProvider, values_provider
from websuckets.di.work import Work, Works
from websuckets.dispatcher import Dispatcher
from websuckets.hooks import HookDeclarations
from websuckets.limits import Limits
from websuckets.security import SecurityProvider
from websuckets.session import Session, as_current, running
from websuckets.tasks import AppTasks, Background, TaskSource
from websuckets.transports import connection_types

__all__ = ["Running", "started", "stop"]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(frozen=True, slots=True)
class Running:
    """An app that has started."""

    connections: Connections
    container: AsyncContainer
    injections: list[Injection]

    def tell_defaults(self) -> None:
        """Log which parameters are never filled."""
        for injection in self.injections:
            tell_defaults(injection, self.container)


@asynccontextmanager
async def started(
    commands: Mapping[str, Command],
    hooks: HookDeclarations,
    providers: Iterable[BaseProvider],
    overrides: Iterable[Override],
    values: Mapping[Any, object],
    session: Session,
    limits: Limits,
) -> AsyncIterator[Running]:
    """While an app runs: its container is open, its hooks have run, its tasks are running.

    Raises a `ConfigurationError` for what is wrong with the program, and what an ``on_startup``
    hook raises.
    """
    types = connection_types()
    ours = WebSucketsProvider(types)
    ready = hooks.read(ours)
    injections = [*(command.injection for command in commands.values()), *ready.injections]
    works = Works(limits.finalize_timeout)
    background = Background(patience=limits.finalize_timeout)
    tasks = TaskSource(background, "the app")
    tasks_provider = Provider(scope=Scope.APP)
    tasks_provider.provide(tasks.open, provides=AppTasks)
    container = build_container(
        [
            ours,
            values_provider({Session: session, Limits: limits, **values}),
            tasks_provider,
            SecurityProvider(),
            *providers,
        ],
        injections,
        overrides,
    )
    setup = Setup(
        container,
        connection_types=types,
        dispatcher=Dispatcher(commands),
        has_streams=any(command.is_stream for command in commands.values()),
        hooks=ready,
        session=session,
        limits=limits,
        works=works,
        background=background,
    )
    with running(session):
        async with background, AsyncExitStack() as steps:
            background.start_soon(works.keep_time)
            steps.push_async_callback(_close, container, works, session)
            steps.push_async_callback(tasks.end)
            with as_current(session):
                await _run_startup_hooks(setup)
            yield Running(Connections(setup), container, injections)


async def _run_startup_hooks(setup: Setup) -> None:
    for hook in setup.hooks.startup:
        with anyio.CancelScope() as life, setup.works.begin(life) as work:
            try:
                await hook.run(setup.container, work)
            except Exception as error:
                error.add_note(f"while running {hook.name}")
                raise


async def _close(container: AsyncContainer, works: Works, session: Session) -> None:
    """Finalise the objects of the app."""
    with as_current(session), anyio.CancelScope() as life, works.begin(life) as work:
        await work.close(container)
    _log_if_late(work)


def _log_if_late(work: Work) -> None:
    if work.lateness is not None:
        logger.error("%s and were cancelled", work.lateness)


async def stop(
    connections: Connections, wait_closed: Callable[[], Awaitable[None]], timeout: float | None
) -> None:
    """Wait for running commands and closing handshakes, then cancel what is left."""
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(timeout):
                await connections.drain()
                await wait_closed()
        finally:
            await connections.abort()
