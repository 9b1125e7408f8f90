"""Containers: built and proved at start, and closed so that every finaliser runs."""

import logging
import math
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import coroutine
from typing import Any

import anyio
from dishka import (
    AsyncContainer,
    BaseScope,
    DependencyKey,
    Provider,
    Scope,
    make_async_container,
)
from dishka.exceptions import GraphMissingFactoryError
from dishka.registry import Registry

from websuckets.di.lock import lock_factory
from websuckets.di.plan import bare_type, component_of
from websuckets.di.providers import Injection
from websuckets.exc import (
    ConfigurationError,
    InvalidGuard,
    InvalidHandlerSignature,
    MissingProvider,
    report,
)

__all__ = ["build_container", "finalize", "scope_of"]

logger: logging.Logger = logging.getLogger("websuckets")


def build_container(
    providers: Iterable[Provider], injections: Iterable[Injection]
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
                errors.append(MissingProvider(str(error)))
            raise report(errors) from None
    for injection in proved:
        errors.extend(_misuses(injection, container))
    if errors:
        raise report(errors)
    return container


def _make(injections: Iterable[Injection], providers: Iterable[Provider]) -> AsyncContainer:
    # Handlers come first, so that the path to what is missing is drawn from them.
    handlers = (provider for injection in injections for provider in injection.providers)
    return make_async_container(*handlers, *providers, lock_factory=lock_factory)


def _missing(error: GraphMissingFactoryError, injection: Injection) -> str:
    """What to say of a handler for which something is missing, directly or further below."""
    asked = error.path[1].provides if len(error.path) > 1 else error.requested
    what = "what it asks for"
    for guard in injection.guards:
        if bare_type(guard) == asked.type_hint:
            what = f"its guard `{_name(asked.type_hint)}`"
    for dependency in injection.plan.dependencies:
        if dependency.type == asked.type_hint:
            what = f"parameter `{dependency.name}: {_name(asked.type_hint)}`"
    return (
        f"{injection.plan.where}: {what} cannot be provided; give what is missing to "
        "WebSuckets(providers=[...]), or, if it is what the client sends, put it second as "
        f"Payload[...]. {error}"
    )


def _misuses(injection: Injection, container: AsyncContainer) -> Iterable[ConfigurationError]:
    plan = injection.plan
    for guard in injection.guards:
        scope = scope_of(container, guard)
        if scope is not Scope.REQUEST:
            yield InvalidGuard(
                f"{plan.where}: its guard `{_name(bare_type(guard))}` has {scope}: it would be "
                "checked once and remembered past a revocation; provide it with Scope.REQUEST"
            )
    payload = plan.payload
    if payload is None or payload.marked:
        return
    for payload_type in payload.types:
        if scope_of(container, payload_type) is not None:
            name = _name(payload_type)
            yield InvalidHandlerSignature(
                f"{plan.where}: parameter `{payload.name}: {name}` stands where the client's "
                f"payload does, but the container provides {name}, too; write Payload[{name}] if "
                f"the client sends it, or FromDishka[{name}] if the container gives it"
            )


def _name(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or getattr(hint, "__name__", None) or str(hint)


def scope_of(container: AsyncContainer, hint: Any) -> BaseScope | None:
    """The scope in which the container provides ``hint``; ``None`` if it does not.

    The only place that reads dishka's graph beyond its documented interface.
    """
    key = DependencyKey(bare_type(hint), component_of(hint))
    root = container
    while root.parent_container is not None:
        root = root.parent_container
    registry: Registry | None = root.registry
    while registry is not None:
        factory = registry.get_factory(key)
        if factory is not None:
            return factory.scope
        registry = registry.child_registry
    return None


async def finalize(
    container: AsyncContainer,
    error: BaseException | None = None,
    *,
    timeout: float | None,
    cancelled: bool = False,
) -> None:
    """Close a scope: its finalisers run to their end, whoever cancels this task meanwhile.

    They get ``error``, the one that ended the scope, and have ``timeout`` seconds together; then
    each that is left is cancelled at its first ``await``, and an error is logged. ``cancelled``
    says that this task has been cancelled already.

    Raises dishka's ``ExitError`` with the errors of finalisers.
    """
    closing = container.__aexit__(None, error, None)
    if error is None and not cancelled:
        # Most scopes close without waiting for anything: those pay for no cancel scope.
        try:
            awaited = closing.send(None)
        except StopIteration:
            return
        closing = _resume(closing, awaited)

    deadline = anyio.current_time() + (math.inf if timeout is None else timeout)
    interruption: BaseException | None = None
    late = False
    try:
        while True:
            scope = anyio.CancelScope(shield=True, deadline=deadline)
            try:
                with scope:
                    await closing
                    break
            except anyio.get_cancelled_exc_class() as cancellation:
                interruption = cancellation  # asyncio's own Task.cancel(), which no shield stops
            late = late or scope.cancelled_caught
            # dishka forgets a finaliser once it has started it: closing again runs the next.
            closing = container.__aexit__(None, error, None)
    finally:
        if late:
            logger.error("finalisers took more than %s seconds and were cancelled", timeout)
        if interruption is not None:
            raise interruption


@coroutine
def _resume(started: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that is waiting for ``awaited``."""
    step: Callable[[Any], Any]
    while True:
        try:
            value = yield awaited
        except BaseException as error:
            step, argument = started.throw, error
        else:
            step, argument = started.send, value
        try:
            awaited = step(argument)
        except StopIteration as stop:
            return stop.value
