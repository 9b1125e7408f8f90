"""The server of ``websockets`` on asyncio."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from inspect import signature
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve

from websuckets.limits import Limits
from websuckets.protocol.transport import Acceptor
from websuckets.runtime.clock import Clock
from websuckets.runtime.event_loop import Propagate
from websuckets.transports.asyncio_fast_path import FastAsyncioConnection
from websuckets.transports.handshake import options_with, serve_connection
from websuckets.transports.listener import Listener, StopConnections, keep_secrets_out_of_logs
from websuckets.transports.shared_sockets import BACKLOG, SharedSockets, hand_over

__all__ = ["CONNECTION", "ServerConnection", "listen"]

CONNECTION = FastAsyncioConnection
"""Class whose methods come before those of ``ServerConnection``; `AsyncioConnection` works, too."""


@asynccontextmanager
async def listen(
    acceptor: Acceptor,
    stop: StopConnections,
    host: str | Sequence[str] | None,
    port: int | None,
    limits: Limits,
    clock: Clock,
    options: dict[str, Any],
    propagate: Propagate,
) -> AsyncIterator[Listener]:
    """Listen, and pass clients to the acceptor, until the context is left.

    On leaving, ``stop`` is called; see `StopConnections`. ``options`` are the keyword arguments of
    ``serve`` or ``unix_serve`` of ``websockets.asyncio.server``, except those that ``limits``
    holds, and ``shared_sockets``. ``propagate`` is not called: the event loop itself raises an
    exception that ends the program.
    """
    keep_secrets_out_of_logs()
    shared: SharedSockets | None = options.get("shared_sockets")
    options = options_with(acceptor, limits, clock, CONNECTION, ServerConnection, options)
    # asyncio awaits something after beginning to listen: a cancellation there would leave a server
    # to which nothing refers. So nothing is awaited between binding and the `try` below.
    starts = options.pop("start_serving", True)
    options["start_serving"] = False
    if shared is not None:
        servers = [await _serve_shared(each, options) for each in shared.sockets]
    elif "path" in options:
        servers = [await unix_serve(serve_connection, **options)]
    else:
        where: Any = host  # asyncio takes several hosts, too
        servers = [await serve(serve_connection, where, port, **options)]
    try:
        if starts:
            for server in servers:
                await server.start_serving()
        sockets = [each for server in servers for each in server.sockets]
        yield Listener(sockets, secure=options.get("ssl") is not None)
    finally:
        make_way = None
        if shared is not None and shared.has_successor:
            make_way = partial(_hand_over, servers, shared)
        try:
            await stop(partial(_close, servers), make_way)
        finally:
            for server in servers:
                server.close(close_connections=False)


async def _close(servers: Sequence[Server]) -> None:
    for server in servers:
        server.close(close_connections=False)
    for server in servers:
        await server.wait_closed()


async def _serve_shared(shared: socket.socket, options: dict[str, Any]) -> Server:
    """Return a server that will accept clients from one shared socket."""
    options = {**options, "sock": _Listening(fileno=shared.detach()), "backlog": BACKLOG}
    loop = asyncio.get_running_loop()
    if _is_asyncio(loop):
        # asyncio accepts as many clients at a time as `backlog` says; one leaves some to others.
        options["backlog"] = 1
    if shared.family != getattr(socket, "AF_UNIX", None):
        return await serve(serve_connection, **options)
    # The path is removed by whoever has bound the socket: asyncio since Python 3.13, and uvloop
    # there, would remove it with the first server that is closed, while others still listen.
    takes = signature(loop.create_unix_server).parameters
    keeps_path: dict[str, Any] = {"cleanup_socket": False} if "cleanup_socket" in takes else {}
    return await unix_serve(serve_connection, **options, **keeps_path)


class _Listening(socket.socket):
    """A socket that listens already."""

    def listen(self, backlog: int = BACKLOG, /) -> None:
        """Do nothing: asyncio would change the length of the queue for all processes."""


async def _hand_over(servers: Sequence[Server], shared: SharedSockets) -> None:
    """Stop accepting clients, without closing the servers, and await handshakes under way."""
    loop = asyncio.get_running_loop()
    for server in servers:
        if _is_asyncio(loop):
            # A server that is closed fails the clients that it has just accepted.
            for each in server.sockets:
                loop.remove_reader(each.fileno())
        else:  # uvloop reads its sockets itself, and makes connections of clients at once
            server.is_serving = _true  # type: ignore[method-assign]  # asked for the 503
            server.server.close()
    await hand_over(shared)


def _is_asyncio(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether the event loop is asyncio's own, and not uvloop's."""
    return isinstance(loop, asyncio.SelectorEventLoop)


def _true() -> bool:
    return True
