"""Ports for servers that have to be told theirs."""

import secrets
import socket
from typing import Final

LOWEST: Final = 20_000
NUMBER: Final = 12_000
"""Ports below 32,768, the first that Linux gives to servers that let it choose, as most tests do:
one of those could take a port between the moment of the choice and the start of its server."""


def free_port() -> int:
    """Return a port of the loopback interface on which no server listens."""
    while True:
        port = LOWEST + secrets.randbelow(NUMBER)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
