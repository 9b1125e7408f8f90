"""The server of ``websockets`` on asyncio."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed

from websuckets.limits import Limits
from websuckets.socket import Wire

__all__ = ["Listener", "ServerConnection", "listen", "ticking"]


class Listener:
    """The listening sockets and the connections that came through them."""

    def __init__(self, server: Server, secure: bool) -> None:
        self._server = server
        self._scheme = "wss" if secure else "ws"

    @property
    def port(self) -> int | None:
        """The TCP port; ``None`` on a unix socket."""
        for name in self._names():
            if isinstance(name, tuple):
                return int(name[1])
        return None

    @property
    def urls(self) -> list[str]:
        """Where clients connect to; for a unix socket, its path."""
        return [self._url(name) for name in self._names()]

    def stop_accepting(self) -> None:
        """Let nobody in from now on; those who are connected stay."""
        self._server.close(close_connections=False)

    async def wait_closed(self) -> None:
        """Wait until every connection is gone; `stop_accepting` comes first."""
        await self._server.wait_closed()

    def _names(self) -> list[Any]:
        return [socket.getsockname() for socket in self._server.sockets]

    def _url(self, name: Any) -> str:
        if not isinstance(name, tuple):
            return f"unix:{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{self._scheme}://{host}:{name[1]}"


async def listen(
    handle: Callable[[Wire], Awaitable[None]],
    host: str | None,
    port: int | None,
    limits: Limits,
    options: dict[str, Any],
) -> Listener:
    """Accept connections and hand each to ``handle``, which returns when it is done with it.

    ``options`` are the keyword arguments of ``serve`` or ``unix_serve`` of
    ``websockets.asyncio.server``, but for those that ``limits`` holds.
    """

    async def handle_connection(connection: ServerConnection) -> None:
        await handle(
            Wire(
                socket=connection,
                receive=connection.recv,
                abort=connection.transport.abort,
                closed_errors=(ConnectionClosed,),
                cancellations=_cancellations,
            )
        )

    _keep_secrets_out_of_logs()
    options = {**options, "max_size": limits.max_size, "compression": limits.compression}
    if "path" in options:
        server = await unix_serve(handle_connection, **options)
    else:
        server = await serve(handle_connection, host, port, **options)
    return Listener(server, secure=options.get("ssl") is not None)


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


def _keep_secrets_out_of_logs() -> None:
    """Keep ``websockets`` from logging whole messages and headers, unless it was told to."""
    logger = logging.getLogger("websockets")
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
