"""Types of values that commands and events carry, in a form of no programming language.

`websuckets.client_generation.schemas` makes them of JSON schemas; a printer for each language
writes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

__all__ = [
    "ABSENT",
    "ANYTHING",
    "NULL",
    "Alias",
    "Anything",
    "Constants",
    "Constrained",
    "Declaration",
    "Enumeration",
    "Field",
    "ListOf",
    "MapOf",
    "Model",
    "Named",
    "Null",
    "Scalar",
    "TupleOf",
    "Type",
    "UnionOf",
    "is_nullable",
    "names_in",
]

ABSENT: Final = object()
"""Object that stands for a default that the document does not have."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Type of any JSON."""


@dataclass(frozen=True, slots=True)
class Null:
    """Type of ``null`` alone."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """Type of texts, numbers or truth values.

    ``kind`` is ``string``, ``integer``, ``number``, ``boolean`` or ``decimal``, which is written as
    a text. ``format`` is that of the schema of a text, as ``date-time``.
    """

    kind: str
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Constants:
    """Type of one of these JSON values, none of which is an array or an object."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    """Type of arrays; in those that are ``unique`` no two items are equal."""

    item: "Type"
    unique: bool = False


@dataclass(frozen=True, slots=True)
class TupleOf:
    """Type of arrays that begin with these items; further ones are of the type ``rest``."""

    items: "tuple[Type, ...]"
    rest: "Type | None" = None


@dataclass(frozen=True, slots=True)
class MapOf:
    """Type of objects with any keys."""

    value: "Type"
    key: "Type" = Scalar("string")


@dataclass(frozen=True, slots=True)
class UnionOf:
    """Type of values of one of the ``members``, told apart by the property ``discriminator``."""

    members: "tuple[Type, ...]"
    discriminator: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """Type that a declaration of the document has under this ``key``."""

    key: str


@dataclass(frozen=True, slots=True)
class Constrained:
    """Type of those values of another type that keep the rules of keywords of JSON schemas."""

    type: "Type"
    rules: tuple[tuple[str, Any], ...]


Type: TypeAlias = (
    Anything | Null | Scalar | Constants | ListOf | TupleOf | MapOf | UnionOf | Named | Constrained
)

ANYTHING: Final = Anything()
NULL: Final = Null()


@dataclass(frozen=True, slots=True)
class Field:
    """A property of a model, by its ``name`` on the wire."""

    name: str
    type: Type
    required: bool
    default: Any = ABSENT
    description: str | None = None
    deprecated: bool = False
    secret: bool = False
    """True for a value that nothing should show, as a password."""


@dataclass(frozen=True, slots=True)
class Model:
    """An object with named properties."""

    key: str
    title: str
    fields: tuple[Field, ...]
    description: str | None = None
    extra: Type | None = None
    """Type of further properties that the model keeps; ``None`` if it keeps none."""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A named set of texts, of numbers, or of both."""

    key: str
    title: str
    values: tuple[Any, ...]
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """A named type that is neither a model nor a set of values."""

    key: str
    title: str
    type: Type
    description: str | None = None


Declaration: TypeAlias = Model | Enumeration | Alias


def is_nullable(type: Type, declared: Mapping[str, Declaration]) -> bool:
    """Tell whether ``null`` is of a ``type``, whose named types are ``declared``."""
    return _is_nullable(type, declared, frozenset())


def _is_nullable(type: Type, declared: Mapping[str, Declaration], within: frozenset[str]) -> bool:
    match type:
        case Anything() | Null():
            return True
        case Constants(values):
            return None in values
        case UnionOf(members):
            return any(_is_nullable(member, declared, within) for member in members)
        case Constrained(inner):
            return _is_nullable(inner, declared, within)
        case Named(key) if key not in within:
            match declared[key]:
                case Alias(type=inner):
                    return _is_nullable(inner, declared, within | {key})
                case Enumeration(values=values):
                    return None in values
    return False


def names_in(thing: Type | Declaration) -> Iterator[str]:
    """Yield the keys of the declarations to which a type, or another declaration, refers."""
    match thing:
        case Named(key):
            yield key
        case ListOf(item):
            yield from names_in(item)
        case TupleOf(items, rest):
            for item in items:
                yield from names_in(item)
            if rest is not None:
                yield from names_in(rest)
        case MapOf(value, key_type):
            yield from names_in(key_type)
            yield from names_in(value)
        case UnionOf(members):
            for member in members:
                yield from names_in(member)
        case Constrained(inner) | Alias(type=inner):
            yield from names_in(inner)
        case Model(fields=fields, extra=extra):
            for field in fields:
                yield from names_in(field.type)
            if extra is not None:
                yield from names_in(extra)
