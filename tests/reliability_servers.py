"""The servers that tests/reliability.py attacks: one program, on several libraries.

``python reliability_servers.py NAME PORT OPTIONS`` runs one of `SERVERS`. The options are the
library's own, as JSON.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any, Final

import anyio
import trio
import uvicorn
import websockets.asyncio.server
import websockets.trio.server
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from target import ADVISED, EVERY, Errors, chunk
from websockets.exceptions import ConnectionClosed

from websuckets import AppTasks, CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import provide_context
from websuckets.session import Session

HOST: Final = "127.0.0.1"

# The servers. What they have in common: commands and their answers.

Start = Callable[..., object]
"""Starts a task: the function, and its arguments."""
Send = Callable[[Any, str], Awaitable[None]]


@dataclass
class Ends:
    """How the transactions ended."""

    committed: int = 0
    rolled_back: int = 0


ENDS: Final = Ends()


class Transaction:
    """Stands for that of a database."""


@contextmanager
def transaction() -> Iterator[Transaction]:
    try:
        yield Transaction()
    except BaseException:
        ENDS.rolled_back += 1
        raise
    ENDS.committed += 1


@dataclass
class Feed:
    """Pushes messages to whoever listens."""

    start: Start
    send: Send
    listeners: list[Any] = field(default_factory=list)

    async def push(self, how: str, seconds: float) -> None:
        """``"in turn"`` waits for each listener, ``"at once"`` for nobody."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = chunk()
            for listener in list(self.listeners):
                if how == "in turn":
                    await self.send_to(listener, message)
                else:
                    self.start(self.send_to, listener, message)
            await anyio.sleep(EVERY)

    async def send_to(self, listener: Any, message: str) -> None:
        try:
            await self.send(listener, message)
        except (ConnectionClosed, WebSocketDisconnect, RuntimeError):  # starlette has both
            with suppress(ValueError):
                self.listeners.remove(listener)


class Program:
    """The commands, as one writes them without a framework for them."""

    def __init__(self, start: Start, send: Send) -> None:
        self.feed = Feed(start, send)
        self.online = 0

    async def reply(self, socket: Any, message: dict[str, Any]) -> dict[str, Any]:
        payload = await self.answer(socket, message["event"], message.get("payload"))
        return {**message, "payload": payload}

    async def answer(self, socket: Any, event: str, payload: Any) -> Any:
        match event:
            case "sleep":
                await anyio.sleep(payload)
            case "transact":
                with transaction():
                    await anyio.sleep(payload)
            case "listen":
                self.feed.listeners.append(socket)
            case "push":
                self.feed.start(self.feed.push, *payload)
            case "online":
                return self.online
            case "seen":
                return seen()
        return event

    @contextmanager
    def connected(self) -> Iterator[None]:
        self.online += 1
        try:
            yield
        finally:
            self.online -= 1


def seen() -> dict[str, int]:
    return {"errors": len(Errors.seen), **vars(ENDS)}


async def send_by_websockets(connection: Any, message: str) -> None:
    await connection.send(message)


async def serve_by_hand(program: Program, connection: Any) -> None:
    """The loop that the documentation of ``websockets`` begins with."""
    with program.connected(), suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(json.dumps(await program.reply(connection, json.loads(message))))


TASKS: Final = set[asyncio.Task[None]]()
"""asyncio itself keeps none of them."""


def start_on_asyncio(function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    task = asyncio.get_running_loop().create_task(function(*arguments))
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)


def websockets_on_asyncio(port: int, pings: dict[str, float]) -> None:
    program = Program(start_on_asyncio, send_by_websockets)

    async def handle(connection: Any) -> None:
        await serve_by_hand(program, connection)

    async def main() -> None:
        async with websockets.asyncio.server.serve(handle, HOST, port, **pings) as server:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
            await server.wait_closed()

    asyncio.run(main())


def websockets_on_trio(port: int, pings: dict[str, float]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            program = Program(nursery.start_soon, send_by_websockets)

            async def handle(connection: Any) -> None:
                await serve_by_hand(program, connection)

            async def serve(task_status: Any) -> None:
                serve = websockets.trio.server.serve
                await serve(handle, port, host=HOST, task_status=task_status, **pings)

            server = await nursery.start(serve)
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                await anext(aiter(signals))
            await server.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


def fastapi_app() -> FastAPI:
    app = FastAPI()
    program = Program(start_on_asyncio, WebSocket.send_text)

    @app.websocket("/")
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        with program.connected(), suppress(WebSocketDisconnect):
            while True:
                message = await socket.receive_json()
                await socket.send_json(await program.reply(socket, message))

    return app


def our_app() -> WebSuckets:
    group = CommandGroup()
    feed: Feed

    @group.command("sleep")
    async def sleep(socket: Socket, seconds: Payload[float]) -> str:
        await anyio.sleep(seconds)
        return "slept"

    @group.command("transact")
    async def transact(socket: Socket, seconds: Payload[float], work: Transaction) -> str:
        await anyio.sleep(seconds)
        return "done"

    @group.command("listen")
    async def listen(socket: Socket) -> str:
        feed.listeners.append(socket)
        return "listening"

    @group.command("push")
    async def push(socket: Socket, how: Payload[tuple[str, float]], *, tasks: AppTasks) -> str:
        tasks.start_soon(feed.push, *how)
        return "pushing"

    @group.command("online")
    async def online(socket: Socket, *, session: Session) -> int:
        return len(session.online)

    @group.command("seen")
    async def all_seen(socket: Socket) -> dict[str, int]:
        return seen()

    app = WebSuckets(providers=[provide_context(transaction)])
    app.include_command_group(group)

    @app.on_startup
    async def make_feed(tasks: AppTasks) -> None:
        nonlocal feed
        feed = Feed(tasks.start_soon, send_by_websockets)

    return app


def ours_on_asyncio(port: int, pings: dict[str, float]) -> None:
    our_app().run(HOST, port, **pings)


def ours_on_trio(port: int, pings: dict[str, float]) -> None:
    our_app().run(HOST, port, backend="trio", **pings)


def by_uvicorn(app: Any, port: int, options: dict[str, Any]) -> None:
    options = {f"ws_{name}": value for name, value in options.items()}
    uvicorn.run(app, host=HOST, port=port, ws="websockets-sansio", log_config=None, **options)


def fastapi_on_uvicorn(port: int, pings: dict[str, float]) -> None:
    by_uvicorn(fastapi_app(), port, pings)


def fastapi_as_advised(port: int, pings: dict[str, float]) -> None:
    by_uvicorn(fastapi_app(), port, ADVISED | pings)


def ours_on_uvicorn(port: int, pings: dict[str, float]) -> None:
    by_uvicorn(our_app().asgi, port, ADVISED | pings)


Serve = Callable[[int, dict[str, float]], None]

SERVERS: Final[dict[str, Serve]] = {
    "websockets, asyncio": websockets_on_asyncio,
    "websockets, trio": websockets_on_trio,
    "FastAPI, uvicorn": fastapi_on_uvicorn,
    "FastAPI, uvicorn with the two options": fastapi_as_advised,
    "websuckets, asyncio": ours_on_asyncio,
    "websuckets, trio": ours_on_trio,
    "websuckets, uvicorn": ours_on_uvicorn,
}
LEFT_OUT: Final = ["FastAPI, uvicorn with the two options"]
"""Unless it is asked for."""


if __name__ == "__main__":
    server, port, options = sys.argv[1:]
    getLogger().addHandler(Errors())
    SERVERS[server](int(port), json.loads(options))
