"""Service of one app in this process, as the options of ``websuckets run`` say."""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from websuckets.app import Server, WebSuckets
from websuckets.cli.run_options import RunOptions
from websuckets.serving.lifecycle import RunningApp
from websuckets.serving.process import console_logging
from websuckets.transports.shared_sockets import SharedSockets

__all__ = ["serve_app"]

Beside = Callable[[RunningApp, Server], Coroutine[Any, Any, None]]
"""Function that runs in a task of its own while the app listens."""


def serve_app(
    app: WebSuckets,
    options: RunOptions,
    *,
    shared: SharedSockets | None = None,
    beside: Beside | None = None,
) -> None:
    """Serve the app in a new event loop until a signal or a request ends it.

    Serves on the ``shared`` sockets, or else on the host and port of the options. ``beside`` runs
    in a task of its own while the app listens; only workers have one. Raises what
    `WebSuckets.serve` raises, and `ConfigurationError` for certificates that cannot be used.
    """
    given: dict[str, Any] = {"beside": beside}
    context = options.ssl_context()
    if context is not None:
        given["ssl"] = context
    if options.drain_timeout is not None:
        given["drain_timeout"] = options.drain_timeout
    host: str | None = None
    port: int | None = None
    if shared is not None:
        given["shared_sockets"] = shared
    else:
        host, port = options.host, options.port

    async def main() -> None:
        await app._run_as_program(host, port, **given)

    with console_logging(shows_process=beside is not None):
        anyio.run(main, **options.event_loop())
