"""Sessions of a program as websuckets uses them: its own ones, and those of handlers."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias, TypeVar

import anyio
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from websuckets.exc import Unavailable
from websuckets.sql.errors import is_outage, passes_when_run_again

__all__ = ["OpenSession", "commits_by_itself", "discard_connection", "run_in", "unavailable"]

logger: logging.Logger = logging.getLogger("websuckets")

T = TypeVar("T")

OpenSession: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncSession]]
"""Function that opens a session, which is committed when its context is left without an error."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that the connection of a cancelled statement may take to close."""


async def run_in(session: AsyncSession, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function with the session of a handler, as SQLAlchemy's ``run_sync`` does.

    Raises `Unavailable` if the database cannot be reached, and all other errors as they are.
    """
    try:
        return await session.run_sync(function, *arguments)
    except BaseException as error:
        if not isinstance(error, Exception):  # a cancellation, while the connection is in use
            await discard_connection(session)
            raise
        if passes_when_run_again(error) or not is_outage(error):
            raise
        raise unavailable(error) from error


def unavailable(error: Exception) -> Unavailable:
    """Log that the database cannot be used, and return the error for it."""
    logger.warning("the database of SqlProvider cannot be used: %s", type(error).__name__)
    return Unavailable()


async def discard_connection(session: AsyncSession) -> None:
    """Keep the connection of a session, a statement of which was cancelled, from the pool.

    Some versions of SQLAlchemy (2.0.46 to 2.0.54, and 2.1.0) are interrupted while they do so
    themselves, and leave a connection in the pool that is closed.
    """
    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
        await session.invalidate()


def commits_by_itself(connection: Connection) -> bool:
    """Tell whether a connection has no transactions (``isolation_level='AUTOCOMMIT'``)."""
    # Undocumented; the documented get_isolation_level() asks the server.
    return connection._is_autocommit_isolation()
