"""What both servers of ``websockets`` listen on, and what they log."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Listener", "Named", "keep_secrets_out_of_logs"]


class Named(Protocol):
    """A listening socket, whoever's it is."""

    def getsockname(self) -> Any: ...


class Listener:
    """The listening sockets; it lives as long as they do."""

    def __init__(self, sockets: Sequence[Named], *, secure: bool) -> None:
        self._names = [socket.getsockname() for socket in sockets]
        self._scheme = "wss" if secure else "ws"

    @property
    def port(self) -> int | None:
        """The TCP port; ``None`` on a unix socket."""
        for name in self._names:
            if isinstance(name, tuple):
                return int(name[1])
        return None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect to, one for each socket; for a unix socket, its path."""
        return tuple(self._url(name) for name in self._names)

    def _url(self, name: Any) -> str:
        if not isinstance(name, tuple):
            return f"unix:{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{self._scheme}://{host}:{name[1]}"


def keep_secrets_out_of_logs() -> None:
    """Keep ``websockets`` from logging whole messages and headers, unless it was told to."""
    logger = logging.getLogger("websockets")
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)
