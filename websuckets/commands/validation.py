"""Payloads of commands, validated by pydantic, and the problems that clients are told of."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreConfig, ErrorDetails, SchemaValidator
from pydantic_core.core_schema import typed_dict_field, typed_dict_schema

from websuckets.exc import ClientError
from websuckets.protocol.messages import CACHED_STRINGS, problem

__all__ = ["PayloadValidator", "complete_adapter", "problem_text"]

MAX_PROBLEMS: Final = 32
"""Problems of a payload that are reported to its client."""

MAX_LOCATION: Final = 32
"""Parts of the location of a problem: keys and indices."""

MAX_KEY: Final = 64
"""Characters of a key in a location; the client may have chosen the key."""

MAX_TEXT: Final = 512
"""Characters of the text of a problem."""

MANY_VALUES: Final = 1000
"""Number of values in a frame from which on validation stops at the first wrong item of a list."""


class PayloadValidator:
    """Validator of the payload of whole frames against one type; made once for each command.

    Finding the errors costs far more than reading the frame: 64 KiB of ``{}`` where each should
    have six fields are 126,000 problems. So a list is validated until its first item that does not
    fit, and again as a whole only if the frame is small.

    Parsed JSON is validated as it is where the type gives the same for parsed JSON as for the text
    (see `reads_parsed`). Problems are always found in the text, because pydantic names the types of
    Python in problems of parsed JSON.
    """

    def __init__(self, payload_type: Any) -> None:
        """Make the validator; raise pydantic's own errors for a type that it cannot validate.

        Among the errors is a `NameError` for a model with a name that is not defined yet.
        """
        schema: Any = complete_adapter(payload_type).core_schema
        fast = fail_fast_schema(schema)
        self._fails_fast: bool = fast is not schema
        self._validate = _validator(fast, is_changed=self._fails_fast)
        self._validate_all = cache(partial(_validator, schema))  # made when it is needed
        self._validate_parsed: Callable[[Any], Any] | None = None
        if reads_parsed(fast):
            self._validate_parsed = _made(fast, is_changed=self._fails_fast).validate_python

    def __call__(self, frame: str | bytes, parsed: Any = None) -> Any:
        """Return the payload of a frame, of which ``parsed`` is the parsed JSON if that was kept.

        Raises a `ClientError` whose details name fields and keys, but hold no value that was sent.
        """
        if parsed is not None and self._validate_parsed is not None:
            try:
                return self._validate_parsed(parsed)
            except ValidationError:
                pass  # raised below, in terms of JSON
        try:
            return self._validate(frame)["payload"]
        except ValidationError as raised:
            error = raised
        raise ClientError("validation error", self._problems(frame, error)) from None

    def _problems(self, frame: str | bytes, error: ValidationError) -> list[dict[str, Any]]:
        """Return the first problems, and a last problem that says so if there may be more."""
        is_all = not self._fails_fast
        if self._fails_fast and _number_of_values(frame) < MANY_VALUES:
            error, is_all = self._whole_error(frame, error), True
        details = error.errors(include_url=False, include_input=False)
        problems = [
            problem(d["type"], problem_text(d)[:MAX_TEXT], *_location(d["loc"]))
            for d in details[:MAX_PROBLEMS]
        ]
        if not is_all or len(details) > MAX_PROBLEMS:
            problems.append(problem("more_problems", MORE_PROBLEMS))
        return problems

    def _whole_error(self, frame: str | bytes, error: ValidationError) -> ValidationError:
        """Return the error that has the problems of every item."""
        try:
            self._validate_all()(frame)
        except ValidationError as whole:
            return whole
        return error  # a validator of the program gave another result this time


MORE_PROBLEMS: Final = (
    f"There may be more problems: at most {MAX_PROBLEMS} are told, and of a large payload only "
    "those of the first item of a list that does not fit"
)


def _validator(schema: Any, *, is_changed: bool = False) -> Any:
    """Return the function that validates frames whose payload has this core schema."""
    # The frame is read as JSON, so that strict models take UUIDs and dates from strings.
    return _made(_frame_schema(schema), is_changed=is_changed).validate_json


def _frame_schema(schema: Any) -> Any:
    """Return the core schema of frames whose payload has this core schema."""
    if schema["type"] == "definitions":  # pydantic has these outermost
        return {**schema, "schema": _frame_schema(schema["schema"])}
    is_required = schema["type"] != "default"  # pydantic refuses a required field with a default
    return typed_dict_schema({"payload": typed_dict_field(schema, required=is_required)})


def _made(schema: Any, *, is_changed: bool) -> SchemaValidator:
    """Return the validator of a schema.

    In a schema that ``is_changed``, nothing must be replaced by the validators that models have
    themselves; versions of pydantic that replace parts have an argument to prevent the replacement.
    """
    make: Any = partial(SchemaValidator, schema, CoreConfig(cache_strings=CACHED_STRINGS))
    validator: SchemaValidator
    if is_changed and "_use_prebuilt" in (SchemaValidator.__text_signature__ or ""):
        validator = make(_use_prebuilt=False)
    else:
        validator = make()
    return validator


CONVERTED: Final = {
    "date",
    "datetime",
    "definition-ref",
    "enum",
    "float",
    "frozenset",
    "int",
    "set",
    "time",
    "tuple",
    "uuid",
}
"""Types of core schemas that a union prefers for JSON text, and not for parsed JSON, where their
values are other objects of Python; a reference may refer to one of these types.

Numbers are here for pydantic 2.10, which takes long integers of a union from parsed JSON alone.
"""


def reads_parsed(schema: Any, *, in_union: bool = False) -> bool:
    """Tell whether a core schema gives the same for parsed JSON as for the JSON text.

    True for models, lists, tuples and sets of JSON's types, and for dates, times, UUIDs, enums and
    literals. False for strict schemas, for types that JSON has a form of its own for (bytes,
    decimals, time deltas), and for validators of the program, which may ask for the mode. False for
    dicts, and because of pydantic 2.10 for dataclasses and typed dicts: of a key that comes twice,
    the text has both values, and both are validated. False also where anything fits: the handler
    would get the parsed objects themselves, and could change what a middleware that tries again
    passes on.
    """
    if not isinstance(schema, dict):  # a choice of a union that has a label
        return False
    kind, config = schema["type"], schema.get("config", {})
    if schema.get("strict") or config.get("strict") or schema.get("custom_init"):
        return False
    if "allow" in (schema.get("extra_behavior"), config.get("extra_fields_behavior")):
        return False
    if kind == "literal":
        return {str, int, bool}.issuperset(map(type, schema["expected"]))
    if kind in CONVERTED and in_union:
        return False
    if kind in ALONE:
        return True
    parts = _parts_of(schema)
    in_union = in_union or kind == "union"
    return parts is not None and all(reads_parsed(part, in_union=in_union) for part in parts)


ALONE: Final = {
    *("bool", "date", "datetime", "definition-ref", "enum", "float", "int", "none", "str", "time"),
    "uuid",
}
"""Types of core schemas with no schemas within."""


def _parts_of(schema: Any) -> Iterable[Any] | None:
    """Return the schemas on which the result of `reads_parsed` depends; ``None`` if it is false."""
    parts: Iterable[Any] | None = None
    match schema["type"]:
        case "model" | "model-field":
            parts = [schema["schema"]]
        case "nullable" | "default":
            parts = [schema["schema"]]
        case "list" | "set" | "frozenset" if "items_schema" in schema:
            parts = [schema["items_schema"]]
        case "tuple":
            parts = schema["items_schema"]
        case "model-fields":
            parts = schema["fields"].values()
        case "union":
            parts = schema["choices"]
        case "tagged-union" if isinstance(schema["discriminator"], str):
            parts = schema["choices"].values()
        case "definitions":
            parts = [*schema["definitions"], schema["schema"]]
    return parts


COLLECTIONS: Final = {"dict", "frozenset", "list", "set", "tuple"}
"""Types of core schemas that have ``fail_fast``, which stops validation at the first wrong item."""

SCHEMAS_WITHIN: Final = {
    "arguments_schema",
    "choices",
    "definitions",
    "extras_schema",
    "fields",
    "items_schema",
    "json_schema",
    "keys_schema",
    "lax_schema",
    "python_schema",
    "schema",
    "steps",
    "strict_schema",
    "values_schema",
}
"""Keys of core schemas under which there are other schemas, maybe in lists or by name."""


def fail_fast_schema(schema: Any) -> Any:
    """Return the core schema that stops at the first wrong item of each collection.

    A schema without collections is returned itself. Collections within wrap validators stay as they
    are: some wrap validators read the problems, to leave wrong items out.
    """
    if isinstance(schema, list | tuple):
        items = [fail_fast_schema(item) for item in schema]
        is_same = all(new is old for new, old in zip(items, schema, strict=True))
        return schema if is_same else type(schema)(items)
    if not isinstance(schema, dict) or schema.get("type") == "function-wrap":
        return schema
    kind = schema.get("type")
    is_schema = isinstance(kind, str)  # or else schemas by name, such as the schemas of fields
    changes: dict[str, Any] = {"fail_fast": True} if is_schema and kind in COLLECTIONS else {}
    for key, within in schema.items():
        if not is_schema or key in SCHEMAS_WITHIN:
            new = fail_fast_schema(within)
            if new is not within:
                changes[key] = new
    return {**schema, **changes} if changes else schema


def _number_of_values(frame: str | bytes) -> int:
    """Return the most values that a frame may have: one more than commas and brackets."""
    if isinstance(frame, str):
        return 1 + frame.count(",") + frame.count("[") + frame.count("{")
    return 1 + frame.count(b",") + frame.count(b"[") + frame.count(b"{")


def _location(location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Yield the parts of the location within the payload, cut to a length that suits a reply."""
    for part in location[1 : MAX_LOCATION + 1]:
        yield part[:MAX_KEY] if isinstance(part, str) else part


def complete_adapter(hint: Any) -> TypeAdapter[Any]:
    """Return the complete adapter for a type; raise pydantic's own errors."""
    adapter = TypeAdapter(hint)
    if not adapter.pydantic_complete:
        adapter.rebuild()
    return adapter


# pydantic's texts for these problems quote the input, or a part of the input.
_TEXTS_WITHOUT_INPUT: Final = {
    "base64_decode": "Input should be valid base64",
    "byte_size_unit": "Input should have a valid byte unit",
    "bytes_invalid_encoding": "Data should be validly encoded",
    "import_error": "Input should be a valid import path",
    "payment_card_number_brand": "Card number does not have the length that its brand requires",
    "timezone_offset": "Timezone offset is not the required one",
    "union_tag_invalid": "Input tag does not match any of the expected tags",
    "url_parsing": "Input should be a valid URL",
    "url_syntax_violation": "Input should be a valid URL",
    "uuid_parsing": "Input should be a valid UUID",
    "zoneinfo_str": "Input should be a valid timezone",
}
_EMAIL: Final = "value is not a valid email address"


def problem_text(problem: ErrorDetails) -> str:
    type, text = problem["type"], problem["msg"]
    if type == "value_error" and text.startswith(_EMAIL):  # then the character at fault follows
        return _EMAIL
    return _TEXTS_WITHOUT_INPUT.get(type, text)
