"""Ports and Unix sockets on which both servers of ``websockets`` listen, and their log."""

import errno
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final, Protocol

import anyio

__all__ = [
    "Listener",
    "Named",
    "StopConnections",
    "hosts_of",
    "keep_secrets_out_of_logs",
    "one_port",
]

TRIES: Final = 20
"""Number of ports that are tried until a port is free on every address."""

REMEDIES: Final = {
    errno.EADDRINUSE: (
        "another program listens there, perhaps this one started twice: stop it, or take another "
        "port (0 picks a free one)"
    ),
    errno.EACCES: "this user may not listen there; take a port above 1023",
}
"""Remedies for a port that cannot be opened, by the number of the error."""

Address = tuple[int, tuple[Any, ...]]
"""Address family, and an address of that family with a port."""


class StopConnections(Protocol):
    """Function that closes every connection of an app that stops, on behalf of a transport."""

    async def __call__(
        self,
        close: Callable[[], Awaitable[None]],
        hand_over: Callable[[], Awaitable[None]] | None = None,
        /,
    ) -> None:
        """Close the connections.

        ``close`` closes the port and waits until every connection is closed. ``hand_over``, where
        another process takes the place of this one, is awaited first.
        """
        ...


class Named(Protocol):
    """A listening socket of any library."""

    def getsockname(self) -> Any: ...


class Listener:
    """The names of the sockets on which a server listens."""

    def __init__(self, sockets: Sequence[Named], *, secure: bool) -> None:
        self._names = [socket.getsockname() for socket in sockets]
        self._scheme = "wss" if secure else "ws"

    @property
    def port(self) -> int | None:
        """The TCP port; ``None`` for a Unix socket."""
        for name in self._names:
            if isinstance(name, tuple):
                return int(name[1])
        return None

    @property
    def urls(self) -> tuple[str, ...]:
        """The URL of each socket, to which clients connect; for a Unix socket, its path."""
        return tuple(self._url(name) for name in self._names)

    def _url(self, name: Any) -> str:
        if not isinstance(name, tuple):
            return f"unix:{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{self._scheme}://{host}:{name[1]}"


def keep_secrets_out_of_logs() -> None:
    """Keep ``websockets`` from logging whole messages and headers, unless its log level is set."""
    logger = logging.getLogger("websockets")
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


def hosts_of(host: str | Sequence[str] | None) -> Sequence[str | None]:
    """Return each host to listen on; ``None`` stands for every interface."""
    return [host or None] if host is None or isinstance(host, str) else host


async def one_port(host: str | Sequence[str] | None, port: int, options: dict[str, Any]) -> int:
    """Return the port to listen on, the same on each address of the host, without listening yet.

    For port 0 and several addresses, return a port that is free on all of them; for port 0 and a
    single address return 0, which leaves the choice to the system. Of the ``options``, those of
    ``asyncio.loop.create_server`` count. Raise ``OSError`` for a port that is taken, or that this
    user may not bind.
    """
    addresses = await _addresses(host, port, options.get("family", socket.AF_UNSPEC))
    if not port and len(addresses) < 2:
        return port
    for _ in range(TRIES - 1):
        try:
            return _bind(addresses, port, options)
        except OSError:
            if port:
                raise
    return _bind(addresses, port, options)


async def _addresses(host: str | Sequence[str] | None, port: int, family: int) -> list[Address]:
    found: dict[Address, None] = {}
    for each in hosts_of(host):
        how: dict[str, Any] = {"family": family, "type": socket.SOCK_STREAM}
        try:  # a numeric address needs no thread
            infos: Iterable[Any] = socket.getaddrinfo(
                each, port, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST, **how
            )
        except socket.gaierror:
            infos = await _looked_up(each, port, how)
        found |= {(info[0], info[4]): None for info in infos}
    return list(found)


async def _looked_up(host: str | None, port: int, how: dict[str, Any]) -> Iterable[Any]:
    try:
        return await anyio.getaddrinfo(host, port, flags=socket.AI_PASSIVE, **how)
    except socket.gaierror as error:
        text = f"{host}: {str(error.strerror).lower()}"
        raise socket.gaierror(error.errno, text) from None


def _bind(addresses: Iterable[Address], port: int, options: dict[str, Any]) -> int:
    """Bind the port on each address that this machine has, release it, and return the port."""
    with ExitStack() as sockets:
        for family, (host, _, *more) in addresses:
            try:
                own = sockets.enter_context(socket.socket(family, socket.SOCK_STREAM))
                _prepare(own, options)
                own.bind((host, port, *more))
            except OSError as error:
                if error.errno not in REMEDIES:
                    continue  # the server that listens there later raises the error
                remedy = REMEDIES[error.errno]
                text = f"{host}, port {port}: {os.strerror(error.errno).lower()}; {remedy}"
                raise OSError(error.errno, text) from None
            port = own.getsockname()[1]
    return port


def _prepare(own: socket.socket, options: dict[str, Any]) -> None:
    """Set the options that asyncio and trio set before binding."""
    if options.get("reuse_address", os.name == "posix"):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if options.get("reuse_port") and sys.platform != "win32":  # the server refuses it there
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if own.family == socket.AF_INET6:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
