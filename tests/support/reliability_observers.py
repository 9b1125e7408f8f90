"""A server under attack, in a process of its own, and observers of what happens to it."""

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import reliability_servers
from anyio.abc import Process
from peers import (
    DEFLATE,
    PING,
    PONG,
    TEXT,
    Gone,
    Peer,
    command,
    compressed,
    frame,
    opened,
    tcp,
    text,
)
from ports import free_port
from target import MIB, Target

KIB: Final = 1024
LONG_TIMEOUT: Final = 30
"""Seconds for what every server does at once."""

Facts = list[str]
"""Measurements of an attack, in a few words."""


class Victim(Target):
    """A running server, as its attacker sees it."""

    def __init__(self, port: int, process: Process) -> None:
        super().__init__(port, process.pid)
        self.process = process

    async def seen(self) -> dict[str, int]:
        """Return the counts of the server, as it answers them to a new client."""
        async with opened(self.port) as peer:
            counts: dict[str, int] = (await peer.call("seen", id=1))["payload"]
            return counts


@asynccontextmanager
async def running(name: str, **pings: float) -> AsyncIterator[Victim]:
    port = free_port()
    program = reliability_servers.__file__
    arguments = [sys.executable, program, name, str(port), json.dumps(pings)]
    async with await anyio.open_process(arguments, stdout=None, stderr=None) as process:
        try:
            victim = Victim(port, process)
            with anyio.fail_after(LONG_TIMEOUT):
                await until_it_serves(port)
                await warm_up(victim)
            victim.watch()
            yield victim
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def until_it_serves(port: int) -> None:
    while True:
        with suppress(OSError, Gone):
            async with opened(port) as peer:
                await peer.call("online", id=1)
            return
        await anyio.sleep(0.1)


async def warm_up(victim: Victim) -> None:
    """Run code that imports and allocates once, so that it is not counted as growth."""
    async with tcp(victim.port) as peer:
        if "permessage-deflate" in await peer.open(headers=DEFLATE):
            await peer.write(text(compressed(b'{"event": "online"}'), rsv=4))
            await peer.read_frame()
    async with opened(victim.port) as peer:
        await peer.call("listen", id=1)
        await peer.write(command("push", payload=["at once", 0.2], id=1))
        with anyio.move_on_after(0.5):  # the push has ended by then
            while True:
                await peer.read()
    await quiet(victim)


async def quiet(victim: Victim) -> None:
    """Wait until the server has no client but this one."""
    async with opened(victim.port) as peer:
        while (await peer.call("online", id=1))["payload"] != 1:
            await anyio.sleep(0.1)


# The clients that the attacks disturb.


class Slowest:
    """The longest time between two moments, also while the second is awaited."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        self._since = time.monotonic()

    def end(self) -> None:
        self._longest = self.seconds
        self._since = None

    @property
    def seconds(self) -> float:
        now = time.monotonic()
        return max(self._longest, 0.0 if self._since is None else now - self._since)


async def message(peer: Peer) -> bytes:
    """Return the next message, after answering pings."""
    while True:
        read = await peer.read_frame()
        if read.opcode == PING:
            await peer.write(frame(PONG, read.data))
        elif read.opcode == TEXT:
            return read.data


class Bystander:
    """A well-behaved client that asks again and again how many clients are connected."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.wait = Slowest()
        self.online = 0

    async def run(self) -> None:
        while True:
            self.wait.begin()
            await self._peer.write(command("online", id=1))
            self.online = json.loads(await message(self._peer))["payload"]
            self.wait.end()
            await anyio.sleep(0.02)


@asynccontextmanager
async def bystander(victim: Victim) -> AsyncIterator[Bystander]:
    async with opened(victim.port) as peer, anyio.create_task_group() as tasks:
        client = Bystander(peer)
        tasks.start_soon(client.run)
        while client.online == 0:
            await anyio.sleep(0.01)
        yield client
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def listener(victim: Victim) -> AsyncIterator[Slowest]:
    """Connect a client that reads what is pushed; yield the longest time in which nothing came."""
    gap = Slowest()

    async def read(peer: Peer) -> None:
        while True:
            gap.begin()
            await message(peer)
            gap.end()

    async with opened(victim.port) as peer, anyio.create_task_group() as tasks:
        await peer.call("listen", id=1)
        tasks.start_soon(read, peer)
        yield gap
        tasks.cancel_scope.cancel()


class Departure:
    """Record of when the app forgot a client, and the server closed its socket, if ever."""

    def __init__(self, victim: Victim, client: Bystander) -> None:
        self._victim, self._client = victim, client
        self._began = time.monotonic()
        self._sockets, self._online = victim.sockets, client.online
        self._forgotten: float | None = None
        self._aborted: float | None = None

    async def wait(self, seconds: float, *, beyond: float = 1) -> None:
        """Wait this long, or until ``beyond`` seconds after both, if that is sooner."""
        with anyio.move_on_after(seconds):
            while self._aborted is None or self._forgotten is None:
                self._look()
                await anyio.sleep(0.05)
            await anyio.sleep(beyond)

    def _look(self) -> None:
        after = time.monotonic() - self._began
        if self._aborted is None and self._victim.sockets < self._sockets:
            self._aborted = after
        if self._forgotten is None and self._client.online < self._online:
            self._forgotten = after

    def __str__(self) -> str:
        if self._aborted is not None:
            return f"aborted after {self._aborted:.1f} s"
        so_far = f"in {time.monotonic() - self._began:.0f} s"
        if self._forgotten is not None:
            forgotten = f"forgotten after {self._forgotten:.1f} s"
            return f"{forgotten}, its TCP connection not closed {so_far}"
        return f"not aborted {so_far}"


def grown(victim: Victim) -> str:
    return f"+{max(victim.growth, 0) / MIB:.0f} MiB"


def milliseconds(wait: Slowest) -> str:
    return f"{wait.seconds * 1000:.0f} ms"


async def until_online(client: Bystander, count: int) -> None:
    while client.online != count:
        await anyio.sleep(0.01)


async def errors(victim: Victim) -> str:
    return f"ERROR lines: {(await victim.seen())['errors']}"
