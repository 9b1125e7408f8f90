"""Tests of type variables and aliases in hints, and of types that several commands share."""

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from dishka import Provider, Scope
from handlers import Item, Repository, Thing, app_of, refusal_of, timed
from harness import app_with
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
Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | None")
Tree = TypeAliasType("Tree", "dict[str, Tree]")


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
