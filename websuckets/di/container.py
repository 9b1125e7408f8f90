"""Containers: built and proved at start, or given by the program and proved then."""

import logging
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

from dishka import (
    DEFAULT_COMPONENT,
    AsyncContainer,
    BaseScope,
    DependencyKey,
    FromComponent,
    Scope,
    make_async_container,
)
from dishka.dependency_source import Factory
from dishka.entities.factory_type import FactoryType
from dishka.exceptions import GraphMissingFactoryError, NoFactoryError
from dishka.provider import BaseProvider
from dishka.registry import Registry
from pydantic import BaseModel

from websuckets.backend import on_trio
from websuckets.di.lock import lock_factory
from websuckets.di.plan import REQUIRED, Dependency, Plan, bare_type, component_of, name_of
from websuckets.di.providers import Injection, accepted, values_provider
from websuckets.exc import (
    ConfigurationError,
    InvalidGuard,
    InvalidHandlerSignature,
    MissingProvider,
    report,
)

__all__ = [
    "Override",
    "build_container",
    "check_container",
    "finalises",
    "needs",
    "scopes_of",
    "setup_dishka",
    "tell_defaults",
]

logger: logging.Logger = logging.getLogger("websuckets")

OF_THE_APP: Final = (Scope.RUNTIME, Scope.APP)
FINALISED: Final = (FactoryType.GENERATOR, FactoryType.ASYNC_GENERATOR)


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """What takes the place of other providers, and objects that take that of others, by type."""

    providers: tuple[BaseProvider, ...]
    values: Mapping[Any, object]


def build_container(
    providers: Iterable[BaseProvider],
    injections: Iterable[Injection],
    overrides: Iterable[Override] = (),
) -> AsyncContainer:
    """A container (APP scope) in which every handler is known to find what it asks for.

    Raises a `ConfigurationError` that holds everything that is wrong with the handlers, and
    dishka's own errors for what is wrong among the providers.
    """
    providers, proved = tuple(providers), list(injections)
    new: list[Any] = []  # values that take the place of nothing
    for override in overrides:
        providers = (*providers, *override.providers)
        values, nothing_before = _in_place(override.values, providers)
        providers = (*providers, *values)
        new.extend(nothing_before)
    errors: list[ConfigurationError] = []
    missing: set[DependencyKey] = set()
    while True:
        try:
            container = _make(proved, providers)
            break
        except GraphMissingFactoryError as error:
            asking = error.path[0].provides.type_hint if error.path else None
            culprit = next((i for i in proved if asking in i.provided), None)
            if culprit is not None:
                errors.append(MissingProvider(_missing(error, culprit)))
                missing.add(error.requested)
                proved.remove(culprit)  # and on to what the others miss
                continue
            if error.requested not in missing:
                errors.append(MissingProvider(f"a provider misses something. {error}"))
            raise report(errors) from None
    for injection in proved:
        errors.extend(_misuses(injection, container))
    for hint in new:
        if not needs(container, proved, bare_type(hint)):
            errors.append(
                ConfigurationError(
                    f"override(values=...): nothing provides or asks for {name_of(hint)}, so its "
                    "value replaces nothing; name the type by which others ask for it"
                )
            )
    if errors:
        raise report(errors)
    return container


HOW_TO_BUILD: Final = """build it when every group is included and every hook registered:
    container = make_async_container(
        SecurityProvider(), ..., *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)"""


class DishkaApp(Protocol):
    """An app that runs with a container that the program has built."""

    def _use_container(self, container: AsyncContainer) -> None: ...


def setup_dishka(container: AsyncContainer, app: DishkaApp) -> None:
    """Let the app run with this container, which other frameworks may share.

    It contains ``app.providers``, and a provider of `CurrentUser` if commands are protected:
    ``make_async_container(SecurityProvider(), ..., *app.providers, lock_factory=lock_factory)``.
    Who built it closes it. Another one takes its place when this is called again.

    Raises `ConfigurationError` for what is no container of APP scope, for an app that runs already,
    and for one with providers or overrides of its own.
    """
    if not hasattr(app, "_use_container"):
        raise ConfigurationError(
            f"setup_dishka(container, app): {type(app).__name__} is no WebSuckets; other "
            "frameworks have their own, in dishka.integrations"
        )
    if not isinstance(container, AsyncContainer) or container.scope is not Scope.APP:
        raise ConfigurationError(
            f"setup_dishka({container!r}, app): pass what dishka's make_async_container() returns"
        )
    app._use_container(container)


def check_container(
    container: AsyncContainer, injections: Iterable[Injection], key: Any, value: object
) -> None:
    """What `build_container` proves, for one that the program has built.

    ``value`` is what it gives for ``key`` if it was built for the injections. Raises a
    `ConfigurationError` that holds everything that is wrong.
    """
    try:
        found = container.get_sync(key)
    except NoFactoryError:
        raise ConfigurationError(
            f"the container does not contain this app's providers; {HOW_TO_BUILD}"
        ) from None
    if found is not value:
        raise ConfigurationError(
            "the container contains the providers of another app behind this app's, and one "
            f"container serves one app; {HOW_TO_BUILD}"
        )
    if on_trio() and type(container.lock).__module__.startswith("asyncio"):
        raise ConfigurationError(
            f"the container has dishka's default lock, which does not run on trio; {HOW_TO_BUILD}"
        )
    errors = [error for injection in injections for error in _misuses(injection, container)]
    if errors:
        raise report(errors)


def _in_place(
    values: Mapping[Any, object], providers: Iterable[BaseProvider]
) -> tuple[list[BaseProvider], list[Any]]:
    """Providers of the values, each in the scope of what it takes the place of.

    So whoever could ask for that, can ask for the value, and a guard stays one. And those hints
    that nothing provided before.
    """
    if not values:
        return [], []
    container = make_async_container(*providers, skip_validation=True)
    scopes = {hint: scopes_of(container, hint) for hint in values}
    in_place: list[BaseProvider] = [
        values_provider(
            {bare_type(hint): value}, min(scopes[hint], default=Scope.APP), component_of(hint)
        )
        for hint, value in values.items()
    ]
    return in_place, [hint for hint in values if not scopes[hint]]


def _make(injections: Iterable[Injection], providers: Iterable[BaseProvider]) -> AsyncContainer:
    # Handlers come first, so that the path to what is missing is drawn from them.
    handlers = (provider for injection in injections for provider in injection.providers)
    return make_async_container(*handlers, *providers, lock_factory=lock_factory)


def _missing(error: GraphMissingFactoryError, injection: Injection) -> str:
    """What to say of a handler for which something is missing, directly or further below."""
    plan = injection.plan
    asked = {step.provides.type_hint for step in error.path} | {error.requested.type_hint}
    what, remedy = "what it asks for", ""
    for guard in injection.guards:
        if bare_type(guard) in asked:
            what = f"its guard `{name_of(guard)}`"
    for dependency in plan.dependencies:
        if dependency.type in asked:
            what = f"parameter `{dependency.name}: {name_of(dependency.hint)}`"
            is_last = dependency.type == error.requested.type_hint
            if is_last and not plan.is_hook:
                remedy = _remedy(plan, dependency)
    return (
        f"{plan.where}: {what} cannot be provided; give a provider of what is missing to "
        f"WebSuckets(providers=[...]){remedy}. {error}"
    )


def _remedy(plan: Plan, dependency: Dependency) -> str:
    """What to do with a parameter that may have been meant for what the client sends."""
    if plan.payload is None:
        place = "second, before the `*`" if dependency.keyword else "second"
        return f" (if it is what the client sends, put it {place}, as Payload[...])"
    if isinstance(dependency.type, type) and issubclass(dependency.type, BaseModel):
        return " (a command has one payload: put all that the client sends into one model)"
    return ""


def _misuses(injection: Injection, container: AsyncContainer) -> Iterable[ConfigurationError]:
    plan = injection.plan
    for path in _paths_to(container, injection.key, injection.absent):
        names = [name_of(type_) for type_ in path if type_ not in injection.provided]
        yield ConfigurationError(
            f"{plan.where}: it asks for {' -> '.join(f'`{name}`' for name in names)}: "
            f"{injection.absent[path[-1]]}"
        )
    for guard in injection.guards:
        for scope in sorted(scopes_of(container, guard) - {Scope.REQUEST}):
            yield InvalidGuard(
                f"{plan.where}: its guard `{name_of(guard)}` has {scope}: it would be checked "
                "once and remembered past a revocation; provide it with Scope.REQUEST"
            )
    payload = plan.payload
    if payload is None or payload.marked:
        return
    for payload_type in payload.types:
        if scopes_of(container, payload_type):
            name = name_of(payload_type)
            yield InvalidHandlerSignature(
                f"{plan.where}: parameter `{payload.name}: {name}` stands where the client's "
                f"payload does, but the container provides {name}, too; write Payload[{name}] if "
                f"the client sends it, or FromDishka[{name}] if the container gives it"
            )


def tell_defaults(injection: Injection, container: AsyncContainer) -> None:
    """Log which parameters are never filled: one may have been meant for the payload."""
    for dependency in injection.plan.dependencies:
        if dependency.default is not REQUIRED and not any(
            scopes_of(container, Annotated[wanted, FromComponent(dependency.component)])
            for wanted in accepted(dependency)
        ):
            logger.info(
                "%s: nothing provides `%s: %s`: its default is always used",
                injection.plan.where,
                dependency.name,
                name_of(dependency.hint),
            )


def needs(container: AsyncContainer, injections: Iterable[Injection], hint: Any) -> bool:
    """Whether any of them asks for ``hint``, directly or further below."""
    return any(_paths_to(container, injection.key, {hint}) for injection in injections)


def finalises(container: AsyncContainer, hints: Iterable[Any]) -> bool:
    """Return whether any of the types needs an object that is finalised when the app ends."""
    root = _root(container)
    keys = [DependencyKey(hint, DEFAULT_COMPONENT) for hint in hints]
    seen = set()
    while keys:
        key = keys.pop()
        factory = None if key in seen else _factory(root, key)
        seen.add(key)
        factories = [] if factory is None else [factory]
        while factories:
            factory = factories.pop()
            if factory.scope in OF_THE_APP and factory.type in FINALISED:
                return True
            keys += (*factory.dependencies, *factory.kw_dependencies.values())
            factories += factory.when_dependencies
    return False


def scopes_of(container: AsyncContainer, hint: Any) -> set[BaseScope]:
    """The scopes in which the container provides ``hint``: none, one, or several by conditions.

    With `finalises` and `_paths_to`, the only place that reads dishka's graph beyond its documented
    interface.
    """
    return _scopes(_root(container), DependencyKey(bare_type(hint), component_of(hint)))


def _scopes(root: Registry, key: DependencyKey) -> set[BaseScope]:
    factory = _factory(root, key)
    return set() if factory is None else _scopes_of_factory(root, factory)


def _scopes_of_factory(root: Registry, factory: Factory) -> set[BaseScope]:
    scopes = {factory.scope} if factory.scope is not None else set()
    for variant in factory.when_dependencies:  # one of which is chosen when it is built
        scopes |= _scopes_of_factory(root, variant)
    if factory.type is FactoryType.ALIAS:
        scopes |= _scopes(root, factory.dependencies[0])
    return scopes


def _paths_to(container: AsyncContainer, start: Any, ends: Container[Any]) -> list[list[Any]]:
    """How ``start`` comes to need any of ``ends``: types, each needing the next."""
    root = _root(container)
    paths = []
    seen = set()

    def follow(key: DependencyKey, path: list[Any]) -> None:
        if key.type_hint in ends:
            paths.append([*path, key.type_hint])
            return
        factory = _factory(root, key)
        if factory is not None and key not in seen:
            seen.add(key)
            follow_all(factory, [*path, key.type_hint])

    def follow_all(factory: Factory, path: list[Any]) -> None:
        for key in (*factory.dependencies, *factory.kw_dependencies.values()):
            follow(key, path)
        for variant in factory.when_dependencies:
            follow_all(variant, path)

    follow(DependencyKey(start, DEFAULT_COMPONENT), [])
    return paths


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
