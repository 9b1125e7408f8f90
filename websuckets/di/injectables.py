"""Objects that the framework itself provides: the connection, its client, and the message."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dishka import AsyncContainer, BaseScope, Provider, Scope, provide
from dishka.provider import BaseProvider
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets.cache import Cache, MemoryCache
from websuckets.clock import SYSTEM_CLOCK, WallClock
from websuckets.di.graph import ContextTypes, asking_for
from websuckets.di.scope_factory import ScopeSource, scope_factory
from websuckets.exc import NotAuthorized
from websuckets.history import EventLog, MemoryLog, MessageLog, PlainMessageLog
from websuckets.idempotency import IdempotencyStore, MemoryIdempotencyStore, MemoryReplies
from websuckets.protocol.messages import Message
from websuckets.runtime.effects import Effects
from websuckets.runtime.tasks import ConnectionTasks, TaskSource
from websuckets.security import CurrentUser
from websuckets.session import User
from websuckets.socket import ResponseHeaders, Socket, response_headers

__all__ = ["WebSucketsProvider", "context_types", "values_provider"]


class WebSucketsProvider(Provider):
    """Provider of the objects of every scope: the connection, its client, and the message.

    It is among `WebSuckets.providers`. By itself it completes a container in which providers of
    scope SESSION and REQUEST are tested without an app.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connection_types: tuple[type, ...] = _connection_types()
        """Types by which a dependency can ask for the connection; all of them name one object."""
        context = (Socket, *self.connection_types, Request, User, TaskSource)
        self.of_connection: tuple[Any, ...] = (*context, ConnectionTasks, ResponseHeaders)
        """Types of which there is an object while there is a connection."""
        self.of_message: tuple[Any, ...] = (Message, CurrentUser, CurrentUser | None)
        """Types of which there is an object while a message is handled."""
        for provides in context:
            self.from_context(provides, scope=Scope.SESSION)
        self.from_context(Message, scope=Scope.REQUEST)
        self.scopes: ScopeSource = ScopeSource()
        """Source of the scopes that are opened on demand."""
        self.provide(_constant(self.scopes), provides=ScopeSource, scope=Scope.APP)
        self.provide(scope_factory, scope=Scope.APP)

    @provide(scope=Scope.APP)
    def cache(self) -> Cache:
        return MemoryCache()

    @provide(scope=Scope.APP)
    def replies(self) -> MemoryReplies:
        return MemoryReplies()

    @provide(scope=Scope.REQUEST)
    def idempotency_store(self, replies: MemoryReplies) -> IdempotencyStore:
        return MemoryIdempotencyStore(replies)

    @provide(scope=Scope.APP)
    def event_log(self, clock: WallClock) -> EventLog:
        return MemoryLog(clock=clock)

    @provide(scope=Scope.REQUEST)
    def message_log(self, log: EventLog) -> MessageLog:
        return PlainMessageLog(log)

    @provide(scope=Scope.APP)
    def wall_clock(self) -> WallClock:
        return SYSTEM_CLOCK

    @provide(scope=Scope.REQUEST)
    def effects(self) -> Effects:
        # Scopes that the app opens have their effects already.
        raise RuntimeError(
            "OnCommit: the program itself has opened this scope, so nothing would call functions "
            "when it closes; ask for ScopeFactory[tuple[AsyncSession, OnCommit]], or what else the "
            "effects depend on, and open a scope with it"
        )

    @provide(scope=Scope.SESSION)
    async def connection_tasks(self, source: TaskSource) -> ConnectionTasks:
        return ConnectionTasks(await source.open())

    @provide(scope=Scope.SESSION)
    def response_headers(self, socket: Socket) -> ResponseHeaders:
        return response_headers(socket)

    @provide(scope=Scope.REQUEST)
    @asking_for({CurrentUser: True})
    async def current_user_if_any(self, container: AsyncContainer) -> CurrentUser | None:
        try:
            return await container.get(CurrentUser)
        except NotAuthorized:
            return None


def context_types(providers: Iterable[BaseProvider]) -> ContextTypes:
    """Return the types of the objects that the framework passes to its scopes."""
    types: dict[BaseScope, set[Any]] = {}
    for provider in providers:
        if isinstance(provider, WebSucketsProvider):
            for variable in provider.context_vars:
                assert variable.scope is not None
                types.setdefault(variable.scope, set()).add(variable.provides.type_hint)
    return types


def _connection_types() -> tuple[type, ...]:
    """Return the types of connections, with trio's type only if the program has imported trio's."""
    module = sys.modules.get("websockets.trio.server")
    trio_types = () if module is None else (module.ServerConnection,)
    return (ServerConnection, *trio_types)


def values_provider(
    values: Mapping[Any, object], scope: BaseScope = Scope.APP, component: str | None = None
) -> Provider:
    """Return a provider of objects that exist already, by the type that they are injected as."""
    provider = Provider(scope=scope, component=component)
    for provides, value in values.items():
        provider.provide(_constant(value), provides=provides)
    return provider


def _constant(value: object) -> Callable[[], object]:
    return lambda: value
