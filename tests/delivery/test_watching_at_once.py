"""Several commands of one connection that subscribe to one channel at once, in all orders.

Each command that succeeds has a reader of its own, as two parts of a page have that share one
connection, and as the second command has where a client gives up the first one and passes over its
late reply. Whatever becomes of the other commands, each reader gets all events behind the position
of its reply, or is told of a gap.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, permutations, product
from random import Random
from typing import Any, Final

import anyio
import pytest
from faulty_nodes import SharedLog
from dishka import Provider, Scope
from harness import app_with
from timeouts import TIMEOUT

from websuckets import ClientEvent, CommandGroup, Event, Limits, Payload, Socket, WebSuckets
from websuckets.channels import Channel, Channels, History
from websuckets.exc import ClientError
from websuckets.history import EventLog
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

room = Channel("room/{id}", history=History(size=1000))

Steps = tuple[tuple[str, int], ...]
"""Steps in their order: ``subscribe``, ``succeed`` and ``fail`` of a command with its number;
``publish``, ``leave``, ``hold`` and ``answer`` of the log, ``lose`` its epoch."""


class Said(Event):
    number: int


class Gates:
    """Gates of the commands: each subscribes, and ends, when the test lets it."""

    def __init__(self) -> None:
        self.subscribed: dict[int, anyio.Event] = {}
        self.ends: dict[int, anyio.Event] = {}
        self.fails: dict[int, bool] = {}
        self.reads = anyio.Event()

    def begin(self, id: int) -> None:
        self.subscribed[id], self.ends[id] = anyio.Event(), anyio.Event()


class HeldLog(SharedLog):
    """A log whose pages come when the test lets them come."""

    def __init__(self) -> None:
        super().__init__()
        self.come = anyio.Event()
        self.come.set()

    async def read(self, channel: str, since: Any, limit: int) -> Any:
        await self.come.wait()
        return await super().read(channel, since, limit)


class Reader:
    """A reader of the events behind the position of one reply, by the rules of the protocol."""

    def __init__(self, epoch: str, offset: int) -> None:
        self.epoch, self.offset = epoch, offset
        self.is_told = False  # of a gap, after which it would load its state anew

    def take(self, offset: int) -> None:
        if not self.is_told and offset > self.offset:
            assert offset == self.offset + 1, "an event was passed over"
            self.offset = offset


@asynccontextmanager
async def running() -> AsyncIterator["Run"]:
    gates, log, group = Gates(), HeldLog(), CommandGroup()

    @group.command("watch", subscribes=[room])
    async def watch(
        socket: Socket, given: Payload[tuple[int, str]], *, channels: Channels
    ) -> None:
        id, name = given
        await channels.subscribe(socket, name)
        gates.subscribed[id].set()
        await gates.ends[id].wait()
        if gates.fails[id]:
            raise ClientError("no")

    @group.command("leave")
    async def leave(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.unsubscribe(socket, name)

    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: log, provides=EventLog)
    limits = Limits(rate=None, concurrency=8, outbox=None)
    app = app_with(group, channels=[room], limits=limits, providers=[provider])
    async with TestClient(app) as client:
        yield Run(app, client, gates, log)


class Run:
    """An app, with a connection and a channel of its own for each order of steps."""

    def __init__(self, app: WebSuckets, client: TestClient, gates: Gates, log: HeldLog) -> None:
        self._app, self._client, self._gates, self._log = app, client, gates, log
        self._numbers = count(1)
        self._ids = count(1)

    @property
    def _node(self) -> Any:
        return self._app._channels._running

    async def check(self, steps: Steps, since: dict[int, int | None]) -> None:
        """Take the steps, each when the one before is over; then check what each reader has got.

        ``since`` has the offsets that commands have seen, by their numbers.
        """
        self._name = f"room/{next(self._numbers)}"
        self._readers: list[Reader] = []
        self._has_left = False
        ids = {number: next(self._ids) for number in since}
        async with self._client.connect() as bob:
            with anyio.fail_after(TIMEOUT):
                await self._app._channels.publish(self._name, Said(number=0))
                epoch = (await self._log.position(self._name)).epoch
                for kind, number in steps:
                    match kind:
                        case "subscribe":
                            offset = since[number]
                            seen = None if offset is None else {self._name: (epoch, offset)}
                            id = ids[number]
                            self._gates.begin(id)
                            await bob.send("watch", [id, self._name], id=id, since=seen)
                            await self._gates.subscribed[id].wait()
                        case "succeed" | "fail":
                            await self._end(bob, ids[number], kind, since[number])
                        case "publish":
                            await self._app._channels.publish(self._name, Said(number=number))
                        case "leave":
                            await bob.send("leave", self._name, id="leave")
                            await self._take_until(bob, "leave")
                            self._readers.clear()
                        case "hold":
                            self._log.come = anyio.Event()
                        case "answer":
                            self._log.come.set()
                        case "lose":
                            await self._log.new_epoch()
                            self._node._delivery.compare_soon()
                self._log.come.set()
                await self._check_end(bob)

    async def _end(self, bob: TestClient, id: int, how: str, since: int | None) -> None:
        self._gates.fails[id] = how == "fail"
        self._gates.ends[id].set()
        try:
            frame = await self._take_until(bob, id)
        except CommandError:
            return
        if (told := frame.subscribed.get(self._name)) is not None:
            offset = since if told.get("recovered") else told["offset"]
            assert offset is not None
            self._readers.append(Reader(told["epoch"], offset))

    async def _take_until(self, bob: TestClient, id: int | str) -> Any:
        while True:
            frame = await bob.receive()
            if frame.id == id:
                return frame
            for reader in self._readers:
                if frame.event == "channel gap":
                    reader.is_told = True
                elif frame.offset is not None:
                    reader.take(frame.offset)

    async def _check_end(self, bob: TestClient) -> None:
        logged = self._node._logged
        while logged._holds or logged._catching_up._connections:
            await anyio.lowlevel.checkpoint()
        await bob.send("leave", "room/0", id="end")
        await self._take_until(bob, "end")
        last = await self._log.position(self._name)
        for reader in self._readers:
            if not reader.is_told:
                assert (reader.epoch, reader.offset) == last, "an event has not come"
        is_subscribed = self._node.subscriptions.has_subscribers(self._name)
        assert is_subscribed == bool(self._readers)


def orders(commands: int, *others: tuple[str, int]) -> Iterator[Steps]:
    """Yield all orders of steps and outcomes of so many commands, with other steps between."""
    for outcomes in product(("succeed", "fail"), repeat=commands):
        steps = [("subscribe", number) for number in range(commands)]
        steps += [(outcome, number) for number, outcome in enumerate(outcomes)]
        yield from {
            order
            for order in permutations([*steps, *others])
            if all(
                order.index(steps[number]) < order.index(steps[commands + number])
                for number in range(commands)
            )
            and [step for step in order if step in others] == list(others)
        }


async def test_each_of_two_commands_at_once_gets_all_events_in_whatever_order_they_end() -> None:
    async with running() as run:
        for steps in orders(2, ("publish", 1), ("publish", 2)):
            for since in (None, None), (0, None), (None, 1), (1, 0):
                await run.check(steps, dict(enumerate(since)))
