"""FastAPI with dishka: the integration opens a scope for the client, the endpoint one a message."""

import hmac
from typing import Any

from dishka import Provider, Scope, make_async_container, provide
from dishka.integrations.fastapi import setup_dishka
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from benchmarks.job import CREATE, PREVIEW, TOKEN, Post, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi
from benchmarks.subjects.providers import providers


class User:
    """One client."""

    def __init__(self) -> None:
        self.token = TOKEN.encode()


class Users(Provider):
    user = provide(User, scope=Scope.SESSION)


async def create(request: Any, message: dict[str, Any]) -> Any:
    user = await request.get(User)
    if not hmac.compare_digest(user.token, message["token"].encode()):
        raise PermissionError
    post = Post.model_validate(message["payload"])
    transaction = await request.get(Transaction)
    return transaction.add(post)


async def show(request: Any, message: dict[str, Any]) -> Any:
    return preview(Post.model_validate(message["payload"]))


commands = {CREATE: create, PREVIEW: show}


async def answer(session: Any, frame: str) -> str:
    try:
        message = from_json(frame)
        event = message["event"]
        command = commands[event]
    except (ValueError, KeyError, TypeError):
        return '{"error": "invalid message"}'
    try:
        async with session() as request:
            payload = await command(request, message)
    except PermissionError:
        return '{"error": "not authorized"}'
    except (ValidationError, KeyError):
        return '{"error": "validation error"}'
    return to_json({"event": event, "payload": payload}).decode()


app = FastAPI()
setup_dishka(make_async_container(*providers(), Users()), app)


@app.websocket("/")
async def endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    session = websocket.state.dishka_container
    try:
        while True:
            await websocket.send_text(await answer(session, await websocket.receive_text()))
    except WebSocketDisconnect:
        pass


def serve(port: int, variant: str, options: Options) -> None:
    serve_asgi(app, f"{__name__}:app", port, variant)
