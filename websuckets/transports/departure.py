"""Detection of clients that have left, by the operating system, while nothing is read from them."""

import select
from typing import Final

__all__ = ["has_left"]

PEER_HAS_SHUT_DOWN: Final[int] = getattr(select, "POLLRDHUP", 0)
"""Linux alone tells that the peer sends no more before all that it has sent was read."""


def has_left(file_descriptor: int) -> bool:
    """Return whether the peer of a TCP connection has ended or reset it.

    Where the operating system cannot tell, and for a socket that is closed (-1), it has not.
    """
    if not PEER_HAS_SHUT_DOWN or file_descriptor < 0:
        return False
    poll = select.poll()
    poll.register(file_descriptor, PEER_HAS_SHUT_DOWN)
    return bool(poll.poll(0))
