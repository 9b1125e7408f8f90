"""Reader of JSON schemas, as pydantic writes them and AsyncAPI has them (draft 7), into types."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from websuckets.client_generation.types import (
    ABSENT,
    ANYTHING,
    NULL,
    Alias,
    Constants,
    Constrained,
    Declaration,
    Enumeration,
    Field,
    ListOf,
    MapOf,
    Model,
    Named,
    Scalar,
    TupleOf,
    Type,
    UnionOf,
)

__all__ = ["declaration_of", "reference", "type_of"]

PREFIX: Final = "#/components/schemas/"

DISCRIMINATOR: Final = "x-websuckets-discriminator"

DECIMAL: Final = "decimal"
"""Format of texts that are decimal numbers, and of unions of such texts and numbers."""

RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "string": ("minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
"""Keywords that limit the values of a type, in the order in which they are written."""

TEXTS: Final = frozenset((*RULES["string"], "format"))
"""Keywords that tell something of texts alone."""

Schema = Mapping[str, Any]


def reference(schema: object) -> str | None:
    """Return the key of the declaration to which a schema refers; ``None`` if it does not."""
    found = schema.get("$ref") if isinstance(schema, dict) else None
    is_declared = isinstance(found, str) and found.startswith(PREFIX)
    return str(found).removeprefix(PREFIX) if is_declared else None


def declaration_of(key: str, schema: Schema) -> Declaration:
    """Return the declaration that the document has under a ``key``."""
    title, description = schema.get("title") or key, schema.get("description")
    if "enum" in schema:
        return Enumeration(key, title, tuple(schema["enum"]), description)
    if "const" in schema:
        return Enumeration(key, title, (schema["const"],), description)
    if schema.get("type") == "object" and "properties" in schema:
        required = schema.get("required", ())
        fields = tuple(
            _field(name, of, name in required) for name, of in schema["properties"].items()
        )
        more = schema.get("additionalProperties", False)
        extra = None if more is False else type_of(more)
        return Model(key, title, fields, description, extra, schema.get("deprecated", False))
    return Alias(key, title, type_of(schema), description)


def _field(name: str, schema: Any, required: bool) -> Field:
    known: Schema = schema if isinstance(schema, dict) else {}
    return Field(
        name,
        type_of(schema),
        required,
        known.get("default", ABSENT),
        known.get("description"),
        known.get("deprecated", False),
        known.get("format") == "password",
    )


def type_of(schema: Any) -> Type:
    """Return the type of a schema, which is any JSON where the schema says nothing of use."""
    if not isinstance(schema, dict):
        return ANYTHING
    if (key := reference(schema)) is not None:
        return Named(key)
    if schema.get("format") == DECIMAL:
        return _decimal(schema)
    if "const" in schema:
        return _constants([schema["const"]])
    if "enum" in schema:
        return _constants(schema["enum"])
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            tag = schema.get(DISCRIMINATOR, {}).get("propertyName")
            return _union(map(type_of, schema[keyword]), tag)
    if "allOf" in schema:
        parts = [type_of(part) for part in schema["allOf"]]
        return parts[0] if len(parts) == 1 else ANYTHING
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union((type_of({**schema, "type": one}) for one in kind), None)
    return _of_kind(kind, schema)


def _of_kind(kind: Any, schema: Schema) -> Type:
    match kind:
        case "null":
            return NULL
        case "boolean":
            return Scalar("boolean")
        case "integer" | "number":
            return _ruled(Scalar(kind), "number", schema)
        case "string":
            return _ruled(Scalar("string", schema.get("format")), "string", schema)
        case "array":
            return _array(schema)
        case "object":
            return _object(schema)
    return ANYTHING


def _decimal(schema: Schema) -> Type:
    """Return the type of decimal numbers, with the rules of the number that a union may have."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") == "number"]
    return _ruled(Scalar("decimal"), "number", parts[0] if parts else schema)


def _array(schema: Schema) -> Type:
    items = schema.get("items", True)
    if not isinstance(items, list):
        if schema.get("maxItems") == 0:
            return TupleOf(())
        return _ruled(ListOf(type_of(items), schema.get("uniqueItems", False)), "array", schema)
    more = schema.get("additionalItems", True)
    return TupleOf(tuple(map(type_of, items)), None if more is False else type_of(more))


def _object(schema: Schema) -> Type:
    value = schema.get("additionalProperties", True)
    patterns = list(schema.get("patternProperties", {}).values())
    if len(patterns) == 1:  # keys with a pattern
        value = patterns[0]
    names = schema.get("propertyNames", {})
    # All names are texts, of which pydantic tells the format alone.
    keys = type_of({"type": "string", **names} if names.keys() <= TEXTS else names)
    key = Scalar("string") if keys == ANYTHING else keys
    return _ruled(MapOf(ANYTHING if value is False else type_of(value), key), "object", schema)


def _ruled(type: Type, kind: str, schema: Schema) -> Type:
    """Return a type with those rules of a schema that limit it."""
    rules = tuple((name, schema[name]) for name in RULES[kind] if name in schema)
    return Constrained(type, rules) if rules else type


def _constants(values: Iterable[Any]) -> Type:
    found = tuple(values)
    if any(isinstance(value, list | dict) for value in found):
        return ANYTHING
    return NULL if found == (None,) else Constants(found)


def _union(types: Iterable[Type], discriminator: str | None) -> Type:
    members: list[Type] = []
    for type in types:
        nested = type.members if isinstance(type, UnionOf) and not type.discriminator else (type,)
        members += [member for member in nested if not _has(members, member)]
    if ANYTHING in members:
        return ANYTHING
    return members[0] if len(members) == 1 else UnionOf(tuple(members), discriminator)


def _has(members: Iterable[Type], type: Type) -> bool:
    """Tell whether a type is among others; 1 and true are not the same constant."""
    return any(repr(member) == repr(type) for member in members)
