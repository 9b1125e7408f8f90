"""Retention: deletion of replies whose time is over, in batches, for as long as the app runs.

The deletion has sessions of its own, each for one batch. All nodes of an app do it, and leave each
other's rows alone.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import uniform
from typing import Final, TypeAlias

import anyio
from sqlalchemy import bindparam, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from websuckets.clock import WallClock
from websuckets.runtime.tasks import AppTasks
from websuckets.sql.errors import execute
from websuckets.sql.tables import replies

__all__ = ["OpenSession", "Retention", "delete_expired", "keep_deleting"]

logger: logging.Logger = logging.getLogger("websuckets")

PERIOD: Final = 300.0
"""Seconds between two deletions."""

BATCH: Final = 1000
"""Rows that one transaction deletes, at most."""

BATCHES: Final = 1000
"""Batches of one deletion, at most: more than that only come where sessions do not commit."""

OpenSession: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncSession]]
"""Function that opens a session, which is committed when its context is left without an error."""

_NAME: Final = replies.c.owner, replies.c.key

_DELETE: Final = delete(replies).where(
    tuple_(*_NAME).in_(
        select(*_NAME)
        .where(replies.c.expires <= bindparam("now"))
        .order_by(replies.c.expires)
        .limit(bindparam("batch"))
        .with_for_update(skip_locked=True)  # of which SQLite has no need
    )
)


class Retention:
    """Deletion of expired replies in a task of the app, from the first claim on."""

    def __init__(self, tasks: AppTasks, open_session: OpenSession, clock: WallClock) -> None:
        self._tasks = tasks
        self._open_session = open_session
        self._clock = clock
        self._has_begun = False

    def begin(self) -> None:
        """Start the task, if it is not started yet."""
        if not self._has_begun:
            self._has_begun = True
            self._tasks.start_soon(keep_deleting, self._open_session, self._clock)


async def keep_deleting(
    open_session: OpenSession, clock: WallClock, period: float = PERIOD, batch: int = BATCH
) -> None:
    """Delete expired replies every ``period`` seconds, until the task is cancelled.

    The first time is drawn at random, so that nodes that start together do not delete together, and
    is not in the first tenth of a period: an app that a test runs for seconds opens no session that
    the test does not expect. A deletion that fails is logged, and tried again a period later.
    """
    await anyio.sleep(uniform(period / 10, period))
    while True:
        try:
            await delete_expired(open_session, clock, batch=batch)
        except Exception as error:
            logger.warning("expired replies cannot be deleted for now: %s", type(error).__name__)
        await anyio.sleep(period)


async def delete_expired(
    open_session: OpenSession, clock: WallClock, *, batch: int = BATCH, batches: int = BATCHES
) -> None:
    """Delete expired replies, ``batch`` in one transaction, in ``batches`` transactions at most."""
    parameters = {"now": clock.time(), "batch": batch}
    for _ in range(batches):
        async with open_session() as session:
            deleted = await session.run_sync(
                lambda sync: (
                    execute(sync.connection({"clause": replies}), _DELETE, parameters).rowcount
                )
            )
        if deleted < batch:
            return
