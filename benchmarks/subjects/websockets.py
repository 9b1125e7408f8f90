"""A loop on ``websockets``, as written for speed without a framework.

JSON is that of pydantic-core, a dictionary has the commands, and objects are made by hand.
"""

import hmac
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed

from benchmarks.job import CREATE, HOST, PREVIEW, TOKEN, Post, Store, Transaction, preview
from benchmarks.news import NEWS, PUBLISH, SUBSCRIBE, Edition, publish_all
from benchmarks.subjects import Options
from benchmarks.subjects.loops import run, until_told_to_end

store = Store()


class User:
    """One client."""

    def __init__(self, token: str, connection: ServerConnection) -> None:
        self.token = token.encode()
        self.connection = connection


online: dict[Any, User] = {}
subscribers: set[ServerConnection] = set()


def check_token(user: User, message: dict[str, Any]) -> None:
    if not hmac.compare_digest(user.token, message["token"].encode()):
        raise PermissionError


async def create(user: User, message: dict[str, Any]) -> Any:
    check_token(user, message)
    post = Post.model_validate(message["payload"])
    transaction = Transaction(store)
    try:
        return transaction.add(post)
    finally:
        transaction.close()


async def show(user: User, message: dict[str, Any]) -> Any:
    return preview(Post.model_validate(message["payload"]))


async def subscribe(user: User, message: dict[str, Any]) -> Any:
    subscribers.add(user.connection)
    return message["payload"]


async def publish(user: User, message: dict[str, Any]) -> int:
    async def send(payload: dict[str, Any]) -> None:
        broadcast(subscribers, to_json({"event": NEWS, "payload": payload}), text=True)

    return await publish_all(Edition.model_validate(message["payload"]), send)


commands: dict[str, Callable[[User, dict[str, Any]], Awaitable[Any]]] = {
    CREATE: create,
    PREVIEW: show,
    SUBSCRIBE: subscribe,
    PUBLISH: publish,
}


async def answer(user: User, frame: bytes) -> bytes:
    try:
        message = from_json(frame)
        event = message["event"]
        command = commands[event]
    except (ValueError, KeyError, TypeError):
        return b'{"error": "invalid message"}'
    try:
        payload = await command(user, message)
    except PermissionError:
        return b'{"error": "not authorized"}'
    except (ValidationError, KeyError):
        return b'{"error": "validation error"}'
    return to_json({"event": event, "payload": payload})


async def talk(connection: Any) -> None:
    """Serve a connection of asyncio or of trio, which have the same methods."""
    user = online[connection.id] = User(TOKEN, connection)
    try:
        while True:
            frame = await connection.recv(decode=False)
            await connection.send(await answer(user, frame), text=True)
    except ConnectionClosed:
        pass
    finally:
        subscribers.discard(connection)
        del online[connection.id]


def serve(port: int, variant: str, options: Options) -> None:
    commands.update({f"command {number}": show for number in range(options.commands)})

    async def main() -> None:
        async with listen(talk, HOST, port, compression=None, max_size=64 * 1024):
            await until_told_to_end()

    if variant == "trio":
        _serve_on_trio(port)
    else:
        run(variant, main)


def _serve_on_trio(port: int) -> None:
    import trio  # trio may be missing
    from websockets.trio.server import serve as listen_on_trio

    async def main() -> None:
        async with trio.open_nursery() as tasks:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                listening = partial(
                    listen_on_trio, talk, port, host=HOST, compression=None, max_size=64 * 1024
                )
                tasks.start_soon(listening)
                await anext(signals)
            tasks.cancel_scope.cancel()

    trio.run(main)
