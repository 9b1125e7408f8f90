"""Unknown names that clients ask for, in the log: each once in a while, with the nearest name."""

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from time import monotonic
from typing import Final

__all__ = ["UnknownCommands"]

logger: logging.Logger = logging.getLogger("websuckets")

PERIOD: Final = 3600
"""Seconds in which each name is logged once."""

MOST: Final = 100
"""Names that are logged in one period: clients invent as many names as they like."""

LENGTH: Final = 80
"""Characters of a name that are compared and logged."""

COMPARED: Final = 1000
"""Known names with which an unknown name is compared, at most: that takes some milliseconds."""


class UnknownCommands:
    """Unknown commands of one running app; ``known`` are the names of its commands."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = tuple(islice(known, COMPARED))
        self._logged: set[str] = set()
        self._since = monotonic()

    def note(self, name: str) -> None:
        """Log an unknown name, unless it was logged in this period, or too many were.

        A name comes from outside: the log shows its beginning, with all that is not printable
        escaped.
        """
        now = monotonic()
        if now - self._since > PERIOD:
            self._since = now
            self._logged.clear()
        name = name[:LENGTH]
        if len(self._logged) >= MOST or name in self._logged:
            return
        self._logged.add(name)
        logger.info("unknown command %a%s", name, self._remedy(name))
        if len(self._logged) == MOST:
            logger.info("no more unknown commands are logged within %d minutes", PERIOD // 60)

    def _remedy(self, name: str) -> str:
        nearest = get_close_matches(name, self._known, n=1)
        if not nearest:  # perhaps the prefix of the group was forgotten
            nearest = [known for known in self._known if known.rpartition(" ")[2] == name][:1]
        if nearest:
            return f"; the nearest is {nearest[0]!r}"
        return "; is its group included, and its prefix part of the name?"
