"""The loop on ``websockets`` with dishka's scopes by hand: one for a client, one for a message."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed

from benchmarks.job import CREATE, HOST, PREVIEW, TOKEN, Post, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.loops import run, until_told_to_end
from benchmarks.subjects.providers import providers


class User:
    """One client."""

    def __init__(self) -> None:
        self.token = TOKEN.encode()


class Users(Provider):
    user = provide(User, scope=Scope.SESSION)


async def create(request: AsyncContainer, message: dict[str, Any]) -> Any:
    user = await request.get(User)
    if not hmac.compare_digest(user.token, message["token"].encode()):
        raise PermissionError
    post = Post.model_validate(message["payload"])
    transaction = await request.get(Transaction)
    return transaction.add(post)


async def show(request: AsyncContainer, message: dict[str, Any]) -> Any:
    return preview(Post.model_validate(message["payload"]))


commands: dict[str, Callable[[AsyncContainer, dict[str, Any]], Awaitable[Any]]] = {
    CREATE: create,
    PREVIEW: show,
}


async def answer(session: AsyncContainer, frame: bytes) -> bytes:
    try:
        message = from_json(frame)
        event = message["event"]
        command = commands[event]
    except (ValueError, KeyError, TypeError):
        return b'{"error": "invalid message"}'
    try:
        async with session() as request:
            payload = await command(request, message)
    except PermissionError:
        return b'{"error": "not authorized"}'
    except (ValidationError, KeyError):
        return b'{"error": "validation error"}'
    return to_json({"event": event, "payload": payload})


def serve(port: int, variant: str, options: Options) -> None:
    commands.update({f"command {number}": show for number in range(options.commands)})
    container = make_async_container(*providers(options.depth), Users())

    async def talk(connection: ServerConnection) -> None:
        async with container(scope=Scope.SESSION) as session:
            try:
                while True:
                    frame = await connection.recv(decode=False)
                    await connection.send(await answer(session, frame), text=True)
            except ConnectionClosed:
                pass

    async def main() -> None:
        async with listen(talk, HOST, port, compression=None, max_size=64 * 1024):
            await until_told_to_end()
        await container.close()

    run(variant, main)
