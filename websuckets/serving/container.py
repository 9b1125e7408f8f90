"""Containers: built and proved at start, or given by the program and proved then."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Final, get_origin, is_typeddict

from dishka import (
    AsyncContainer,
    DependencyKey,
    FromComponent,
    Scope,
    make_async_container,
)
from dishka.exceptions import (
    CycleDependenciesError,
    GraphMissingFactoryError,
    NoFactoryError,
)
from dishka.provider import BaseProvider
from pydantic import BaseModel

from websuckets.commands.injection import Injection, accepted
from websuckets.commands.signature import ONE_PAYLOAD, STANDS_SECOND, Dependency, Plan
from websuckets.di import injectables
from websuckets.di.graph import ContextTypes, misplaced, needed_by, scopes_of, unprovable
from websuckets.di.injectables import context_types, values_provider
from websuckets.di.lock import lock_factory
from websuckets.exc import (
    ConfigurationError,
    InvalidGuard,
    InvalidHandlerSignature,
    MissingProvider,
    report,
)
from websuckets.introspection.functions import place_of, where
from websuckets.introspection.hints import alternatives, bare_type, component_of, name_of
from websuckets.runtime.event_loop import on_trio

__all__ = [
    "Override",
    "build_container",
    "check_container",
    "log_defaults",
]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """Providers, and objects by type, that take the place of other providers and objects."""

    providers: tuple[BaseProvider, ...]
    values: Mapping[Any, object]


def build_container(
    providers: Iterable[BaseProvider],
    injections: Iterable[Injection],
    overrides: Iterable[Override] = (),
) -> AsyncContainer:
    """Build a container (APP scope) in which every handler is known to find its dependencies.

    Raises a `ConfigurationError` that holds everything that is wrong with the handlers, and
    dishka's own errors for faults of the providers.
    """
    providers, proved = tuple(providers), list(injections)
    new: list[Any] = []  # hints whose values take the place of nothing
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
                proved.remove(culprit)  # go on with other handlers
                continue
            if error.requested not in missing:
                errors.append(MissingProvider(f"a provider misses something. {error}"))
            raise report(errors) from None
        except CycleDependenciesError as error:
            places = ", ".join(_place_of(factory.source) for factory in error.path)
            error.add_note(f"each needs the next: {places}; let one of them do without the next")
            raise
    context = context_types(providers)
    for injection in proved:
        errors.extend(_misuses(injection, container, context))
    for hint in new:
        if not needed_by(container, (root for i in proved for root in i.roots), bare_type(hint)):
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
        *app.providers, SecurityProvider(), ..., lock_factory=lock_factory
    )
    setup_dishka(container, app)"""


def check_container(
    container: AsyncContainer,
    injections: Iterable[Injection],
    key: Any,
    value: object,
    context: ContextTypes,
) -> None:
    """Check as `build_container` does, for a container that the program has built.

    ``value`` is the container's object for ``key`` if it was built for the injections;
    ``context`` are the types of the objects that the framework passes to the container's scopes.
    Raises a `ConfigurationError` that holds everything that is wrong.
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
    for type_, factory in misplaced(container, injectables.__name__).items():
        raise ConfigurationError(
            f"the container gives the default {name_of(type_)} of the app, and not the one that "
            f"comes with `{name_of(factory.provides.type_hint)}`: of two providers of a type the "
            f"last one wins, so *app.providers stands first; {HOW_TO_BUILD}"
        )
    if on_trio() and type(container.lock).__module__.startswith("asyncio"):
        raise ConfigurationError(
            f"the container has dishka's default lock, which does not run on trio; {HOW_TO_BUILD}"
        )
    errors = [
        error for injection in injections for error in _misuses(injection, container, context)
    ]
    if errors:
        raise report(errors)


def _in_place(
    values: Mapping[Any, object], providers: Iterable[BaseProvider]
) -> tuple[list[BaseProvider], list[Any]]:
    """Return providers of the values, and the hints that nothing provided before.

    Each provider has the scope of what its value takes the place of. So what could ask for the
    replaced object can ask for the value, and a guard stays a guard.
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
    # Handlers come first, so that the path to the missing type is drawn from a handler.
    handlers = (provider for injection in injections for provider in injection.providers)
    return make_async_container(*handlers, *providers, lock_factory=lock_factory)


def _place_of(source: Any) -> str:
    """Return name and place of a factory, which may be a class."""
    if isinstance(source, type):
        init = where(source.__init__) if place_of(source.__init__) else ""  # type: ignore[misc]
        return init or f"`{source.__module__}.{source.__qualname__}`"
    return where(source)


def _missing(error: GraphMissingFactoryError, injection: Injection) -> str:
    """Return the text for a handler for which something is missing, directly or further below."""
    plan = injection.plan
    asked = {step.provides.type_hint for step in error.path} | {error.requested.type_hint}
    what, meant, remedy = "what it asks for", "", ""
    for guard in injection.guards:
        if bare_type(guard) in asked:
            what = f"its guard `{name_of(guard)}`"
    for dependency in plan.dependencies:
        if dependency.type in asked:
            what = f"parameter `{dependency.name}: {name_of(dependency.hint)}`"
            is_last = dependency.type == error.requested.type_hint
            meant, remedy = "", ""
            if is_last and not plan.is_hook:
                meant, remedy = _payload_meant(plan, dependency)
    if meant:
        return (
            f"{plan.where}: {what}: {meant}. If it is a dependency, give a provider of it to "
            f"WebSuckets(providers=[...]). {error}"
        )
    return (
        f"{plan.where}: {what} cannot be provided; give a provider of what is missing to "
        f"WebSuckets(providers=[...]){remedy}. {error}"
    )


def _payload_meant(plan: Plan, dependency: Dependency) -> tuple[str, str]:
    """Return the remedies for a parameter that was probably, or perhaps, meant as the payload."""
    is_model = isinstance(dependency.type, type) and issubclass(dependency.type, BaseModel)
    if plan.payload is not None:
        return (ONE_PAYLOAD if is_model else "", "")
    star = ", before the `*`" if dependency.keyword else ""
    if is_model:
        return f"{STANDS_SECOND}{star}", ""
    if _is_data(dependency.type):
        place = "" if dependency is plan.dependencies[0] and not star else f", second{star}"
        written = f"`{dependency.name}: Payload[{name_of(dependency.hint)}]`"
        return f"write {written}{place} if the client sends it", ""
    return "", f" (if it is what the client sends, put it second{star}, as Payload[...])"


_OF_DATA: Final = frozenset(
    {"abc", "builtins", "collections", "datetime", "decimal", "enum", "numbers", "typing", "uuid"}
)
"""Modules of types whose objects clients send, rather than providers give."""


def _is_data(hint: Any) -> bool:
    """Tell whether objects of a type are data, which most probably a client sends."""
    for member in alternatives(hint):
        type_ = get_origin(bare_type(member)) or bare_type(member)
        if is_dataclass(type_) or is_typeddict(type_):
            continue
        classes = type_.__mro__[:-1] if isinstance(type_, type) else ()
        if not classes or {c.__module__.partition(".")[0] for c in classes} - _OF_DATA:
            return False
    return True


def _misuses(
    injection: Injection, container: AsyncContainer, context: ContextTypes
) -> Iterable[ConfigurationError]:
    for root in injection.roots:
        yield from _unprovable(injection, root, container, context)
    yield from _payloads_provided(injection.plan, container)


def _unprovable(
    injection: Injection, root: Any, container: AsyncContainer, context: ContextTypes
) -> Iterable[ConfigurationError]:
    plan = injection.plan
    absent, absent_here = injection.absent, injection.absent_here
    for path, why in unprovable(container, root, absent, context, absent_here):
        names = [name_of(type_) for type_ in path if type_ not in injection.provided]
        is_absent = path[-1] in absent or path[-1] in absent_here
        error_class = ConfigurationError if is_absent else MissingProvider
        asked = " -> ".join(f"`{name}`" for name in names)
        yield error_class(f"{plan.where}: it asks for {asked}: {why}")
    for guard in injection.guards:
        for scope in sorted(scopes_of(container, guard) - {Scope.REQUEST}):
            yield InvalidGuard(
                f"{plan.where}: its guard `{name_of(guard)}` has {scope}: it would be checked "
                "once and remembered past a revocation; provide it with Scope.REQUEST"
            )


def _payloads_provided(plan: Plan, container: AsyncContainer) -> Iterable[ConfigurationError]:
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


def log_defaults(injection: Injection, container: AsyncContainer) -> None:
    """Log which parameters are never filled, and which return annotation is not used.

    A parameter that is never filled may have been meant for the payload.
    """
    plan = injection.plan
    if plan.undefined_result is not None:
        logger.info(
            "%s: its return annotation is not used: %s when the program runs; what it returns is "
            "sent as it is",
            plan.where,
            plan.undefined_result,
        )
    for dependency in injection.plan.dependencies:
        if dependency.default is not None and not any(
            scopes_of(container, Annotated[wanted, FromComponent(dependency.component)])
            for wanted in accepted(dependency)
        ):
            logger.info(
                "%s: nothing provides `%s: %s`: its default is always used",
                injection.plan.where,
                dependency.name,
                name_of(dependency.hint),
            )
