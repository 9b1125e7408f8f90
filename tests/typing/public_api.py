"""Types of the public names, for mypy --strict and pyright; this file is never run."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, NewType, assert_type
from uuid import UUID

import anyio
import trio
from dishka import FromComponent, Provider, Scope, make_async_container
from fastapi import FastAPI
from litestar import Litestar, asgi
from pydantic import BaseModel
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

import websuckets.channels
import websuckets.exc
from websuckets import (
    AppTasks,
    Channels,
    ClientEvent,
    CommandGroup,
    ConnectionTasks,
    Docs,
    Limits,
    Message,
    OnCommit,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.app import CommandInfo, Server
from websuckets.cache import Cache, MemoryCache
from websuckets.clock import WallClock
from websuckets.di import (
    FromDishka,
    ScopeFactory,
    WebSucketsProvider,
    lock_factory,
    provide_context,
    setup_dishka,
)
from websuckets.exc import (
    ClientError,
    ConfigurationError,
    HandshakeRefused,
    InternalError,
    NotAuthorized,
)
from websuckets.middleware import CallNext, Outcome
from websuckets.security import CurrentUser, SecurityProvider, Token
from websuckets.session import Session, User
from websuckets.testing import CommandError, ReceivedEvent, TestClient

group = CommandGroup("prefix")
CommandGroup("prefix", protected=True)


async def watching(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
    return await call_next()


CommandGroup("prefix", timeout=1, middleware=[watching])
CommandGroup("prefix", timeout=None, middleware=())
CommandGroup(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Model(BaseModel):
    text: str


class Admin: ...


Alias = NewType("Alias", Admin)


# Handlers, by the type of their socket


@group.command("asyncio")
async def with_connection(socket: ServerConnection) -> None: ...


@group.command("protocol", protected=True)
async def with_protocol(socket: Socket, model: Model) -> ClientEvent:
    await socket.send(ClientEvent("event", model))
    await socket.send(b"bytes", text=True)
    assert_type(socket.id, UUID)
    assert_type(socket.close_code, int | None)
    await (await socket.ping())
    await socket.close(4000, "bye")
    return ClientEvent("event")


@group.command("guard", protected=Admin)
async def with_dependencies(
    socket: ServerConnection,
    model: Payload[list[Model]],
    user: CurrentUser,
    maybe: CurrentUser | None,
    settings: FromDishka[Model],
    component: Annotated[Admin, FromComponent("x")],
    *,
    session: Session,
    request: Request,
    message: Message,
    limits: Limits,
    app: WebSuckets,
) -> dict[str, int]:
    assert_type(model, list[Model])
    assert_type(settings, Model)
    assert_type(user.id, str | int)
    assert_type(message.token, str | None)
    user.login = "any attribute"
    assert_type(user.email, Any)
    return {}


group.command("union", protected=Admin | None)(with_connection)
group.command("new type", protected=Alias)(with_connection)
group.command("annotated", protected=Annotated[Admin, FromComponent("x")])(with_connection)
group.command("absent", protected=None)(with_connection)

# The decorator returns its function


async def handler(socket: ServerConnection, model: Model) -> int:
    return 1


number = group.command("same")(handler)


async def calls() -> None:
    connection: ServerConnection = ...  # type: ignore[assignment]
    assert_type(await number(connection, Model(text="")), int)
    socket: Socket = connection
    User(socket)


# Streams


@group.command("stream", protected=True)
async def stream(
    socket: ServerConnection, model: Model, tasks: ConnectionTasks
) -> AsyncIterator[str]:
    yield model.text


@group.command("generator")
async def generating(socket: Socket) -> AsyncGenerator[ClientEvent, None]:
    yield ClientEvent("tick")


async def items(connection: ServerConnection, tasks: ConnectionTasks) -> None:
    async for item in stream(connection, Model(text=""), tasks):
        assert_type(item, str)


# Functions that are not handlers, and values that are not guards


def not_async(socket: ServerConnection) -> int:
    return 1


async def no_parameter() -> None: ...


group.command("sync")(not_async)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
group.command("none")(no_parameter)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
group.command("guard", protected="admin")(handler)  # type: ignore[arg-type]  # pyright: ignore

# The app

app = WebSuckets(providers=[SecurityProvider()], limits=Limits(max_size=None, drain_timeout=1))
app.include_command_group(group)


async def says(session: Session) -> bool:
    return bool(session.online)


async def raises(session: Session, *, limits: Limits) -> None: ...


def sync() -> bool:
    return True


WebSuckets(ready=says)
WebSuckets(ready=raises, health="/ready")
WebSuckets(ready=None)
WebSuckets(ready=sync)  # type: ignore[arg-type]


@app.on_startup
async def starts(tasks: AppTasks) -> int:
    tasks.start_soon(revokes, Session())
    return 1


async def has_started(tasks: AppTasks) -> None:
    assert_type(await starts(tasks), int)


@app.on_handshake
async def checks(request: Request) -> None:
    raise HandshakeRefused(401, "no", {"WWW-Authenticate": "Bearer"})


@app.on_connect
@app.on_disconnect
async def comes_and_goes(socket: Socket, user: User, *, tasks: ConnectionTasks) -> None: ...


app.on_connect(not_async)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
app.on_connect(generating)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


@app.on_error(LookupError)
async def maps(error: LookupError, session: Session) -> ClientError | None:
    return None


@app.on_error(KeyError)
@app.on_error(ValueError)
def maps_several(error: KeyError | ValueError, *, user: User) -> ClientError:
    return ClientError("one of them")


def returns_text(error: KeyError) -> str:
    return "not a reply"


async def has_mapped(user: User) -> None:
    assert_type(await maps(KeyError(), Session()), ClientError | None)
    assert_type(maps_several(KeyError(), user=user), ClientError)


app.on_error(BaseException)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.on_error(KeyError)(returns_text)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def commands_of_an_app() -> None:
    for name, command in app.commands.items():
        assert_type(name, str)
        assert_type(command, CommandInfo)
        assert_type(command.timeout, float | None)
        assert_type(command.summary, str | None)
        assert_type(command.guards, tuple[Any, ...])


def overrides() -> None:
    with app.override(SecurityProvider(), values={Admin: Admin(), Annotated[Admin, "x"]: 1}):
        pass
    with app.override():
        pass
    app.override(SecurityProvider)  # type: ignore[arg-type]  # pyright: ignore


async def serves() -> None:
    async with app.serve("localhost", 0, compression="deflate") as server:
        assert_type(server, Server)
        assert_type(server.port, int | None)
        assert_type(server.urls, tuple[str, ...])


def runs() -> None:
    app.run("localhost", 9000)
    app.run("localhost", 9000, backend="asyncio")
    app.run("localhost", 9000, backend="trio")
    app.run("localhost", 9000, backend="curio")  # type: ignore[arg-type]  # pyright: ignore
    trio.run(app, "localhost", 9000)
    asyncio.run(app("localhost", 9000))


# Sessions and security


def sessions(session: Session, user: User) -> None:
    assert_type(session.online, dict[UUID, User])
    assert_type(Session.online, dict[UUID, User])
    assert_type(session.verified, dict[str | int, User])
    assert_type(Session.verified, dict[str | int, User])
    user.id = "ann"
    user.id = None
    user.id = 1.0  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    user.token = Token.generate()
    assert_type(Token.generate(), Token)
    assert_type(CurrentUser(user), CurrentUser)


def expires(user: CurrentUser, anybody: User, clock: WallClock) -> None:
    assert_type(anybody.id, str | int | None)
    assert_type(user.id, str | int)
    user.id = None
    user.id = "ann"
    user.expires_at = clock.time() + 3600


class FrozenClock:
    def time(self) -> float:
        return 0.0


frozen: WallClock = FrozenClock()
of_system: WallClock = time


async def revokes(session: Session) -> None:
    await session.revoke("ann")


# Events and errors

event = ClientEvent("name", payload={"any": UUID(int=0)})
text: str = event
assert_type(event.event, str)
assert_type(event.payload, Any)
error: websuckets.exc.WebSucketsError = InternalError("name", {"details": 1})
client_error: ClientError = NotAuthorized()
assert_type(client_error.error, str)
assert_type(ConfigurationError("a", "b").problems, tuple[str, ...])

# Names of the package that its modules define


def of_the_package(
    channels: Channels,
    session: websuckets.Session,
    user: websuckets.User,
    current: websuckets.CurrentUser,
    token: websuckets.Token,
    error: websuckets.ClientError,
) -> None:
    assert_type(channels, websuckets.channels.Channels)
    assert_type(session, Session)
    assert_type(user, User)
    assert_type(current, CurrentUser)
    assert_type(token, Token)
    assert_type(error, ClientError)


# Dependency injection


def context() -> AbstractAsyncContextManager[Admin]: ...  # type: ignore[empty-body]


@asynccontextmanager
async def generator() -> AsyncIterator[Admin]:
    yield Admin()


assert_type(provide_context(context), Provider)
assert_type(provide_context(generator, provides=Admin, scope=Scope.SESSION), Provider)
make_async_container(lock_factory=lock_factory)
container = make_async_container(
    SecurityProvider(), WebSucketsProvider(), *app.providers, lock_factory=lock_factory
)
assert_type(setup_dishka(container, app), None)


async def in_scopes(
    one: ScopeFactory[Admin],
    two: ScopeFactory[tuple[Admin, OnCommit]],
    not_called: ScopeFactory[int],
) -> None:
    async with one() as admin, two() as (another, on_commit):
        assert_type(admin, Admin)
        assert_type(another, Admin)
        assert_type(on_commit, OnCommit)
        assert_type(on_commit(print, "sync", end=""), None)
        assert_type(on_commit(anyio.sleep, 1), None)
        assert_type(on_commit.publish("news", ClientEvent("event")), None)
        assert_type(on_commit.send_to(7, ClientEvent("event")), None)
        on_commit(anyio.sleep, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        on_commit(anyio.sleep(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with not_called:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        pass


setup_dishka(container, FastAPI())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(app.graph(), str)

# Within other applications


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    async with app.lifespan() as nothing:
        assert_type(nothing, None)
        yield


api = FastAPI(lifespan=lifespan, routes=[WebSocketRoute("/ws", app.asgi)])
api.mount("/mounted", app.asgi)
asgi_application: ASGIApp = app.asgi
litestar = Litestar([asgi("/ws", copy_scope=True)(app.asgi)])

# Errors, and the document


class NicknameTaken(ClientError):
    details: Model


class TooLong(ClientError):
    error = "nickname too long"

    def __init__(self, most: int) -> None:
        super().__init__(details={"most": most})


assert_type(NicknameTaken(details=Model(text="")).details, Model)
assert_type(TooLong(3).error, str)
declaring = CommandGroup("nickname", raises=[NicknameTaken], tags=["users"])


@declaring.command("choose", raises=[TooLong], deprecated=True)
async def choose(socket: Socket, model: Model) -> Model:
    raise NicknameTaken(details=model)


async def authorize(request: Request, session: Session) -> bool:
    return "Cookie" in request.headers


documented = WebSuckets(title="Nicknames", version="1.0", docs=Docs("/docs", authorize=authorize))
assert_type(documented.asyncapi(), dict[str, Any])
WebSuckets(docs=Docs(authorize=lambda request: True))
declaring.command("wrong", raises=[KeyError])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]

# Tests


async def tested() -> None:
    async with TestClient(app, "/", {"Cookie": "a=b"}, token="secret") as client:
        assert_type(client.token, str | None)
        client.token = Token.generate()
        await client.send("event", {"any": UUID(int=0)}, token=None, id=1)
        assert_type(await client.receive(timeout=None), ReceivedEvent)
        assert_type(await client.receive_frame(), str | bytes)
        reply = await client.call("event", token="secret", timeout=1.5)
        received: ClientEvent = reply
        assert_type(received.payload, Any)
        assert_type(reply.id, str | int | None)
        async for item in client.stream("ticks"):
            assert_type(item, ReceivedEvent)
        async with client.connect(headers=[("A", "1"), ("A", "2")]) as other:
            assert_type(other, TestClient)
            await other.send_frame(b"")
            await other.close(4000, "enough")
            await other.abort()
            await other.wait_closed()
        assert_type(client.socket, Socket)
        assert_type(client.close_code, int | None)
        assert_type(client.close_reason, str | None)
    assert_type(CommandError("name").details, Any)


async def use_cache(cache: Cache) -> None:
    async def load() -> list[Model]:
        return []

    assert_type(await cache.get("key", Model), Model | None)
    assert_type(await cache.get("key", list[Model]), list[Model] | None)
    assert_type(await cache.get_or_set("key", load, 60), list[Model])
    assert_type(await cache.get_or_set("key", lambda: load(), 60, type=list[Model]), list[Model])
    await cache.set("key", Model(text="text"), 60)


cache: Cache = MemoryCache(entries=10)
