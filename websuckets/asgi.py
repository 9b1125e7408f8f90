"""The app as an ASGI application: mounted in another one, or given to an ASGI server."""

import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from websuckets.exc import ConfigurationError
from websuckets.lifecycle import Running
from websuckets.transports.asgi import AsgiReceive, AsgiScope, AsgiSend, serve_asgi

__all__ = ["AsgiApplication"]

UPGRADE_REQUIRED: Final = b"This address serves WebSocket; connect with a WebSocket client.\n"


class AsgiApplication:
    """ASGI 3: ``lifespan`` starts and stops the app, ``websocket`` connects, ``http`` says how to.

    It lives as long as the app, and may be mounted in several places. ``entered`` gives what runs;
    ``lifespan`` is the time in which it does.
    """

    def __init__(
        self,
        lifespan: Callable[[], AbstractAsyncContextManager[None]],
        entered: Callable[[], Awaitable[Running]],
    ) -> None:
        self._lifespan = lifespan
        self._entered = entered

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        match scope["type"]:
            case "websocket":
                app = await self._entered()
                await serve_asgi(scope, receive, send, app.connections.accept, app.limits.max_size)
            case "lifespan":
                await self._live(receive, send)
            case "http":
                await _answer(scope, send)
            case other:
                raise RuntimeError(f"websuckets serves WebSocket, and knows nothing of {other!r}")

    async def _live(self, receive: AsgiReceive, send: AsgiSend) -> None:
        """Start and stop as the server says. What fails is told to the server, which logs it."""
        step = "startup"
        async with AsyncExitStack() as stack:
            while True:
                await receive()
                try:
                    if step == "startup":
                        await stack.enter_async_context(self._lifespan())
                    else:
                        await stack.aclose()
                except Exception as error:
                    await send({"type": f"lifespan.{step}.failed", "message": _reason(error)})
                    return
                await send({"type": f"lifespan.{step}.complete"})
                if step == "shutdown":
                    return
                step = "shutdown"


def _reason(error: Exception) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    return "".join(traceback.format_exception(error))


async def _answer(scope: AsgiScope, send: AsgiSend) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(UPGRADE_REQUIRED)).encode()),
    ]
    if scope.get("http_version", "1.1").startswith("1"):  # later versions have no such header
        headers.append((b"upgrade", b"websocket"))
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    is_head = scope.get("method") == "HEAD"
    await send({"type": "http.response.body", "body": b"" if is_head else UPGRADE_REQUIRED})
