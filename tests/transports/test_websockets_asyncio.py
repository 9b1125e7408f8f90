"""Behaviour of asyncio alone: frames that are written without ``websockets``."""

import asyncio
import logging
from typing import Any

import pytest
from harness import app_with, dial, talk
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import ClientEvent, CommandGroup, Limits, Payload, Socket
from websuckets.channels import Channels

pytestmark = pytest.mark.anyio

SIZES = [0, 1, 125, 126, 65_535, 65_536, 300_000]
"""Bytes; the header of a frame is longer past each bound between two of the sizes."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("text")
    async def text(socket: Socket, size: Payload[int]) -> None:
        await socket.send("x" * size)

    @group.command("bytes")
    async def bytes_(socket: Socket, size: Payload[int]) -> None:
        await socket.send(b"x" * size)

    @group.command("bytearray")
    async def bytearray_(socket: Socket, size: Payload[int]) -> None:
        await socket.send(bytearray(b"x" * size))

    @group.command("fragments")
    async def fragments(socket: ServerConnection) -> None:
        async def parts() -> Any:
            yield "a"
            sending.append(asyncio.create_task(socket.send("afterwards")))
            await asyncio.sleep(0)  # sending has begun, and has to wait
            yield "b"

        sending: list[asyncio.Task[None]] = []
        await socket.send(parts())
        await sending[0]

    return group


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("size", SIZES)
async def test_messages_of_every_length(
    group: CommandGroup, size: int, compression: str | None
) -> None:
    """Messages arrive unchanged, as text or binary, with compression and without."""
    app = app_with(group, limits=Limits(compression=compression))
    async with talk(app) as client:
        for event, message in [
            ("text", "x" * size),
            ("bytes", b"x" * size),
            ("bytearray", b"x" * size),
        ]:
            await client.send(event, payload=size)
            assert await client.receive_frame() == message


@pytest.mark.parametrize(
    ("message", "text", "received"),
    [
        ("ä€😀", None, "ä€😀"),
        ("text", False, b"text"),
        (b"bytes", True, "bytes"),
        (ClientEvent("event", 1), None, '{"event":"event","payload":1}'),
    ],
)
async def test_what_a_message_is_sent_as(message: Any, text: bool | None, received: Any) -> None:
    """A ``str`` is sent as text and ``bytes`` as binary, unless ``text`` is given."""
    group = CommandGroup()

    @group.command("send")
    async def send(socket: Socket) -> None:
        await socket.send(message, text=text)

    async with talk(app_with(group)) as client:
        await client.send("send")
        assert await client.receive_frame() == received


async def test_a_message_does_not_get_between_the_fragments_of_another(group: CommandGroup) -> None:
    """A message waits for the last fragment of another one."""
    async with talk(app_with(group)) as client:
        await client.send("fragments")
        assert [await client.receive_frame() for _ in range(2)] == ["ab", "afterwards"]


async def test_whoever_debugs_sees_what_is_sent(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """The debug log of ``websockets`` is complete."""
    caplog.set_level(logging.DEBUG, "websockets.server")
    async with talk(app_with(group)) as client:
        await client.send("text", payload=3)
        assert await client.receive_frame() == "xxx"
    assert any("> TEXT 'xxx'" in message for message in caplog.messages)


@pytest.mark.parametrize("message", ["text", b"bytes", {"no": "message"}])
async def test_what_cannot_be_sent_is_an_error_of_websockets(
    group: CommandGroup, message: Any
) -> None:
    """A closed connection raises `ConnectionClosed`, and a wrong type `TypeError`."""
    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.call("unknown")
        (user,) = app._session.online.values()
        if isinstance(message, dict):
            with pytest.raises(TypeError):
                await user.socket.send(message)
            return
        await user.socket.close()
        with pytest.raises(ConnectionClosed):
            await user.socket.send(message)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_what_is_published_is_written_as_what_is_sent(compression: str | None) -> None:
    """Published events arrive with compression and without."""
    group = CommandGroup()

    @group.command("publish")
    async def publish(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, "news")
        await channels.publish("news", ClientEvent("news", "x" * 200))

    async with talk(app_with(group, limits=Limits(compression=compression))) as client:
        await client.send("publish")
        assert await client.receive() == {"event": "news", "payload": "x" * 200}
