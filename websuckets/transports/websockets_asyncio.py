"""The server of ``websockets`` on asyncio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed

from websuckets.limits import Limits
from websuckets.socket import Wire
from websuckets.transports.listener import Listener, keep_secrets_out_of_logs

__all__ = ["ServerConnection", "listen", "ticking"]


@asynccontextmanager
async def listen(
    handle: Callable[[Wire], Awaitable[None]],
    stop: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    host: str | None,
    port: int | None,
    limits: Limits,
    options: dict[str, Any],
) -> AsyncIterator[Listener]:
    """Accept connections and hand each to ``handle``, which returns when it is done with it.

    On leaving nobody is accepted any more; then ``stop`` is called with what waits until every
    connection is gone. ``options`` are the keyword arguments of ``serve`` or ``unix_serve`` of
    ``websockets.asyncio.server``, but for those that ``limits`` holds.
    """

    async def handle_connection(connection: ServerConnection) -> None:
        async def abort() -> None:
            connection.transport.abort()

        await handle(
            Wire(
                socket=connection,
                receive=connection.recv,
                abort=abort,
                closed_errors=(ConnectionClosed,),
                cancellations=_cancellations,
            )
        )

    keep_secrets_out_of_logs()
    options = {**options, "max_size": limits.max_size, "compression": limits.compression}
    if "path" in options:
        server = await unix_serve(handle_connection, **options)
    else:
        server = await serve(handle_connection, host, port, **options)
    try:
        yield Listener(server.sockets, secure=options.get("ssl") is not None)
    finally:
        server.close(close_connections=False)
        await stop(server.wait_closed)


@contextmanager
def ticking(tick: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``tick`` every so many seconds."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tick_and_go_on() -> None:
        nonlocal timer
        tick()
        timer = loop.call_later(seconds, tick_and_go_on)

    timer = loop.call_later(seconds, tick_and_go_on)
    try:
        yield
    finally:
        timer.cancel()


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
