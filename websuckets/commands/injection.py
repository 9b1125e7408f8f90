"""Dependencies of a command or hook, which are one dependency to the container."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, cast, get_origin

from dishka import DEFAULT_COMPONENT, AsyncContainer, FromComponent, Has, Provider, Scope, provide
from dishka.dependency_source import Factory
from dishka.exceptions import NoFactoryError
from dishka.provider import BaseProvider

from websuckets.commands.defaults import Default
from websuckets.commands.signature import Dependency, Plan
from websuckets.di.graph import asking_for
from websuckets.introspection.functions import dressed
from websuckets.introspection.hints import alternatives
from websuckets.security import CurrentUser

__all__ = ["Injection", "accepted", "injection_of", "name_for_errors"]

NOTHING: Final[Mapping[Any, str]] = {}


@dataclass(frozen=True, slots=True)
class Injection:
    """Dependencies of a command or hook, as one dependency of the container (REQUEST scope).

    Resolving ``key`` checks the guards in their order, then builds the dependencies in their order,
    and gives the dependencies as a tuple. The key is part of the graph, which is proved when the
    container is built.
    """

    plan: Plan
    guards: tuple[Any, ...]
    key: Any
    places: tuple[int, ...]
    """Place of each dependency among the parameters of the factory of ``key``."""
    providers: tuple[BaseProvider, ...]
    provided: frozenset[Any]
    """Types that ``providers`` provide: ``key``, and one for each dependency with a default."""
    needs_scope: bool
    """True if there is anything to inject or to guard; otherwise there are no providers either."""
    absent: Mapping[Any, str]
    """Types without an object in the place of the injection, and the reasons."""
    also: tuple[Any, ...] = ()
    """Types that are resolved by themselves, beside ``key``."""
    absent_here: Mapping[Any, str] = field(default_factory=dict)
    """Types that only the scopes of a `ScopeFactory` have, and the reasons."""

    @property
    def roots(self) -> tuple[Any, ...]:
        """All types that the container is asked for."""
        return (self.key, *self.also) if self.needs_scope else self.also


def injection_of(
    plan: Plan,
    guards: tuple[Any, ...] = (),
    absent: Mapping[Any, str] = NOTHING,
    absent_here: Mapping[Any, str] = NOTHING,
    also: tuple[Any, ...] = (),
    last: tuple[Any, ...] = (),
) -> Injection:
    """Return the injection of a function with this plan, behind these guards.

    ``absent``, ``absent_here`` and ``also`` are those of `Injection`; ``last`` are dependencies
    that are given behind those of the function, to its caller.
    """
    if not (guards or plan.dependencies or last):
        return Injection(plan, guards, None, (), (), frozenset(), False, absent=absent, also=also)
    hints = list(guards)
    places: list[int] = []
    """Index of each dependency in ``hints``."""

    key = _new_type(
        getattr(plan.function, "__qualname__", "function"), "hook" if plan.is_hook else "command"
    )
    providers: list[BaseProvider] = []
    provided = {key}
    for dependency in plan.dependencies:
        if dependency.hint in guards:  # the guard is among the hints already
            places.append(guards.index(dependency.hint))
            continue
        places.append(len(hints))
        if dependency.default is None:
            hints.append(dependency.hint)
        else:
            either = _new_type(f"{dependency.name} or its default", "parameter")
            providers.append(_provider_with_default(dependency, either))
            provided.add(either)
            hints.append(Annotated[either, FromComponent(dependency.component)])
    places.extend(range(len(hints), len(hints) + len(last)))
    hints.extend(last)
    parameters = (
        inspect.Parameter(f"dependency_{n}", inspect.Parameter.POSITIONAL_ONLY, annotation=hint)
        for n, hint in enumerate(hints)
    )
    resolve = dressed(_picking(places), plan.function, parameters)
    return Injection(
        plan,
        guards,
        key,
        tuple(places),
        (_provider(resolve, key), *providers),
        frozenset(provided),
        needs_scope=True,
        absent=absent,
        also=also,
        absent_here=absent_here,
    )


def name_for_errors(injection: Injection) -> None:
    """Name the factories of an injection so that errors of dishka tell place and remedy."""
    guarded = CurrentUser in injection.guards
    security = ", for CurrentUser a SecurityProvider()" if guarded else ""
    name = (
        f"{injection.plan.where}: give a provider of what is missing to make_async_container(...)"
        f"{security}"
    )
    for provider in injection.providers:
        for factory in provider.factories:
            if factory.provides.type_hint is injection.key:
                cast(Any, factory.source).__qualname__ = name


def _provider(resolve: Callable[..., Any], key: Any) -> BaseProvider:
    """Return a provider of ``key`` alone.

    A `Provider` would look at each of its attributes for something to provide, which takes as long
    as all else of an injection.
    """
    provider = BaseProvider(DEFAULT_COMPONENT)
    made = provide(staticmethod(resolve), provides=key, scope=Scope.REQUEST)
    provider.factories.extend(one for one in made.dependency_sources if isinstance(one, Factory))
    return provider


def _picking(places: list[int]) -> Callable[..., tuple[Any, ...]]:
    """Return a function that returns, of its arguments, those in these places."""

    def pick(*arguments: Any) -> tuple[Any, ...]:
        return tuple([arguments[place] for place in places])

    return pick


def _new_type(name: str, module: str) -> Any:
    """Return a type that no other provider provides; the names are for dishka's drawings."""
    return type(name, (), {"__module__": module})


def _provider_with_default(dependency: Dependency, either: Any) -> Provider:
    """Return a provider of ``either``: the dependency if a provider gives it, or its default."""
    assert dependency.default is not None
    provider = Provider(scope=Scope.REQUEST, component=dependency.component)
    if any(_is_generic(wanted) for wanted in accepted(dependency)):
        provider.provide(_asking_for_first(dependency, dependency.default), provides=either)
        return provider
    missing: Any = None
    for wanted in accepted(dependency):
        found = Has(wanted) if missing is None else missing & Has(wanted)
        provider.alias(wanted, provides=either, when=found)
        missing = ~Has(wanted) if missing is None else missing & ~Has(wanted)
    provider.provide(dependency.default.make, provides=either, when=missing)
    return provider


def _is_generic(hint: Any) -> bool:
    """Tell whether a generic provider may provide the hint, which dishka's ``Has`` misses."""
    return get_origin(hint) not in (None, Union, UnionType)


def _asking_for_first(dependency: Dependency, default: Default) -> Callable[..., Any]:
    """Return a factory that gives the first of the accepted types that is provided."""
    component = dependency.component
    hints = [Annotated[hint, FromComponent(component)] for hint in accepted(dependency)]

    @asking_for(dict.fromkeys(hints, False))
    async def first(container: AsyncContainer) -> Any:
        for hint in accepted(dependency):
            try:
                return await container.get(hint, component)
            except NoFactoryError as error:
                if error.requested.type_hint != hint:  # something that the hint depends on
                    raise
        return default.make()

    return first


def accepted(dependency: Dependency) -> list[Any]:
    """Return the types that fill a parameter with a default, best first.

    ``db: Database | None = None`` is also filled by a provider of ``Database``.
    """
    members = alternatives(dependency.type)
    optional = [member for member in members if member is not NoneType]
    return [dependency.type, *(optional if NoneType in members else ())]
