"""Litestar: a listener, which decodes each message and encodes what is returned."""

import hmac
from typing import Any

from litestar import Litestar, WebSocket, websocket_listener
from pydantic import ValidationError

from benchmarks.job import CREATE, PREVIEW, TOKEN, Post, Store, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi

store = Store()


async def enter(socket: WebSocket[Any, Any, Any]) -> None:
    socket.state.token = TOKEN.encode()


async def create(socket: WebSocket[Any, Any, Any], message: dict[str, Any]) -> Any:
    if not hmac.compare_digest(socket.state.token, message["token"].encode()):
        raise PermissionError
    post = Post.model_validate(message["payload"])
    transaction = Transaction(store)
    try:
        return transaction.add(post)
    finally:
        transaction.close()


async def show(socket: WebSocket[Any, Any, Any], message: dict[str, Any]) -> Any:
    return preview(Post.model_validate(message["payload"]))


commands = {CREATE: create, PREVIEW: show}


@websocket_listener("/", on_accept=enter)
async def listener(data: dict[str, Any], socket: WebSocket[Any, Any, Any]) -> dict[str, Any]:
    try:
        event = data["event"]
        return {"event": event, "payload": await commands[event](socket, data)}
    except PermissionError:
        return {"error": "not authorized"}
    except (ValidationError, KeyError):
        return {"error": "validation error"}


app = Litestar([listener])


def serve(port: int, variant: str, options: Options) -> None:
    serve_asgi(app, f"{__name__}:app", port, variant)
