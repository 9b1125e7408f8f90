"""Nodes that share a log, and a broker that does to their messages whatever a test wants."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import tickets
from dishka import Provider, Scope
from harness import Gate
from timeouts import TIMEOUT

from websuckets import WebSuckets
from websuckets.broker import Broker, Link, MemoryBroker, Receiver
from websuckets.exc import Unavailable
from websuckets.history import EventLog, MemoryLog, Position, Publication
from websuckets.testing import TestClient

Fate = Callable[[bytes], list[bytes]]
"""Function that returns the messages that come of one message."""


class FaultyBroker(MemoryBroker):
    """A broker that loses, repeats and delays messages of channels, as ``fate`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.fate: Fate = lambda message: [message]

    async def run(self, receiver: Receiver, linked: Callable[[Link], None]) -> None:
        await super().run(_FaultyReceiver(receiver, self), linked)


class _FaultyReceiver:
    def __init__(self, receiver: Receiver, broker: FaultyBroker) -> None:
        self._receiver = receiver
        self._broker = broker

    def receive(self, topic: str, message: bytes) -> None:
        if topic.startswith("channel/"):
            for received in self._broker.fate(message):
                self._receiver.receive(topic, received)
        else:
            self._receiver.receive(topic, message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receiver, name)


class SharedLog(MemoryLog):
    """A log that several apps of this process share, and that can be away."""

    is_away = False

    @property
    def is_shared(self) -> bool:
        return True

    async def append(self, publication: Publication) -> Position:
        self._check()
        return await super().append(publication)

    async def read(self, channel: str, since: Position, limit: int) -> Any:
        self._check()
        return await super().read(channel, since, limit)

    async def positions(self, channels: Any) -> Any:
        self._check()
        return await super().positions(channels)

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable


class HeldAnswer:
    """The next answer of one method of a log, which comes when the test lets it come.

    The answer tells what the log has when it is asked. Later answers come at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: EventLog, method: str) -> None:
        self.gate: Gate = Gate()
        ask = getattr(log, method)
        is_asked = False

        async def answer(*given: Any) -> Any:
            nonlocal is_asked
            is_first, is_asked = not is_asked, True
            try:
                return await ask(*given)
            finally:
                if is_first:
                    await self.gate()

        monkeypatch.setattr(log, method, answer)

    async def asked(self) -> None:
        """Wait until the log has been asked."""
        with anyio.fail_after(TIMEOUT):
            await self.gate.reached.wait()

    def come(self) -> None:
        """Let the answer come."""
        self.gate.opened.set()


class Nodes:
    """Two nodes, each with a client: ``ann`` publishes on one, ``bob`` watches on the other."""

    def __init__(self, ann: TestClient, bob: TestClient, app: WebSuckets) -> None:
        self.ann, self.bob, self.app = ann, bob, app

    async def got(self, count: int) -> list[Any]:
        """Return the next frames of bob."""
        with anyio.fail_after(TIMEOUT):
            return [await frame_of(self.bob) for _ in range(count)]


async def frame_of(client: TestClient) -> Any:
    event = await client.receive()
    return event.event, event.payload


@asynccontextmanager
async def nodes(broker: FaultyBroker, log: SharedLog, **options: Any) -> AsyncIterator[Nodes]:
    """Yield two nodes; ``options`` are those of `tickets.app`."""
    apps = []
    for _ in range(2):
        provider = Provider(scope=Scope.APP)
        provider.provide(lambda: broker, provides=Broker)
        provider.provide(lambda: log, provides=EventLog)
        apps.append(tickets.app(providers=[provider], **options))
    async with TestClient(apps[0]) as ann, TestClient(apps[1]) as bob:
        yield Nodes(ann, bob, apps[1])


def comments(texts: Any) -> list[Any]:
    """Return what clients get of comments with these texts."""
    return [("commented", {"text": text}) for text in texts]
