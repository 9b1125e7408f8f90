"""Types of a contract as TypeScript writes them, and the declarations of those that have names."""

from collections.abc import Mapping
from typing import Any, Final

from websuckets.client_generation.source import Part
from websuckets.client_generation.types import (
    ABSENT,
    ANYTHING,
    Alias,
    Anything,
    Constants,
    Constrained,
    Declaration,
    Enumeration,
    Field,
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
from websuckets.client_generation.typescript_layout import (
    LENGTH,
    comment,
    indented,
    literal,
    property_name,
)

__all__ = ["Types", "alias"]

SCALARS: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "decimal": "string",
}
"""Types of JSON, by the kinds of scalars."""


class Types:
    """TypeScript types of one contract.

    ``names`` are those of the ``declared`` types by key.
    """

    def __init__(self, declared: Mapping[str, Declaration], names: Mapping[str, str]) -> None:
        self._declared = declared
        self._names = names

    def of(self, type: Type) -> str:
        """Return a type."""
        match type:
            case Anything():
                return "unknown"
            case Null():
                return "null"
            case Scalar(kind):
                return SCALARS[kind]
            case Constants(values):
                return " | ".join(map(literal, values))
            case ListOf(item):
                return self._list(item)
            case TupleOf(items, rest):
                return self._tuple(items, rest)
            case MapOf(value, key):
                return self._map(key, value)
            case UnionOf(members):
                return self._union(members)
            case Named(key):
                return self._names[key]
            case _:
                assert isinstance(type, Constrained)
                return self.of(type.type)

    def declaration(self, declared: Declaration) -> Part:
        """Return the part of a module that declares a type."""
        name = self._names[declared.key]
        match declared:
            case Model(description=description, deprecated=deprecated):
                told = comment([description, "@deprecated" if deprecated else None])
                return Part(name, told + self._model(name, declared), 1)
            case Enumeration(values=values, description=description):
                members = [literal(value) for value in values]
                return Part(name, comment([description]) + alias(name, members), 1)
            case _:
                assert isinstance(declared, Alias)
                members = [self.of(declared.type)]
                if isinstance(declared.type, UnionOf):
                    members = self._members(declared.type.members)
                return Part(name, comment([declared.description]) + alias(name, members), 1)

    def _list(self, item: Type) -> str:
        text = self.of(item)
        return f"({text})[]" if " | " in text else f"{text}[]"

    def _tuple(self, items: tuple[Type, ...], rest: Type | None) -> str:
        if rest is not None and not items:
            return self._list(rest)
        texts = [*map(self.of, items)]
        if rest is not None:
            texts.append(f"...{self._list(rest)}")
        return f"[{', '.join(texts)}]"

    def _map(self, key: Type, value: Type) -> str:
        # Not ``Record<string, ...>``, in which no alias may refer to itself.
        inner = key.type if isinstance(key, Constrained) else key
        text = self.of(value)
        if isinstance(inner, Constants):
            names = " | ".join(literal(str(one)) for one in inner.values)
            return f"{{ [key in {names}]?: {text} }}"
        if isinstance(inner, Named) and isinstance(self._declared[inner.key], Enumeration):
            return f"{{ [key in {self._names[inner.key]} & string]?: {text} }}"
        return f"{{ [key: string]: {text} }}"

    def _members(self, members: tuple[Type, ...]) -> list[str]:
        return list(dict.fromkeys(self.of(member) for member in members))

    def _union(self, members: tuple[Type, ...]) -> str:
        return "unknown" if ANYTHING in members else " | ".join(self._members(members))

    def _model(self, name: str, model: Model) -> str:
        lines = [self._field(field) for field in model.fields]
        if model.extra is not None:
            kind = self.of(model.extra)
            told = None if model.extra == ANYTHING else f"Further properties are of `{kind}`."
            # A narrower type would have to be that of the named properties, too.
            lines.append(f"{comment([told])}[key: string]: unknown;")
        if not lines:
            return f"export type {name} = Record<string, never>;"
        body = indented("\n".join(lines))
        return f"export interface {name} {{\n{body}\n}}"

    def _field(self, field: Field) -> str:
        tags = []
        has_default = not field.required and field.default not in (ABSENT, None)
        if has_default and not field.secret:
            tags.append(f"@defaultValue `{_short(field.default)}`")
        if field.deprecated:
            tags.append("@deprecated")
        mark = "" if field.required else "?"
        text = f"{property_name(field.name)}{mark}: {self.of(field.type)};"
        return comment([field.description, "\n".join(tags)]) + text


def alias(name: str, members: list[str]) -> str:
    """Return the declaration of a union of these members under a name."""
    line = f"export type {name} = {' | '.join(members)};"
    if len(line) <= LENGTH or len(members) == 1:
        return line
    return f"export type {name} =\n" + indented("\n".join(f"| {one}" for one in members)) + ";"


def _short(value: Any) -> str:
    text = literal(value).replace("`", "'")
    return text if len(text) <= 60 else f"{text[:57]}..."
