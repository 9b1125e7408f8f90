"""What is found in Redis that no node can have put there, and what Redis refuses to do."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from coredis.exceptions import ConnectionError as NotConnected
from coredis.exceptions import RedisError

__all__ = ["Foreign"]

logger: logging.Logger = logging.getLogger("websuckets")


class Foreign:
    """Counts it, and says so ever more seldom; it lives as long as the broker."""

    def __init__(self) -> None:
        self.count: int = 0
        self._refusals = 0

    def found(self, where: str) -> None:
        """There was something, which is dropped."""
        self.count += 1
        if _is_power_of_two(self.count):
            logger.warning("dropped what no node has written, in %.80r (%d)", where, self.count)

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Errors that Redis answers with are logged: others may have taken our keys, or rights."""
        try:
            yield
        except NotConnected:
            raise
        except RedisError as error:
            self._refusals += 1
            if _is_power_of_two(self._refusals):
                reason = str(error).partition(", with args")[0]  # which may be somebody's payload
                logger.error("Redis refuses: %s (%d)", reason, self._refusals)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
