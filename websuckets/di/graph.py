"""Proof of a container's dependency graph, which reads parts of dishka that have no documentation.

dishka proves most of a graph when the graph is built. dishka does not prove a dependency on a bare
type variable, values that are not passed to a scope (``from_context``), providers of which none is
ever active (``when=``), and nothing of a container that is built with ``skip_validation=True``. All
of these errors would fail every message, so this module finds the errors before a port opens.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_origin

from dishka import DEFAULT_COMPONENT, AsyncContainer, BaseScope, DependencyKey, Scope
from dishka.dependency_source import Factory
from dishka.entities.factory_type import FactoryType
from dishka.entities.marker import (
    AndMarker,
    BaseMarker,
    BoolMarker,
    Has,
    HasContext,
    NotMarker,
    OrMarker,
    unpack_marker,
)
from dishka.registry import Registry

from websuckets.di.scope_factory import ScopeFactory, opened_by, opens_scopes
from websuckets.introspection.hints import bare_type, component_of, open_variables
from websuckets.protocol.messages import Message

__all__ = [
    "ASKS_FOR",
    "ContextTypes",
    "asking_for",
    "factories_of",
    "misplaced",
    "needed_by",
    "needs_finalising",
    "replacing",
    "scopes_of",
    "unprovable",
]

Function = TypeVar("Function", bound=Callable[..., Any])

_NOTHING: Final[Mapping[Any, str]] = {}

_SCOPE_FACTORIES: Final = (
    "the type of the object, as in ScopeFactory[AsyncSession], or the type of each of several "
    "objects, as in ScopeFactory[tuple[AsyncSession, OnCommit]]"
)

ASKS_FOR: Final = "asks_for"
"""Attribute of a factory that names what the factory asks the container for while it runs: hints,
and for each hint, whether it has to be provided."""

REPLACES: Final = "replaces"
"""Attribute of a factory that names the types whose defaults its provider replaces."""

ContextTypes: TypeAlias = Mapping[BaseScope, Collection[Any]]
"""Types of the values that are passed to scopes when the scopes are opened."""


def misplaced(container: AsyncContainer, defaults: str) -> dict[Any, Any]:
    """Return types whose defaults hide what another provider gives, each with its factory.

    dishka takes the last provider of a type. ``defaults`` is the name of the module with the
    defaults, and the factories are those that `replacing` marks.
    """
    registry = _root(container)
    hidden: dict[Any, Any] = {}
    for factory in factories_of(container):
        for type_ in getattr(factory.source, REPLACES, ()):
            used = _factory(registry, DependencyKey(type_, DEFAULT_COMPONENT))
            if used is not None and getattr(used.source, "__module__", None) == defaults:
                hidden[type_] = factory
    return hidden


def needed_by(container: AsyncContainer, starts: Iterable[Any], hint: Any) -> bool:
    """Tell whether any of the types ``starts`` needs ``hint``, directly or further below."""
    walk = _Walk(_root(container), {hint: ""}, _passed_at_start(container))
    return any(path[-1] == hint for start in starts for path, _ in walk.problems(start))


def needs_finalising(container: AsyncContainer, starts: Iterable[Any]) -> bool:
    """Tell whether any of the types needs an object that is finalised when the app ends."""
    root = _root(container)
    keys = [DependencyKey(hint, DEFAULT_COMPONENT) for hint in starts]
    seen = set()
    while keys:
        key = keys.pop()
        factory = None if key in seen else _factory(root, key)
        seen.add(key)
        factories = [] if factory is None else [factory]
        while factories:
            factory = factories.pop()
            if factory.scope in _OF_THE_APP and factory.type in _FINALISED:
                return True
            keys += (*factory.dependencies, *factory.kw_dependencies.values())
            if opens_scopes(factory):
                keys += opened_by(*get_args(factory.provides.type_hint))
            factories += factory.when_dependencies
    return False


_OF_THE_APP: Final = (Scope.RUNTIME, Scope.APP)
_FINALISED: Final = (FactoryType.GENERATOR, FactoryType.ASYNC_GENERATOR)


def unprovable(
    container: AsyncContainer,
    start: Any,
    absent: Mapping[Any, str],
    passed: ContextTypes,
    absent_here: Mapping[Any, str] = _NOTHING,
) -> list[tuple[list[Any], str]]:
    """Return the obstacles to building ``start``: paths to a type, and why it cannot be had.

    A path is a list of types, each needing the next. ``absent`` are types without an object, and
    the reasons; ``absent_here`` are types that only the scopes of a `ScopeFactory` have.
    """
    registry = _root(container)
    passed = {**passed, **_passed_at_start(container)}
    opened = _Walk(registry, absent, passed)
    return list(_Walk(registry, {**absent, **absent_here}, passed, opened).problems(start))


def scopes_of(container: AsyncContainer, hint: Any) -> set[BaseScope]:
    """Return the scopes in which the container provides ``hint``: none, one, or several by
    conditions."""
    return _scopes(_root(container), DependencyKey(bare_type(hint), component_of(hint)))


class _Walk:
    """A walk through the graph of a container, which visits each type once."""

    def __init__(
        self,
        registry: Registry,
        absent: Mapping[Any, str],
        passed: ContextTypes,
        opened: "_Walk | None" = None,
    ) -> None:
        self._registry = registry
        self._absent = absent
        self._passed = passed
        self._opened = opened or self
        """Walk through the scopes that a `ScopeFactory` of a message opens."""
        self._opened_wider: dict[BaseScope | None, _Walk] = {}
        """Walks through the scopes that a `ScopeFactory` of an object of a wider scope opens."""
        self._seen: set[DependencyKey] = set()

    def problems(self, start: Any) -> Iterator[tuple[list[Any], str]]:
        return self._of(DependencyKey(start, DEFAULT_COMPONENT), [], Scope.REQUEST)

    def _of(
        self, key: DependencyKey, path: list[Any], asking: BaseScope | None
    ) -> Iterator[tuple[list[Any], str]]:
        """Yield the obstacles to building ``key`` for an object of the scope ``asking``."""
        path = [*path, key.type_hint]
        if key.type_hint in self._absent:
            yield path, self._absent[key.type_hint]
        elif key.type_hint is ScopeFactory:
            yield path, f"nothing says what its scopes give; write {_SCOPE_FACTORIES}"
        elif open_variables(key.type_hint):
            yield path, "nothing says what this type variable stands for; ask for a type"
        elif key.is_const() or key.type_hint is DependencyKey:
            return
        elif get_origin(key.type_hint) is ScopeFactory and self._is_ours(key):
            (opened,) = get_args(key.type_hint)
            walk = self._walk_opened_by(asking)
            for opened_key in opened_by(opened):
                yield from walk._of(opened_key, path, Scope.REQUEST)
        elif key not in self._seen:
            self._seen.add(key)
            factory = _factory(self._registry, key)
            if factory is None and _is_open(key) and get_origin(path[-2]) is ScopeFactory:
                yield path, f"a scope gives a fixed number of objects; write {_SCOPE_FACTORIES}"
            elif factory is None:
                yield path, "nothing provides it; give a provider of it to the container"
            else:
                yield from self._of_factory(factory, path)

    def _is_ours(self, key: DependencyKey) -> bool:
        factory = _factory(self._registry, key)
        return factory is not None and opens_scopes(factory)

    def _walk_opened_by(self, asking: BaseScope | None) -> "_Walk":
        """Return the walk through scopes that a factory opens for an object of this scope."""
        if asking is not Scope.SESSION and asking not in _OF_THE_APP:
            return self._opened
        walk = self._opened_wider.get(asking)
        if walk is None:
            absent = dict(self._opened._absent)
            absent[Message] = (
                f"that belongs to a message, and a ScopeFactory of an object of {asking} opens "
                "scopes without one; let a handler, or an object of Scope.REQUEST, ask for it"
            )
            for hint in self._passed.get(Scope.SESSION, ()) if asking in _OF_THE_APP else ():
                absent[hint] = (
                    f"that belongs to a connection, and a ScopeFactory of an object of {asking} "
                    "opens scopes of the app alone"
                )
            walk = self._opened_wider[asking] = _Walk(self._registry, absent, self._passed)
        return walk

    def _of_factory(self, factory: Factory, path: list[Any]) -> Iterator[tuple[list[Any], str]]:
        if factory.type is FactoryType.CONTEXT and not self._is_passed(factory):
            yield (
                path,
                (
                    f"it is taken from the context of {factory.scope} (from_context), and nothing "
                    "passes it there; give a provider of it instead"
                ),
            )
        for key in (*factory.dependencies, *factory.kw_dependencies.values()):
            yield from self._of(key, path, factory.scope)
        for hint, is_required in getattr(factory.source, ASKS_FOR, {}).items():
            asked = DependencyKey(bare_type(hint), component_of(hint))
            if is_required or _factory(self._registry, asked) is not None:
                yield from self._of(asked, path, factory.scope)
        for marker in unpack_marker(factory.when_override):
            if not isinstance(marker, Has | HasContext):
                marked = DependencyKey(marker, factory.when_component)
                yield from self._of(marked, path, factory.scope)
        variants = [
            variant
            for variant in factory.when_dependencies
            if self._holds(variant.when_override, variant) is not False
        ]
        if factory.type is FactoryType.SELECTOR and not variants:
            yield path, "it has providers under conditions (when=), of which none ever holds"
        for variant in variants:
            yield from self._of_factory(variant, path)

    def _is_passed(self, factory: Factory) -> bool:
        if factory.provides.type_hint == self._registry.container_key.type_hint:
            return True
        assert factory.scope is not None
        return factory.provides.type_hint in self._passed.get(factory.scope, ())

    def _holds(self, marker: BaseMarker | None, factory: Factory) -> bool | None:
        """Return whether a condition of this factory holds; ``None`` if only run time tells."""
        match marker:
            case None | BoolMarker(True):
                return True
            case BoolMarker():
                return False
            case NotMarker():
                holds = self._holds(marker.marker, factory)
                return None if holds is None else not holds
            case AndMarker():
                both = {self._holds(marker.left, factory), self._holds(marker.right, factory)}
                return False if False in both else None if None in both else True
            case OrMarker():
                both = {self._holds(marker.left, factory), self._holds(marker.right, factory)}
                return True if True in both else None if None in both else False
            case HasContext():
                assert factory.scope is not None
                return marker.value in self._passed.get(factory.scope, ())
            case Has():
                key = DependencyKey(marker.value, factory.when_component)
                found = _factory(self._registry, key)
                if found is None or _is_narrower(found, factory):
                    return False
                return self._holds(found.when_active, found)
            case _:
                return None


def _is_narrower(one: Factory, other: Factory) -> bool:
    return one.scope is not None and other.scope is not None and one.scope > other.scope


def _is_open(key: DependencyKey) -> bool:
    """Tell whether a key is ``tuple`` or ``tuple[X, ...]``, for any number of objects."""
    hint = key.type_hint
    return hint is tuple or (get_origin(hint) is tuple and ... in get_args(hint))


def _passed_at_start(container: AsyncContainer) -> dict[BaseScope, Collection[Any]]:
    """Return the context that was passed to a container and its parents."""
    passed: dict[BaseScope, Collection[Any]] = {}
    level: AsyncContainer | None = container
    while level is not None:
        passed[level.scope] = level._context or ()
        level = level.parent_container
    return passed


def _scopes(root: Registry, key: DependencyKey) -> set[BaseScope]:
    factory = _factory(root, key)
    return set() if factory is None else _scopes_of_factory(root, factory)


def _scopes_of_factory(root: Registry, factory: Factory) -> set[BaseScope]:
    scopes = {factory.scope} if factory.scope is not None else set()
    for variant in factory.when_dependencies:  # one variant is chosen when the object is built
        scopes |= _scopes_of_factory(root, variant)
    if factory.type is FactoryType.ALIAS:
        scopes |= _scopes(root, factory.dependencies[0])
    return scopes


def factories_of(container: AsyncContainer) -> Iterator[Factory]:
    """Yield the factories that a container uses in any of its scopes."""
    registry: Registry | None = _root(container)
    while registry is not None:
        for factory in registry.factories.values():
            yield from (factory, *factory.when_dependencies)
        registry = registry.child_registry


def _root(container: AsyncContainer) -> Registry:
    while container.parent_container is not None:
        container = container.parent_container
    return container.registry


def _factory(root: Registry, key: DependencyKey) -> Factory | None:
    registry: Registry | None = root
    while registry is not None:
        factory = registry.get_factory(key)
        if factory is not None:
            return factory
        registry = registry.child_registry
    return None


def asking_for(hints: Mapping[Any, bool]) -> Callable[[Function], Function]:
    """Declare what a factory asks the container for, to be proved, too; see `ASKS_FOR`."""

    def say(function: Function) -> Function:
        setattr(function, ASKS_FOR, hints)
        return function

    return say


def replacing(*types: Any) -> Callable[[Function], Function]:
    """Declare the types whose defaults the provider of a factory replaces; see `misplaced`."""

    def say(function: Function) -> Function:
        setattr(function, REPLACES, types)
        return function

    return say
