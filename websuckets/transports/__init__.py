"""The ways in which frames come in and go out; each module knows one library below us."""

import sys
from types import ModuleType

from websuckets.backend import on_trio
from websuckets.transports import websockets_asyncio

__all__ = ["connection_types", "running_transport"]


def running_transport() -> ModuleType:
    """The module that serves ``websockets`` on the event loop that runs this."""
    if on_trio():
        from websuckets.transports import websockets_trio

        return websockets_trio
    return websockets_asyncio


def connection_types() -> tuple[type, ...]:
    """Types by which a dependency can ask for the transport's own connection.

    That of trio is among them if the program has imported it: it cannot be named otherwise.
    """
    module = sys.modules.get("websockets.trio.server")
    trio_types = () if module is None else (module.ServerConnection,)
    return (websockets_asyncio.ServerConnection, *trio_types)
