"""Transports: each module knows one library that carries frames."""

from types import ModuleType

from websuckets.runtime.event_loop import on_trio

__all__ = ["running_transport"]


def running_transport() -> ModuleType:
    """Return the module that serves with ``websockets`` on the running event loop."""
    if on_trio():
        from websuckets.transports import websockets_trio

        return websockets_trio
    from websuckets.transports import websockets_asyncio

    return websockets_asyncio
