"""Several commands of one connection that subscribe to one channel at once, in all orders.

Each command that succeeds has a reader of its own, as two parts of a page have that share one
connection, and as the second command has where a client gives up the first one and passes over its
late reply. Whatever becomes of the other commands, each reader gets all events behind the position
of its reply, or is told of a gap.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, permutations, product
from random import Random
from typing import Any, Final

import anyio
import pytest
from dishka import Provider, Scope
from faulty_nodes import SharedLog
from harness import app_with
from timeouts import TIMEOUT

from websuckets import CommandGroup, Event, Limits, Payload, Socket, WebSuckets
from websuckets.channels import Channel, Channels, History
from websuckets.exc import ClientError
from websuckets.history import EventLog
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

ORDERS: Final = int(os.environ.get("WEBSUCKETS_INTERLEAVINGS", "1000"))
"""Orders of steps that are drawn in all."""

room = Channel("room/{id}", history=History(size=1000))

Steps = tuple[tuple[str, int], ...]
"""Steps in their order: ``subscribe``, ``succeed`` and ``fail`` of a command with its number;
``publish`` and ``leave``; ``hold`` and ``answer`` of the log, which is slow between the two;
``stall`` and ``flow`` of the client, which does not read between the two; ``lose`` the epoch."""


class Said(Event):
    number: int


class Gates:
    """Gates of the commands: each subscribes, and ends, when the test lets it."""

    def __init__(self) -> None:
        self.subscribed: dict[int, anyio.Event] = {}
        self.ends: dict[int, anyio.Event] = {}
        self.fails: dict[int, bool] = {}
        self.flows = anyio.Event()
        """Event without which no reply goes to the client, as if it did not read."""
        self.flows.set()

    def begin(self, id: int) -> None:
        self.subscribed[id], self.ends[id] = anyio.Event(), anyio.Event()
        self.fails[id] = False


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
    async def watch(socket: Socket, given: Payload[tuple[int, str]], *, channels: Channels) -> None:
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
    limits = Limits(rate=None, concurrency=8, outbox=None, send_timeout=None)
    app = app_with(group, channels=[room], limits=limits, providers=[provider])
    async with TestClient(app) as client:
        yield Run(app, client, gates, log)


class Run:
    """An app, with a connection and a channel of its own for each order of steps."""

    def __init__(self, app: WebSuckets, client: TestClient, gates: Gates, log: HeldLog) -> None:
        self._app, self._client, self._gates, self._log = app, client, gates, log
        self._names = count(1)
        self._ids = count(1)
        subscriptions = self._node.subscriptions
        earlier_sent = subscriptions.earlier_sent

        async def wait(connection: Any) -> None:
            await gates.flows.wait()
            await earlier_sent(connection)

        subscriptions.earlier_sent = wait  # of this app alone

    @property
    def _node(self) -> Any:
        return self._app._channels._running

    async def check(self, steps: Steps, since: dict[int, int | None]) -> None:
        """Take the steps, each when the one before is over; then check what each reader has got.

        ``since`` has the offsets that commands have seen, by their numbers.
        """
        self._name = f"room/{next(self._names)}"
        self._readers: list[Reader] = []
        self._since = {next(self._ids): offset for offset in since.values()}
        self._by_number = dict(zip(since, self._since, strict=True))
        self._lasting: set[int] = set()
        self._waiting: set[int] = set()
        async with self._client.connect() as self._bob:
            with anyio.fail_after(TIMEOUT):
                await self._app._channels.publish(self._name, Said(number=0))
                self._epoch = (await self._log.position(self._name)).epoch
                try:
                    for kind, number in steps:
                        await self._take_step(kind, number)
                finally:
                    self._log.come.set()
                    await self._flow()
                    for id in self._since:
                        if id in self._gates.ends:
                            self._gates.ends[id].set()
                await self._check_end()

    async def _take_step(self, kind: str, number: int) -> None:
        match kind:
            case "subscribe":
                id = self._by_number[number]
                offset = self._since[id]
                seen = None if offset is None else {self._name: (self._epoch, offset)}
                if seen is not None:  # the log is asked for what was missed
                    self._log.come.set()
                self._gates.begin(id)
                self._lasting.add(id)
                await self._bob.send("watch", [id, self._name], id=id, since=seen)
                await self._gates.subscribed[id].wait()
            case "succeed" | "fail":
                await self._end(self._by_number[number], kind)
            case "publish":
                await self._app._channels.publish(self._name, Said(number=number))
            case "leave":
                await self._flow()
                await self._bob.send("leave", self._name, id="leave")
                await self._take_until("leave")
                self._readers.clear()
                self._lasting.clear()
            case "hold":
                self._log.come = anyio.Event()
            case "answer":
                self._log.come.set()
            case "stall":
                self._gates.flows = anyio.Event()
            case "flow":
                await self._flow()
            case "lose":
                await self._log.new_epoch()
                self._node._delivery.compare_soon()

    async def _flow(self) -> None:
        """Let the client read, and take the replies that have waited."""
        self._gates.flows.set()
        while self._waiting:
            await self._take_frame()
        await self._settle()

    async def _settle(self) -> None:
        """Wait until replies that have come are over on the server, and all others wait."""
        holds = self._node._logged._holds
        while True:
            found = [hold for (_, name), hold in holds.items() if name == self._name]
            if all(hold.replies == len(self._waiting) for hold in found):
                return
            await anyio.lowlevel.checkpoint()

    async def _end(self, id: int, how: str) -> None:
        self._gates.fails[id] = how == "fail"
        self._gates.ends[id].set()
        if how == "succeed" and id in self._lasting and not self._gates.flows.is_set():
            self._waiting.add(id)  # for its reply, which comes later
        else:
            await self._take_until(id)
        await self._settle()

    async def _take_until(self, id: int | str) -> None:
        """Take frames up to the reply with this id."""
        while await self._take_frame() != id:
            pass

    async def _take_frame(self) -> int | str | None:
        """Take the next frame; return its id."""
        try:
            frame = await self._bob.receive()
        except CommandError as error:
            assert error.error == "no"
            return error.id
        if (told := frame.subscribed.get(self._name)) is not None:
            assert isinstance(frame.id, int)
            self._waiting.discard(frame.id)
            offset = self._since[frame.id] if told.get("recovered") else told["offset"]
            assert offset is not None
            self._readers.append(Reader(told["epoch"], offset))
        for reader in self._readers:
            if frame.event == "channel gap":
                reader.is_told = True
            elif frame.offset is not None:
                reader.take(frame.offset)
        return frame.id

    async def _check_end(self) -> None:
        logged, delivery = self._node._logged, self._node._delivery
        last = await self._log.position(self._name)
        while (
            logged._holds
            or logged._catching_up._connections
            or any(cursor.position != last for cursor in delivery.cursors.values())
        ):
            await anyio.lowlevel.checkpoint()
        await self._bob.send("leave", "room/0", id="end")
        await self._take_until("end")
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


LATE: Final = "the command that was given up is answered last, with a later position"
BEFORE: Final = "a command that succeeds beside one that fails begins behind a subscription"
WAITING: Final = "two replies wait for a client that does not read"
EXAMPLES: Final[dict[str, Steps]] = {
    LATE: (
        *(("hold", 0), ("subscribe", 1), ("publish", 1), ("subscribe", 0)),
        *(("succeed", 1), ("succeed", 0), ("answer", 0)),
    ),
    BEFORE: (
        *(("subscribe", 0), ("succeed", 0), ("subscribe", 1), ("publish", 1), ("subscribe", 2)),
        *(("succeed", 2), ("fail", 1)),
    ),
    WAITING: (
        *(("subscribe", 0), ("publish", 1), ("subscribe", 1), ("stall", 0), ("succeed", 0)),
        *(("succeed", 1), ("flow", 0)),
    ),
}


@pytest.mark.parametrize("why", EXAMPLES)
async def test_no_event_is_passed_over_where(why: str) -> None:
    async with running() as run:
        await run.check(EXAMPLES[why], dict.fromkeys(range(3)))


@pytest.mark.slow
async def test_each_of_two_commands_at_once_gets_all_events_in_whatever_order_they_end() -> None:
    async with running() as run:
        for steps in orders(2, ("publish", 1), ("publish", 2)):
            for since in (None, None), (0, None), (None, 1), (1, 0):
                await run.check(steps, dict(enumerate(since)))


def drawn(chance: Random, commands: int) -> Steps:
    """Return steps of so many commands, with others between, in an order drawn by ``chance``."""
    threads: list[list[tuple[str, int]]] = [
        [("subscribe", number), (chance.choice(["succeed", "succeed", "fail"]), number)]
        for number in range(commands)
    ]
    threads.append([("publish", number) for number in range(1, chance.randint(2, 5))])
    for pair in ("hold", "answer"), ("stall", "flow"):
        threads.append([(kind, 0) for kind in pair * chance.randint(0, 2)])
    threads.append([("leave", 0)] * (chance.random() < 0.2))
    threads.append([("lose", 0)] * (chance.random() < 0.2))
    steps = []
    while threads := [thread for thread in threads if thread]:
        steps.append(chance.choice(threads).pop(0))
    return tuple(steps)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_each_of_several_commands_at_once_gets_all_events_of_a_slow_log(seed: int) -> None:
    chance = Random(seed)
    async with running() as run:
        for _ in range(ORDERS // 4):
            commands = chance.choice([2, 3, 4])
            since = {number: chance.choice([None, None, 0, 1]) for number in range(commands)}
            await run.check(drawn(chance, commands), since)
