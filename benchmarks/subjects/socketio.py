"""python-socketio: the result of a handler is the acknowledgement of its event."""

import hmac
from typing import Any

import socketio
from pydantic import ValidationError

from benchmarks.job import CREATE, PREVIEW, TOKEN, Post, Store, Transaction, preview
from benchmarks.news import NEWS, PUBLISH, SUBSCRIBE, Edition, publish_all
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi

store = Store()
tokens: dict[str, bytes] = {}


async def connect(sid: str, environ: Any) -> None:
    tokens[sid] = TOKEN.encode()


async def disconnect(sid: str, reason: str) -> None:
    del tokens[sid]


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


async def show(sid: str, data: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"payload": preview(Post.model_validate(data["payload"]))}
    except ValidationError:
        return {"error": "validation error"}


def build(options: Options) -> socketio.ASGIApp:
    server = socketio.AsyncServer(
        client_manager=socketio.AsyncRedisManager(options.redis) if options.redis else None,
        async_mode="asgi",
        transports=["websocket"],
        http_compression=False,
        async_handlers=False,
    )

    async def subscribe(sid: str, data: dict[str, Any]) -> dict[str, Any]:
        await server.enter_room(sid, data["payload"])
        return {"payload": data["payload"]}

    async def publish(sid: str, data: dict[str, Any]) -> dict[str, Any]:
        async def send(payload: dict[str, Any]) -> None:
            await server.emit(NEWS, payload, room=NEWS)

        return {"payload": await publish_all(Edition.model_validate(data["payload"]), send)}

    for event, handler in (
        ("connect", connect),
        ("disconnect", disconnect),
        (CREATE, create),
        (PREVIEW, show),
        (SUBSCRIBE, subscribe),
        (PUBLISH, publish),
    ):
        server.on(event, handler)
    return socketio.ASGIApp(server)


def serve(port: int, variant: str, options: Options) -> None:
    serve_asgi(build(options), "", port, variant)
