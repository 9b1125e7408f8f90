"""Listening sockets that a supervisor opens once, for all the processes that accept from them."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from websuckets.transports.shared_sockets import BACKLOG

__all__ = ["listening_on"]

AF_UNIX: Final[int] = getattr(socket, "AF_UNIX", -1)
"""Address family of Unix sockets; ``-1``, which no system knows, where there are none."""

TRIES: Final = 20
"""Number of ports that are tried until a port is free on every address of the host."""

NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address that this machine does not have, as ``::1`` where IPv6 is turned off."""


@contextmanager
def listening_on(host: str, port: int, uds: str | None) -> Iterator[Sequence[socket.socket]]:
    """Return a context in which sockets listen: one for each address of the host, or one at a path.

    Port 0 picks a free port, the same on each address. Raises ``OSError``, with the address in its
    text, where a socket cannot be opened.
    """
    with ExitStack() as sockets:
        if uds is not None:
            yield [_listen_at(uds, sockets)]
        else:
            yield _listen_on(host, port, sockets)


def _listen_on(host: str, port: int, opened: ExitStack) -> list[socket.socket]:
    how: dict[str, Any] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
    try:
        infos = socket.getaddrinfo(host or None, port, **how)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{host}: {str(error.strerror).lower()}") from None
    addresses = dict.fromkeys((info[0], info[4]) for info in infos)
    for _ in range(TRIES - 1):
        try:
            return _listen_together(addresses, port, opened)
        except OSError:
            if port:
                raise
    return _listen_together(addresses, port, opened)


def _listen_together(addresses: Any, port: int, opened: ExitStack) -> list[socket.socket]:
    """Listen on each address that this machine has, or raise and leave no socket open."""
    with ExitStack() as stack:
        sockets = list(_bind(addresses, port, stack))
        for each in sockets:
            each.listen(BACKLOG)
        opened.push(stack.pop_all())
    return sockets


def _bind(addresses: Any, port: int, opened: ExitStack) -> Iterator[socket.socket]:
    missing: OSError | None = None
    has_any = False
    for family, (host, _, *more) in addresses:
        try:
            own = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            own.bind((host, port, *more))
        except OSError as error:
            text = f"{host}, port {port}: {os.strerror(error.errno or 0).lower()}"
            told = OSError(error.errno, text)
            if error.errno not in NOT_HERE:
                raise told from None
            missing = told
            continue
        port = own.getsockname()[1]
        has_any = True
        yield own
    if missing is not None and not has_any:
        raise missing


def _listen_at(path: str, opened: ExitStack) -> socket.socket:
    """Listen at a path, from which a socket that no process listens on is removed first."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _is_served(path):
            os.remove(path)
    own = opened.enter_context(socket.socket(AF_UNIX, socket.SOCK_STREAM))
    try:
        own.bind(path)
    except OSError as error:
        why = str(error.strerror or error).lower()  # Python itself refuses a path that is too long
        raise OSError(error.errno or errno.ENAMETOOLONG, f"{path}: {why}") from None
    opened.callback(_remove, path, os.stat(path).st_ino)
    own.listen(BACKLOG)
    return own


def _is_served(path: str) -> bool:
    with socket.socket(AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # the queue of its server may be full
        return client.connect_ex(path) != errno.ECONNREFUSED


def _remove(path: str, inode: int) -> None:
    """Remove the socket at the path, unless another process has replaced the socket."""
    with suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.remove(path)
