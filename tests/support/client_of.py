"""Client of a served app, for tests: on loopback, without proxies, and with short pauses."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from harness import app_with
from timeouts import TIMEOUT

from websuckets import CommandGroup
from websuckets.client import Backoff, Client

SHORT = Backoff(first=0.01, most=0.05, later=0.02)


def client_at(url: str, **options: Any) -> Client:
    """Return a client of the server at this URL."""
    return Client(url, **{"backoff": SHORT, "proxy": None, "close_timeout": 2, **options})


@asynccontextmanager
async def client_of(group: CommandGroup, **options: Any) -> AsyncIterator[Client]:
    """Serve a group of commands, and yield a client."""
    async with app_with(group).serve("127.0.0.1", 0) as server:
        async with client_at(server.urls[0], **options) as client:
            yield client


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.sleep(0.001)
