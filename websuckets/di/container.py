"""Containers: built and proved at start, and closed so that every finaliser runs."""

import logging
from collections.abc import Iterable
from typing import Annotated, Any

import anyio
from dishka import (
    AsyncContainer,
    BaseScope,
    DependencyKey,
    FromComponent,
    Scope,
    make_async_container,
)
from dishka.dependency_source import Factory
from dishka.entities.factory_type import FactoryType
from dishka.exceptions import GraphMissingFactoryError
from dishka.provider import BaseProvider
from dishka.registry import Registry

from websuckets.di.lock import lock_factory
from websuckets.di.plan import REQUIRED, bare_type, component_of, name_of
from websuckets.di.providers import Injection, accepted
from websuckets.exc import (
    ConfigurationError,
    InvalidGuard,
    InvalidHandlerSignature,
    MissingProvider,
    report,
)

__all__ = ["Work", "build_container", "close", "scopes_of", "tell_defaults"]

logger: logging.Logger = logging.getLogger("websuckets")


def build_container(
    providers: Iterable[BaseProvider], injections: Iterable[Injection]
) -> AsyncContainer:
    """A container (APP scope) in which every handler is known to find what it asks for.

    Raises a `ConfigurationError` that holds everything that is wrong with the handlers, and
    dishka's own errors for what is wrong among the providers.
    """
    providers, proved = tuple(providers), list(injections)
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
    if errors:
        raise report(errors)
    return container


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
            if dependency.type == error.requested.type_hint and plan.payload is None:
                remedy = " (if it is what the client sends, put it second, as Payload[...])"
    return (
        f"{plan.where}: {what} cannot be provided; give a provider of what is missing to "
        f"WebSuckets(providers=[...]){remedy}. {error}"
    )


def _misuses(injection: Injection, container: AsyncContainer) -> Iterable[ConfigurationError]:
    plan = injection.plan
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


def scopes_of(container: AsyncContainer, hint: Any) -> set[BaseScope]:
    """The scopes in which the container provides ``hint``: none, one, or several by conditions.

    The only place that reads dishka's graph beyond its documented interface.
    """
    root = container
    while root.parent_container is not None:
        root = root.parent_container
    return _scopes(root.registry, DependencyKey(bare_type(hint), component_of(hint)))


def _scopes(root: Registry, key: DependencyKey) -> set[BaseScope]:
    registry: Registry | None = root
    while registry is not None:
        factory = registry.get_factory(key)
        if factory is not None:
            return _scopes_of_factory(root, factory)
        registry = registry.child_registry
    return set()


def _scopes_of_factory(root: Registry, factory: Factory) -> set[BaseScope]:
    scopes = {factory.scope} if factory.scope is not None else set()
    for variant in factory.when_dependencies:  # one of which is chosen when it is built
        scopes |= _scopes_of_factory(root, variant)
    if factory.type is FactoryType.ALIAS:
        scopes |= _scopes(root, factory.dependencies[0])
    return scopes


class Work:
    """What a task does with one container after the other, and the cancel scope around it.

    The task enters ``scope`` once and stays inside while containers come and go. That makes closing
    them cheap, and lets finalisers leave cancel scopes that were entered inside of it. Time is
    counted from outside: whoever owns this calls `tick` now and then. It lives as long as the task.
    """

    __slots__ = ("_closing_for", "scope")

    def __init__(self) -> None:
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self._closing_for: int | None = None  # ticks

    def tick(self, most: int) -> None:
        """Cancel ``scope`` if a container has been closing for more than ``most`` ticks."""
        if self._closing_for is not None:
            self._closing_for += 1
            if self._closing_for > most:
                self.scope.cancel()

    @property
    def is_late(self) -> bool:
        """Whether ``scope`` was cancelled; then it has to be left, and is of no more use."""
        return self.scope.cancel_called

    async def close(self, container: AsyncContainer, error: BaseException | None = None) -> None:
        """Close a container: its finalisers run to their end, also when this task is cancelled.

        They get ``error``, the one that ended what the container was for. If it takes too long,
        which `is_late` tells afterwards, the finaliser that waits is cancelled, and so is each that
        is left at its first ``await``. A finaliser that asyncio's own ``Task.cancel()`` hits, which
        nothing can keep out, ends there, too, but those that are left run.

        Raises dishka's ``ExitError`` with the errors of finalisers, and what else ended one of them
        but for being late.
        """
        interruption: BaseException | None = None
        self.scope.shield = True
        self._closing_for = 0
        try:
            while True:
                try:
                    await container.__aexit__(None, error, None)
                    break
                except Exception as failures:  # all have run
                    if interruption is None:
                        raise
                    logger.error("finalisers failed", exc_info=failures)
                    break
                except BaseException as fatal:
                    # dishka forgets a finaliser once it has started it: again runs the next.
                    interruption = interruption or fatal
        finally:
            self._closing_for = None
            self.scope.shield = False
        if interruption is not None:
            is_cancellation = isinstance(interruption, anyio.get_cancelled_exc_class())
            if not (is_cancellation and self.is_late):
                raise interruption


async def close(container: AsyncContainer, *, timeout: float | None) -> None:
    """Close a container in ``timeout`` seconds; past that, an error is logged. Else as `Work`."""
    work = Work()
    with work.scope:
        if timeout is not None:
            work.scope.deadline = anyio.current_time() + timeout
        await work.close(container)
    _log_if_late(work, timeout)


def _log_if_late(work: Work, timeout: float | None) -> None:
    if work.is_late:
        logger.error("finalisers took more than %s seconds and were cancelled", timeout)
