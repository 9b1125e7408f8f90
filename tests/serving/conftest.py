"""Fixtures of the tests of `app.asgi`, and of those of programs."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import programs
import pytest
from asgi_server import AsgiServer, NewServer
from harness import app_with
from timeouts import TIMEOUT
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


@pytest.fixture
def listening() -> Iterator["Queue[str]"]:
    """Yield the queue of the URLs of apps that pick a port themselves, read from their log."""
    logger = logging.getLogger("websuckets")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with programs.listening() as urls:
            yield urls
    finally:
        logger.setLevel(level)


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Yield a function that runs another in a thread; an error of that function fails the test."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(function: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)
                os.kill(os.getpid(), signal.SIGTERM)  # so that the program ends

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(TIMEOUT)
    assert not errors
