"""python-socketio: what a handler returns is the acknowledgement of its event."""

import hmac
from typing import Any

import socketio
from pydantic import ValidationError

from benchmarks.job import CREATE, PREVIEW, TOKEN, Post, Store, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi

store = Store()
tokens: dict[str, bytes] = {}
server = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], http_compression=False, async_handlers=False
)


@server.event
async def connect(sid: str, environ: Any) -> None:
    tokens[sid] = TOKEN.encode()


@server.event
async def disconnect(sid: str, reason: str) -> None:
    del tokens[sid]


@server.on(CREATE)
async def create(sid: str, data: dict[str, Any]) -> dict[str, Any]:
    if not hmac.compare_digest(tokens[sid], data["token"].encode()):
        return {"error": "not authorized"}
    try:
        post = Post.model_validate(data["payload"])
    except ValidationError:
        return {"error": "validation error"}
    transaction = Transaction(store)
    try:
        return {"payload": transaction.add(post)}
    finally:
        transaction.close()


@server.on(PREVIEW)
async def show(sid: str, data: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"payload": preview(Post.model_validate(data["payload"]))}
    except ValidationError:
        return {"error": "validation error"}


app = socketio.ASGIApp(server)


def serve(port: int, variant: str, options: Options) -> None:
    serve_asgi(app, f"{__name__}:app", port, variant)
