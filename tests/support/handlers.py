"""Handlers of several tests, the types that handlers ask for, and their providers."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Generic, NewType, Optional, TypeVar

import pytest
import websockets.trio.server
from dishka import Provider, Scope
from harness import app_with
from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import FromDishka
from websuckets.exc import InvalidHandlerSignature

T = TypeVar("T")


class Model(BaseModel):
    value: int


class Item(BaseModel):
    price: int


class Settings(BaseModel):
    name: str = "settings"


class Thing:
    name = "thing"


class Missing: ...


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None:
        self.of = of


Name = NewType("Name", str)


def everything() -> Provider:
    """Return a provider of every type that the handlers ask for but ``Missing``."""
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Thing)
    provider.provide(lambda: Settings(), provides=Settings)
    provider.provide(lambda: Name("name"), provides=Name)
    provider.provide(lambda: "maybe", provides=Optional[bytes])  # noqa: UP045  # the old way to write it
    provider.provide(lambda: Repository(Model), provides=Repository[Model])
    return provider


def billing() -> Provider:
    """Return a provider of a component."""
    provider = Provider(scope=Scope.REQUEST, component="billing")
    provider.provide(lambda: Name("billed"), provides=Name)
    return provider


CONNECTIONS = (ServerConnection, websockets.trio.server.ServerConnection)


async def with_connection(socket: ServerConnection) -> bool:
    return isinstance(socket, CONNECTIONS)


async def with_protocol(socket: Socket) -> bool:
    return isinstance(socket, CONNECTIONS)


async def with_union(socket: ServerConnection | Socket) -> bool:
    return True


async def with_annotated(socket: Annotated[ServerConnection, "the client"]) -> bool:
    return True


async def second_from_dishka(socket: ServerConnection, model: FromDishka[Settings]) -> bool:
    return model.name == "settings"


async def second_marked(socket: ServerConnection, model: Payload[Settings]) -> bool:
    return model.name == "sent"


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function as user code often does: the wrapper itself is not async."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def app_of(handler: Any, **arguments: Any) -> WebSuckets:
    """Return an app with one command, ``run``."""
    group = CommandGroup()
    group.command("run")(handler)
    return app_with(group, **arguments)


def refusal_of(handler: Any) -> str:
    """Return the text of the error with which the decorator refuses the handler."""
    with pytest.raises(InvalidHandlerSignature) as refused:
        CommandGroup().command("run")(handler)
    return str(refused.value)


async def start(*groups: CommandGroup, providers: Any = ()) -> None:
    """Start an app with these groups; fail if the start raises no error."""
    async with app_with(*groups, providers=providers).serve("127.0.0.1", 0):
        raise AssertionError("it started")
