"""Servers of ``websockets`` with handlers of their own, for tests of clients, on any event loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
import websockets.asyncio.server
import websockets.trio.server
from harness import on_trio

Handler = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """Serve connections by a handler, and yield the URL."""
    if not on_trio():
        async with websockets.asyncio.server.serve(handler, "127.0.0.1", 0) as server:
            yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        return
    async with trio.open_nursery() as nursery:
        serve = partial(websockets.trio.server.serve, handler, 0, host="127.0.0.1")
        trio_server: Any = await nursery.start(serve)
        yield f"ws://127.0.0.1:{trio_server.listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
