"""Peers that read slowly or not at all, or send faster than they are answered, harm nobody."""

import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from harness import Client, dial
from hostile import MOST, assert_serves, errors, heavy, watched
from peers import PING, SMALL, Peer, client_process, command, frame, opened
from target import MIB, running_target, until_online
from timeouts import TIMEOUT

from websuckets import Limits, WebSuckets

pytestmark = pytest.mark.anyio

# Peers that do not read.

PUSHES = [
    "by a stream",
    "by the handler",
    "by a task of the connection",
    "by a task of the app",
    "by a task for each message",
    "by broadcast",
]
"""Ways in which programs push: see `target`."""


async def flood_with_pings(peer: Peer) -> None:
    await peer.flood(frame(PING, b"p" * 125) * 500)


def pushed(how: str) -> Callable[[Peer], Any]:
    async def attack(peer: Peer) -> None:
        await peer.write(command(f"push {how}"))

    return attack


SOONER = ["by a task for each message", "by broadcast"]
"""Ways in which frames pile up."""

ATTACKS = {**{how: pushed(how) for how in PUSHES}, "ping flood": flood_with_pings}


@watched
@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_peer_that_does_not_read_costs_little_and_is_aborted(
    server: str, anyio_backend: str, attack: str
) -> None:
    """Expect the peer to cost no memory or time, and to be aborted at `Limits.send_timeout`.

    The peer is aborted sooner if more is sent to it meanwhile than `Limits.outbox` allows.
    """
    skip_what_cannot_be(server, attack)
    timeout = Limits().send_timeout
    assert timeout == 10
    async with (
        running_target(server, anyio_backend, {}, {}) as target,
        AsyncExitStack() as stack,
    ):
        observer = await stack.enter_async_context(opened(target.port))
        stalled = await stack.enter_async_context(
            opened(target.port, "/listen", receive_buffer=SMALL)
        )
        sockets = target.sockets
        target.watch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ATTACKS[attack], stalled)
            began = time.monotonic()
            with anyio.fail_after(timeout + 3):
                slowest = await observe(observer, 1)
            took = time.monotonic() - began
            tasks.cancel_scope.cancel()
        assert target.growth < MOST
        assert took >= timeout or attack in SOONER
        assert slowest < timeout / 2
        # Under ASGI only the server could abort the connection, and it does not do so.
        assert target.sockets == sockets - (server == "websockets")
        assert (await observer.call("errors"))["payload"] == []


def skip_what_cannot_be(server: str, attack: str) -> None:
    if server.startswith("uvicorn") and attack == "by broadcast":
        pytest.skip("websockets broadcasts to connections of its own")
    if server.startswith("uvicorn") and attack == "ping flood":
        pytest.skip("uvicorn answers pings by itself and keeps what is not read of that: unbounded")


async def observe(observer: Peer, count: int) -> float:
    """Call until this many clients are online; return how long the slowest call took."""
    slowest, online = 0.0, math.inf
    while online != count:
        began = time.monotonic()
        online = (await observer.call("online"))["payload"]
        slowest = max(slowest, time.monotonic() - began)
        await anyio.sleep(0.02)
    return slowest


@pytest.mark.slow
async def test_data_that_a_peer_has_not_read_is_thrown_away(anyio_backend: str) -> None:
    """Expect unread data to be thrown away with the connection: the system would keep megabytes."""
    async with (
        running_target("websockets", anyio_backend, {"send_timeout": 0.5}, {}) as target,
        opened(target.port) as observer,
        opened(target.port, receive_buffer=SMALL) as stalled,
    ):
        await stalled.write(command("push by the handler"))
        with anyio.fail_after(TIMEOUT):
            await until_online(observer, 1)
            assert await stalled.read_to_end() < MIB


@watched
@pytest.mark.parametrize("how", PUSHES[3:])
async def test_others_get_everything_once_a_peer_that_does_not_read_is_aborted(
    server: str, anyio_backend: str, how: str
) -> None:
    """Expect the others to get everything that follows, once the peer is aborted."""
    skip_what_cannot_be(server, how)
    async with (
        running_target(server, anyio_backend, {"send_timeout": 2}, {}) as target,
        opened(target.port) as observer,
        opened(target.port, "/listen", receive_buffer=SMALL) as stalled,
        opened(target.port, "/listen") as reader,
        anyio.create_task_group() as tasks,
    ):
        received: list[int] = []

        async def read() -> None:
            while True:
                received.append(len((await reader.read_frame()).data))

        tasks.start_soon(read)
        await stalled.write(command(f"push {how}"))
        with anyio.fail_after(TIMEOUT):
            await until_online(observer, 2)
            before = len(received)
            while len(received) < before + 10:
                await anyio.sleep(0.01)
        assert set(received[1:]) == {64 * 1024}  # the first may be an acknowledgement
        tasks.cancel_scope.cancel()


@heavy
async def test_a_peer_that_reads_slowly_is_served(server: str, anyio_backend: str) -> None:
    """Expect the peer to be served for as long as each frame gets through in time."""
    limits = {"send_timeout": 3}
    async with (
        running_target(server, anyio_backend, limits, {}) as target,
        opened(target.port) as observer,
        opened(target.port, receive_buffer=SMALL) as slow,
    ):
        await slow.write(command("push by a stream"))
        for _ in range(40):
            await slow.read()
            await anyio.sleep(0.05)
        assert (await observer.call("online"))["payload"] == 2


# Commands that come faster than they are answered.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "each", "timeout"),
    [(100, 0.02, 0.1), pytest.param(300, 0.2, 1, marks=[heavy, pytest.mark.timeout(120)])],
)
async def test_many_commands_at_once_to_a_slow_handler_are_answered_in_order(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    count: int,
    each: float,
    timeout: float,
) -> None:
    """Expect answers in order: the client is well, and its pongs come behind its commands."""
    options = {"ping_interval": timeout, "ping_timeout": timeout}
    async with app.serve("127.0.0.1", 0, **options) as server:
        async with dial(server, ping_interval=None) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(send_all, client, count, each)
            ids = [(await client.receive())["id"] for _ in range(count)]
            assert ids == list(range(count))
            await client.close()
    assert errors(caplog) == []


async def send_all(client: Client, count: int, each: float) -> None:
    for id in range(count):
        await client.send("sleep", payload=each, id=id)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "each", "timeout"),
    [(100, 0.05, 0.1), pytest.param(300, 0.2, 1, marks=[heavy, pytest.mark.timeout(120)])],
)
async def test_a_peer_that_dies_with_many_commands_waiting_is_noticed(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    count: int,
    each: float,
    timeout: float,
) -> None:
    """Expect the end of the peer to be found once there is room to read its answer to a ping."""
    options = {"ping_interval": timeout, "ping_timeout": timeout, "close_timeout": timeout}
    sleep = f'{{"event": "sleep", "payload": {each}}}'
    async with app.serve("127.0.0.1", 0, **options) as server:
        async with client_process(server.port, *[sleep] * count) as client:
            client.freeze()
            with anyio.fail_after(2 * count * each + TIMEOUT):
                while "disconnect" not in journal:
                    await anyio.sleep(0.01)
        await assert_serves(server.port)
    assert errors(caplog) == []
