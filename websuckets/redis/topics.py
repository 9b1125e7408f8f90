"""Topics that a node is subscribed to, each a channel of Redis."""

from collections import defaultdict, deque
from itertools import chain
from typing import Final

import anyio
from coredis import BaseConnection

from websuckets.redis.connection import AT_ONCE, send
from websuckets.redis.messages import EVERY_NODE

__all__ = ["Topics", "channel_of"]

TIMEOUT_HEARTBEATS: Final = 3
"""Number of heartbeats to wait for the confirmation of a subscription; a lost connection is noticed
within two."""


def channel_of(root: str, topic: str) -> str:
    """Return the channel of Redis that carries a topic."""
    return f"{root}:topic:{topic}"


class Topics:
    """Topics of one node, `EVERY_NODE` among them; lives as long as the node's link.

    Each connection subscribes to all topics anew. Redis confirms subscriptions in their order, so
    each topic has the events to be set by its next confirmations.
    """

    def __init__(self, root: str, heartbeat: float) -> None:
        self._prefix = channel_of(root, "")
        self._timeout = TIMEOUT_HEARTBEATS * heartbeat
        self._connection: BaseConnection | None = None
        self._topics: dict[str, anyio.Event] = {EVERY_NODE: anyio.Event()}  # set when confirmed
        self._unconfirmed: dict[str, deque[anyio.Event]] = defaultdict(deque)

    def channel(self, topic: str) -> str:
        """Return the channel that carries the topic."""
        return self._prefix + topic

    def topic(self, channel: bytes) -> str:
        """Return the topic that a channel carries."""
        return channel.decode(errors="replace").removeprefix(self._prefix)

    async def subscribe(self, topic: str) -> None:
        """Subscribe, and wait for a while until the subscription is confirmed."""
        if topic not in self._topics:
            self._topics[topic] = anyio.Event()
            self._send([topic])
        if self._connection is not None:
            with anyio.move_on_after(self._timeout):  # Redis may refuse the subscription
                await self._topics[topic].wait()

    def unsubscribe(self, topic: str) -> None:
        """Unsubscribe; do nothing for a topic that is not subscribed to."""
        if self._topics.pop(topic, None) is not None and self._connection is not None:
            send(self._connection, b"UNSUBSCRIBE", self.channel(topic))

    def connected(self, connection: BaseConnection) -> list[anyio.Event]:
        """Subscribe to every topic; return the events that are set when Redis confirms it."""
        self._connection = connection
        self._topics = {topic: anyio.Event() for topic in self._topics}
        self._send(list(self._topics))
        return list(self._topics.values())

    def confirmed(self, channel: bytes) -> None:
        """Set the event of the channel's oldest subscription that is not confirmed."""
        topic = self.topic(channel)
        waiting = self._unconfirmed[topic]
        waiting.popleft().set()
        if not waiting:
            del self._unconfirmed[topic]

    def disconnected(self) -> None:
        """Let nobody wait for a confirmation any more."""
        self._connection = None
        for event in (*self._topics.values(), *chain.from_iterable(self._unconfirmed.values())):
            event.set()
        self._unconfirmed.clear()

    def _send(self, topics: list[str]) -> None:
        if self._connection is None:
            return
        for start in range(0, len(topics), AT_ONCE):
            some = topics[start : start + AT_ONCE]
            for topic in some:
                self._unconfirmed[topic].append(self._topics[topic])
            send(self._connection, b"SUBSCRIBE", *map(self.channel, some))
