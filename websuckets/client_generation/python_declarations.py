"""Declared types of a contract as Python writes them: models, enumerations and aliases."""

import re
from collections.abc import Iterable
from keyword import kwlist
from typing import Final

from websuckets.client_generation.document import Contract
from websuckets.client_generation.names import Names, camel, snake
from websuckets.client_generation.python_layout import (
    docstring,
    indented,
    literal,
    one_line,
    spread,
)
from websuckets.client_generation.python_types import DATETIME, Imports, Types
from websuckets.client_generation.source import Part
from websuckets.client_generation.types import (
    ABSENT,
    ANYTHING,
    Constrained,
    Declaration,
    Enumeration,
    Field,
    Model,
    Type,
)

__all__ = ["BUILTINS", "declared_part", "field_names", "member_names", "type_name"]

BUILTINS: Final = (
    *("bool", "bytes", "dict", "float", "int", "list", "object", "set", "str", "tuple"),
    DATETIME,
)
"""Names in annotations that nothing within a class may have, since it would hide them."""

OF_MODELS: Final = (
    *("construct", "copy", "dict", "from_orm", "json", "parse_file", "parse_obj", "parse_raw"),
    *("schema", "schema_json", "update_forward_refs", "validate", "model_computed_fields"),
    *("model_config", "model_construct", "model_copy", "model_extra", "model_fields"),
    *("model_fields_set", "model_json_schema", "model_parametrized_name", "model_post_init"),
    "model_rebuild",
)
"""Names of pydantic's models, which no field may have."""

PROTECTED: Final = ("model_validate", "model_dump")
"""Beginnings of names of which pydantic warns."""

DIRECTIONS: Final = ("-Input", "-Output")

_METADATA: Final = re.compile(r"\b(?:Annotated|FieldInfo\([^()]*\))")
"""Parts of the titles of generic models that say nothing to people."""

_NOT_IN_KEYS: Final = re.compile(r"[^a-zA-Z0-9.\-_]")


def type_name(declared: Declaration) -> str:
    """Return the name of a declared type, as ``PageOfUser`` for the title ``Page[User]``.

    It is made of the title if pydantic has made the key of it, and else of the key, which tells
    apart what has the same title.
    """
    key = declared.key
    end = next((end for end in DIRECTIONS if key.endswith(end)), "")
    base = key.removesuffix(end)
    is_of_title = _NOT_IN_KEYS.sub("_", declared.title) == base
    name = _METADATA.sub("", declared.title) if is_of_title else base
    return camel(name) + end[1:]


def field_names(model: Model, types: Iterable[str]) -> dict[str, str]:
    """Return the names of the fields of a model, by their names on the wire.

    ``types`` are the names of the declared types, which no field hides.
    """
    names = Names([*kwlist, *BUILTINS, *OF_MODELS, *types])

    def style(name: str) -> str:
        made = snake(name)
        return f"field_{made}" if made.startswith(PROTECTED) else made

    return names.take_all([field.name for field in model.fields], style, "field")


def member_names(enumeration: Enumeration) -> list[str]:
    """Return the names of the members of an enumeration, in the order of its values."""
    names = Names()
    return [names.take(_member(value), "VALUE") for value in enumeration.values]


def _member(value: object) -> str:
    if isinstance(value, str):
        return snake(value).upper()
    return snake(f"value {value}".replace("-", "minus ")).upper()


def declared_part(declared: Declaration, contract: Contract, types: Types, uses: Imports) -> Part:
    """Return the part of a module that declares a type, with the imports that it ``uses``."""
    name = types.name(declared.key)
    match declared:
        case Model():
            return Part(name, _model(name, declared, contract, types, uses))
        case Enumeration(key=key, values=values, description=description):
            lines = [docstring([description])] if description else []
            lines += [""] * bool(lines)
            members = zip(types.members(key), values, strict=True)
            lines += [f"{member} = {literal(value)}" for member, value in members]
            base = uses.use(_enum_base(values))
            return Part(name, f"class {name}({base}):\n" + indented("\n".join(lines)))
    text, description = types.of(declared.type), declared.description
    if declared.key in contract.recursive:
        line = f"{name} = {uses.use('TypeAliasType')}({literal(name)}, {literal(text)})"
    else:
        line = f"{name}: {uses.use('TypeAlias')} = {text}"
    return Part(name, f"{line}\n{docstring([description])}" if description else line)


def _enum_base(values: tuple[object, ...]) -> str:
    if all(isinstance(value, str) for value in values):
        return "StrEnum"
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "IntEnum"
    return "Enum"


def _model(name: str, model: Model, contract: Contract, types: Types, uses: Imports) -> str:
    texts = [_field(field, model.key, contract, types, uses) for field in model.fields]
    names = types.fields(model.key)
    settings = []
    if model.extra is not None:
        settings.append('extra="allow"')
    if any(names[field.name] != field.name for field in model.fields):
        settings.append("populate_by_name=True")
    blocks = []
    extra = None
    if model.extra not in (None, ANYTHING):
        extra = f"Further fields are of the type ``{types.of(model.extra)}``."
    if model.description or extra:
        blocks.append(docstring([model.description, extra]))
    if settings:
        blocks.append(f"model_config = {uses.use('ConfigDict')}({', '.join(settings)})")
    if texts:
        blocks.append("\n".join(text for text, _ in texts))
    is_partial = any(is_partial for _, is_partial in texts)
    base = uses.use("PartialModel" if is_partial else "BaseModel")
    head = f"class {name}({base}):"
    if model.deprecated:
        text = literal(f"{one_line(model.title)} is deprecated.")
        head = f"@{uses.use('deprecated')}({text})\n{head}"
    return f"{head}\n" + indented("\n\n".join(blocks) or "pass")


def _field(
    field: Field, key: str, contract: Contract, types: Types, uses: Imports
) -> tuple[str, bool]:
    """Return the lines of a field, and true for one that makes its model a partial one."""
    name = types.fields(key)[field.name]
    default, is_partial = None, False
    unknown = None
    if not field.required:
        if field.default is not ABSENT:
            default = types.default(field.type, field.default)
            if default is None and field.default is not None:
                unknown = f"Default of the server: ``{one_line(literal(field.default))}``."
        if default is None:
            default, is_partial = "None", True
    options: list[str] = []
    if isinstance(field.type, Constrained) and not is_partial:
        type, options = types.of(field.type.type), types.rules(field.type)
    else:
        type = types.of(field.type)
    if is_partial and not contract.allows_null(field.type):
        type = f"{uses.use('Omittable')}[{type}]"
    if name != field.name:
        alias = literal(field.name)
        options += [f"validation_alias={alias}", f"serialization_alias={alias}"]
    if field.deprecated:
        options.append("deprecated=True")
    if field.secret:
        options.append("repr=False")
    head = f"{name}: {type}"
    if options:
        options = options if default is None else [f"default={default}", *options]
        line = spread(f"{head} = {uses.use('Field')}(", options, ")", depth=1)
    else:
        line = head if default is None else f"{head} = {default}"
    told = [field.description, unknown, _unchecked(field.type, types)]
    return (f"{line}\n{docstring(told)}" if any(told) else line), is_partial


def _unchecked(type: Type, types: Types) -> str | None:
    """Return a text for a pattern that only the server knows, as one with a lookahead."""
    if not isinstance(type, Constrained):
        return None
    pattern = dict(type.rules).get("pattern")
    if pattern is None or any(rule.startswith("pattern=") for rule in types.rules(type)):
        return None
    return f"The server holds it to the pattern ``{one_line(str(pattern))}``."
