"""Fixtures of the tests of `app.asgi`."""

from collections.abc import Iterator
from typing import Any

import pytest
from asgi_server import AsgiServer, NewServer
from harness import app_with
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets


@pytest.fixture
def group() -> CommandGroup:
    """Return commands that reply with parts of their request or of their message."""
    group = CommandGroup()

    @group.command("request")
    async def request(socket: Socket, *, request: Request) -> list[Any]:
        assert socket.request is request
        return [request.path, request.headers["X-Test"], type(socket.remote_address).__name__]

    @group.command("length")
    async def length(socket: Socket, text: Payload[str]) -> int:
        return len(text)

    @group.command("say")
    async def say(socket: Socket, text: Payload[str]) -> str:
        return text

    @group.command("ping")
    async def ping(socket: Socket) -> None:
        await socket.ping()

    return group


@pytest.fixture
def app(group: CommandGroup) -> WebSuckets:
    """Return an app with the commands of `group`, and with a bound of 1,000 bytes a message."""
    return app_with(group, limits=Limits(max_size=1000))


@pytest.fixture
def new_server() -> Iterator[NewServer]:
    """Return a factory of servers that are closed after the test."""
    servers: list[AsgiServer] = []

    def new_server(**scope: Any) -> AsgiServer:
        servers.append(AsgiServer(**scope))
        return servers[-1]

    yield new_server
    for server in servers:
        server.close()
