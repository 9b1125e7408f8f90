"""Every broker, for the tests that hold all of them to the same."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import anyio
from harness import TIMEOUT

from websuckets.broker import Broker, Link, MemoryBroker

Make = Callable[[], Broker]
"""Gives a node its broker."""


class Node:
    """What came to a node; a `Receiver`."""

    link: Link

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.gaps: list[list[str] | None] = []
        self._changed = anyio.Event()

    def receive(self, topic: str, message: bytes) -> None:
        self.got.append((topic, message))
        self._changed.set()

    def missed(self, topics: Iterable[str] | None) -> None:
        self.gaps.append(None if topics is None else sorted(topics))
        self._changed.set()

    async def until(self, condition: Callable[[], bool], patience: float = TIMEOUT) -> None:
        """Wait until what came makes this true."""
        with anyio.fail_after(patience):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()


@asynccontextmanager
async def linked(broker: Broker) -> AsyncIterator[Node]:
    """A node, for as long as the context lasts."""
    node = Node()
    started = anyio.Event()

    def told(link: Link) -> None:
        node.link = link
        started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(broker.run, node, told)
        await started.wait()
        yield node
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def in_memory() -> AsyncIterator[Make]:
    broker = MemoryBroker()
    yield lambda: broker
