"""Connections without the fast path work by themselves, through the documented API alone."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from harness import app_with, dial, talk
from peers import SMALL, command, opened
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import ClientEvent, CommandGroup, Limits, Payload, Socket
from websuckets.channels import Channels
from websuckets.transports import websockets_asyncio, websockets_trio
from websuckets.transports.asyncio_connection import AsyncioConnection
from websuckets.transports.trio_connection import TrioConnection

pytestmark = pytest.mark.anyio

LARGE = 1_200_000
"""Bytes; more than the buffers of a slow reader hold."""


@pytest.fixture(autouse=True)
def without_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets_asyncio, "CONNECTION", AsyncioConnection)
    monkeypatch.setattr(websockets_trio, "CONNECTION", TrioConnection)


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("echo")
    async def echo(socket: Socket, payload: Payload[str]) -> str:
        return payload

    @group.command("count")
    async def count(socket: Socket) -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @group.command("large")
    async def large(socket: Socket) -> str:
        return "x" * LARGE

    @group.command("publish")
    async def publish(socket: Socket, channels: Channels) -> None:
        await channels.subscribe(socket, "news")
        await channels.publish("news", ClientEvent("news", 1))

    return group


async def test_commands_that_come_together_are_answered_in_order(group: CommandGroup) -> None:
    async with talk(app_with(group)) as client:
        for id in range(40):
            await client.send("echo", payload=f"text {id}", id=id)
        received = [await client.receive() for _ in range(40)]
    assert [(reply["id"], reply["payload"]) for reply in received] == [
        (id, f"text {id}") for id in range(40)
    ]


async def test_a_stream_and_commands_beside_it_are_answered(group: CommandGroup) -> None:
    async with talk(app_with(group)) as client:
        await client.send("count", id=1)
        await client.send("echo", payload="beside", id=2)
        received = [await client.receive() for _ in range(5)]
    assert [reply["payload"] for reply in received if reply["id"] == 1] == [0, 1, 2, None]
    assert [reply["payload"] for reply in received if reply["id"] == 2] == ["beside"]


async def test_events_are_published(group: CommandGroup) -> None:
    async with talk(app_with(group)) as client:
        await client.send("publish", id=1)
        received = [await client.receive() for _ in range(2)]
    assert {"event": "news", "payload": 1} in received


async def test_replies_wait_for_a_slow_reader(group: CommandGroup) -> None:
    app = app_with(group, limits=Limits(concurrency=4))
    async with (
        app.serve("127.0.0.1", 0) as server,
        opened(server.port, receive_buffer=SMALL) as client,
    ):
        await client.write(b"".join(command("large", id=id) for id in range(4)))
        with anyio.fail_after(3 * TIMEOUT):
            received = [await client.read_json() for _ in range(4)]
    assert sorted(reply["id"] for reply in received) == [0, 1, 2, 3]


async def test_the_framework_takes_receiving_back_from_a_program(group: CommandGroup) -> None:
    """A stream that receives gets an error, and the next message is a command."""

    @group.command("receive")
    async def receive(socket: ServerConnection) -> AsyncIterator[Any]:
        yield await socket.recv()

    async with app_with(group).serve("127.0.0.1", 0) as server, dial(server) as client:
        assert (await client.call("receive", id=1))["error"] == "internal error"
        assert (await client.call("echo", payload="next", id=2))["payload"] == "next"
