"""What is found in Redis that no node can have put there."""

import logging

__all__ = ["Foreign"]

logger: logging.Logger = logging.getLogger("websuckets")


class Foreign:
    """Counts it, and says so ever more seldom; it lives as long as the broker."""

    def __init__(self) -> None:
        self.count: int = 0

    def found(self, where: str) -> None:
        """There was something, which is dropped."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            logger.warning("dropped what no node has written, in %.80r (%d)", where, self.count)
