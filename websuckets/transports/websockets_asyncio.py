"""The server of ``websockets`` on asyncio."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed

from websuckets.limits import Limits
from websuckets.socket import Accepted, Wire
from websuckets.transports.handshake import Handshake, options_with, serve_connection
from websuckets.transports.listener import Listener, keep_secrets_out_of_logs

__all__ = ["ServerConnection", "listen"]


class _Connection(Handshake):
    def wire(self: Any) -> Wire:
        return Wire(
            self,
            receive=self.recv,
            discard=self.discard_frames,
            abort=self.abort,
            closed_errors=(ConnectionClosed,),
        )

    async def abort(self: Any) -> None:
        self.transport.abort()
        await self.wait_closed()


@asynccontextmanager
async def listen(
    accept: Callable[[Wire], Accepted],
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | None,
    port: int | None,
    limits: Limits,
    options: dict[str, Any],
) -> AsyncIterator[Listener]:
    """Drive what ``accept`` gives for each client, until the context is left.

    Then nobody is accepted any more, and ``stop`` is called with what waits until every connection
    is gone. ``options`` are the keyword arguments of ``serve`` or ``unix_serve`` of
    ``websockets.asyncio.server``, but for those that ``limits`` holds.
    """
    keep_secrets_out_of_logs()
    options = options_with(limits, accept, _Connection, ServerConnection, options)
    if "path" in options:
        server = await unix_serve(serve_connection, **options)
    else:
        server = await serve(serve_connection, host, port, **options)
    try:
        yield Listener(server.sockets, secure=options.get("ssl") is not None)
    finally:
        server.close(close_connections=False)
        await stop(server.wait_closed)
