"""JSON schemas of the types of an app, in the dialect that AsyncAPI has: draft 7.

pydantic writes schemas of draft 2020-12. The differences that matter are tuples, keywords beside a
``$ref``, which draft 7 ignores, and the ``discriminator``, which is a text in AsyncAPI.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

__all__ = ["Mode", "Schema", "Schemas"]

Schema: TypeAlias = dict[str, Any]

Mode: TypeAlias = Literal["validation", "serialization"]
"""Direction of a value: ``validation`` for what the server receives, ``serialization`` for what it
sends."""

REFERENCES: Final = "#/components/schemas/{model}"

DISCRIMINATOR: Final = "x-websuckets-discriminator"
"""Key under which a union has the property that tells its members apart, and their names."""


class Schemas:
    """Schemas of one document: those of models are shared, and the others refer to them."""

    def __init__(self) -> None:
        self._asked: list[tuple[TypeAdapter[Any], Mode, Schema]] = []

    def of(self, adapter: TypeAdapter[Any], mode: Mode) -> Schema:
        """Return the schema of a type, which is empty until `complete` is called."""
        schema: Schema = {}
        self._asked.append((adapter, mode, schema))
        return schema

    def complete(self) -> dict[str, Schema]:
        """Fill all schemas that were asked for; return those of the models, sorted by name."""
        if not self._asked:
            return {}
        made, shared = TypeAdapter.json_schemas(
            [(str(n), mode, adapter) for n, (adapter, mode, _) in enumerate(self._asked)],
            ref_template=REFERENCES,
            schema_generator=_Generator,
        )
        for n, (_, mode, schema) in enumerate(self._asked):
            schema.update(_in_draft_7(made[str(n), mode]))
        models = shared.get("$defs", {})
        return {name: _in_draft_7(models[name]) for name in sorted(models)}


class _Generator(GenerateJsonSchema):
    """Generator of schemas also for what only Python can tell: such values are any JSON.

    Of what the server sends, all fields are required that no value leaves out: one with a default
    has a value by then.
    """

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        """Tell whether each value has a ``field``; ``total`` is that of a class of dicts.

        The option ``json_schema_serialization_defaults_required`` of pydantic also requires the
        keys that a dict may lack.
        """
        if self.mode != "serialization":
            return super().field_is_required(field, total)
        if field["type"] == "typed-dict-field" and not field.get("required", total):
            return False
        is_left_out = field.get("init_only", False)  # pydantic 2.10 has these among the fields
        may_be_left_out = field.get("serialization_exclude_if") is not None
        return not (is_left_out or may_be_left_out or _may_be_missing(field))

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema of a value with a default, which may be ``None`` whatever the type is.

        pydantic does not hold defaults to their types, and writes them all the same.
        """
        made = super().default_schema(schema)
        if self.mode == "serialization" and made.get("default", ...) is None:
            inner = {key: value for key, value in made.items() if key != "default"}
            if not _allows_null(inner):
                return {"anyOf": [inner, {"type": "null"}], "default": None}
        return made

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema of a model."""
        return self._as_written(schema, super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """Return the schema of a dataclass."""
        return self._as_written(schema, super().dataclass_schema(schema))

    def _as_written(self, schema: Any, made: JsonSchemaValue) -> JsonSchemaValue:
        """Return what was ``made`` of the fields of a class that may have a serializer.

        A serializer that does not tell what it returns may leave any field out.
        """
        if self.mode == "serialization" and "serialization" in schema:
            return {key: value for key, value in made.items() if key != "required"}
        return made

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        """Return the schema of an object of a class that pydantic does not know.

        Such an object is written like the built-in class that its class derives from.
        """
        cls = schema["cls"]
        for base, written in _WRITTEN.items():
            if isinstance(cls, type) and issubclass(cls, base):
                return dict(written)
        return {}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Return the schema of decimals: texts of a format; numbers, too, where they are received.

        They may be written with an exponent, which the pattern does not know that some versions of
        pydantic add. Those that may be infinite have no format, because clients read finite ones.
        """
        made = super().decimal_schema(schema)
        is_finite = not schema.get(
            "allow_inf_nan", self._config.config_dict.get("allow_inf_nan", False)
        )
        for part in (made, *made.get("anyOf", ())):
            part.pop("pattern", None)
            if is_finite and part.get("type") != "number":
                # A union has the format, too, so that another union does not take its parts.
                part["format"] = "decimal"
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Return the schema of a dict, whose keys are texts also where they may be numbers else."""
        made = super().dict_schema(schema)
        if schema.get("keys_schema", {}).get("type") == "decimal":
            made["propertyNames"] = {"format": "decimal"}
        return made

    def handle_invalid_for_json_schema(
        self, schema: core_schema.CoreSchema | Any, error_info: str
    ) -> JsonSchemaValue:
        """Return the schema of any JSON, for a type of which pydantic knows no schema."""
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Do nothing: a default without JSON is left out of the schema."""


def _may_be_missing(schema: Any) -> bool:
    """Tell whether a value of pydantic's core schema may be ``MISSING``, which is not written."""
    match schema:
        case {"type": "missing-sentinel"}:
            return True
        case {"type": "union", "choices": choices}:
            return any(_may_be_missing(choice) for choice in choices)
        case {"schema": inner}:
            return _may_be_missing(inner)
    return False


def _allows_null(schema: Any) -> bool:
    """Tell whether null fits a schema of pydantic; false where another part of it has to tell."""
    if not isinstance(schema, dict) or not schema:
        return schema is not False
    if schema.get("type") == "null" or None in (schema.get("const", ...), *schema.get("enum", ())):
        return True
    return any(map(_allows_null, schema.get("anyOf", ())))


_WRITTEN: Final[Mapping[type, Schema]] = {
    str: {"type": "string"},
    bytes: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array"},
    frozenset: {"type": "array"},
}

_SCHEMA: Final = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
)
"""Keywords whose value is a schema."""

_LIST: Final = ("allOf", "anyOf", "oneOf")
"""Keywords whose value is a list of schemas."""

_MAPPING: Final = ("patternProperties", "properties")
"""Keywords whose value has schemas by name."""


def _in_draft_7(schema: Any) -> Any:
    """Return a schema of pydantic in draft 7; ``True`` and ``False`` are schemas, too."""
    if not isinstance(schema, dict):
        return schema
    made: Schema = {}
    for key, value in schema.items():
        if key in _LIST:
            made[key] = [_in_draft_7(item) for item in value]
        elif key in _MAPPING:
            made[key] = {name: _in_draft_7(item) for name, item in value.items()}
        elif key in _SCHEMA and not isinstance(value, list):
            made[key] = _in_draft_7(value)
        elif key == "discriminator" and isinstance(value, dict):
            made[DISCRIMINATOR] = value
        elif key == "default" and isinstance(value, float) and not isfinite(value):
            continue  # which JSON cannot write
        else:
            made[key] = value
    if "prefixItems" in made:
        made["additionalItems"] = made.pop("items", "maxItems" not in made)
        made["items"] = [_in_draft_7(item) for item in made.pop("prefixItems")]
    if "$ref" in made and len(made) > 1:
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made
