"""What is registered with dishka: context managers, the framework's own values, handlers."""

import inspect
import sys
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
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Self, TypeVar, Union, get_args, get_origin

from dishka import (
    AsyncContainer,
    BaseScope,
    FromComponent,
    Has,
    Provider,
    Scope,
    provide,
)
from dishka.exceptions import NoFactoryError
from dishka.provider import BaseProvider
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets.di.defaults import Default
from websuckets.di.graph import ASKS_FOR, ContextTypes
from websuckets.di.plan import REQUIRED, Dependency, Plan
from websuckets.envelope import Message
from websuckets.exc import ConfigurationError, NotAuthorized
from websuckets.functions import called, dressed, evaluated, own_kind, where
from websuckets.hints import alternatives, plain
from websuckets.security import CurrentUser
from websuckets.session import User
from websuckets.socket import ResponseHeaders, Socket, response_headers
from websuckets.tasks import ConnectionTasks, TaskSource

__all__ = [
    "Injection",
    "WebSucketsProvider",
    "context_types",
    "injection_of",
    "provide_context",
    "values_provider",
]

Function = TypeVar("Function", bound=Callable[..., Any])

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
    scope: BaseScope | None = None,
    component: str | None = None,
) -> Provider:
    """A provider from whatever returns a context manager, sync or async.

    The context is entered when ``provides`` is first asked for in a scope and left when the scope
    closes; then its ``__aexit__`` gets the exception that ended the message, if one did. So
    ``provide_context(sessionmaker.begin, provides=AsyncSession)`` commits what succeeded and rolls
    back what did not. Suppressing the exception there has no effect.

    The factory's own parameters are dependencies, by their hints, but for those with a default.
    Without ``provides`` its return hint says what is provided: the ``T`` of
    ``AbstractAsyncContextManager[T]``, or of the iterator of a function under
    ``@asynccontextmanager``.

    In the body of a `Provider` class it is written as an attribute, like dishka's ``provide``, and
    belongs to the scope of the class then if it has none of its own. Else its scope is REQUEST.

    Raises `ConfigurationError` where neither says it, and for what makes no context manager.
    """
    if not callable(factory):
        raise ConfigurationError(
            f"provide_context({factory!r}): it is no function; pass what makes the context, "
            "without calling it"
        )
    if own_kind(factory) == "stream" or inspect.isgeneratorfunction(called(factory)):
        raise ConfigurationError(
            f"provide_context({where(factory)}): a generator is no context manager; put "
            "@asynccontextmanager or @contextmanager on it"
        )
    if own_kind(factory) == "async":
        raise ConfigurationError(
            f"provide_context({where(factory)}): an async function gives no context manager; make "
            "it a plain one that returns it, or an async generator under @asynccontextmanager"
        )
    signature = inspect.signature(factory)
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is REQUIRED
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    hints = evaluated(
        {p.name: p.annotation for p in parameters if p.annotation is not p.empty}, factory
    )
    provides = provides or _entered(factory, signature)
    if provides is None:
        raise ConfigurationError(
            f"provide_context({where(factory)}): what does it provide? Say `provides=`, or "
            "annotate the factory's result: `-> AbstractAsyncContextManager[T]`"
        )

    async def entered(
        *arguments: Any, **keywords: Any
    ) -> AsyncGenerator[Any, BaseException | None]:
        manager: Any = factory(*arguments, **keywords)
        if isinstance(manager, AbstractAsyncContextManager):
            error = yield await manager.__aenter__()
            await manager.__aexit__(*_exit_arguments(error))
        elif not isinstance(manager, AbstractContextManager):
            raise TypeError(
                f"{where(factory)}: it gave an object of type {type(manager).__qualname__}, which "
                "is not a context manager"
            )
        else:
            error = yield manager.__enter__()
            manager.__exit__(*_exit_arguments(error))

    hinted = [p.replace(annotation=hints.get(p.name, p.empty)) for p in parameters]
    return _ContextProvider(dressed(entered, factory, hinted), provides, scope, component)


class _ContextProvider(Provider):
    """Result of `provide_context`: a provider, and an attribute of other providers."""

    def __init__(
        self,
        source: Callable[..., Any],
        provides: Any,
        scope: BaseScope | None,
        component: str | None,
    ) -> None:
        super().__init__(scope or Scope.REQUEST, component)
        self._source = source
        self._provides = provides
        self._own_scope = scope
        self._own_component = component
        self._number = self.provide(source, provides=provides).number

    def __get__(self, instance: object, owner: type) -> Any:
        """Return what dishka collects from attributes, with the defaults of their provider."""
        if not isinstance(instance, Provider):
            return self
        if self._own_component not in (None, instance.component):
            raise ConfigurationError(
                f"{owner.__qualname__}: provide_context(component={self._own_component!r}) stands "
                "in a class of another component; drop it, or give it to providers=[...] alone"
            )
        scope = self._own_scope or instance.scope or Scope.REQUEST
        composite = Provider(scope).provide(self._source, provides=self._provides)
        composite.number = self._number  # providers win over those before them
        return composite.__get__(instance, owner)


def _entered(factory: Callable[..., Any], signature: inspect.Signature) -> Any:
    """The type that the ``as`` of a ``with`` gets, if the factory's hints say so."""
    if isinstance(factory, type):
        enter = getattr(factory, "__aenter__", None) or getattr(factory, "__enter__", None)
        result = _result(enter, inspect.signature(enter)) if enter is not None else None
        return factory if result in (None, Self) else result
    result = _result(factory, signature)
    yields = get_origin(result) in _YIELDS_ITS_FIRST_ARGUMENT
    return plain(get_args(result)[0]) if yields else None


def _result(function: Callable[..., Any], signature: inspect.Signature) -> Any:
    """What the function's hint says that it returns; ``None`` if that is not to be known."""
    if signature.return_annotation is signature.empty:
        return None
    try:
        return plain(evaluated({"return": signature.return_annotation}, function)["return"])
    except NameError:
        return None


def _exit_arguments(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _asking_for(hints: Mapping[Any, bool]) -> Callable[[Function], Function]:
    """Say what a factory asks the container for, so that it is proved; see `ASKS_FOR`."""

    def say(function: Function) -> Function:
        setattr(function, ASKS_FOR, hints)
        return function

    return say


class WebSucketsProvider(Provider):
    """What every scope of websuckets holds: the connection, its client, and the message.

    It is among `WebSuckets.providers`. By itself it completes a container in which providers of
    scope SESSION and REQUEST are tested without an app.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connection_types: tuple[type, ...] = _connection_types()
        """By which a dependency can ask for the connection; all stand for one object."""
        context = (Socket, *self.connection_types, Request, User, TaskSource)
        self.of_connection: tuple[Any, ...] = (*context, ConnectionTasks, ResponseHeaders)
        """Types of which there is an object while there is a connection."""
        self.of_message: tuple[Any, ...] = (Message, CurrentUser, CurrentUser | None)
        """Types of which there is an object while a message is handled."""
        for provides in context:
            self.from_context(provides, scope=Scope.SESSION)
        self.from_context(Message, scope=Scope.REQUEST)

    @provide(scope=Scope.SESSION)
    async def connection_tasks(self, source: TaskSource) -> ConnectionTasks:
        return ConnectionTasks(await source.open())

    @provide(scope=Scope.SESSION)
    def response_headers(self, socket: Socket) -> ResponseHeaders:
        return response_headers(socket)

    @provide(scope=Scope.REQUEST)
    @_asking_for({CurrentUser: True})
    async def current_user_if_any(self, container: AsyncContainer) -> CurrentUser | None:
        try:
            return await container.get(CurrentUser)
        except NotAuthorized:
            return None


def context_types(providers: Iterable[BaseProvider]) -> ContextTypes:
    """Return the types of what the framework passes to the scopes that it opens."""
    types: dict[BaseScope, set[Any]] = {}
    for provider in providers:
        if isinstance(provider, WebSucketsProvider):
            for variable in provider.context_vars:
                assert variable.scope is not None
                types.setdefault(variable.scope, set()).add(variable.provides.type_hint)
    return types


def _connection_types() -> tuple[type, ...]:
    """That of trio is among them if the program has imported it: it cannot be named otherwise."""
    module = sys.modules.get("websockets.trio.server")
    trio_types = () if module is None else (module.ServerConnection,)
    return (ServerConnection, *trio_types)


def values_provider(
    values: Mapping[Any, object], scope: BaseScope = Scope.APP, component: str | None = None
) -> Provider:
    """Objects that exist already, by the type that they are injected as."""
    provider = Provider(scope=scope, component=component)
    for provides, value in values.items():
        provider.provide(_constant(value), provides=provides)
    return provider


def _constant(value: object) -> Callable[[], object]:
    return lambda: value


@dataclass(frozen=True, slots=True)
class Injection:
    """What a command or hook needs of the container, as one dependency of its own (REQUEST scope).

    Resolving ``key`` checks the guards in their order, then builds the dependencies in theirs, and
    gives these as a tuple. As part of the graph it is proved when the container is built.
    """

    plan: Plan
    guards: tuple[Any, ...]
    key: Any
    providers: tuple[Provider, ...]
    provided: frozenset[Any]
    """All types that ``providers`` provide: ``key``, and one for each dependency with a default."""
    needs_scope: bool
    """Whether there is anything to inject or to guard."""
    absent: Mapping[Any, str]
    """Types of which there is no object where it is injected, and why."""


def injection_of(
    plan: Plan, guards: tuple[Any, ...] = (), absent: Mapping[Any, str] | None = None
) -> Injection:
    """What a function with this plan, behind these guards, needs."""

    hints = list(guards)
    places: list[int] = []
    """Of each dependency, among what is resolved."""

    key = _new_type(
        getattr(plan.function, "__qualname__", "function"), "hook" if plan.is_hook else "command"
    )
    providers = [Provider(scope=Scope.REQUEST)]
    provided = {key}
    for dependency in plan.dependencies:
        if dependency.hint in guards:  # it is there already
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
    parameters = (
        inspect.Parameter(f"dependency_{n}", inspect.Parameter.POSITIONAL_ONLY, annotation=hint)
        for n, hint in enumerate(hints)
    )
    resolve = dressed(_picking(places), plan.function, parameters)
    providers[0].provide(resolve, provides=key)
    needs_scope = bool(guards or plan.dependencies)
    return Injection(
        plan, guards, key, tuple(providers), frozenset(provided), needs_scope, absent or {}
    )


def _picking(places: list[int]) -> Callable[..., tuple[Any, ...]]:
    """What gives, of its arguments, those in these places."""
    first = places[0] if places else 0
    if places == list(range(first, first + len(places))):  # as nearly always

        def pick_from(*arguments: Any) -> tuple[Any, ...]:
            return arguments[first : first + len(places)]

        return pick_from

    def pick(*arguments: Any) -> tuple[Any, ...]:
        return tuple([arguments[place] for place in places])

    return pick


def _new_type(name: str, module: str) -> Any:
    """A type that nobody else provides; the names are for dishka's drawings."""
    return type(name, (), {"__module__": module})


def _provider_with_default(dependency: Dependency, either: Any) -> Provider:
    """Provides as ``either`` what the dependency asks for, if anything does, or its default."""
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
    """Return whether a generic provider may provide it, which dishka's ``Has`` does not see."""
    return get_origin(hint) not in (None, Union, UnionType)


def _asking_for_first(dependency: Dependency, default: Default) -> Callable[..., Any]:
    """Return a factory that gives the first of the accepted types that is provided."""
    component = dependency.component
    hints = [Annotated[hint, FromComponent(component)] for hint in accepted(dependency)]

    @_asking_for(dict.fromkeys(hints, False))
    async def first(container: AsyncContainer) -> Any:
        for hint in accepted(dependency):
            try:
                return await container.get(hint, component)
            except NoFactoryError as error:
                if error.requested.type_hint != hint:  # something below it
                    raise
        return default.make()

    return first


def accepted(dependency: Dependency) -> list[Any]:
    """The types that fill a parameter with a default, best first.

    ``db: Database | None = None`` is also filled by who provides a ``Database``.
    """
    members = alternatives(dependency.type)
    optional = [member for member in members if member is not NoneType]
    return [dependency.type, *(optional if NoneType in members else ())]
