"""What is registered with dishka: context managers, the framework's own values, handlers."""

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from dishka import (
    AsyncContainer,
    BaseScope,
    FromComponent,
    Has,
    Provider,
    Scope,
    provide,
)
from websockets.http11 import Request

from websuckets.di.plan import REQUIRED, Dependency, Plan
from websuckets.envelope import Message
from websuckets.exc import ConfigurationError, NotAuthorized
from websuckets.security import CurrentUser
from websuckets.session import User
from websuckets.socket import Socket

__all__ = ["Injection", "WebSucketsProvider", "provide_context", "values_provider"]

_YIELDS_ITS_FIRST_ARGUMENT: Final = (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncGenerator,
    AsyncIterator,
    Generator,
    Iterator,
)


def provide_context(
    factory: Callable[..., AbstractAsyncContextManager[Any] | AbstractContextManager[Any]],
    *,
    provides: Any = None,
    scope: BaseScope = Scope.REQUEST,
    component: str | None = None,
) -> Provider:
    """A provider from whatever returns a context manager, sync or async.

    The context is entered when ``provides`` is first asked for in a scope and left when the scope
    closes; then its ``__aexit__`` gets the exception that ended the message, if one did. So
    ``provide_context(sessionmaker.begin, provides=AsyncSession)`` commits what succeeded and rolls
    back what did not. Suppressing the exception there has no effect.

    The factory's own parameters are dependencies, by their hints. Without ``provides`` its return
    hint says what is provided: the ``T`` of ``AbstractAsyncContextManager[T]``, or of the iterator
    of a function under ``@asynccontextmanager``.

    Raises `ConfigurationError` where neither says it.
    """
    hints = {} if isinstance(factory, type) else _hints(factory)
    if provides is None:
        provides = factory if isinstance(factory, type) else _entered(hints.get("return"))
    if provides is None:
        raise ConfigurationError(
            f"provide_context({factory!r}): what does it provide? Say `provides=`, or annotate "
            "the factory's result: `-> AbstractAsyncContextManager[T]`"
        )

    async def entered(
        *arguments: Any, **keywords: Any
    ) -> AsyncGenerator[Any, BaseException | None]:
        manager: Any = factory(*arguments, **keywords)
        if isinstance(manager, AbstractAsyncContextManager):
            error = yield await manager.__aenter__()
            await manager.__aexit__(*_exit_arguments(error))
        else:
            error = yield manager.__enter__()
            manager.__exit__(*_exit_arguments(error))

    parameters = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    provider = Provider(scope=scope, component=component)
    provider.provide(_dressed(entered, factory, parameters), provides=provides)
    return provider


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    target: Any = getattr(factory, "func", factory)  # of a partial
    if not inspect.isroutine(target):
        target = type(target).__call__
    return get_type_hints(target, include_extras=True)


def _entered(result: Any) -> Any:
    """The type that the ``as`` of a ``with`` gets from what is annotated so."""
    if get_origin(result) in _YIELDS_ITS_FIRST_ARGUMENT:
        return get_args(result)[0]
    return None


def _exit_arguments(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _dressed(
    function: Callable[..., Any], named_as: Any, parameters: Iterable[inspect.Parameter]
) -> Callable[..., Any]:
    """``function`` with another's name and with parameters that dishka reads as dependencies."""
    dressed: Any = function
    dressed.__signature__ = inspect.Signature(list(parameters))
    dressed.__annotations__ = {
        p.name: p.annotation for p in dressed.__signature__.parameters.values()
    }
    dressed.__module__ = getattr(named_as, "__module__", __name__)
    dressed.__name__ = getattr(named_as, "__name__", type(named_as).__name__)
    dressed.__qualname__ = getattr(named_as, "__qualname__", dressed.__name__)
    return function


class WebSucketsProvider(Provider):
    """What every scope of websuckets holds: the connection, its client, and the message.

    ``connection_types`` are the transports' own types of connections; all stand for one object.
    """

    def __init__(self, connection_types: Iterable[type]) -> None:
        super().__init__()
        for provides in (Socket, *connection_types, Request, User):
            self.from_context(provides, scope=Scope.SESSION)
        self.from_context(Message, scope=Scope.REQUEST)

    @provide(scope=Scope.REQUEST)
    async def current_user_if_any(self, container: AsyncContainer) -> CurrentUser | None:
        try:
            return await container.get(CurrentUser)
        except NotAuthorized:
            return None


def values_provider(values: Mapping[Any, object], scope: BaseScope = Scope.APP) -> Provider:
    """Objects that exist already, by the type that they are injected as."""
    provider = Provider(scope=scope)
    for provides, value in values.items():
        provider.provide(_constant(value), provides=provides)
    return provider


def _constant(value: object) -> Callable[[], object]:
    return lambda: value


@dataclass(frozen=True, slots=True)
class Injection:
    """What one command needs of the container, as one dependency of its own (REQUEST scope).

    Resolving ``key`` checks the guards in their order, then builds the dependencies in theirs,
    and gives these as a tuple. As part of the graph it is proved when the container is built.
    """

    plan: Plan
    guards: tuple[Any, ...]
    key: Any = field(init=False)
    providers: tuple[Provider, ...] = field(init=False)

    def __post_init__(self) -> None:
        name = getattr(self.plan.function, "__qualname__", "handler")
        key = type(name, (), {"__module__": "command"})
        guards_count = len(self.guards)

        def resolve(*resolved: Any) -> tuple[Any, ...]:
            return resolved[guards_count:]

        hints = list(self.guards)
        providers = [Provider(scope=Scope.REQUEST)]
        for dependency in self.plan.dependencies:
            if dependency.default is REQUIRED:
                hints.append(dependency.hint)
            else:
                hint, provider = _with_default(dependency)
                hints.append(hint)
                providers.append(provider)
        parameters = (
            inspect.Parameter(f"dependency_{n}", inspect.Parameter.POSITIONAL_ONLY, annotation=hint)
            for n, hint in enumerate(hints)
        )
        providers[0].provide(_dressed(resolve, self.plan.function, parameters), provides=key)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "providers", tuple(providers))

    def __bool__(self) -> bool:
        """Whether there is anything to inject or to guard."""
        return bool(self.guards or self.plan.dependencies)


def _with_default(dependency: Dependency) -> tuple[Any, Provider]:
    """A type that stands for the dependency or its default, and what provides it."""
    either: Any = type(f"{dependency.name} or its default", (), {"__module__": "parameter"})
    wanted = dependency.type
    provider = Provider(scope=Scope.REQUEST, component=dependency.component)
    missing = ~Has(wanted)
    provider.alias(wanted, provides=either, when=Has(wanted))
    bare = _without_none(wanted)
    if bare is not None:  # `db: Database | None = None` is filled by who provides a Database
        provider.alias(bare, provides=either, when=missing & Has(bare))
        missing &= ~Has(bare)
    provider.provide(_constant(dependency.default), provides=either, when=missing)
    return Annotated[either, FromComponent(dependency.component)], provider


def _without_none(hint: Any) -> Any:
    """``T`` of ``T | None``; ``None`` for every other type."""
    members = [member for member in get_args(hint) if member is not NoneType]
    return members[0] if len(members) == 1 and NoneType in get_args(hint) else None
