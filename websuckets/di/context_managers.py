"""Context managers of a program as providers: `provide_context`."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncContextDecorator,
    ContextDecorator,
)
from typing import Any, Final, Self, get_args, get_origin

from dishka import BaseScope, Provider, Scope

from websuckets.exc import ConfigurationError
from websuckets.introspection.functions import called, dressed, evaluated, own_kind, where
from websuckets.introspection.hints import name_of, plain

__all__ = ["DOUBTFUL", "provide_context"]

DOUBTFUL: Final = "doubt"
"""Attribute of a factory that holds a warning for the log of the start, or ``None``."""

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
    """Make a provider of a factory that returns a context manager, sync or async.

    The context is entered when ``provides`` is first asked for in a scope and left when the scope
    closes; then its ``__aexit__`` gets the exception that ended the message, if one did. So
    ``provide_context(sessionmaker.begin, provides=AsyncSession)`` commits what succeeded and rolls
    back what did not. Suppressing the exception there has no effect.

    The factory's own parameters are dependencies, by their hints, except those with a default.
    Without ``provides`` the factory's return hint gives the type that is provided: the ``T`` of
    ``AbstractAsyncContextManager[T]``, or of the iterator of a function under
    ``@asynccontextmanager``.

    In the body of a `Provider` class the result is written as an attribute, like dishka's
    ``provide``, and then has the scope of the class if it has no scope of its own. Otherwise its
    scope is REQUEST. ``component`` is dishka's component of the type, if it has one.

    Raises `ConfigurationError` if neither ``provides`` nor the hint gives a type, and for
    a factory that does not make a context manager.
    """
    if not callable(factory):
        raise ConfigurationError(
            f"provide_context({factory!r}): it is not a function; pass what makes the context, "
            "without calling it"
        )
    if isinstance(factory, AsyncContextDecorator | ContextDecorator):
        raise ConfigurationError(
            f"provide_context({factory!r}): it is a context, which can be entered once; pass what "
            "makes the context, without calling it"
        )
    if own_kind(factory) == "stream" or inspect.isgeneratorfunction(called(factory)):
        raise ConfigurationError(
            f"provide_context({where(factory)}): a generator is not a context manager; put "
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
        if parameter.default is parameter.empty
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

    setattr(entered, DOUBTFUL, _doubt_about(factory, provides))
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
        """Return the factories that dishka collects, with their provider's defaults."""
        if not isinstance(instance, Provider):
            return self
        if self._own_component not in (None, instance.component):
            raise ConfigurationError(
                f"{owner.__qualname__}: provide_context(component={self._own_component!r}) stands "
                "in a class of another component; drop it, or give it to providers=[...] alone"
            )
        scope = self._own_scope or instance.scope or Scope.REQUEST
        composite = Provider(scope).provide(self._source, provides=self._provides)
        composite.number = self._number  # a provider wins over providers before it
        return composite.__get__(instance, owner)


def _doubt_about(factory: Any, provides: Any) -> str | None:
    """Return the reason to doubt that a factory makes the contexts that the program means."""
    kind = type(factory)
    if not kind.__module__.startswith("sqlalchemy.") or not kind.__name__.endswith("sessionmaker"):
        return None
    return (
        f"provide_context({kind.__name__}, provides={name_of(provides)}): its sessions close "
        f"without a commit; write provide_context({kind.__name__}.begin, ...), unless every "
        "handler commits by itself"
    )


def _entered(factory: Callable[..., Any], signature: inspect.Signature) -> Any:
    """Return the type that the ``as`` of a ``with`` gets, if the factory's hints say so."""
    if isinstance(factory, type):
        enter = getattr(factory, "__aenter__", None) or getattr(factory, "__enter__", None)
        result = _result(enter, inspect.signature(enter)) if enter is not None else None
        return factory if result in (None, Self) else result
    result = _result(factory, signature)
    yields = get_origin(result) in _YIELDS_ITS_FIRST_ARGUMENT
    return plain(get_args(result)[0]) if yields else None


def _result(function: Callable[..., Any], signature: inspect.Signature) -> Any:
    """Return the type in the function's return hint; ``None`` if that cannot be known."""
    if signature.return_annotation is signature.empty:
        return None
    try:
        return plain(evaluated({"return": signature.return_annotation}, function)["return"])
    except NameError:
        return None


def _exit_arguments(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)
