"""Listening sockets from which several processes accept clients, at once or one after the other.

A process that stops must not refuse a client that another process could serve. Closing a port, or
a listener of SO_REUSEPORT, resets the clients that wait in its queue; so a supervisor binds each
socket once, and hands the very same socket to every process. A process that makes way for another
one stops in three steps, of which `hand_over` is the first two:

1. The process accepts no more clients, without closing anything: the queue of the socket is
   everyone's, and another process accepts from it.
2. Handshakes of clients that this process has accepted are completed as usual. Both servers of
   ``websockets`` would answer them with 503 as soon as they close.
3. The app drains its connections, as at any other stop.

A process that stops while no other one takes its place (`SharedSockets.has_successor` is false)
goes on accepting until its end, and answers with 503, so that load balancers notice.
"""

import socket
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet

import anyio

__all__ = ["BACKLOG", "SharedSockets", "hand_over"]

BACKLOG: Final = 2048
"""Clients that may wait in the queue of a socket; the system may allow fewer."""

HANDSHAKES_MAY_TAKE: Final = 5.0
"""Seconds in which clients that were accepted complete their handshakes before a process stops.

Shorter than the 10 seconds of ``open_timeout`` in ``websockets``: one client that sends nothing
would delay the stop of each process by that time.
"""

STEP: Final = 0.01
"""Seconds between two looks at handshakes under way, of which a client that has left tells none."""


class SharedSockets:
    """The sockets, and the handshakes of the clients that this process has accepted from them.

    The sockets listen already; whoever serves on them closes them.
    ``has_successor`` is set before the app is told to stop where another process accepts clients
    in place of this one.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.sockets: tuple[socket.socket, ...] = tuple(sockets)
        self.has_successor: bool = False
        # Weak, because a connection whose TLS handshake fails is dropped without notice.
        self.handshakes: WeakSet[Any] = WeakSet()


async def hand_over(shared: SharedSockets) -> None:
    """Wait until the clients that were accepted have completed their handshakes.

    The caller has stopped accepting. Waits at most `HANDSHAKES_MAY_TAKE` seconds.
    """
    with anyio.move_on_after(HANDSHAKES_MAY_TAKE):
        await anyio.sleep(STEP)  # a client that was accepted just now becomes a connection
        while shared.handshakes:
            await anyio.sleep(STEP)
