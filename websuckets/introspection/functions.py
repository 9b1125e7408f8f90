"""Functions that a program gives, below decorators, partials and bound methods."""

import builtins
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, Literal, TypeAlias, get_type_hints

from websuckets.introspection.hints import name_of, substituted, variables_of

__all__ = [
    "Kind",
    "called",
    "checked",
    "dressed",
    "evaluated",
    "kind_of",
    "own_kind",
    "place_of",
    "target_of",
    "where",
]

Kind: TypeAlias = Literal["async", "stream"]
"""Kind of a function's result: something to be awaited, or an async generator."""

_FLAGS: Final[dict[int, Kind]] = {
    inspect.CO_COROUTINE: "async",
    inspect.CO_ITERABLE_COROUTINE: "async",
    inspect.CO_ASYNC_GENERATOR: "stream",
}


def target_of(function: Callable[..., Any]) -> Any:
    """Return the function itself, below wrappers, partials, bound methods and ``__call__``."""
    *_, target = _layers(function)
    return target


def where(function: Callable[..., Any]) -> str:
    """Return the function's name, file and line, for errors."""
    target = target_of(function)
    module = getattr(target, "__module__", None)  # a method of a built-in object has none
    name = f"`{name_of(target)}`" if module is None else f"`{module}.{name_of(target)}`"
    place = place_of(function)
    return name if place is None else f"{name} ({place[0]}, line {place[1]})"


def place_of(function: Callable[..., Any]) -> tuple[str, int] | None:
    """Return the function's file and first line; ``None`` for a compiled function."""
    code = getattr(target_of(function), "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)


def kind_of(function: Callable[..., Any]) -> Kind | None:
    """Return the kind of a function's result, as far as it can be seen; ``None`` if it cannot.

    A plain function that wraps another one (``functools.wraps``) is taken to return what the
    wrapped function returns. A compiled function that does not show its kind is taken to be async.
    """
    for layer in _layers(function):
        kind = own_kind(layer)
        if kind is not None:
            return kind
    target = target_of(function)
    is_compiled = inspect.isroutine(target) and not isinstance(target, FunctionType)
    if is_compiled and getattr(target, "__module__", None) not in (None, "builtins"):
        return "async"
    return None


def checked(function: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """Return the function, or a wrapper that raises `TypeError` for a result of another kind.

    The kind of a plain function that wraps another function is only known once it is called.
    """
    if own_kind(function) == kind:
        return function

    def wrong(result: Any) -> TypeError:
        return TypeError(
            f"{where(function)}: it gave an object of type {type(result).__qualname__}; a "
            "decorator around an async function has to return what that function returns"
        )

    if kind == "async":

        async def awaited(*arguments: Any, **keywords: Any) -> Any:
            result = function(*arguments, **keywords)
            if not inspect.isawaitable(result):
                raise wrong(result)
            return await result

        return awaited

    def streamed(*arguments: Any, **keywords: Any) -> AsyncGenerator[Any, Any]:
        result = function(*arguments, **keywords)
        if not isinstance(result, AsyncGenerator):
            raise wrong(result)
        return result

    return streamed


def evaluated(
    annotations: dict[str, Any],
    of: Callable[..., Any],
    names: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return annotations, some of which may be strings, as the hints that they mean.

    Strings see the globals of the function ``of`` and ``names``. Type variables of a generic base
    class are replaced by their values in the class of the bound method that ``of`` is.

    Raises the errors of evaluating them: a `NameError` for an undefined name.
    """

    def annotated() -> None: ...

    annotated.__annotations__ = annotations
    hints = get_type_hints(annotated, _globals_of(of), dict(names or {}), include_extras=True)
    variables = _variables_of(of)
    return {name: substituted(hint, variables) for name, hint in hints.items()}


def dressed(
    function: Callable[..., Any], named_as: Any, parameters: Iterable[inspect.Parameter]
) -> Callable[..., Any]:
    """Return ``function`` with another's name and with the parameters that dishka is to read."""
    dressed: Any = function  # type checkers know no such attributes of a function
    dressed.__signature__ = inspect.Signature(list(parameters))
    dressed.__annotations__ = {
        p.name: p.annotation for p in dressed.__signature__.parameters.values()
    }
    dressed.__module__ = getattr(named_as, "__module__", __name__)
    # Not an identifier: dishka generates code with this name in it, next to names of its own.
    dressed.__qualname__ = f"{getattr(named_as, '__qualname__', type(named_as).__name__)}()"
    return function


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function and all functions that it wraps or binds, from the outside in."""
    while True:
        yield function
        if isinstance(function, partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not (inspect.isroutine(function) or isinstance(function, type)):
            function = type(function).__call__
        else:
            return


def own_kind(function: Any) -> Kind | None:
    """Return the kind of a function's result, without regard to wrapped functions."""
    function = called(function)
    if inspect.iscoroutinefunction(function):
        return "async"
    if inspect.isasyncgenfunction(function):
        return "stream"
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)  # of compiled functions
    return next((kind for flag, kind in _FLAGS.items() if flags & flag), None)


def called(function: Any) -> Any:
    """Return the function that a call of an object runs: ``__call__``, or the function itself."""
    is_function = inspect.isroutine(function) or isinstance(function, type | partial)
    return function if is_function else type(function).__call__


def _globals_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the names that the function's annotations see."""
    target = target_of(function)
    names_of_parts = ("__init__", "__new__") if isinstance(target, type) else ()
    for part in (*(getattr(target, name) for name in names_of_parts), target):
        if isinstance(names := getattr(part, "__globals__", None), dict):
            return names
    # A compiled function, or a class without code of its own.
    return vars(sys.modules.get(getattr(target, "__module__", None) or "", builtins))


def _variables_of(function: Callable[..., Any]) -> Mapping[Any, Any]:
    """Return the values of the type variables of the class that defines a bound method."""
    for layer in _layers(function):
        if isinstance(layer, MethodType):
            owner = layer.__self__
        elif not (inspect.isroutine(layer) or isinstance(layer, type | partial)):
            owner = layer
        else:
            continue
        alias = owner if isinstance(owner, type) else getattr(owner, "__orig_class__", type(owner))
        cls = owner if isinstance(owner, type) else type(owner)
        target = target_of(function)
        definer = next((base for base in cls.__mro__ if _defines(base, target)), cls)
        return variables_of(alias, definer)
    return {}


def _defines(cls: type, target: Any) -> bool:
    attribute = vars(cls).get(getattr(target, "__name__", ""))
    return attribute is not None and target_of(attribute) is target
