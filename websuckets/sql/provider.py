"""Provider that keeps replies and events in the database of a program."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Final

from dishka import AnyOf, FromComponent, Provider, Scope
from sqlalchemy.ext.asyncio import AsyncSession

from websuckets.clock import WallClock
from websuckets.di import ScopeFactory
from websuckets.di.graph import replacing
from websuckets.exc import ConfigurationError
from websuckets.history import EventLog, MessageLog
from websuckets.idempotency import IdempotencyStore
from websuckets.introspection.hints import name_of
from websuckets.runtime.tasks import AppTasks
from websuckets.sql.history import SqlLog, SqlMessageLog
from websuckets.sql.retention import EVENTS, REPLIES, Retention
from websuckets.sql.store import Settings, SqlIdempotencyStore

__all__ = ["SqlProvider"]

LIFETIME: Final = 604_800.0
"""Seconds for which a reply is kept after its command has been claimed: a week."""

RETRIES: Final = 5


class SqlProvider(Provider):
    """A provider of an `IdempotencyStore` and an `EventLog` that share the handler's transaction.

    ``session_type`` is ``AsyncSession``, or a subclass of it, by which handlers ask for their
    session; ``component`` is dishka's component of the session, if it has one. The database is
    SQLite or PostgreSQL, and has the tables of `metadata`.

    The reply of a command with ``once=True`` and a key is a row of the transaction in which the
    handler works. Both are committed together, when the scope of the command closes, so that the
    command takes effect exactly once, on all nodes together. The provider of the session therefore
    commits, as ``provide_context(sessionmaker.begin, provides=AsyncSession)`` does; where it does
    not, the command is an internal error. The handler itself may neither commit nor roll back:
    that raises `RuntimeError`. Savepoints are allowed.

    After a serialization failure, a deadlock or a lock of SQLite the command runs again, up to
    ``retries`` times, within its one timeout. Effects outside of the session may then repeat.

    A reply is kept for ``lifetime`` seconds; then a task of the app deletes it.

    Events of channels with a `History` are rows, too. Those that are published when a handler
    commits (`OnCommit.publish`) are inserted in its transaction, as the last statement: an event
    exists if and only if the transaction of its handler was committed. Until then, others who
    publish to the same channel wait. Events that a channel does not keep any more are deleted by a
    task of the app. With ``history=False``, the log of events is that of another provider.

    Raises `ConfigurationError` for a type that is not a session, and for numbers that mean nothing.
    """

    def __init__(
        self,
        session_type: type[AsyncSession],
        *,
        retries: int = RETRIES,
        lifetime: float = LIFETIME,
        component: str | None = None,
        history: bool = True,
    ) -> None:
        super().__init__(scope=Scope.REQUEST)
        if not (isinstance(session_type, type) and issubclass(session_type, AsyncSession)):
            raise ConfigurationError(
                f"SqlProvider({name_of(session_type)}): it takes the type by which handlers ask "
                "for their session: AsyncSession, or a subclass of it"
            )
        if not (isinstance(retries, int) and retries >= 0):
            raise ConfigurationError(f"SqlProvider(retries={retries!r}): it is an int, at least 0")
        if not (isinstance(lifetime, int | float) and 0 < lifetime < math.inf):
            raise ConfigurationError(
                f"SqlProvider(lifetime={lifetime!r}): it is a number of seconds, above 0"
            )
        if not isinstance(component, str | None):
            raise ConfigurationError(
                f"SqlProvider(component={component!r}): it is the name of a component, a str"
            )
        hint: Any = session_type
        if component is not None:
            hint = Annotated[session_type, FromComponent(component)]

        @replacing(IdempotencyStore)
        def settings(clock: WallClock, tasks: AppTasks, new_session: Any) -> Settings:
            retention = Retention(REPLIES, tasks, new_session, clock)
            return Settings(clock, lifetime, retries, retention.begin)

        def store(session: Any, settings: Settings) -> Iterator[IdempotencyStore]:
            store = SqlIdempotencyStore(session, settings)
            try:
                yield store
            finally:
                store.leave()  # before the session closes, on which this depends

        settings.__annotations__["new_session"] = ScopeFactory[hint]
        store.__annotations__["session"] = hint
        self.provide(settings, scope=Scope.APP)
        self.provide(store)
        if history:

            @replacing(EventLog, MessageLog)
            def log(clock: WallClock, tasks: AppTasks, new_session: Any) -> AnyOf[SqlLog, EventLog]:
                retention = Retention(EVENTS, tasks, new_session, clock)
                return SqlLog(new_session, clock, retries, retention.begin)

            def log_of_message(session: Any, log: SqlLog) -> MessageLog:
                return SqlMessageLog(session, log)

            log.__annotations__["new_session"] = ScopeFactory[hint]
            log_of_message.__annotations__["session"] = hint
            self.provide(log, scope=Scope.APP)
            self.provide(log_of_message)
