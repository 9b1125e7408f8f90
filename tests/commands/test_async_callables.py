"""Tests of callables as handlers: objects, methods, partials and decorated functions."""

import functools
import inspect
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from handlers import Thing, app_of, refusal_of, timed
from harness import app_with, errors

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.exc import InvalidHandlerSignature
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class counted:
    """A decorator that is a class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


async def hello(socket: Socket, name: Payload[str]) -> str:
    return f"hello {name}"


async def greet(word: str, socket: Socket, name: Payload[str]) -> str:
    return f"{word} {name}"


class Greeter:
    async def __call__(self, socket: Socket, name: Payload[str]) -> str:
        return f"hello {name}"

    async def greet(self, socket: Socket, name: Payload[str]) -> str:
        return f"hello {name}"

    @classmethod
    async def of_class(cls, socket: Socket, name: Payload[str]) -> str:
        return f"hello {name}"

    @staticmethod
    async def static(socket: Socket, name: Payload[str]) -> str:
        return f"hello {name}"


def promises(socket: Socket, name: Payload[str]) -> Awaitable[str]:
    return hello(socket, name)


def promises_coroutine(socket: Socket, name: Payload[str]) -> "Coroutine[Any, Any, str]":
    return hello(socket, name)


@types.coroutine
def old_style(socket: Socket, name: Payload[str]) -> Any:
    yield from anyio.lowlevel.checkpoint().__await__()
    return f"hello {name}"


async def keyword_only(socket: Socket, name: Payload[str], *, thing: Thing) -> str:
    return f"hello {name}"


@pytest.mark.parametrize(
    "handler",
    [
        Greeter(),
        Greeter().greet,
        Greeter.of_class,
        Greeter.static,
        functools.partial(greet, "hello"),
        functools.partial(functools.partial(greet), "hello"),
        timed(hello),
        timed(timed(hello)),
        timed(Greeter().greet),
        timed(keyword_only),
        counted(hello),
        functools.partial(timed(greet), "hello"),
        promises,
        promises_coroutine,
        old_style,
    ],
)
async def test_whatever_returns_an_awaitable_is_a_handler(handler: Any) -> None:
    """Instances, bound methods, partials and plainly decorated async functions are handlers."""
    provider = Provider(scope=Scope.APP)
    provider.provide(Thing)
    async with TestClient(app_of(handler, providers=[provider])) as client:
        assert (await client.call("run", "ann")).payload == "hello ann"


async def numbers(socket: Socket) -> AsyncGenerator[int, None]:
    yield 1
    yield 2


class Numbers:
    async def __call__(self, socket: Socket) -> AsyncIterator[int]:
        yield 1
        yield 2


def promises_numbers(socket: Socket) -> AsyncIterator[int]:
    return numbers(socket)


@pytest.mark.parametrize("handler", [Numbers(), timed(numbers), counted(numbers), promises_numbers])
async def test_whatever_returns_an_async_generator_is_a_stream(handler: Any) -> None:
    """Serve functions that return a generator as streams."""
    async with TestClient(app_of(handler)) as client:
        assert [item.payload async for item in client.stream("run")] == [1, 2]


class Compiled:
    """A callable as compilers make it: not a Python function, and perhaps without code."""

    def __init__(self, function: Callable[..., Any], code: Any = None) -> None:
        self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__
        self.__signature__ = inspect.signature(function)
        self.__annotations__ = function.__annotations__
        self.function = function
        if code is not None:
            self.__code__ = code

    def __get__(self, instance: object, owner: type) -> Any: ...

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


async def test_compiled_functions_are_what_their_code_says_or_else_async() -> None:
    """The flags of the code decide; annotations see the names of the function's module."""
    group = CommandGroup()
    group.command("flagged")(Compiled(hello, hello.__code__))
    group.command("unknown")(Compiled(hello))
    group.command("stream")(Compiled(numbers, numbers.__code__))
    async with TestClient(app_with(group)) as client:
        assert (await client.call("flagged", "ann")).payload == "hello ann"
        assert (await client.call("unknown", "ann")).payload == "hello ann"
        assert [item.payload async for item in client.stream("stream")] == [1, 2]


def hides(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function so that it returns another kind of object."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return 5

    return wrapper


@asynccontextmanager
async def manager(socket: Socket) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("handler", [hides(hello), hides(numbers), manager])
async def test_a_decorator_that_gives_something_else_is_told(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the function and the type of the object that the decorator returned."""
    async with TestClient(app_of(handler)) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("run", "ann")
    (error,) = errors(caplog)
    assert error.exc_info is not None
    text = str(error.exc_info[1])
    for part in (
        f"{__name__}.{handler.__name__}` (",
        "it gave an object of type",
        "decorator",
    ):
        assert part in text


def test_a_wrapper_that_hides_what_it_wraps_is_refused() -> None:
    """Nothing is known of a wrapped function without `functools.wraps`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    wrapper.__annotations__.clear()
    text = refusal_of(wrapper)
    assert "`async def`" in text
    assert text.count("@functools.wraps(function)") == 3

    def plain(socket: Socket) -> "Nowhere": ...  # type: ignore[name-defined]  # noqa: F821

    for function in (plain, print, Thing, object()):
        with pytest.raises((InvalidHandlerSignature, TypeError)):
            CommandGroup().command("run")(function)  # type: ignore[type-var]


async def test_a_hook_may_be_any_async_callable(journal: list[str]) -> None:
    """A hook is any async callable; a generator or a plain function is refused."""
    app = WebSuckets()

    class Hook:
        async def __call__(self, app: WebSuckets) -> None:
            journal.append("instance")

    async def hook(word: str, app: WebSuckets) -> None:
        journal.append(word)

    def promised(app: WebSuckets) -> Awaitable[None]:
        return hook("promised", app)

    app.on_startup(Hook())
    app.on_startup(functools.partial(hook, "partial"))
    app.on_startup(timed(functools.partial(hook, "wrapped")))
    app.on_startup(promised)
    async with TestClient(app):
        assert journal == ["instance", "partial", "wrapped", "promised"]
    for wrong in (timed(numbers), Numbers(), print, lambda: None):
        with pytest.raises(InvalidHandlerSignature):
            app.on_startup(wrong)  # type: ignore[arg-type]


SOURCE = """
from __future__ import annotations
from contextlib import asynccontextmanager
from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import provide_context
from pydantic import BaseModel

class Local(BaseModel):
    price: int

class Engine: ...

class Session:
    def __init__(self, engine: Engine) -> None: ...
    async def __aenter__(self) -> Session: return self
    async def __aexit__(self, *error) -> None: ...

async def run(socket: Socket, model: Local, session: Session) -> Local: return model

async def hook(engine: Engine) -> None: ...

group = CommandGroup()
group.command("run")(run)
provider = provide_context(Session)
provider.provide(lambda: Engine(), provides=Engine)
app = WebSuckets(providers=[provider])
app.on_startup(hook)
app.include_command_group(group)
"""


async def test_annotations_see_the_names_of_the_function_itself() -> None:
    """The module of the function may be unregistered, or have another's name (`-m cProfile`)."""
    names: dict[str, Any] = {"__name__": "a_module_of_nowhere"}
    exec(SOURCE, names)
    assert names["__name__"] not in sys.modules
    async with TestClient(names["app"]) as client:
        assert (await client.call("run", {"price": 1})).payload == {"price": 1}
    names = {"__name__": "json"}
    exec(SOURCE, names)
    async with TestClient(names["app"]) as client:
        assert (await client.call("run", {"price": 1})).payload == {"price": 1}
