"""Detection of clients that have left, by the operating system, while nothing is read from them."""

import select
import sys
from typing import Final

__all__ = ["has_left"]

PEER_HAS_SHUT_DOWN: Final[int] = getattr(select, "POLLRDHUP", 0)
"""Event of ``poll`` for a peer that has shut down its sending side; 0 where there is none.

Only Linux reports the shutdown before everything that the peer has sent was read.
"""


def has_left(file_descriptor: int) -> bool:
    """Return whether the peer of a TCP connection has ended or reset the connection.

    Return ``False`` where the operating system cannot tell, and for a closed socket (-1).
    """
    if sys.platform != "win32" and PEER_HAS_SHUT_DOWN and file_descriptor >= 0:
        poll = select.poll()
        poll.register(file_descriptor, PEER_HAS_SHUT_DOWN)
        return bool(poll.poll(0))
    return False
