"""Connection between the nodes of an app: the processes that run it, each with its clients."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

import anyio
from pydantic_core import to_json

from websuckets.session import UserId

__all__ = ["PRESENCE", "Broker", "Link", "MemoryBroker", "PresenceRules", "Receiver"]

PRESENCE: Final = "presence/"
"""Prefix of the topic on which nodes are told who has come to a group, and who has left it.

The broker itself sends these messages, ``{"joined": [...], "left": [...]}`` with ids of users, to
all nodes that subscribed to the topic, in one order: see `PresenceRules`.
"""


@dataclass(frozen=True, slots=True)
class PresenceRules:
    """Rules by which a broker tells nodes of users who come and leave, the same on all nodes.

    A user has come who is in a group on any node, and was in the group on no node before. A user
    has left who is in the group on no node any more, and comes back to none of them within
    ``grace`` seconds. Nodes are told of each once, whichever node it was, and whether a node
    removed the user or died. ``tells`` is a function that says of which groups nodes are told.
    """

    grace: float
    tells: Callable[[str], bool]


class Receiver(Protocol):
    """The part of a node that receives the messages of other nodes.

    No method waits.
    """

    presence: PresenceRules | None
    """Rules for who comes and leaves; ``None`` if nodes are told of no group."""

    def receive(self, topic: str, message: bytes) -> None:
        """Receive a message that another node has published to ``topic``, in the order of messages.

        Messages of the broker itself, whose topics begin with `PRESENCE`, come by this method, too.
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

    Only `subscribe`, `announce`, `members` and `present` ever wait, and none of them for a service
    that is away.
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

    async def present(self, group: str) -> set[UserId]:
        """Return the users, of all nodes, who have come to the group and have not left it yet.

        The `PresenceRules` say when that is. A node that subscribes to the topic first is told of
        all later changes. Raises `Unavailable`.
        """
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
        self._presence = _MemoryPresence(self._links)

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        link = _MemoryLink(receiver, self._links, self._presence)
        self._links.append(link)
        try:
            linked(link)
            if receiver.presence is None:
                await anyio.sleep_forever()
            await self._presence.run(link)
        finally:
            self._links.remove(link)
            link.leave_all()
            if not self._links:  # the next app may have another event loop, with another clock
                self._presence.clear()


class _MemoryLink:
    def __init__(
        self, receiver: Receiver, links: list["_MemoryLink"], presence: "_MemoryPresence"
    ) -> None:
        self.has_to_settle = anyio.Event()
        """Set when there is another user to be told of."""
        self._receiver = receiver
        self._links = links
        self._presence = presence
        self._topics: set[str] = set()
        self._groups: dict[str, set[UserId]] = {}

    async def subscribe(self, topic: str) -> None:
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics.discard(topic)

    def publish(self, topic: str, message: bytes) -> None:
        for link in self._links:
            if link is not self:
                link.receive(topic, message)

    def receive(self, topic: str, message: bytes) -> None:
        if topic in self._topics:
            self._receiver.receive(topic, message)

    async def announce(self, announcement: bytes) -> None:
        for link in self._links:
            if link is not self:
                link._receiver.announced(announcement)

    def enter(self, group: str, user_id: UserId) -> None:
        self._groups.setdefault(group, set()).add(user_id)
        rules = self._receiver.presence
        if rules is not None and rules.tells(group):
            self._presence.entered(group, user_id)

    def leave(self, group: str, user_id: UserId) -> None:
        users = self._groups[group]
        users.discard(user_id)
        if not users:
            del self._groups[group]
        rules = self._receiver.presence
        if rules is not None and rules.tells(group):
            self._presence.left(group, user_id, rules.grace)

    def leave_all(self) -> None:
        """Remove all users of this node, which has ended."""
        for group, users in [(group, list(users)) for group, users in self._groups.items()]:
            for user_id in users:
                self.leave(group, user_id)

    def has(self, group: str, user_id: UserId) -> bool:
        return user_id in self._groups.get(group, ())

    async def members(self, group: str) -> set[UserId]:
        others = (link for link in self._links if link is not self)
        return set().union(*(link._groups.get(group, ()) for link in others))

    async def present(self, group: str) -> set[UserId]:
        return self._presence.present(group)


class _MemoryPresence:
    """Users who have come to groups and have not left them yet, of all apps that share a broker.

    Each of these apps has one task that tells of departures when their time has come.
    """

    def __init__(self, links: list[_MemoryLink]) -> None:
        self._links = links
        self._groups: dict[str, dict[UserId, float | None]] = {}
        """Users of each group, with the time at which those who are in it nowhere have left."""
        self._due: list[tuple[float, int, str, UserId]] = []
        self._numbers = count()

    async def run(self, link: _MemoryLink) -> None:
        while True:
            link.has_to_settle = anyio.Event()
            with anyio.move_on_after(self._settle()):
                await link.has_to_settle.wait()

    def present(self, group: str) -> set[UserId]:
        return set(self._groups.get(group, ()))

    def entered(self, group: str, user_id: UserId) -> None:
        users = self._groups.setdefault(group, {})
        is_new = user_id not in users
        users[user_id] = None
        if is_new:
            self._tell(group, joined=[user_id])

    def left(self, group: str, user_id: UserId, grace: float) -> None:
        if any(link.has(group, user_id) for link in self._links):
            return
        due = anyio.current_time() + grace
        self._groups[group][user_id] = due
        heapq.heappush(self._due, (due, next(self._numbers), group, user_id))
        for link in self._links:
            link.has_to_settle.set()

    def clear(self) -> None:
        """Forget all users, because nobody is left to be told of them."""
        self._groups.clear()
        self._due.clear()

    def _settle(self) -> float | None:
        """Tell of those who have left; return the seconds until there may be others."""
        now = anyio.current_time()
        left: dict[str, list[UserId]] = defaultdict(list)
        while self._due and self._due[0][0] <= now:
            due, _, group, user_id = heapq.heappop(self._due)
            users = self._groups.get(group, {})
            if users.get(user_id) == due:
                del users[user_id]
                left[group].append(user_id)
                if not users:
                    del self._groups[group]
        for group, ids in left.items():
            self._tell(group, left=ids)
        return self._due[0][0] - now if self._due else None

    def _tell(self, group: str, joined: Iterable[UserId] = (), left: Iterable[UserId] = ()) -> None:
        message = to_json({"joined": list(joined), "left": list(left)})
        for link in list(self._links):
            link.receive(PRESENCE + group, message)
