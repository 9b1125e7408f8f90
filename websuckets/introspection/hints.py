"""Type hints without aliases, metadata and type variables."""

import typing
from collections.abc import Callable, Hashable, Mapping
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin
from weakref import WeakValueDictionary

from dishka import FromComponent
from typing_extensions import TypeAliasType

__all__ = [
    "FromComponentMarker",
    "alternatives",
    "bare_type",
    "component_of",
    "is_alias_of_string",
    "metadata_of",
    "name_of",
    "open_variables",
    "plain",
    "shared_by_hint",
    "substituted",
    "variables_of",
]

T = TypeVar("T")

FromComponentMarker: Final = type(FromComponent())

_ALIASES: Final = (TypeAliasType, getattr(typing, "TypeAliasType", TypeAliasType))
"""Types of aliases: up to Python 3.13, `typing_extensions` has a type of its own."""


def bare_type(hint: Any) -> Any:
    """Return the hint without the metadata of ``Annotated``."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def component_of(hint: Any) -> str:
    """Return the dishka component that the hint names with ``FromComponent``, or the default."""
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((item.component for item in metadata if isinstance(item, FromComponentMarker)), "")


def name_of(thing: Any) -> str:
    """Return the name of a function or of a hint, as it is written where its names are imported."""
    thing = bare_type(thing)
    origin, arguments = get_origin(thing), get_args(thing)
    if origin in (Union, UnionType):
        return " | ".join(_name_of_argument(argument) for argument in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if arguments:
        return f"{name_of(origin)}[{', '.join(map(_name_of_argument, arguments))}]"
    return getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or repr(thing)


def _name_of_argument(argument: Any) -> str:
    if argument is NoneType:
        return "None"
    if argument is ...:
        return "..."
    if isinstance(argument, ForwardRef):
        return argument.__forward_arg__
    if isinstance(argument, list):  # parameters of a `Callable`
        return f"[{', '.join(map(_name_of_argument, argument))}]"
    return name_of(argument)


def plain(hint: Any) -> Any:
    """Return the hint without aliases around it (``type X = ...``), also inside ``Annotated``.

    An alias whose value is a string, as that of a recursive alias, stays: only pydantic knows which
    names the string sees.
    """
    origin = get_origin(hint)
    if is_alias_of_string(origin) or is_alias_of_string(hint):
        return hint
    if isinstance(origin, _ALIASES):
        return plain(_value_of(origin, get_args(hint)))
    if isinstance(hint, _ALIASES):
        return plain(hint.__value__)
    if origin is Annotated:
        inner, *metadata = get_args(hint)
        return Annotated[(plain(inner), *metadata)]
    return hint


def is_alias_of_string(hint: Any) -> bool:
    """Tell whether a hint is an alias (``TypeAliasType``) whose value is a string."""
    return isinstance(hint, _ALIASES) and isinstance(hint.__value__, str)


def _value_of(alias: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the hint that a generic alias stands for with these arguments."""
    return substituted(alias.__value__, dict(zip(alias.__type_params__, arguments, strict=True)))


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; of anything else, the hint itself."""
    hint = plain(hint)
    if get_origin(hint) in (Union, UnionType):
        return tuple(plain(member) for member in get_args(hint))
    return (hint,)


def metadata_of(hint: Any) -> tuple[Any, ...]:
    """Return the metadata of ``Annotated`` in the hint, or in a member of the union that it is."""
    return tuple(
        item
        for member in alternatives(hint)
        if get_origin(member) is Annotated
        for item in get_args(member)[1:]
    )


def substituted(hint: Any, arguments: Mapping[Any, Any]) -> Any:
    """Return the hint with type variables replaced by the arguments that are known for them."""
    if isinstance(hint, TypeVar):
        return arguments.get(hint, hint)
    parameters = _parameters_of(hint)
    if not any(parameter in arguments for parameter in parameters):
        return hint
    return hint[tuple(arguments.get(parameter, parameter) for parameter in parameters)]


def open_variables(hint: Any) -> list[Any]:
    """Return the type variables that the hint leaves open."""
    parameters = (hint,) if isinstance(hint, TypeVar) else _parameters_of(hint)
    if isinstance(hint, type) and not _generic_model(hint).get("args"):
        return []  # a generic model that is not subscripted: anything fits its variables
    return [parameter for parameter in parameters if isinstance(parameter, TypeVar)]


def variables_of(owner: Any, definer: type) -> dict[Any, Any]:
    """Return the values of the type variables of a generic base class in a class.

    ``owner`` is the class, or a generic alias of it (``Crud[Item]``), and ``definer`` the base.
    Variables for which nothing is known are left out.
    """
    arguments = _arguments_of(owner, definer)
    for variable in getattr(definer, "__parameters__", ()):
        if variable not in arguments and getattr(variable, "has_default", bool)():  # PEP 696
            arguments[variable] = variable.__default__
    return arguments


def _arguments_of(owner: Any, definer: type) -> dict[Any, Any]:
    origin = get_origin(owner) or owner
    parameters = getattr(origin, "__parameters__", ())
    arguments = dict(zip(parameters, get_args(owner), strict=False))
    if origin is definer:
        return arguments
    bases = vars(origin).get("__orig_bases__", origin.__bases__)
    way = next(base for base in bases if issubclass(get_origin(base) or base, definer))
    return _arguments_of(substituted(way, arguments), definer)


def _parameters_of(hint: Any) -> tuple[Any, ...]:
    """Return the type variables in a hint; a generic class that is not subscripted has none.

    A generic model has its own, because pydantic takes ``Model[T]`` for ``Model`` where ``T`` is
    the variable of the model.
    """
    if isinstance(hint, type):
        return tuple(_generic_model(hint).get("parameters", ()))
    if isinstance(hint, _ALIASES):
        return ()
    return tuple(getattr(hint, "__parameters__", ()))


def _generic_model(hint: type) -> Mapping[str, Any]:
    return getattr(hint, "__pydantic_generic_metadata__", {})


def shared_by_hint(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return the function that makes one object for all hints that mean the same, while it is used.

    Thousands of commands have some dozens of types, and pydantic takes much longer to read a type
    than we take for all else of a command. The objects must not depend on anything but the hint.
    """
    made: WeakValueDictionary[Hashable, T] = WeakValueDictionary()

    @wraps(make)
    def share(hint: Any) -> T:
        key = _meaning_of(hint)
        if key is None:
            return make(hint)
        found = made.get(key)
        if found is None:
            found = made[key] = make(hint)
        return found

    return share


def _meaning_of(hint: Any) -> Hashable | None:
    """Return a key that is equal only for hints that mean the same; ``None`` if none exists.

    Hints themselves are equal though the order of a union's members differs, which matters to
    pydantic; metadata and literals have an equality of their own.
    """
    if isinstance(hint, type):
        return hint
    origin, parts = get_origin(hint), [_meaning_of(part) for part in get_args(hint)]
    if not parts or None in parts:  # a bare alias, as `Tuple`, is not the alias of nothing
        return None
    return (origin, *parts) if isinstance(origin, type) or origin is Union else None
