"""An ASGI server that tests play event by event, and helpers for the apps that it serves."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
from harness import Gate
from timeouts import TIMEOUT

from websuckets import CommandGroup, Socket, WebSuckets


class AsgiServer:
    """An ASGI server as an application sees it: one connection, event by event."""

    def __init__(self, **scope: Any) -> None:
        self.scope = {"type": "websocket", "path": "/", "headers": [], **scope}
        self.sent: list[dict[str, Any]] = []
        self.to_client, self.from_app = anyio.create_memory_object_stream[Any](100)
        self.from_client, self.to_app = anyio.create_memory_object_stream[Any](100)
        self.from_client.send_nowait({"type": "websocket.connect"})

    async def __call__(self, app: Any) -> None:
        await app(self.scope, self.receive, self.send)

    async def receive(self) -> Any:
        event = await self.to_app.receive()
        if isinstance(event, Exception):
            raise event
        return event

    async def send(self, event: Any) -> None:
        self.sent.append(event)
        self.to_client.send_nowait(event)
        if event["type"] == "websocket.close":
            self.leaves()

    def says(self, command: str) -> None:
        self.from_client.send_nowait({"type": "websocket.receive", "text": command})

    def leaves(self) -> None:
        self.from_client.send_nowait({"type": "websocket.disconnect", "code": 1000})

    def close(self) -> None:
        for stream in (self.to_client, self.from_app, self.from_client, self.to_app):
            stream.close()

    async def next(self) -> Any:
        with anyio.fail_after(TIMEOUT):
            return await self.from_app.receive()

    async def greet(self) -> None:
        """Send the first message, and wait for its reply.

        On asyncio, the connection receives from then on without the task that reads.
        """
        self.says('{"event": "greeting"}')
        while (await self.next())["type"] == "websocket.accept":
            pass


NewServer = Callable[..., AsgiServer]


def tell_of_the_end(app: WebSuckets, journal: list[Any]) -> None:
    """Announce the end once hooks have run, which may wait for something."""

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        await anyio.lowlevel.checkpoint()
        journal.append(f"disconnect {socket.close_code}")


def waiting(group: CommandGroup, journal: list[str], **options: Any) -> Gate:
    """Add a command ``wait``, which records its end; return the gate that the command waits for."""
    gate = Gate()

    @group.command("wait", **options)
    async def wait(socket: Socket) -> None:
        try:
            await gate()
        finally:
            journal.append("wait ended")

    return gate
