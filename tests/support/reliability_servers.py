"""The servers that tests/support/reliability.py attacks: one program, on several libraries.

``python reliability_servers.py NAME PORT OPTIONS`` runs one of `SERVERS`. The options, as JSON, are
options of its library.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from logging import getLogger
from typing import Any, Final

import anyio
import trio
import uvicorn
import websockets.asyncio.server
import websockets.trio.server
from dishka import Provider, Scope
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, TypeAdapter, ValidationError
from target import ADVISED, EVERY, Errors, chunk
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from websuckets import AppTasks, CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import provide_context
from websuckets.security import HandshakeSecurityProvider, Identity
from websuckets.session import Session

HOST: Final = "127.0.0.1"
PROXY: Final = HOST
"""Address of the proxy whose ``X-Forwarded-For`` every server believes."""

# Used by all servers.

Start = Callable[..., object]
"""A function that starts a task: takes the function of the task, and its arguments."""
Send = Callable[[Any, str], Awaitable[None]]
Close = Callable[[Any, int], Awaitable[None]]


@dataclass
class Counts:
    """Counts of what the commands have done.

    The counts are of transactions by their end, of notes that were taken, and of queries for a user
    that have begun.
    """

    committed: int = 0
    rolled_back: int = 0
    notes: int = 0
    queries: int = 0


COUNTS: Final = Counts()


def seen() -> dict[str, int]:
    return {"errors": len(Errors.seen), **asdict(COUNTS)}


class Transaction:
    """A substitute for a transaction of a database."""


@contextmanager
def transaction() -> Iterator[Transaction]:
    try:
        yield Transaction()
    except BaseException:
        COUNTS.rolled_back += 1
        raise
    COUNTS.committed += 1


class Item(BaseModel):
    """A model with a usual number of required fields."""

    sku: str
    title: str
    amount: int
    price: float
    tags: list[str]
    note: str


QUERY: Final = 0.5
"""Seconds that a query for a user takes."""


class Accounts:
    """A substitute for a table of a database.

    Users are found by the keys with which they identify themselves in the opening handshake.
    """

    def __init__(self) -> None:
        self._users = {"key of ann": "ann"}

    async def user_of(self, key: str | None) -> str | None:
        """Return the user who had this key when the query began."""
        if key is None:
            return None
        user = self._users.get(key)
        COUNTS.queries += 1
        await anyio.sleep(QUERY)
        return user

    def remove(self, user: str) -> None:
        self._users = {key: owner for key, owner in self._users.items() if owner != user}


ACCOUNTS: Final = Accounts()
KEY: Final = "X-Key"
"""Header with the key. Only the clients of some attacks send it."""


@dataclass
class Feed:
    """A feed that pushes messages to its listeners."""

    start: Start
    send: Send
    listeners: list[Any] = field(default_factory=list)

    async def push(self, how: str, seconds: float) -> None:
        """Push messages: ``"in turn"`` waits for each listener, ``"at once"`` for none."""
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
        except (ConnectionClosed, WebSocketDisconnect, RuntimeError):  # starlette raises both
            with suppress(ValueError):
                self.listeners.remove(listener)


async def send_by_websockets(connection: Any, message: str) -> None:
    await connection.send(message)


# Without a framework for commands.

ITEMS: Final = TypeAdapter(list[Item])


@dataclass(eq=False)
class Client:
    """A connection, and what the program knows of its client since the opening handshake."""

    socket: Any
    address: str
    user: str | None


class Program:
    """Commands, written without a framework for them."""

    def __init__(self, start: Start, send: Send, close: Close) -> None:
        self.feed = Feed(start, send)
        self.clients = set[Client]()
        self._close = close

    async def reply(self, client: Client, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply, or ``None`` for a command that is not answered."""
        try:
            payload = await self.answer(client, message["event"], message.get("payload"))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            return {"error": "invalid payload", "details": problems, "id": message.get("id")}
        except PermissionError:
            return {"error": "not authorized", "details": None, "id": message.get("id")}
        return None if payload is None else {**message, "payload": payload}

    async def answer(self, client: Client, event: str, payload: Any) -> Any:
        match event:
            case "sleep":
                await anyio.sleep(payload)
            case "transact":
                with transaction():
                    await anyio.sleep(payload)
            case "listen":
                self.feed.listeners.append(client.socket)
            case "push":
                self.feed.start(self.feed.push, *payload)
            case "order":
                return len(ITEMS.validate_python(payload))
            case "note":
                COUNTS.notes += 1
                return None
            case "secret":
                if client.user is None:
                    raise PermissionError
            case "close":
                await self.close(payload, 4000)
            case "revoke":
                ACCOUNTS.remove(payload)
                await self.close(payload, 4401)
            case "address":
                return client.address
            case "online":
                return len(self.clients)
            case "seen":
                return seen()
        return event

    async def close(self, user: str, code: int) -> None:
        """Close all connections of a user."""
        for client in list(self.clients):
            if client.user == user:
                await self._close(client.socket, code)

    @contextmanager
    def connected(self, socket: Any, address: str, user: str | None) -> Iterator[Client]:
        client = Client(socket, address, user)
        self.clients.add(client)
        try:
            yield client
        finally:
            self.clients.discard(client)


async def authenticate(connection: Any, request: Request) -> None:
    """A ``process_request`` that keeps on the connection who its client is."""
    connection.user = await ACCOUNTS.user_of(request.headers.get(KEY))


def address_of(connection: Any) -> str:
    """Return the address that the proxy has added to the header, which is the last one."""
    address: str = connection.remote_address[0]
    forwarded = connection.request.headers.get_all("X-Forwarded-For")
    if address == PROXY and forwarded:
        return str(forwarded[-1].rpartition(",")[2].strip())
    return address


async def serve_by_hand(program: Program, connection: Any) -> None:
    """Serve a connection by the loop with which the documentation of ``websockets`` begins."""
    with (
        program.connected(connection, address_of(connection), connection.user) as client,
        suppress(ConnectionClosed),
    ):
        async for message in connection:
            reply = await program.reply(client, json.loads(message))
            if reply is not None:
                await connection.send(json.dumps(reply))


TASKS: Final = set[asyncio.Task[None]]()
"""Tasks that run: asyncio itself keeps no reference to them."""


def start_on_asyncio(function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    task = asyncio.get_running_loop().create_task(function(*arguments))
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)


def websockets_on_asyncio(port: int, pings: dict[str, float]) -> None:
    program = Program(
        start_on_asyncio, send_by_websockets, websockets.asyncio.server.ServerConnection.close
    )

    async def handle(connection: Any) -> None:
        await serve_by_hand(program, connection)

    async def main() -> None:
        serve = websockets.asyncio.server.serve
        async with serve(handle, HOST, port, process_request=authenticate, **pings) as server:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
            await server.wait_closed()

    asyncio.run(main())


def websockets_on_trio(port: int, pings: dict[str, float]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            close = websockets.trio.server.ServerConnection.aclose
            program = Program(nursery.start_soon, send_by_websockets, close)

            async def handle(connection: Any) -> None:
                await serve_by_hand(program, connection)

            async def serve(task_status: Any) -> None:
                await websockets.trio.server.serve(
                    handle,
                    port,
                    host=HOST,
                    process_request=authenticate,
                    task_status=task_status,
                    **pings,
                )

            server = await nursery.start(serve)
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                await anext(aiter(signals))
            await server.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


def fastapi_app() -> FastAPI:
    app = FastAPI()
    program = Program(start_on_asyncio, WebSocket.send_text, WebSocket.close)

    @app.websocket("/")
    async def endpoint(socket: WebSocket) -> None:
        user = await ACCOUNTS.user_of(socket.headers.get(KEY))
        await socket.accept()
        assert socket.client is not None  # uvicorn knows the address, also from the header
        with (
            program.connected(socket, socket.client.host, user) as client,
            suppress(WebSocketDisconnect),
        ):
            while True:
                reply = await program.reply(client, await socket.receive_json())
                if reply is not None:
                    await socket.send_json(reply)

    return app


# With websuckets.

commands: Final = CommandGroup()


@commands.command("sleep")
async def sleep(socket: Socket, seconds: Payload[float]) -> str:
    await anyio.sleep(seconds)
    return "slept"


@commands.command("transact")
async def transact(socket: Socket, seconds: Payload[float], request_scope: Transaction) -> str:
    await anyio.sleep(seconds)
    return "done"


@commands.command("listen")
async def listen(socket: Socket, *, feed: Feed) -> str:
    feed.listeners.append(socket)
    return "listening"


@commands.command("push")
async def push(socket: Socket, how: Payload[tuple[str, float]], feed: Feed) -> str:
    feed.start(feed.push, *how)
    return "pushing"


@commands.command("order")
async def order(socket: Socket, items: Payload[list[Item]]) -> int:
    return len(items)


@commands.command("note")
async def note(socket: Socket) -> None:
    COUNTS.notes += 1


@commands.command("secret", protected=True)
async def secret(socket: Socket) -> str:
    return "secret"


@commands.command("close")
async def close(socket: Socket, name: Payload[str], session: Session) -> str:
    for user in list(session.online.values()):
        if user.id == name:
            await user.socket.close(4000)
    return "closed"


@commands.command("revoke")
async def revoke(socket: Socket, name: Payload[str], session: Session) -> str:
    ACCOUNTS.remove(name)
    await session.revoke(name)
    return "revoked"


@commands.command("address")
async def address(socket: Socket) -> str:
    return str(socket.remote_address[0])


@commands.command("online")
async def online(socket: Socket, *, session: Session) -> int:
    return len(session.online)


@commands.command("seen")
async def all_seen(socket: Socket) -> dict[str, int]:
    return seen()


async def identify(request: Request) -> Identity | None:
    user = await ACCOUNTS.user_of(request.headers.get(KEY))
    return None if user is None else Identity(user)


def make_feed(tasks: AppTasks) -> Feed:
    return Feed(tasks.start_soon, send_by_websockets)


def our_app() -> WebSuckets:
    feeds = Provider(scope=Scope.APP)
    feeds.provide(make_feed)
    app = WebSuckets(
        providers=[provide_context(transaction), feeds, HandshakeSecurityProvider(identify)],
        origins=[None],
        trusted_proxies=[PROXY],
    )
    app.include_command_group(commands)
    return app


def ours_on_asyncio(port: int, pings: dict[str, float]) -> None:
    our_app().run(HOST, port, **pings)


def ours_on_trio(port: int, pings: dict[str, float]) -> None:
    our_app().run(HOST, port, backend="trio", **pings)


# On uvicorn.


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
"""Servers that are left out unless they are asked for."""


if __name__ == "__main__":
    server, port, options = sys.argv[1:]
    getLogger().addHandler(Errors())
    SERVERS[server](int(port), json.loads(options))
