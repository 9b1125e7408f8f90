"""Messages between nodes, as channels of Redis carry them."""

import secrets
from typing import Final

__all__ = ["ANNOUNCED", "EVERY_NODE", "FROM_ALL", "MESSAGE", "MISSED", "Envelope"]

VERSION: Final = b"websuckets/1"
"""Beginning of every message; any other message is discarded."""

MESSAGE: Final = b"message"
MISSED: Final = b"missed"
ANNOUNCED: Final = b"announced"
"""Kinds of messages: a published message, the news that such a message did not reach Redis, and the
news that there is an announcement to be read."""

FROM_ALL: Final = VERSION + b" redis " + MESSAGE + b"\n"
"""Header of messages that scripts of Redis publish, and that every node receives."""

EVERY_NODE: Final = "nodes"
"""Topic of messages from one node to all other nodes."""


class Envelope:
    """Envelope of the messages of one node, which names the node; lives as long as its link."""

    def __init__(self) -> None:
        self._node = secrets.token_hex(8).encode()

    def head(self, kind: bytes) -> bytes:
        """Return the header of a message."""
        return b" ".join((VERSION, self._node, kind)) + b"\n"

    def open(self, message: bytes) -> tuple[bytes, bytes] | None:
        """Return the kind and the body of a message; ``None`` for a message of this node itself.

        Raises `ValueError` for a text that no node has written.
        """
        head, _, body = message.partition(b"\n")
        version, _, rest = head.partition(b" ")
        node, _, kind = rest.partition(b" ")
        if version != VERSION or kind not in (MESSAGE, MISSED, ANNOUNCED):
            raise ValueError("not a message of a node")
        return None if node == self._node else (kind, body)
