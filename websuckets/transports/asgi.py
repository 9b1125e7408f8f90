"""WebSocket connections of an ASGI server, each from its opening handshake to its end."""

import anyio

from websuckets.exc import HandshakeRefused
from websuckets.limits import Limits
from websuckets.protocol.transport import Acceptor, ConnectionHandler, HttpResponse
from websuckets.runtime.event_loop import on_trio
from websuckets.transports.asgi_asyncio import DirectConnection
from websuckets.transports.asgi_connection import AsgiConnection, QueuedConnection
from websuckets.transports.asgi_events import AsgiReceive, AsgiScope, AsgiSend, send_response
from websuckets.transports.opening import Opening
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["serve_asgi"]


async def serve_asgi(
    scope: AsgiScope,
    receive: AsgiReceive,
    send: AsgiSend,
    acceptor: Acceptor,
    limits: Limits,
    timeouts: PeerTimeouts,
) -> None:
    """Answer the opening handshake, and run the connection handler until the client has left."""
    await receive()  # "websocket.connect"
    kind = QueuedConnection if on_trio() else DirectConnection
    connection = kind(scope, receive, send, acceptor, limits.message_size, timeouts)
    async with Opening(acceptor) as opening:
        refusal = await opening.ask(connection)
        if refusal is not None:
            await _refuse(refusal, scope, send)
            return
        await send(connection.accept_event())
        handler = opening.opened()
    connection.open(handler.disconnected)
    await _serve(handler, connection)


async def _refuse(refusal: HandshakeRefused, scope: AsgiScope, send: AsgiSend) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})  # the server answers 403
        return
    await send_response(HttpResponse.of(refusal), "websocket.http.response", send)


async def _serve(handler: ConnectionHandler, connection: AsgiConnection) -> None:
    """Serve the connection, and read meanwhile, to notice that the client has left."""
    error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, handler, connection)
        try:
            await handler.serve()
            await connection.wait_closed()  # another task may be closing the connection
            await connection.discard_frames()
        except BaseException as raised:
            error = raised
        connection.closed_by_peer(None)  # does nothing if the connection is closed already
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _read(handler: ConnectionHandler, connection: AsgiConnection) -> None:
    try:
        await connection.read()
    except anyio.get_cancelled_exc_class():
        if connection.socket.close_code is None:  # cancelled by the server alone
            connection.closed_by_peer(None)
            handler.cancel()
        raise
