"""Types of commands and events as Python writes them, with defaults, and what they import."""

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePosixPath
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field as PydanticField
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from websuckets.client_generation.document import Contract
from websuckets.client_generation.python_layout import literal
from websuckets.client_generation.types import (
    NULL,
    Alias,
    Anything,
    Constants,
    Constrained,
    Enumeration,
    ListOf,
    MapOf,
    Model,
    Named,
    Null,
    Scalar,
    TupleOf,
    Type,
    UnionOf,
)

__all__ = ["IMPORTS", "Imports", "Types"]

IMPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "collections.abc": ("AsyncGenerator", "Awaitable", "Callable", "Mapping"),
    "decimal": ("Decimal",),
    "enum": ("Enum", "IntEnum", "StrEnum"),
    "ipaddress": (
        *("IPv4Address", "IPv4Interface", "IPv4Network"),
        *("IPv6Address", "IPv6Interface", "IPv6Network"),
    ),
    "pathlib": ("PurePosixPath",),
    "typing": ("Annotated", "Any", "Final", "Literal", "TypeAlias", "Union"),
    "uuid": ("UUID",),
    "pydantic": (
        *("BaseModel", "ConfigDict", "Field"),
        *("IPvAnyAddress", "IPvAnyInterface", "IPvAnyNetwork", "TypeAdapter"),
    ),
    "typing_extensions": ("TypeAliasType", "deprecated"),
    "websuckets.client": ("CommandError",),
    "websuckets.client.generated": (
        *("AnyEvent", "ChannelEvent", "GeneratedClient", "Omittable", "PartialModel"),
        *("PresenceEvent", "Since", "Timeout", "TypedError", "TypedSubscription", "channel_name"),
    ),
}
"""Names that generated modules import, by their modules, in the order of isort."""

DATETIME: Final = "dt"
"""Name of the module ``datetime``: its classes are also usual names of fields."""

FORMATS: Final = {
    "date": "dt.date",
    "time": "dt.time",
    "date-time": "dt.datetime",
    "duration": "dt.timedelta",
    "uuid": "UUID",
    "uuid1": "UUID",
    "uuid3": "UUID",
    "uuid4": "UUID",
    "uuid5": "UUID",
    "uuid6": "UUID",
    "uuid7": "UUID",
    "uuid8": "UUID",
    "binary": "bytes",
    "ipv4": "IPv4Address",
    "ipv4interface": "IPv4Interface",
    "ipv4network": "IPv4Network",
    "ipv6": "IPv6Address",
    "ipv6interface": "IPv6Interface",
    "ipv6network": "IPv6Network",
    "ipvanyaddress": "IPvAnyAddress",
    "ipvanyinterface": "IPvAnyInterface",
    "ipvanynetwork": "IPvAnyNetwork",
    # Paths of the server, which another system must neither look for nor write in its own way.
    "path": "PurePosixPath",
    "file-path": "PurePosixPath",
    "directory-path": "PurePosixPath",
}
"""Types of texts, by the format of their schemas; all other texts are ``str``."""

UNIONS: Final = ("IPvAnyAddress", "IPvAnyInterface", "IPvAnyNetwork")
"""Types of texts that type checkers do not know as classes."""

RULES: Final = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "minProperties": "min_length",
    "maxProperties": "max_length",
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "pattern": "pattern",
}
"""Arguments of pydantic's ``Field``, by the keywords of schemas."""

MEASURED: Final = ("str", "bytes")
"""Classes of texts whose length pydantic can limit."""


EXPORTED: Final = ("AnyEvent", "PresenceEvent")
"""Imported names that users of the module need, too."""


def _imported(name: str) -> str:
    return f"{name} as {name}" if name in EXPORTED else name


class Imports:
    """Names that a generated module imports, as far as they are used."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def use(self, name: str) -> str:
        """Return a name of `IMPORTS`, or of a class of the module ``datetime``; import it."""
        self._used.add(DATETIME if name.startswith(f"{DATETIME}.") else name)
        return name

    def lines(self) -> Iterable[str]:
        """Yield the lines of the imports, in the order of isort."""
        if DATETIME in self._used:
            yield "import datetime as dt"
        is_standard = True
        for module, names in IMPORTS.items():
            if is_standard and module == "pydantic":
                is_standard = False
                yield ""
            used = [_imported(name) for name in names if name in self._used]
            if used and (line := f"from {module} import {', '.join(used)}"):
                if len(line) <= 100:
                    yield line
                else:
                    yield from (f"from {module} import (", *(f"    {name}," for name in used), ")")


class Types:
    """Python types of one contract.

    ``names`` are those of the declared types by key; ``fields`` are the names of the fields of
    models, by the key of the model and the name on the wire; ``members`` are those of the values of
    enumerations, by key, in their order.
    """

    def __init__(
        self,
        contract: Contract,
        imports: Imports,
        names: Mapping[str, str],
        fields: Mapping[str, Mapping[str, str]],
        members: Mapping[str, list[str]],
    ) -> None:
        self._declared = contract.declarations
        self._recursive = contract.recursive
        self._imports = imports
        self._names = names
        self._fields = fields
        self._members = members

    def name(self, key: str) -> str:
        """Return the name of a declared type."""
        return self._names[key]

    def fields(self, key: str) -> Mapping[str, str]:
        """Return the names of the fields of a model by those on the wire."""
        return self._fields[key]

    def members(self, key: str) -> list[str]:
        """Return the names of the members of an enumeration, in the order of its values."""
        return self._members[key]

    def of(self, type: Type) -> str:
        """Return a type as an annotation or an expression."""
        use = self._imports.use
        match type:
            case Anything():
                return use("Any")
            case Null():
                return "None"
            case Scalar():
                return self._scalar(type)
            case Constants(values):
                return self._constants(values)
            case ListOf(item, unique):
                cls = "set" if unique and self._is_hashable(item) else "list"
                return f"{cls}[{self.of(item)}]"
            case TupleOf(items, rest):
                return self._tuple(items, rest)
            case MapOf(value, key):
                name = self.of(key) if self._is_hashable(key) else "str"
                return f"dict[{name}, {self.of(value)}]"
            case UnionOf(members, discriminator):
                return self._union(members, discriminator)
            case Named(key):
                return self._names[key]
        inner, rules = self.of(type.type), self.rules(type)
        if not rules:
            return inner
        return f"{use('Annotated')}[{inner}, {use('Field')}({', '.join(rules)})]"

    def is_class(self, type: Type) -> bool:
        """Tell whether a type is written as a class, which may be given where a class is asked."""
        match type:
            case Scalar():
                return self._scalar(type) not in UNIONS
            case Named(key):
                return not isinstance(self._declared[key], Alias)
        return False

    def rules(self, type: Constrained) -> list[str]:
        """Return the rules of a type as arguments of pydantic's ``Field``."""
        written = []
        for name, value in type.rules:
            if name == "pattern" and not (isinstance(value, str) and _is_pattern(value)):
                continue
            if isinstance(type.type, Scalar) and type.type.kind == "string":
                if self._scalar(type.type) not in MEASURED:
                    continue
            text = _raw(value) if name == "pattern" else literal(value)
            written.append(f"{RULES[name]}={text}")
        return written

    def _scalar(self, type: Scalar) -> str:
        match type.kind:
            case "integer":
                return "int"
            case "number":
                return "float"
            case "boolean":
                return "bool"
            case "decimal":
                return self._imports.use("Decimal")
        name = FORMATS.get(type.format or "", "str")
        return name if name in ("bytes", "str") else self._imports.use(name)

    def _constants(self, values: tuple[Any, ...]) -> str:
        if any(isinstance(value, float) for value in values):
            kinds: list[Type] = [Scalar("number")]
            others = tuple(v for v in values if not isinstance(v, int | float))
            return " | ".join(
                [*map(self.of, kinds), *([self.of(Constants(others))] * bool(others))]
            )
        return f"{self._imports.use('Literal')}[{', '.join(map(literal, values))}]"

    def _tuple(self, items: tuple[Type, ...], rest: Type | None) -> str:
        if rest is None:
            return f"tuple[{', '.join(map(self.of, items)) or '()'}]"
        if not items:
            return f"tuple[{self.of(rest)}, ...]"
        # No type of Python has both certain first items and any number of others.
        return f"list[{self._union((*items, rest), None)}]"

    def _union(self, members: tuple[Type, ...], discriminator: str | None) -> str:
        if any(isinstance(member, Anything) for member in members):
            return self._imports.use("Any")
        others = list(dict.fromkeys(self.of(member) for member in members if member != NULL))
        text = " | ".join(others)
        tag = None if discriminator is None else self._tag(members, discriminator)
        if tag is not None and len(others) > 1:
            use = self._imports.use
            text = f"{use('Annotated')}[{text}, {use('Field')}(discriminator={literal(tag)})]"
            others = [text]
        if NULL in members:
            others.append("None")
        if len(others) > 1 and any(other.startswith("Annotated[") for other in others):
            # A type checker does not know that ``Annotated`` has the operator ``|``.
            return f"{self._imports.use('Union')}[{', '.join(others)}]"
        return " | ".join(others)

    def _tag(self, members: Iterable[Type], name: str) -> str | None:
        """Return the name of the field by which pydantic can tell models apart, if it can."""
        found = set()
        for member in members:
            declared = self._declared[member.key] if isinstance(member, Named) else None
            if not isinstance(declared, Model):
                return None
            field = next((field for field in declared.fields if field.name == name), None)
            if field is None or not isinstance(field.type, Constants):
                return None
            found.add(self._fields[declared.key][name])
        return found.pop() if len(found) == 1 else None

    def _is_hashable(self, type: Type) -> bool:
        match type:
            case Scalar() | Constants() | Null():
                return True
            case TupleOf(items, rest):
                return rest is None and all(map(self._is_hashable, items))
            case UnionOf(members):
                return all(map(self._is_hashable, members))
            case Constrained(inner):
                return self._is_hashable(inner)
            case Named(key):
                declared = self._declared[key]
                if isinstance(declared, Alias):
                    return key not in self._recursive and self._is_hashable(declared.type)
                return isinstance(declared, Enumeration)
        return False

    # Defaults

    def default(self, type: Type, value: Any) -> str | None:
        """Return an expression for a default, or ``None`` for one that Python does not write."""
        match type:
            case Anything():
                return literal(value) if _is_plain(value) else None
            case Null():
                return "None" if value is None else None
            case Scalar():
                return self._default_scalar(type, value)
            case Constants(values):
                is_one = any(value == one and _kind(value) is _kind(one) for one in values)
                return literal(value) if is_one else None
            case Constrained(inner):
                return self.default(inner, value)
            case Named(key):
                return self._default_named(key, value)
            case UnionOf(members):
                found = (self.default(member, value) for member in members)
                return next((text for text in found if text is not None), None)
            case ListOf(item, unique) if isinstance(value, list):
                texts = self._defaults((item,) * len(value), value)
                if texts is None or not (unique and self._is_hashable(item)):
                    return None if texts is None else f"[{', '.join(texts)}]"
                return f"{{{', '.join(texts)}}}" if texts else "set()"
            case TupleOf(items, None) if isinstance(value, list) and len(value) == len(items):
                texts = self._defaults(items, value)
                if texts is None:
                    return None
                return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"
            case MapOf(of, Scalar("string", None)) if isinstance(value, dict):
                texts = self._defaults((of,) * len(value), list(value.values()))
                if texts is None:
                    return None
                pairs = zip(map(literal, value), texts, strict=True)
                return f"{{{', '.join(f'{key}: {text}' for key, text in pairs)}}}"
        return None

    def _defaults(self, types: tuple[Type, ...], values: list[Any]) -> list[str] | None:
        texts = [self.default(type, item) for type, item in zip(types, values, strict=True)]
        return None if None in texts else [text for text in texts if text is not None]

    def _default_named(self, key: str, value: Any) -> str | None:
        match self._declared[key]:
            case Enumeration(values=values):
                for one, member in zip(values, self._members[key], strict=True):
                    if one == value and _kind(one) is _kind(value):
                        return f"{self._names[key]}.{member}"
                return None
            case Alias(type=inner):
                return self.default(inner, value)
        return None

    def _default_scalar(self, type: Scalar, value: Any) -> str | None:
        name = self._scalar(type)
        kind = _kind(value)
        if name in ("int", "bool", "str"):
            return literal(value) if kind.__name__ == name else None
        if name == "float":
            return literal(value) if kind in (int, float) else None
        if name == "Decimal" and kind in (int, float):
            value, kind = repr(value), str
        if kind is not str:
            return None
        if name == "bytes":
            return repr(value.encode())
        read = _READERS.get(name)
        return None if read is None else read(value)


def _read_time(name: str) -> Any:
    cls = getattr(dt, name.removeprefix("dt."))

    def read(value: str) -> str | None:
        try:
            cls.fromisoformat(value)
        except ValueError:
            return None
        return f"{name}.fromisoformat({literal(value)})"

    return read


def _read_duration(value: str) -> str | None:
    try:
        duration = TypeAdapter(dt.timedelta).validate_python(value)
    except ValidationError:
        return None
    parts = {"days": duration.days, "seconds": duration.seconds}
    parts["microseconds"] = duration.microseconds
    told = ", ".join(f"{name}={part}" for name, part in parts.items() if part)
    return f"dt.timedelta({told})"


def _read_text(name: str, cls: Any) -> Any:
    def read(value: str) -> str | None:
        try:
            cls(value)
        except (ValueError, InvalidOperation):
            return None
        return f"{name}({literal(value)})"

    return read


_READERS: Final = {
    **{name: _read_time(name) for name in ("dt.date", "dt.time", "dt.datetime")},
    "dt.timedelta": _read_duration,
    **{
        cls.__name__: _read_text(cls.__name__, cls)
        for cls in (
            *(Decimal, PurePosixPath, UUID),
            *(IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
        )
    },
}
"""Functions that return the expression of a default that is written as a text, by its class."""


def _kind(value: object) -> type:
    return type(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


@cache
def _is_pattern(pattern: str) -> bool:
    """Tell whether pydantic can hold texts to a pattern: it knows no lookaround."""
    try:
        TypeAdapter(Annotated[str, PydanticField(pattern=pattern)])
    except (SchemaError, PydanticUserError):
        return False
    return True


def _raw(pattern: str) -> str:
    """Return the literal of a pattern, raw where it can be."""
    is_raw = "\\" in pattern and pattern.isprintable() and '"' not in pattern
    return f'r"{pattern}"' if is_raw and not pattern.endswith("\\") else literal(pattern)
