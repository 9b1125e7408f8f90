"""Open scopes of APP and SESSION: containers, and the contexts (`contextvars`) of their objects.

An object of APP or SESSION scope is built when it is first asked for, in the middle of a message.
If the object were built in the message's context, what its provider sets would exist for that
message alone, and a ``reset`` after the provider's ``yield`` would fail, because another task
finalises the object. So each scope has one context, in which all objects of the scope are built and
finalised, and messages run in copies of the context of their connection.

The container of a narrower scope asks a container of dishka for objects, and dishka knows no
contexts. Therefore `OpenScope` is put between the two containers. That is also cheaper: a scope
remembers the objects of this and of wider scopes that were asked for, and a message finds them
without a coroutine for each container on the way.

This module reads and sets attributes of containers that dishka does not document.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from dishka import AsyncContainer, Scope
from dishka.entities.factory_type import FactoryType
from dishka.registry import Registry

from websuckets.runtime.contexts import in_context
from websuckets.runtime.effects import Effects
from websuckets.runtime.finalisers import Exit

__all__ = ["ExitsOf", "OpenScope", "sources_of_generators"]

T = TypeVar("T")

Lock = AbstractAsyncContextManager[Any]

_UNSET: Final[Any] = object()

_NOTHING: Final[Mapping[Any, object]] = {}

_GENERATORS: Final = (FactoryType.GENERATOR, FactoryType.ASYNC_GENERATOR)


class Binder(Protocol):
    """Maker of objects that depend on which scope asks for them, of SESSION scope or narrower."""

    def binds(self, hint: Any) -> bool:
        """Tell whether this binder makes the objects of a type."""
        ...

    def bound(self, hint: Any, scope: "OpenScope", message: Any) -> object:
        """Return the object for ``scope``, or for a message in it if that is not ``None``."""
        ...


class OpenScope:
    """A container of APP or SESSION scope, and the context of its objects."""

    __slots__ = (
        "_given",
        "_is_entered",
        "binder",
        "container",
        "context",
        "found",
        "is_closed",
        "values",
        "wider",
    )

    def __init__(
        self,
        container: AsyncContainer,
        context: Context,
        wider: "OpenScope | None" = None,
    ) -> None:
        self.container: AsyncContainer = container
        self.context: Context = context
        self.is_closed: bool = False
        """True once the objects have been finalised: from then on no object is built."""
        self.found: dict[Any, Any] = {}
        """Objects of this scope, by key, that were built before: each is built once."""
        self.values: Mapping[Any, Any] = {}
        """Objects, by key, that were given to this scope when it was opened."""
        self.wider: OpenScope | None = wider
        self.binder: Binder | None = None if wider is None else wider.binder
        """Maker of objects that are bound to a scope; it is set before any scope is opened."""
        self._is_entered = False
        self._given: frozenset[Any] | None = None  # types of a SESSION scope's values
        if wider is None:
            given = _from_context(container.registry)
            self.values = _part_of(container._context or {}, given)

    def session(
        self, values: dict[Any, Any], lock_factory: Callable[[], Lock] | None, context: Context
    ) -> "OpenScope":
        """Open a SESSION scope in this one, with context values and a context of its own."""
        container = self.container(values, lock_factory, Scope.SESSION)
        if self._given is None:
            self._given = _from_context(container.registry)
        scope = OpenScope(container, context, self)
        container.parent_getter = scope._get_of_wider
        scope.values = _part_of(values, self._given)
        return scope

    def request(
        self,
        values: dict[Any, Any],
        exits: list[Exit],
        message: Any = None,
        objects: Mapping[Any, object] = _NOTHING,
    ) -> AsyncContainer:
        """Open a REQUEST scope in this one, in the context of the caller.

        The generators of its objects, and of scopes that are opened with it, are put into
        ``exits``: the caller finalises them. ``values`` are its context values, and its `Effects`.
        ``message`` is the message that it is opened for, if any, and ``objects`` are objects, by
        key, that the scope has already.
        """
        container = outermost = self.container(values, scope=Scope.REQUEST)
        container._cache.update(objects)
        if Effects in values:
            container._cache[Effects] = values[Effects]
        _put_into(exits, container)
        while outermost.parent_container is not self.container:
            assert outermost.parent_container is not None
            outermost = outermost.parent_container
            _put_into(exits, outermost)
        outermost.parent_getter = partial(self._get_for_message, message)
        return container

    @property
    def request_registry(self) -> Registry:
        """Registry of the REQUEST scopes that are opened in this SESSION scope."""
        registry = self.container.registry.child_registry
        assert registry is not None and registry.scope is Scope.REQUEST
        return registry

    def close(self) -> None:
        """Take note that the objects have been finalised."""
        self.is_closed = True
        self.found.clear()

    async def get(self, key: Any) -> Any:
        """Return an object of this scope or a wider one, built in the context of its scope.

        ``key`` is a type, or dishka's key for types in components. Raises `RuntimeError` for an
        object that is not built yet and whose scope is closed.
        """
        if key in self.found:
            return self.found[key]
        if key in self.values:
            return self.values[key]
        wider = self.wider
        if wider is not None and self.container.registry.get_compiled_async(key) is None:
            return await wider.get(key)
        if self.is_closed:
            raise RuntimeError(
                f"the {self.container.scope} has ended: whoever still runs in it, a task that was "
                "started by a command or a middleware, can get nothing more from its container"
            )
        before = self.context.copy()
        new = await self.run(self.container._get(key))
        if key in self.container._cache:  # unless each dependant gets an object of its own
            self.found[key] = new
        if wider is not None:
            self._hand_on(before)
        return new

    async def _get_for_message(self, message: Any, key: Any) -> Any:
        """Return an object as `get` does, for an object of a REQUEST scope in this one."""
        if self.binder is not None and self.binder.binds(key):
            return self.binder.bound(key, self, message)
        return await self.get(key)

    async def _get_of_wider(self, key: Any) -> Any:
        """Return an object of a wider scope, for an object of this one."""
        if self.binder is not None and self.binder.binds(key):
            return self.binder.bound(key, self, None)
        assert self.wider is not None
        return await self.wider.get(key)

    def _hand_on(self, before: Context) -> None:
        """Set in the message's context what this context got since ``before``: a message in which
        an object of its connection was built has to see what later messages see."""
        for variable, value in self.context.items():
            had = before.get(variable, _UNSET)
            # Not what the message has set itself.
            if had is not value and variable.get(_UNSET) is had:
                variable.set(value)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Return an awaitable that runs a coroutine in the scope's context."""
        return coroutine if self._is_entered else in_context(self._enter, coroutine)

    def run_apart(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Return an awaitable that runs a coroutine in a copy of the scope's context."""
        return in_context(self.context.copy().run, coroutine)

    def _enter(self, step: Callable[[Any], Any], argument: Any) -> Any:
        # A context cannot be entered twice, and the code that asks for an object may be in it.
        self._is_entered = True
        try:
            return self.context.run(step, argument)
        finally:
            self._is_entered = False


def _from_context(registry: Registry) -> frozenset[Any]:
    """Return the keys that a container gives from its context values, and does not build."""
    return frozenset(
        key.as_compilation_key()
        for key, factory in registry.factories.items()
        if factory.type is FactoryType.CONTEXT
    )


def _part_of(values: dict[Any, Any], keys: frozenset[Any]) -> Mapping[Any, Any]:
    """Return the values under these keys: all but the values that the program provides."""
    if values.keys() <= keys:
        return values
    return {key: value for key, value in values.items() if key in keys}


def _put_into(exits: list[Exit], container: AsyncContainer) -> None:
    """Have a container add its generators to ``exits``, after which it forgets its objects."""
    container._exits = exits
    forgetting = _forgetting(container)
    next(forgetting)
    exits.append((forgetting, None))


def _forgetting(container: AsyncContainer) -> Generator[None, None, None]:
    """Forget the objects of a container at the end of its scope, as dishka does."""
    yield
    container._cache = {}


class ExitsOf:
    """Generators to resume for the end of a container, the newest first.

    Generators of wider scopes that were opened together with the container come last. A generator
    that is resumed may ask the container for objects whose generators then come next.
    """

    def __init__(self, container: AsyncContainer) -> None:
        self._container = container

    def __len__(self) -> int:
        """Return the number of generators of the scope whose turn it is; 0 when none is left."""
        while not self._container._exits:
            self._container._cache = {}
            if self._container.parent_closer is None or self._container.parent_container is None:
                break
            self._container = self._container.parent_container
        return len(self._container._exits)

    def pop(self) -> Exit:
        return self._container._exits.pop()


def sources_of_generators(container: AsyncContainer) -> Iterator[Callable[..., Any]]:
    """Yield every function of a container's providers that makes a generator."""
    while container.parent_container is not None:
        container = container.parent_container
    registry: Registry | None = container.registry
    while registry is not None:
        for factory in registry.factories.values():
            if factory.type in _GENERATORS:
                yield factory.source
        registry = registry.child_registry
