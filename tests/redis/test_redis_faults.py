"""Faults of Redis while 200 clients talk, and a client that never reads beside other
subscribers."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
import rooms
from census import census, until_as_before
from harness import Client, dial
from nodes import node_process
from peers import SMALL, opened
from redis_server import Proxy, RedisServer
from websockets.exceptions import ConnectionClosed

from websuckets import ClientEvent, Limits, WebSuckets
from websuckets.app import Server
from websuckets.redis import RedisProvider

pytestmark = [pytest.mark.anyio, pytest.mark.heavy, pytest.mark.timeout(300)]

CLIENTS: Final = 200
SUBSCRIBERS: Final = 1000
MESSAGES: Final = 100
HEARTBEAT: Final = 1.0
LONG_TIMEOUT: Final = 60
STOP: Final = 5
"""Seconds for which Redis is stopped, or its connections swallow everything."""


class Member:
    """A client that records the frames sent to it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.news: list[Any] = []
        self.gaps = 0
        self.replies = 0
        self.others: list[Any] = []
        self._changed = anyio.Event()

    async def listen(self) -> None:
        """Record each frame until the connection is closed, and that it was closed."""
        try:
            while True:
                self._note(json.loads(await self.client.connection.recv()))
        except ConnectionClosed:
            self.others.append("closed")
        finally:
            self._changed.set()

    def _note(self, frame: dict[str, Any]) -> None:
        match frame:
            case {"event": "news", "payload": what}:
                self.news.append(what)
            case {"event": "channel gap"}:
                self.gaps += 1
            case {"event": _, "id": _}:
                self.replies += 1
            case _:
                self.others.append(frame)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until(self, condition: Callable[["Member"], bool]) -> None:
        with anyio.fail_after(LONG_TIMEOUT):
            while not condition(self):
                assert self.others == []
                await self._changed.wait()

    async def tell(self, event: str, payload: Any) -> None:
        """Send a command, and wait for its reply."""
        before = self.replies
        await self.client.send(event, payload=payload, id=before)
        await self.until(lambda member: member.replies > before)


@asynccontextmanager
async def members(server: Server, count: int) -> AsyncIterator[list[Member]]:
    """Yield subscribers of the channel `a`."""
    found: list[Member] = []
    leave = anyio.Event()

    async def visit(*, task_status: Any) -> None:
        async with dial(server) as client, anyio.create_task_group() as tasks:
            member = Member(client)
            tasks.start_soon(member.listen)
            await member.tell("join", "a")
            found.append(member)
            task_status.started()
            await leave.wait()
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            await tasks.start(visit)
        try:
            yield found
        finally:
            leave.set()


def app_at(url: str) -> WebSuckets:
    limits = Limits(rate=None, handler_timeout=20)
    return rooms.app(providers=[RedisProvider(url, heartbeat=HEARTBEAT)], limits=limits)


async def kill_and_restart(server: RedisServer, proxy: Proxy) -> None:
    server.kill()
    await anyio.sleep(1)
    await anyio.to_thread.run_sync(server.start)


async def stop_for_a_while(server: RedisServer, proxy: Proxy) -> None:
    server.pause()
    await anyio.sleep(STOP)
    server.go_on()


async def kill_clients(server: RedisServer, proxy: Proxy) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")


async def swallow_for_a_while(server: RedisServer, proxy: Proxy) -> None:
    proxy.swallow()
    await anyio.sleep(STOP)
    proxy.let_through()


@pytest.mark.parametrize(
    "fault", [kill_and_restart, stop_for_a_while, kill_clients, swallow_for_a_while]
)
async def test_clients_go_on_whatever_happens_to_redis(own_redis: RedisServer, fault: Any) -> None:
    """No client is disconnected, no command hangs, and local events arrive in order.

    After the fault, a gap is sent, events of other nodes arrive again, and no object is left.
    """
    async with Proxy(own_redis.port).running() as proxy:
        one, two = app_at(proxy.url), app_at(own_redis.url)
        async with one.serve("127.0.0.1", 0) as here, two.serve("127.0.0.1", 0) as there:
            async with members(here, 1):
                pass
            await anyio.sleep(2 * HEARTBEAT)
            before = census()
            await meet(here, there, fault, own_redis, proxy)
            await until_as_before(before, LONG_TIMEOUT)


async def meet(here: Server, there: Server, fault: Any, server: RedisServer, proxy: Proxy) -> None:
    async with dial(here) as client, members(here, CLIENTS) as everybody:
        await talk_through(client, everybody, fault, server, proxy)
        async with members(there, 1) as (other,):
            with anyio.fail_after(LONG_TIMEOUT):
                while "from there" not in everybody[0].news:
                    await other.tell("publish", {"channel": "a", "what": "from there"})
                    await anyio.sleep(0.2)
        for member in everybody:
            await member.until(lambda member: "from there" in member.news)


async def talk_through(
    client: Client, everybody: list[Member], fault: Any, server: RedisServer, proxy: Proxy
) -> None:
    """Publish before, during and after the fault."""
    told = 0
    done = anyio.Event()

    async def happen() -> None:
        await fault(server, proxy)
        await everybody[0].until(lambda member: member.gaps > 0)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(happen)
        while not done.is_set():
            news = {"channel": "a", "what": told}
            reply = await client.call("publish", payload=news, id=told)
            assert reply == {"event": "publish", "payload": None, "id": told}
            told += 1
            await anyio.sleep(0.05)
    for member in everybody:
        await member.until(lambda member: member.gaps > 0 and len(member.news) >= told)
        assert member.news == list(range(told))


async def test_a_node_that_is_killed_takes_its_people_along(
    own_redis: RedisServer, anyio_backend_name: str
) -> None:
    """The users of a killed node are not counted after three heartbeats, plus a second if busy."""
    async with app_at(own_redis.url).serve("127.0.0.1", 0) as here, dial(here) as client:
        async with node_process(own_redis.url, anyio_backend_name, HEARTBEAT) as node:
            async with dial(node.server) as ann:
                await ann.call("enter", payload="ann", id=1)
                with anyio.fail_after(LONG_TIMEOUT):
                    while (await client.call("online"))["payload"] != ["ann"]:
                        await anyio.sleep(0.05)
                node.kill()
                with anyio.fail_after(3 * HEARTBEAT + 1):
                    while (await client.call("online"))["payload"] != []:
                        await anyio.sleep(0.05)


async def test_a_thousand_get_everything_beside_one_that_never_reads() -> None:
    """Everybody else gets all events in order; the outbox of the stalled client stays within
    bounds."""
    outbox = (50, 1024 * 1024)
    app = rooms.app(limits=Limits(rate=None, outbox=outbox, send_timeout=60))
    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port, receive_buffer=SMALL) as stalled:
            for channel in ("a", "large"):
                await stalled.call("join", payload=channel, id=1)
            async with members(server, SUBSCRIBERS - 1) as everybody:
                node = app._channels._node
                assert node is not None
                (box, *_) = [
                    subscriber.outbox for subscriber in node.subscriptions._subscribers.values()
                ]
                while not box._frames:  # the system's buffers fill up first
                    await app._channels.publish("large", ClientEvent("news", "x" * 50_000))
                for number in range(MESSAGES):
                    await app._channels.publish("a", ClientEvent("news", number))
                    assert len(box._frames) <= outbox[0]
                    assert sum(map(len, box._frames)) <= outbox[1]
                    await everybody[-1].until(lambda m, n=number: len(m.news) > n)  # type: ignore[misc]
                for member in everybody:
                    await member.until(lambda member: len(member.news) == MESSAGES)
                    assert member.news == list(range(MESSAGES))
                assert box._is_over
