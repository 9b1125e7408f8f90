"""Sessions of a program as websuckets uses them: its own ones, and those of handlers."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from websuckets.exc import Unavailable
from websuckets.sql.errors import is_outage, passes_when_run_again

__all__ = ["OpenSession", "commits_by_itself", "run_in", "unavailable"]

logger: logging.Logger = logging.getLogger("websuckets")

T = TypeVar("T")

OpenSession: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncSession]]
"""Function that opens a session, which is committed when its context is left without an error."""


async def run_in(session: AsyncSession, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function with the session of a handler, as SQLAlchemy's ``run_sync`` does.

    Raises `Unavailable` if the database cannot be reached, and all other errors as they are.
    """
    try:
        return await session.run_sync(function, *arguments)
    except Exception as error:
        if passes_when_run_again(error) or not is_outage(error):
            raise
        raise unavailable(error) from error


def unavailable(error: Exception) -> Unavailable:
    """Log that the database cannot be used, and return the error for it."""
    logger.warning("the database of SqlProvider cannot be used: %s", type(error).__name__)
    return Unavailable()


def commits_by_itself(connection: Connection) -> bool:
    """Tell whether a connection has no transactions (``isolation_level='AUTOCOMMIT'``)."""
    # Undocumented; the documented get_isolation_level() asks the server.
    return connection._is_autocommit_isolation()
