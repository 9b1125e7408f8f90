"""Signatures of any async function: their names, type variables and defaults."""

# ruff: noqa: B006, B008  # defaults as users write them

import functools
import gc
import inspect
import sys
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

import anyio
import fastapi
import litestar.params
import pytest
from dishka import FromComponent, Provider, Scope
from harness import app_with, errors
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType
from typing_extensions import TypeVar as TypeVarWithDefault

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import FromDishka
from websuckets.exc import InvalidHandlerSignature
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

T = TypeVar("T")
K = TypeVar("K")
M = TypeVar("M", bound=BaseModel)
D = TypeVarWithDefault("D", default=int)


class Item(BaseModel):
    price: int


class Tags(BaseModel):
    tags: list[str]


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None:
        self.of = of


class Thing:
    name = "thing"


Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | None")
Tree = TypeAliasType("Tree", "dict[str, Tree]")


def app_of(handler: Any, **arguments: Any) -> WebSuckets:
    group = CommandGroup()
    group.command("run")(handler)
    return app_with(group, **arguments)


def refusal_of(handler: Any) -> str:
    with pytest.raises(InvalidHandlerSignature) as refused:
        CommandGroup().command("run")(handler)
    return str(refused.value)


# Kinds of async functions -------------------------------------------------------------------------


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


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
        f"test_signatures.{handler.__name__}` (",
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


async def test_the_same_holds_for_hooks(journal: list[str]) -> None:
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


# Names -------------------------------------------------------------------------------------------

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
    names: dict[str, Any] = {"__name__": "test_signatures_of_nowhere"}
    exec(SOURCE, names)
    assert names["__name__"] not in sys.modules
    async with TestClient(names["app"]) as client:
        assert (await client.call("run", {"price": 1})).payload == {"price": 1}
    names = {"__name__": "json"}
    exec(SOURCE, names)
    async with TestClient(names["app"]) as client:
        assert (await client.call("run", {"price": 1})).payload == {"price": 1}


# Type variables ----------------------------------------------------------------------------------


class Crud(Generic[T, K]):
    async def create(self, socket: Socket, model: Payload[T], repository: Repository[T]) -> T:
        assert isinstance(model, repository.of)
        return model

    async def many(self, socket: Socket, models: Payload[dict[str, T | None]]) -> str:
        return type(models["a"]).__name__

    async def by_key(self, socket: Socket, *, key: K) -> str:
        return type(key).__name__

    async def second(self, socket: Socket, model: T) -> str:
        return type(model).__name__

    async def from_dishka(self, socket: Socket, model: FromDishka[K]) -> str:
        return type(model).__name__

    @timed
    async def stream(self, socket: Socket, model: Payload[T]) -> AsyncIterator[T]:
        yield model


class OfItems(Crud[Item, K]): ...


class Items(OfItems[Thing]): ...


class Other(Generic[T]): ...


class Mixed(Other[str], Items): ...


def repository(of: type[T]) -> Repository[T]:
    return Repository(of)


@pytest.mark.parametrize("owner", [Items(), Mixed(), OfItems[Thing](), Crud[Item, Thing]()])
async def test_type_variables_stand_for_what_the_class_says(owner: Any) -> None:
    """Type variables are bound through several bases, in payloads, dependencies, results and
    items."""
    group = CommandGroup()
    for name in ("create", "many", "by_key", "second", "from_dishka", "stream"):
        group.command(name)(getattr(owner, name))
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Thing)
    provider.provide(repository)
    item = {"price": 1}
    async with TestClient(app_with(group, providers=[provider])) as client:
        assert (await client.call("create", item)).payload == item
        assert (await client.call("many", {"a": item})).payload == "Item"
        assert (await client.call("by_key")).payload == "Thing"
        assert (await client.call("second", item)).payload == "Item"
        assert (await client.call("from_dishka")).payload == "Thing"
        assert [item.payload async for item in client.stream("stream", item)] == [item]
        with pytest.raises(CommandError, match="validation error"):
            await client.call("create", {"price": "a lot"})


class Page(BaseModel, Generic[T]):
    items: list[T]


class Pages(Generic[T]):
    async def __call__(self, socket: Socket, page: Page[T]) -> Page[T]:
        return page


class PagesOfItems(Pages[Item]): ...


async def test_a_generic_model_is_that_of_the_class() -> None:
    """The class's type variable counts, though pydantic uses the model's own for the bare model."""
    async with TestClient(app_of(PagesOfItems())) as client:
        assert (await client.call("run", {"items": [{"price": 1}]})).payload == {
            "items": [{"price": 1}]
        }
        with pytest.raises(CommandError, match="validation error"):
            await client.call("run", {"items": [{"price": "a lot"}]})

    async def bare(socket: Socket, page: Page) -> int:  # type: ignore[type-arg]  # on purpose
        return len(page.items)

    async with TestClient(app_of(bare)) as client:
        assert (await client.call("run", {"items": [5]})).payload == 1


async def test_a_type_variable_with_a_default_stands_for_that() -> None:
    """The default of PEP 696 is used."""

    class WithDefault(Generic[D]):
        async def run(self, socket: Socket, model: Payload[D]) -> D:
            return model

    async with TestClient(app_of(WithDefault().run)) as client:
        assert (await client.call("run", 5)).payload == 5
        with pytest.raises(CommandError, match="validation error"):
            await client.call("run", "text")


def test_an_open_type_variable_is_refused() -> None:
    """A type variable is refused in a payload, a dependency and a result, with what to write."""

    async def payload(socket: Socket, model: Payload[list[T]]) -> None: ...
    async def dependency(socket: Socket, *, repository: Repository[T]) -> None: ...
    async def bare(socket: Socket, *, model: M) -> None: ...
    async def result(socket: Socket) -> list[T]: ...
    async def stream(socket: Socket) -> AsyncIterator[T]:
        yield None  # type: ignore[misc]

    for function in (payload, dependency, bare, result, stream, Crud().create):
        text = refusal_of(function)
        assert "type variable" in text
        assert "Crud[" in text
    hook = WebSuckets().on_startup

    async def on_startup(thing: M) -> None: ...

    with pytest.raises(InvalidHandlerSignature, match="type variable"):
        hook(on_startup)


# Aliases -----------------------------------------------------------------------------------------


async def test_a_recursive_alias_is_for_pydantic_to_read() -> None:
    """A recursive alias may be a payload, in a union, or a dependency; absent is null if null
    fits."""

    async def alias(socket: Socket, value: Payload[Json]) -> Json:
        return value

    async def union(socket: Socket, value: Payload[Tree | int]) -> object:
        return value

    async def tree(socket: Socket, value: Payload[Tree]) -> Tree:
        return value

    async def injected(socket: Socket, *, value: Json) -> Json:
        return value

    group = CommandGroup()
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: {"a": 1}, provides=Json)
    for handler in (alias, union, tree, injected):
        group.command(handler.__name__)(handler)
    sample = {"a": [1, "b", {"c": None}]}
    async with TestClient(app_with(group, providers=[provider])) as client:
        assert (await client.call("injected")).payload == {"a": 1}
        assert (await client.call("alias", sample)).payload == sample
        assert (await client.call("alias")).payload is None
        assert (await client.call("union", {"a": {}})).payload == {"a": {}}
        assert (await client.call("union", 5)).payload == 5
        assert (await client.call("tree", {"a": {}})).payload == {"a": {}}
        with pytest.raises(CommandError, match="payload required"):
            await client.call("tree")
        with pytest.raises(CommandError, match="validation error"):
            await client.call("tree", {"a": 1})


# Defaults ----------------------------------------------------------------------------------------


async def test_a_field_as_the_default_of_the_payload_is_honoured() -> None:
    """The field's constraints and default count, in the default and in the annotation."""
    group = CommandGroup()

    @group.command("required")
    async def required(socket: Socket, count: Payload[int] = Field(gt=0)) -> int:
        return count

    @group.command("default")
    async def default(socket: Socket, count: Payload[int] = Field(3, gt=0)) -> int:
        return count

    @group.command("factory")
    async def factory(
        socket: Socket, names: Payload[list[str]] = Field(default_factory=list, max_length=1)
    ) -> list[str]:
        names.append("x")
        return names

    @group.command("annotated")
    async def annotated(
        socket: Socket, count: Payload[Annotated[int, Field(gt=0, default=4)]]
    ) -> int:
        return count

    @group.command("optional")
    async def optional(socket: Socket, count: Payload[int | None] = Field(gt=0)) -> int | None:
        return count

    async with TestClient(app_with(group)) as client:
        for event, absent in {
            "default": 3,
            "factory": ["x"],
            "annotated": 4,
            "optional": None,
        }.items():
            for _ in range(2):
                assert (await client.call(event)).payload == absent
        with pytest.raises(CommandError, match="payload required"):
            await client.call("required")
        for event in ("required", "default", "annotated", "optional"):
            assert (await client.call(event, 5)).payload == 5
            with pytest.raises(CommandError, match="validation error"):
                await client.call(event, -5)
        with pytest.raises(CommandError, match="validation error"):
            await client.call("factory", ["a", "b"])


async def test_no_message_sees_what_another_did_to_a_default() -> None:
    """Copy mutable defaults: of payloads, and of dependencies that nothing provides."""

    @dataclass
    class Filter:
        names: list[str] = field(default_factory=list)

    one = Thing()
    group = CommandGroup()

    @group.command("list")
    async def of_list(
        socket: Socket,
        names: Payload[list[str]] = [],
        *,
        seen: dict[str, list[int]] = {"a": []},
        pair: tuple[int, list[int]] = (1, []),
        thing: Thing = one,
    ) -> object:
        assert thing is one
        names.append("x")
        seen["a"].append(1)
        pair[1].append(1)
        return [names, seen, pair]

    @group.command("model")
    async def of_model(socket: Socket, model: Tags = Tags(tags=[])) -> Tags:
        model.tags.append("x")
        return model

    @group.command("dataclass")
    async def of_dataclass(socket: Socket, model: Payload[Filter] = Filter()) -> object:
        model.names.append("x")
        return model.names

    @group.command("annotated")
    async def of_field(socket: Socket, names: Payload[list[str]] = Field(["y"])) -> list[str]:
        names.append("x")
        return names

    async with TestClient(app_with(group)) as client:
        for _ in range(2):
            assert (await client.call("list")).payload == [["x"], {"a": [1]}, [1, [1]]]
            assert (await client.call("model")).payload == {"tags": ["x"]}
            assert (await client.call("dataclass")).payload == ["x"]
            assert (await client.call("annotated")).payload == ["y", "x"]


class Uncopyable(list[int]):
    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError("canary")


def test_markers_that_mean_nothing_here_are_refused() -> None:
    """Markers of other frameworks, and pydantic's in the wrong place, are refused with a remedy."""

    def get_thing() -> Thing: ...

    async def depends(socket: Socket, thing: Thing = fastapi.Depends(get_thing)) -> None: ...
    async def annotated(
        socket: Socket, thing: Annotated[Thing, fastapi.Depends(get_thing)]
    ) -> None: ...
    async def body(socket: Socket, model: Item = fastapi.Body()) -> None: ...
    async def keyword(socket: Socket, *, thing: Thing = litestar.params.Parameter()) -> None: ...
    async def dependency(socket: Socket, *, count: int = Field(gt=0)) -> None: ...
    async def from_dishka(
        socket: Socket,
        *,
        thing: Thing = FromComponent(),  # type: ignore[assignment]
    ) -> None: ...
    async def alias(socket: Socket, count: Payload[int] = Field(alias="n")) -> None: ...
    async def uncopyable(socket: Socket, model: Payload[list[int]] = Uncopyable()) -> None: ...
    async def uncopyable_dependency(socket: Socket, *, x: list[int] = Uncopyable()) -> None: ...

    for function, says in {
        depends: "parameter `thing: test_signatures.Thing`: Depends(...) is of another framework",
        annotated: "Depends(...) is of another framework",
        body: "Body(...) is of another framework",
        keyword: "WebSuckets(providers=[...])",
        dependency: "Payload[...]; this parameter is a dependency",
        from_dishka: "annotate the parameter with FromDishka[...]",
        alias: "could have an alias; drop it",
        uncopyable: "its default cannot be copied",
        uncopyable_dependency: "would be shared by all messages",
    }.items():
        text = refusal_of(function).replace(f"{__name__}.", "test_signatures.")
        assert says in text, text
        assert f"{function.__qualname__}` (" in text

    async def hook(thing: Thing = fastapi.Depends(get_thing)) -> None: ...

    with pytest.raises(InvalidHandlerSignature, match="another framework"):
        WebSuckets().on_startup(hook)


# Types that several commands have in common -------------------------------------------------------


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


def payload_of(hint: Any) -> Callable[..., Any]:
    async def tell(socket: Socket, payload: Any) -> str:
        return repr(payload)

    tell.__annotations__["payload"] = hint
    return tell


def result_of(hint: Any, value: Any) -> Callable[..., Any]:
    async def give(socket: Socket) -> Any:
        return value

    give.__annotations__["return"] = hint
    return give


@pytest.mark.parametrize(
    ("one", "other", "sent", "replies"),
    [
        (Cat | Dog, Dog | Cat, {"name": "Rex"}, ["Cat(name='Rex')", "Dog(name='Rex')"]),
        (Payload[Annotated[float, Field(gt=1)]], Payload[float], 0, [None, "0.0"]),
        (Payload[tuple[Cat, ...]], Payload[tuple[Cat]], [], ["()", None]),
        (Payload[tuple], Payload[tuple[()]], [1], ["(1,)", None]),
        (Payload[Literal["a"]], Payload[Literal["b"]], "a", ["'a'", None]),
        (Cat, Cat, {"name": "Tom"}, ["Cat(name='Tom')", "Cat(name='Tom')"]),
    ],
)
async def test_commands_with_similar_payloads_keep_their_own(
    one: Any, other: Any, sent: Any, replies: list[str | None]
) -> None:
    """Expect hints that are equal to Python, but not to pydantic, to be told apart."""
    group = CommandGroup()
    group.command("one")(payload_of(one))
    group.command("other")(payload_of(other))
    async with TestClient(app_with(group)) as client:
        for name, reply in zip(("one", "other"), replies, strict=True):
            if reply is None:
                with pytest.raises(CommandError, match="validation error"):
                    await client.call(name, sent)
            else:
                assert (await client.call(name, sent)).payload == reply


@pytest.mark.parametrize(
    ("one", "other", "value", "replies"),
    [
        (Cat, Dog, Cat(name="Tom"), [{"name": "Tom"}, {"name": "Tom"}]),
        (dict[str, float], dict[str, int], {"a": 1}, [{"a": 1.0}, {"a": 1}]),
        (None, int, None, [None, "TypeError"]),
        (tuple[()], tuple, (1,), ["TypeError", [1]]),
        (list[str | bytes], list[bytes | str], [b"a"], [["a"], ["a"]]),
        (Cat, Cat, Dog(name="Rex"), [{"name": "Rex"}, {"name": "Rex"}]),
    ],
)
async def test_commands_with_similar_results_keep_their_own(
    one: Any, other: Any, value: Any, replies: list[Any]
) -> None:
    """Expect each result to be held to the annotation of its own handler."""
    group = CommandGroup()
    group.command("one")(result_of(one, value))
    group.command("other")(result_of(other, value))
    async with TestClient(app_with(group)) as client:
        for name, reply in zip(("one", "other"), replies, strict=True):
            if reply == "TypeError":
                with pytest.raises(CommandError, match="internal error"):
                    await client.call(name)
            else:
                assert (await client.call(name)).payload == reply


def test_types_are_let_go_with_the_commands_that_use_them() -> None:
    """Expect what commands share for a type not to keep the type in memory."""

    class Sent(BaseModel):
        name: str

    group = CommandGroup()
    for name in ("one", "other"):
        group.command(name)(payload_of(list[Sent] | Sent))
        group.command(f"give {name}")(result_of(list[Sent], []))
    kept = weakref.ref(Sent)
    del Sent
    gc.collect()
    assert kept() is not None
    del group
    gc.collect()
    assert kept() is None
