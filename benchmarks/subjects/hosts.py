"""Servers for ASGI applications: uvicorn and granian, without compression and access logs."""

from typing import Any

from benchmarks.job import HOST

__all__ = ["serve_asgi"]

HOSTS = {
    # variant: server, protocol, event loop
    "sansio": ("uvicorn", "websockets-sansio", "asyncio"),
    "wsproto": ("uvicorn", "wsproto", "asyncio"),
    "uvloop": ("uvicorn", "websockets-sansio", "uvloop"),
    "granian": ("granian", "", "asyncio"),
}


def serve_asgi(app: Any, target: str, port: int, variant: str) -> None:
    """Serve the application on the server of this variant.

    ``target`` is the name by which a process of granian imports the application: ``module:name``.
    """
    server, protocol, loop = HOSTS[variant]
    if server == "granian":
        _granian(target, port, loop)
    else:
        _uvicorn(app, port, protocol, loop)


def _uvicorn(app: Any, port: int, protocol: Any, loop: Any) -> None:
    import uvicorn

    uvicorn.run(
        app,
        host=HOST,
        port=port,
        loop=loop,
        ws=protocol,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )


def _granian(target: str, port: int, loop: Any) -> None:
    from granian import Granian
    from granian.constants import Interfaces, Loops

    Granian(
        target,
        address=HOST,
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops(loop),
        log_enabled=False,
    ).serve()
