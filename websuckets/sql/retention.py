"""Retention: deletion of rows whose time is over, in batches, for as long as the app runs.

The deletion has sessions of its own, each for one batch. All nodes of an app do it, and leave each
other's rows alone.
"""

import logging
from typing import Any, Final, NamedTuple

import anyio
from sqlalchemy import Delete, Select, Table, bindparam, delete, select, tuple_
from sqlalchemy.orm import Session

from websuckets.clock import WallClock
from websuckets.runtime.jitter import uniform
from websuckets.runtime.tasks import AppTasks
from websuckets.sql.errors import execute
from websuckets.sql.sessions import OpenSession
from websuckets.sql.tables import channels, events, replies

__all__ = ["EVENTS", "REPLIES", "Kind", "Retention", "delete_expired", "keep_deleting"]

logger: logging.Logger = logging.getLogger("websuckets")

PERIOD: Final = 300.0
"""Seconds between two deletions."""

TIME_TO_DELETE: Final = 120.0
"""Seconds for which one deletion goes on, at most: a connection may have died without a sign."""

BATCH: Final = 1000
"""Rows that one transaction deletes, at most."""

BATCHES: Final = 1000
"""Batches of one deletion, at most: more than that only come where sessions do not commit."""


class Kind(NamedTuple):
    """Rows that are not kept forever."""

    name: str
    """Name of the rows in the log."""
    deletions: tuple[Delete, ...]
    """Statements with the parameters ``now``, in seconds since the epoch, and ``batch``."""


def _deletion(table: Table, over: Select[Any]) -> Delete:
    """Return the statement that deletes the rows of a table whose keys are those of ``over``."""
    some: Any = over.limit(bindparam("batch")).with_for_update(skip_locked=True, of=table)
    return delete(table).where(tuple_(*table.primary_key).in_(some))


def _expired(table: Table) -> Delete:
    over = select(*table.primary_key).where(table.c.expires <= bindparam("now"))
    return _deletion(table, over.order_by(table.c.expires))


REPLIES: Final = Kind("replies", (_expired(replies),))

EVENTS: Final = Kind(
    "events",
    (
        _expired(events),
        _deletion(
            events,
            # By channels: few have more events than they keep, and an index finds those events.
            select(*events.primary_key)
            .select_from(channels)
            .join(
                events,
                (events.c.channel == channels.c.channel) & (events.c.life == channels.c.life),
            )
            .where(
                channels.c.head > channels.c.size,
                events.c.offset <= channels.c.head - channels.c.size,
            ),
        ),
    ),
)
"""Events that are too old, and events that a channel has beyond its size."""


class Retention:
    """Deletion of rows of one kind in a task of the app, from the first call of `begin` on."""

    def __init__(
        self, kind: Kind, tasks: AppTasks, open_session: OpenSession, clock: WallClock
    ) -> None:
        self._kind = kind
        self._tasks = tasks
        self._open_session = open_session
        self._clock = clock
        self._has_begun = False

    def begin(self) -> None:
        """Start the task, if it is not started yet."""
        if not self._has_begun:
            self._has_begun = True
            self._tasks.start_soon(keep_deleting, self._kind, self._open_session, self._clock)


async def keep_deleting(
    kind: Kind,
    open_session: OpenSession,
    clock: WallClock,
    period: float = PERIOD,
    batch: int = BATCH,
) -> None:
    """Delete rows that are over every ``period`` seconds, until the task is cancelled.

    The first time is drawn at random, so that nodes that start together do not delete together, and
    is not in the first tenth of a period: an app that a test runs for seconds opens no session that
    the test does not expect. A deletion that fails is logged, and tried again a period later.
    """
    await anyio.sleep(uniform(period / 10, period))
    while True:
        try:
            with anyio.fail_after(TIME_TO_DELETE):
                await delete_expired(kind, open_session, clock, batch=batch)
        except Exception as error:
            name, text = kind.name, type(error).__name__
            logger.warning("expired %s cannot be deleted for now: %s", name, text)
        await anyio.sleep(period)


async def delete_expired(
    kind: Kind,
    open_session: OpenSession,
    clock: WallClock,
    *,
    batch: int = BATCH,
    batches: int = BATCHES,
) -> None:
    """Delete rows that are over, ``batch`` in one transaction.

    Each statement of ``kind`` has ``batches`` transactions at most.
    """
    parameters = {"now": clock.time(), "batch": batch}
    for deletion in kind.deletions:
        for _ in range(batches):
            async with open_session() as session:
                deleted = await session.run_sync(_delete, deletion, parameters)
            if deleted < batch:
                break


def _delete(session: Session, deletion: Delete, parameters: dict[str, Any]) -> int:
    connection = session.connection({"clause": deletion.table})
    return execute(connection, deletion, parameters).rowcount
