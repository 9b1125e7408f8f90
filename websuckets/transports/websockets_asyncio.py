"""The server of ``websockets`` on asyncio."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from websuckets.connection import Wire
from websuckets.limits import Limits

__all__ = ["Listener", "ServerConnection", "listen"]


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

    ``options`` are the keyword arguments of ``websockets.asyncio.server.serve``.
    """

    async def handle_connection(connection: ServerConnection) -> None:
        await handle(
            Wire(connection, connection.recv, connection.transport.abort, (ConnectionClosed,))
        )

    _keep_secrets_out_of_logs()
    options = {"max_size": limits.max_size, "compression": limits.compression, **options}
    if "path" in options:
        options.setdefault("unix", True)
    server = await serve(handle_connection, host, port, **options)
    return Listener(server, secure=options.get("ssl") is not None)


def _keep_secrets_out_of_logs() -> None:
    """Keep ``websockets`` from logging whole messages and headers, unless it was told to."""
    logger = logging.getLogger("websockets")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
