"""ASGI application of an app: mounted in another one, or given to an ASGI server."""

import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from websockets.http11 import Request

from websuckets.exc import ConfigurationError
from websuckets.protocol.transport import HttpResponse
from websuckets.serving.lifecycle import RunningApp
from websuckets.transports.asgi import serve_asgi
from websuckets.transports.asgi_events import (
    AsgiReceive,
    AsgiScope,
    AsgiSend,
    path_within,
    request_of,
    send_response,
)

__all__ = ["AsgiApplication"]


class AsgiApplication:
    """ASGI 3 application: ``lifespan`` runs the app, ``websocket`` connects, ``http`` says how to.

    It lives as long as the app, and may be mounted in several places. ``entered`` gives the running
    app; ``lifespan`` is the context in which the app runs. ``answer`` gives the response to a
    request that is not an opening handshake.
    """

    def __init__(
        self,
        lifespan: Callable[[], AbstractAsyncContextManager[None]],
        entered: Callable[[], Awaitable[RunningApp]],
        answer: Callable[[str, Request], Awaitable[HttpResponse]],
    ) -> None:
        self._lifespan = lifespan
        self._answer = answer
        self._entered = entered

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        match scope["type"]:
            case "websocket":
                app = await self._entered()
                acceptor, timeouts = app.connections, app.timeouts
                await serve_asgi(scope, receive, send, acceptor, app.limits, timeouts)
            case "lifespan":
                await self._live(receive, send)
            case "http":
                answer = await self._answer(path_within(scope), request_of(scope))
                await _answer_http(answer, scope, send)
            case other:
                raise RuntimeError(f"websuckets serves WebSocket, and knows nothing of {other!r}")

    async def _live(self, receive: AsgiReceive, send: AsgiSend) -> None:
        """Start and stop as the server says; report a failure to the server, which logs it."""
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


async def _answer_http(answer: HttpResponse, scope: AsgiScope, send: AsgiSend) -> None:
    if not scope.get("http_version", "1.1").startswith("1"):  # later versions have no Upgrade
        answer = HttpResponse(answer.status, answer.text)
    await send_response(answer, "http.response", send, has_body=scope.get("method") != "HEAD")
