"""The server of ``websockets`` on asyncio."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve, unix_serve

from websuckets.limits import Limits
from websuckets.protocol.transport import Acceptor
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import Propagate
from websuckets.transports.asyncio_fast_path import FastAsyncioConnection
from websuckets.transports.handshake import options_with, serve_connection
from websuckets.transports.listener import Listener, keep_secrets_out_of_logs

__all__ = ["CONNECTION", "ServerConnection", "listen"]

CONNECTION = FastAsyncioConnection
"""Class whose methods come before those of ``ServerConnection``; `AsyncioConnection` works, too."""


@asynccontextmanager
async def listen(
    acceptor: Acceptor,
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | Sequence[str] | None,
    port: int | None,
    limits: Limits,
    clock: Clock,
    options: dict[str, Any],
    propagate: Propagate,
) -> AsyncIterator[Listener]:
    """Listen, and pass clients to the acceptor, until the context is left.

    On leaving, ``stop`` is called with a function that closes the port and waits until every
    connection is closed. ``options`` are the keyword arguments of ``serve`` or ``unix_serve`` of
    ``websockets.asyncio.server``, except those that ``limits`` holds. ``propagate`` is not called:
    the event loop itself raises an exception that ends the program.
    """
    keep_secrets_out_of_logs()
    options = options_with(acceptor, limits, clock, CONNECTION, ServerConnection, options)
    # asyncio awaits something after beginning to listen: a cancellation there would leave a server
    # to which nothing refers. So nothing is awaited between binding and the `try` below.
    starts = options.pop("start_serving", True)
    if "path" in options:
        server = await unix_serve(serve_connection, start_serving=False, **options)
    else:
        where: Any = host  # asyncio takes several hosts, too
        server = await serve(serve_connection, where, port, start_serving=False, **options)

    async def close() -> None:
        server.close(close_connections=False)
        await server.wait_closed()

    try:
        if starts:
            await server.start_serving()
        yield Listener(server.sockets, secure=options.get("ssl") is not None)
    finally:
        try:
            await stop(close)
        finally:
            server.close(close_connections=False)
