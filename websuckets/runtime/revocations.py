"""Revocations on this node, in their order.

A user may be revoked while code that is about to verify that user still waits: for a query that was
answered before, the hash of a password, a handshake. Such code must not undo the revocation. So
each revocation has a number, and each connection remembers the number of the last revocation from
before the connection began what it handles; see `User.id`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["Handling", "Revocations", "current_handling"]

REMEMBERED: Final = 10_000
"""Users whose last revocation is remembered: more than are revoked while one message is handled."""

_own: ContextVar[int] = ContextVar("websuckets.own_revocation", default=0)


class Handling:
    """The handling of one message in a task of its own, beside others of its connection."""

    __slots__ = ("since",)

    def __init__(self, since: int) -> None:
        self.since: int | None = since
        """Number of the last revocation from before the handling began; ``None`` after its end."""


_handling: ContextVar[Handling | None] = ContextVar("websuckets.handling", default=None)


def current_handling() -> Handling | None:
    """Return the handling to which this task belongs, or did, if it has a task of its own."""
    return _handling.get()


class Revocations:
    """Counter of the revocations that reached this node; it lives as long as the session."""

    def __init__(self) -> None:
        self.count: int = 0
        """Number of the last revocation; 0 before the first revocation."""
        self._last: dict[str | int, int] = {}  # by user; the oldest come first
        self._not_remembered = 0  # the number up to which revocations may be missing in `_last`

    def add(self, user_id: str | int) -> None:
        """Count one more revocation of this user."""
        self.count += 1
        self._last.pop(user_id, None)
        self._last[user_id] = self.count
        if len(self._last) > REMEMBERED:
            self._not_remembered = self._last.pop(next(iter(self._last)))

    def add_own(self, user_id: str | int) -> None:
        """Count a revocation that the current message itself asks for.

        A message that revokes a user may verify the same user afterwards: "log me in here, and out
        everywhere else".
        """
        self.add(user_id)
        _own.set(self.count)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle a message in this task for as long as the context lasts."""
        handling = Handling(self.count)
        token = _handling.set(handling)
        try:
            yield
        finally:
            handling.since = None
            _handling.reset(token)

    def add_forgotten(self) -> None:
        """Count a token that was forgotten, which says nothing of its user."""
        self.count += 1

    def came_after(self, number: int, user_id: str | int) -> bool:
        """Tell whether the user was revoked after this number, but not by the current message.

        True also if such a revocation may not be remembered any more.
        """
        last = self._last.get(user_id, self._not_remembered)
        return last > number and last != _own.get()
