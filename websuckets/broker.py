"""Connection between the nodes of an app: the processes that run it, each with its clients."""

from collections.abc import Callable, Iterable
from typing import Protocol

import anyio

from websuckets.session import UserId

__all__ = ["Broker", "Link", "MemoryBroker", "Receiver"]


class Receiver(Protocol):
    """The part of a node that receives the messages of other nodes.

    No method waits.
    """

    def receive(self, topic: str, message: bytes) -> None:
        """Receive a message that another node has published to ``topic``, in the order of messages.

        Raises `ValueError` for a message that no node can have published; it is discarded.
        """
        ...

    def missed(self, topics: Iterable[str] | None) -> None:
        """Take note that messages may be lost: of these topics, or (``None``) of any topic."""
        ...

    def announced(self, announcement: bytes) -> None:
        """Receive an announcement of another node, made now or while this node was away.

        Raises `ValueError` for an announcement that no node can have made; it is discarded.
        """
        ...

    def missed_announcements(self) -> None:
        """Take note that announcements of other nodes may be lost, for good."""
        ...


class Link(Protocol):
    """One node's link to the broker, for as long as the app runs.

    Only `subscribe`, `announce` and `members` ever wait, and none of them for a service that is
    away.
    """

    async def subscribe(self, topic: str) -> None:
        """Receive messages for the topic: all that others publish once this has returned."""
        ...

    def unsubscribe(self, topic: str) -> None:
        """Receive no more messages for the topic."""
        ...

    def publish(self, topic: str, message: bytes) -> None:
        """Send a message to other nodes that subscribed to the topic: at most once, in order."""
        ...

    async def announce(self, announcement: bytes) -> None:
        """Send an announcement to every other node; nodes that are away get it when they are back.

        Each node gets each announcement once, and all nodes get them in one order. Raises
        `Unavailable` where this is not certain; some nodes may get the announcement nevertheless.
        """
        ...

    def enter(self, group: str, user_id: UserId) -> None:
        """Add the user ``user_id`` to the group, on this node."""
        ...

    def leave(self, group: str, user_id: UserId) -> None:
        """Remove the user ``user_id`` from the group, on this node."""
        ...

    async def members(self, group: str) -> set[UserId]:
        """Return the users in the group on other nodes, as far as this node can know them now."""
        ...


class Broker(Protocol):
    """A service that carries messages between nodes, and knows which users are on which node.

    An app uses the broker that its container provides with the scope APP, or else a `MemoryBroker`
    of its own. Each message is delivered at most once: a message that cannot be carried when it is
    published is lost, and its subscribers are told (`Receiver.missed`).
    """

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        """Run the link of one node, whose messages ``receiver`` gets, until cancelled.

        ``linked`` is called with the link soon, even while there is nothing to connect to.
        """
        ...


class MemoryBroker:
    """A broker between apps of one process that share it; for a single app it costs nothing."""

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
