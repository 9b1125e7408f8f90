"""Users in the channels of one node, and all who are online: who is there, by any connection."""

from collections import Counter
from collections.abc import Callable

from websuckets.session import UserId

__all__ = ["UserGroups"]


class UserGroups:
    """Groups of the users who are connected to one node, while the app runs.

    ``present`` is called with group and id when the first connection of a user enters the group,
    and ``absent`` when the last connection leaves the group. No method waits.
    """

    def __init__(
        self, present: Callable[[str, UserId], None], absent: Callable[[str, UserId], None]
    ) -> None:
        self._present = present
        self._absent = absent
        self._groups: dict[str, Counter[UserId]] = {}

    def enter(self, group: str, id: UserId) -> None:
        """Add a connection of a user to a group."""
        users = self._groups.setdefault(group, Counter())
        users[id] += 1
        if users[id] == 1:
            self._present(group, id)

    def leave(self, group: str, id: UserId) -> None:
        """Remove a connection of a user from a group."""
        users = self._groups[group]
        users[id] -= 1
        if not users[id]:
            del users[id]
            self._absent(group, id)
        if not users:
            del self._groups[group]

    def members(self, group: str) -> set[UserId]:
        """Return the users who are in the group on this node."""
        return set(self._groups.get(group, ()))
