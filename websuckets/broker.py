"""Connection between the nodes of an app: the processes that run it, each with its clients."""

from collections.abc import Callable, Iterable
from typing import Protocol

import anyio

from websuckets.session import UserId

__all__ = ["Broker", "Link", "MemoryBroker", "Receiver"]


class Receiver(Protocol):
    """What a node does with what comes from others. Nothing here waits."""

    def receive(self, topic: str, message: bytes) -> None:
        """Another node has published this, in the order in which it comes.

        Raises `ValueError` for what no node can have published; it is dropped.
        """
        ...

    def missed(self, topics: Iterable[str] | None) -> None:
        """Others may have published what did not come: to these topics, or (``None``) to any."""
        ...

    def announced(self, announcement: bytes) -> None:
        """Another node has announced this, now or while this node was away.

        Raises `ValueError` for what no node can have announced; it is dropped.
        """
        ...

    def missed_announcements(self) -> None:
        """Others may have announced what did not come, and never will."""
        ...


class Link(Protocol):
    """One node's part of a broker, for as long as the app runs.

    Only `subscribe`, `announce` and `members` ever wait, and not for what is away.
    """

    async def subscribe(self, topic: str) -> None:
        """Receive what others publish to it: all that they do once this has returned."""
        ...

    def unsubscribe(self, topic: str) -> None: ...

    def publish(self, topic: str, message: bytes) -> None:
        """Send it to all other nodes that are subscribed: at most once, in order."""
        ...

    async def announce(self, announcement: bytes) -> None:
        """Have every other node get this, also those that are away for now, when they are back.

        Each node gets it once, and all of them in one order. Raises `Unavailable` where this is not
        certain; some may get it then.
        """
        ...

    def enter(self, group: str, user_id: UserId) -> None:
        """This user is in the group, on this node."""
        ...

    def leave(self, group: str, user_id: UserId) -> None: ...

    async def members(self, group: str) -> set[UserId]:
        """Who is in the group on other nodes, as far as that can be known now."""
        ...


class Broker(Protocol):
    """Carries messages between nodes, and tells who is where.

    An app uses the one that its container provides with the scope APP, or else a `MemoryBroker` of
    its own. At most once: what is published while it cannot be carried is lost, and subscribers are
    told (`Receiver.missed`).
    """

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        """Be a node's link until cancelled. ``linked`` is told the link soon, also while there is
        nothing to link to."""
        ...


class MemoryBroker:
    """Connects the apps of one process that share it, and for a single one costs nothing."""

    def __init__(self) -> None:
        self._links: list[_MemoryLink] = []

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        link = _MemoryLink(receiver, self._links)
        self._links.append(link)
        try:
            linked(link)
            await anyio.sleep_forever()
        finally:
            self._links.remove(link)


class _MemoryLink:
    def __init__(self, receiver: Receiver, links: list["_MemoryLink"]) -> None:
        self._receiver = receiver
        self._links = links
        self._topics: set[str] = set()
        self._groups: dict[str, set[UserId]] = {}

    async def subscribe(self, topic: str) -> None:
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics.discard(topic)

    def publish(self, topic: str, message: bytes) -> None:
        for link in self._links:
            if link is not self and topic in link._topics:
                link._receiver.receive(topic, message)

    async def announce(self, announcement: bytes) -> None:
        for link in self._links:
            if link is not self:
                link._receiver.announced(announcement)

    def enter(self, group: str, user_id: UserId) -> None:
        self._groups.setdefault(group, set()).add(user_id)

    def leave(self, group: str, user_id: UserId) -> None:
        users = self._groups[group]
        users.discard(user_id)
        if not users:
            del self._groups[group]

    async def members(self, group: str) -> set[UserId]:
        others = (link for link in self._links if link is not self)
        return set().union(*(link._groups.get(group, ()) for link in others))
