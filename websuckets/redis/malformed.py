"""Counter of data found in Redis that no node can have written."""

import logging

__all__ = ["MalformedCounter"]

logger: logging.Logger = logging.getLogger("websuckets")


class MalformedCounter:
    """Counter of malformed data, logged at each power of two; lives as long as the broker."""

    def __init__(self) -> None:
        self.count: int = 0

    def found(self, where: str) -> None:
        """Count one piece of malformed data, which the caller discards."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            logger.warning("ignored what no node has written, in %.80r (%d)", where, self.count)
