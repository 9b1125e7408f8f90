"""Resolvers: a function that is written for a command does what a container of dishka does."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import anyio
import pytest
from dishka import AsyncContainer, FromComponent, Has, Provider, Scope, make_async_container
from hypothesis import given, settings
from hypothesis import strategies as st

from websuckets.di import lock_factory
from websuckets.di.resolver import Resolver
from websuckets.protocol.messages import Message
from websuckets.runtime.finalisers import Exit, finalise
from websuckets.runtime.scopes import OpenScope

pytestmark = pytest.mark.anyio

MESSAGE: Final = Message("event")

FACTORIES: Final = {
    "plain": "def make({parameters}): return built({n}, [{arguments}])",
    "uncached": "def make({parameters}): return built({n}, [{arguments}])",
    "async": "async def make({parameters}): await pause(); return built({n}, [{arguments}])",
    "generator": "def make({parameters}): yield built({n}, [{arguments}]); ended({n})",
    "async generator": (
        "async def make({parameters}): await pause(); yield built({n}, [{arguments}]); ended({n})"
    ),
    "of the connection": "def make({parameters}): yield built({n}, [{arguments}]); ended({n})",
    "of the app": "async def make({parameters}): return built({n}, [{arguments}])",
    "uncached, of the connection": "def make({parameters}): return built({n}, [{arguments}])",
    "uncached, of the app": "def make({parameters}): return built({n}, [{arguments}])",
}
"""Sources of factories, by the kind of node."""

RETURNS: Final[dict[str, Any]] = {
    "generator": Iterator,
    "of the connection": Iterator,
    "async generator": AsyncIterator,
}


@dataclass(frozen=True)
class Node:
    """A type in a graph of dependencies."""

    kind: str
    needs: tuple[int, ...]
    """Places of the types that it depends on: all come before it."""
    named: bool
    """True if its factory has keyword-only parameters."""


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    nodes: list[Node] = []
    for place in range(draw(st.integers(1, 7))):
        aliases = ["alias", "uncached alias"] if place else []
        kind = draw(st.sampled_from([*FACTORIES, *aliases, "value"]))
        among = [n for n in range(place) if _may_need(kind, nodes[n].kind)]
        least, most = (1, 1) if "alias" in kind else (0, 3)
        needs = st.lists(st.sampled_from(among), min_size=least, max_size=most, unique=True)
        nodes.append(Node(kind, tuple(draw(needs) if among else ()), draw(st.booleans())))
    return nodes


def _may_need(kind: str, other: str) -> bool:
    if kind == "value":
        return False
    if kind.endswith("of the app"):
        return other == "value" or other.endswith("of the app")
    if kind.endswith("of the connection"):
        return other == "value" or other.endswith(("of the app", "of the connection"))
    return True


class Graph:
    """A container for a graph, and a journal of what is built and finalised in it."""

    def __init__(self, nodes: list[Node], places: tuple[int, ...]) -> None:
        self.journal: list[Any] = []
        self.types: list[Any] = [type(f"Type{n}", (), {}) for n in range(len(nodes))]
        self.key = type("key", (), {})
        provider = Provider(scope=Scope.REQUEST)
        for n, node in enumerate(nodes):
            self._provide(provider, n, node)
        arguments = ", ".join(f"d{n}" for n in range(len(nodes)))
        picked = ", ".join(f"d{place}" for place in places)
        root = self._function(f"def make({arguments}): return ({picked},)", {})
        root.__annotations__ = {f"d{n}": type_ for n, type_ in enumerate(self.types)}
        provider.provide(root, provides=self.key)
        container = make_async_container(provider, lock_factory=lock_factory)
        app = OpenScope(container, copy_context())
        self.session = app.session({}, lock_factory, copy_context())
        self.resolver = Resolver(self.key, places)

    def _provide(self, provider: Provider, n: int, node: Node) -> None:
        type_ = self.types[n]
        if "alias" in node.kind:
            source = self.types[node.needs[0]]
            provider.alias(source=source, provides=type_, cache=node.kind == "alias")
            return
        if node.kind == "value":
            type_.number = 0
            provider.provide(lambda: type_(), provides=type_, scope=Scope.APP)
            return
        names = [f"d{need}" for need in node.needs]
        parameters = ", ".join(["*", *names] if node.named and names else names)
        source = FACTORIES[node.kind].format(n=n, parameters=parameters, arguments=", ".join(names))
        function = self._function(source, {"built": self._built, "ended": self._ended})
        result = RETURNS[node.kind][type_] if node.kind in RETURNS else type_
        needs = {f"d{need}": self.types[need] for need in node.needs}
        function.__annotations__ = {**needs, "return": result}
        whose = node.kind.removeprefix("uncached, ")
        scope = {"of the connection": Scope.SESSION, "of the app": Scope.APP}.get(whose)
        provider.provide(function, scope=scope, cache=not node.kind.startswith("uncached"))

    def _function(self, source: str, names: dict[str, Any]) -> Any:
        found = {**names, "pause": anyio.lowlevel.checkpoint}
        exec(source, found)
        return found["make"]

    def _built(self, n: int, needs: list[Any]) -> Any:
        built = self.types[n]()
        built.number = self.journal.count(("built", n))
        self.journal.append(("built", n))
        self.journal.append([(self.types.index(type(need)), need.number) for need in needs])
        return built

    def _ended(self, n: int) -> None:
        self.journal.append(("ended", n))

    async def run(self, resolve: Any) -> list[list[tuple[str, int]]]:
        """Resolve for two messages; return the types and numbers of what each gets."""
        got = []
        for _ in range(2):
            exits: list[Exit] = []
            objects = await resolve(self.session, MESSAGE, exits, None)
            got.append([(type(one).__name__, one.number) for one in objects])
            while exits:
                await finalise(exits.pop(), None)
        return got


@settings(deadline=None)
@given(graphs(), st.data())
def test_a_written_function_does_what_the_container_does(nodes: list[Node], data: Any) -> None:
    """Objects are built and finalised in the order of dishka, and as often."""
    places = tuple(data.draw(st.lists(st.integers(0, len(nodes) - 1), unique=True, min_size=1)))

    async def compare() -> None:
        written, by_container = Graph(nodes, places), Graph(nodes, places)
        got = await written.run(written.resolver.resolve)
        assert "by_container" not in written.resolver.resolve.__qualname__
        assert got == await by_container.run(by_container.resolver._by_container)
        assert written.journal == by_container.journal

    asyncio.run(compare())


class Thing: ...


class Other: ...


def session_of(provider: Provider) -> OpenScope:
    container = make_async_container(provider, lock_factory=lock_factory)
    return OpenScope(container, copy_context()).session({}, lock_factory, copy_context())


def resolver_of(provider: Provider, hint: Any) -> Resolver:
    """Return the resolver of a command that asks for one type."""
    key = type("key", (), {})

    def root(one: Any) -> tuple[Any, ...]:
        return (one,)

    root.__annotations__["one"] = hint
    provider.provide(root, provides=key, scope=Scope.REQUEST)
    return Resolver(key, (0,))


async def one_of(provider: Provider, hint: Any, *, by_container: bool) -> Any:
    """Resolve twice, so that the second time is by what was chosen the first time."""
    resolver = resolver_of(provider, hint)
    session = session_of(provider)
    await resolver.resolve(session, MESSAGE, [], None)
    assert ("by_container" in resolver.resolve.__qualname__) == by_container
    (one,) = await resolver.resolve(session, MESSAGE, [], None)
    return one


async def test_a_graph_that_asks_for_the_container_is_left_to_dishka() -> None:
    """Code that gets the container finds in it what the command depends on."""
    provider = Provider(scope=Scope.REQUEST)

    @provider.provide
    async def thing(container: AsyncContainer) -> Thing:
        assert await container.get(Message) is MESSAGE
        return Thing()

    provider.from_context(Message, scope=Scope.REQUEST)
    assert isinstance(await one_of(provider, Thing, by_container=True), Thing)


async def test_a_graph_with_conditions_is_left_to_dishka() -> None:
    """A condition may be decided anew for each message."""
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Thing)
    provider.provide(Other, when=Has(Thing))
    assert isinstance(await one_of(provider, Other, by_container=True), Other)


async def test_a_value_that_is_passed_but_is_no_message_is_left_to_dishka() -> None:
    """The framework passes nothing else to a message's scope, which dishka says."""
    provider = Provider(scope=Scope.REQUEST)
    provider.from_context(Thing, scope=Scope.REQUEST)
    resolver = resolver_of(provider, Thing)
    with pytest.raises(Exception, match="Thing"):
        await resolver.resolve(session_of(provider), MESSAGE, [], None)


async def test_the_message_literals_and_components_need_no_container() -> None:
    """Values without a factory, and types in a component, are found without a container."""
    provider = Provider(scope=Scope.REQUEST, component="X")
    provider.provide(Thing)
    ours = Provider(scope=Scope.REQUEST)
    ours.from_context(Message, scope=Scope.REQUEST)
    seen: list[Any] = []

    @ours.provide
    def other(
        message: Message, number: Literal[3], thing: Annotated[Thing, FromComponent("X")]
    ) -> Other:
        seen.extend([message, number, type(thing)])
        return Other()

    resolver = resolver_of(ours, Other)
    container = make_async_container(provider, ours, lock_factory=lock_factory)
    session = OpenScope(container, copy_context()).session({}, lock_factory, copy_context())
    await resolver.resolve(session, MESSAGE, [], None)
    assert "by_container" not in resolver.resolve.__qualname__
    assert seen == [MESSAGE, 3, Thing]


async def test_generators_that_were_begun_are_known_when_a_later_factory_fails() -> None:
    """Their objects can be finalised."""
    provider = Provider(scope=Scope.REQUEST)

    @provider.provide
    def thing() -> Iterator[Thing]:
        yield Thing()

    @provider.provide
    def other(thing: Thing) -> Other:
        raise ValueError

    resolver = resolver_of(provider, Other)
    exits: list[Exit] = []
    with pytest.raises(ValueError):
        await resolver.resolve(session_of(provider), MESSAGE, exits, None)
    assert len(exits) == 1


async def test_the_event_loop_is_told_of_other_generators() -> None:
    """A generator that a factory itself begins is none of a scope's."""
    provider = Provider(scope=Scope.REQUEST)
    hooks: list[Any] = []

    @provider.provide
    async def thing() -> AsyncIterator[Thing]:
        hooks.append(sys.get_asyncgen_hooks())
        yield Thing()

    resolver = resolver_of(provider, Thing)
    before = sys.get_asyncgen_hooks()
    exits: list[Exit] = []
    await resolver.resolve(session_of(provider), MESSAGE, exits, None)
    await finalise(exits.pop(), None)
    assert hooks == [before]
    assert sys.get_asyncgen_hooks() == before


async def test_a_container_forgets_its_objects_with_the_message() -> None:
    """An object that is finalised is not given to what still has the container."""
    provider = Provider(scope=Scope.REQUEST)
    containers: list[AsyncContainer] = []

    @provider.provide
    async def thing(container: AsyncContainer) -> Thing:
        containers.append(container)
        return Thing()

    resolver, exits = resolver_of(provider, Thing), list[Exit]()
    (thing_of_message,) = await resolver.resolve(session_of(provider), MESSAGE, exits, None)
    assert await containers[0].get(Thing) is thing_of_message
    while exits:
        await finalise(exits.pop(), None)
    assert await containers[0].get(Thing) is not thing_of_message
