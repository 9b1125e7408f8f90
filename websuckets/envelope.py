"""Frames to meaning and back: the wire format. Pure: no connection, no event loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from math import isfinite
from typing import Any, Final, NoReturn, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import CoreConfig, ErrorDetails, SchemaValidator, from_json, to_json
from typing_extensions import TypedDict

from websuckets.exc import ClientError, InvalidMessage
from websuckets.refused_json import value_of
from websuckets.strings import plain_string

__all__ = [
    "Cancel",
    "ClientEvent",
    "Control",
    "Message",
    "PayloadValidator",
    "Ping",
    "ResultEncoder",
    "ResultType",
    "decode",
    "encode_error",
    "encode_event",
    "encode_pong",
    "encode_result",
]

MAX_ID_LENGTH: Final = 128
"""Characters of a command's ``id`` that is a string."""

MAX_ID_INTEGER: Final = 2**53
"""The largest ``id`` that is a number: what a JavaScript client can count to exactly."""

MAX_PROBLEMS: Final = 32
"""Problems of a payload that its client is told of."""

MAX_LOCATION: Final = 32
"""Parts of the location of a problem: keys and indices."""

MAX_KEY: Final = 64
"""Characters of such a key, which the client may have chosen."""

MAX_TEXT: Final = 512
"""Characters of the text of a problem."""

MANY_VALUES: Final = 1000
"""Values in a frame from which on a validator stops at the first that does not fit."""

CACHED_STRINGS: Final = "keys"
"""Not the values: passwords and tokens would stay in memory long after they were needed."""

MAX_MISFITS: Final = 5
"""How many parts that do not fit are told of one result."""

CommandId = str | int | None


@dataclass(slots=True)  # not frozen: it is made for each message, and that costs three times more
class Message:
    """One command as the client sent it, without its payload. It lives as long as it is handled."""

    event: str
    token: str | None = field(default=None, repr=False)
    id: CommandId = None


class Control:
    """A message to the connection itself, which no handler answers."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cancel(Control):
    """What the client sends to end the running stream that answers the command ``id``."""

    id: str | int


@dataclass(frozen=True, slots=True)
class Ping(Control):
    """What the client sends to see whether the connection works, and gets back in a pong."""

    number: str | float


class ClientEvent(str):
    """A message for a client: a JSON text ``{"event": ..., "payload": ...}``.

    It is a ``str``, so that any connection sends it as it is, and it keeps what it was made of as
    ``event`` and ``payload``. The payload is anything that pydantic serialises: models,
    dataclasses, UUIDs, datetimes; it is encoded here, once, and later changes to it are not seen.

    Raises ``pydantic_core.PydanticSerializationError`` for a payload that has no JSON form, and
    `TypeError` for an event that is no string.
    """

    __slots__ = ("event", "payload")

    event: str
    payload: Any

    def __new__(cls, event: str, payload: Any = None) -> "ClientEvent":
        if not isinstance(event, str):
            raise TypeError(f"the event is a str, not {type(event).__name__}")
        event = plain_string(event)
        return cls._of_text(encode_event(event, payload, None), event, payload)

    @classmethod
    def _of_text(cls, text: str, event: str, payload: Any) -> Self:
        self = super().__new__(cls, text)
        self.event = event
        self.payload = payload
        return self

    def __copy__(self) -> "ClientEvent":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "ClientEvent":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return self._of_text, (str(self), self.event, self.payload)

    def __repr__(self) -> str:
        """The event's name alone: payloads do not belong in logs."""
        return f"ClientEvent({self.event!r})"


def decode(frame: str | bytes) -> tuple[Message | Control, bool]:
    """What the frame says, and whether it carries a payload (``null`` is none).

    Raises `InvalidMessage` for everything that is neither a command nor a `Control`.
    """
    try:
        content = from_json(frame, allow_inf_nan=False, cache_strings=CACHED_STRINGS)
    except ValueError as error:
        problem = _problem("json_invalid", f"Invalid JSON: {error}")
        id = value_of(frame, "id", MAX_ID_LENGTH)
        raise InvalidMessage([problem], id if _is_command_id(id) else None) from None
    if type(content) is not dict:
        raise InvalidMessage([_problem("dict_type", "Input should be an object")])

    event, token, id = content.get("event"), content.get("token"), content.get("id")
    payload = content.get("payload")
    if (
        type(event) is str
        and (token is None or type(token) is str)
        and (id is None or _is_command_id(id))
        and _all_finite(payload)
    ):
        return Message(event, token, id), payload is not None
    if event is None and "event" not in content:
        if content.get("cancel") is not None:
            return _cancel(content), False
        if content.get("ping") is not None:
            return _ping(content), False
    raise _invalid(content)


def _invalid(content: dict[str, Any]) -> InvalidMessage:
    """All that is wrong with it."""
    event, token, id = content.get("event"), content.get("token"), content.get("id")
    problems = []
    if type(event) is not str:
        if "event" in content:
            problems.append(_problem("string_type", "Input should be a valid string", "event"))
        else:
            problems.append(_problem("missing", "Field required", "event"))
    if token is not None and type(token) is not str:
        problems.append(_problem("string_type", "Input should be a valid string", "token"))
    if id is not None and not _is_command_id(id):
        id = None
        problems.append(_no_command_id("id"))
    if not _all_finite(content.get("payload")):
        problems.append(_problem("finite_number", "Numbers should be finite", "payload"))
    return InvalidMessage(problems, id)


def _cancel(content: dict[str, Any]) -> Cancel:
    cancelled, id = content["cancel"], content.get("id")
    if not _is_command_id(cancelled):
        raise InvalidMessage([_no_command_id("cancel")], id if _is_command_id(id) else None)
    return Cancel(cancelled)


def _ping(content: dict[str, Any]) -> Ping:
    number, id = content["ping"], content.get("id")
    if _is_command_id(number) or (type(number) is float and isfinite(number)):
        return Ping(number)
    text = f"Input should be a number, or a string of at most {MAX_ID_LENGTH} characters"
    problem = _problem("ping_type", text, "ping")
    raise InvalidMessage([problem], id if _is_command_id(id) else None)


def _no_command_id(field: str) -> dict[str, Any]:
    text = (
        f"Input should be a string of at most {MAX_ID_LENGTH} characters "
        "or an integer between -2^53 and 2^53"
    )
    return _problem("id_type", text, field)


def encode_event(event: str, payload: Any, id: CommandId, *, more: bool = False) -> str:
    """A frame that says ``event``; with ``id``, as the answer to that command.

    ``more`` says that it is not the last answer.
    """
    return f"{_opening(event)}{_to_text(payload)}{_closing(id, more=more)}"


def encode_result(event: str, result: Any, id: CommandId, *, more: bool = False) -> str:
    """A frame with what a handler gave: the event that it made itself, or one named ``event``."""
    if isinstance(result, ClientEvent):
        return f"{result[:-1]}{_closing(id, more=more)}"
    return encode_event(event, result, id, more=more)


def _opening(event: str) -> str:
    """A frame up to its payload."""
    return f'{{"event":{_to_text(event)},"payload":'


def _closing(id: CommandId, *, more: bool) -> str:
    """The rest of a frame behind its payload."""
    rest = "" if id is None else f',"id":{_to_text(id)}'
    return f'{rest},"more":true}}' if more else f"{rest}}}"


def encode_error(error: str, details: Any, id: CommandId) -> str:
    """A frame that says that a command failed."""
    content = {"error": error, "details": details}
    if id is not None:
        content["id"] = id
    return _to_text(content)


def encode_pong(ping: Ping) -> str:
    """Return the frame that answers a ping."""
    return _to_text({"pong": ping.number})


class PayloadValidator:
    """Validates the payload of whole frames against one type; made once for each command.

    Finding what is wrong costs far more than reading the frame: 64 KiB of ``{}`` where each should
    have six fields are 126,000 problems. So a list is validated until its first item that does not
    fit, and again as a whole only if the frame is small.
    """

    def __init__(self, payload_type: Any) -> None:
        """Raises pydantic's own errors for a type that it cannot validate.

        Among them is a `NameError` for a model that names what is not defined yet.
        """
        fields: Any = {"payload": payload_type}
        frame: Any = TypedDict("frame", fields)  # type: ignore[misc]  # made here, not written
        schema = _adapter(frame).core_schema
        fast = fail_fast_schema(schema)
        self._fails_fast: bool = fast is not schema
        self._validate = _validator(fast, is_changed=self._fails_fast)
        self._validate_all = cache(partial(_validator, schema))  # made when it is needed

    def __call__(self, frame: str | bytes) -> Any:
        """Return the payload.

        Raises a `ClientError` whose details name fields and keys, but hold no value that was sent.
        """
        try:
            return self._validate(frame)["payload"]
        except ValidationError as raised:
            error = raised
        raise ClientError("validation error", self._problems(frame, error)) from None

    def _problems(self, frame: str | bytes, error: ValidationError) -> list[dict[str, Any]]:
        """Return the first problems, and a last one that says so if there may be more."""
        is_all = not self._fails_fast
        if self._fails_fast and _number_of_values(frame) < MANY_VALUES:
            error, is_all = self._whole_error(frame, error), True
        details = error.errors(include_url=False, include_input=False)
        problems = [
            _problem(d["type"], _text(d)[:MAX_TEXT], *_location(d["loc"]))
            for d in details[:MAX_PROBLEMS]
        ]
        if not is_all or len(details) > MAX_PROBLEMS:
            problems.append(_problem("more_problems", MORE_PROBLEMS))
        return problems

    def _whole_error(self, frame: str | bytes, error: ValidationError) -> ValidationError:
        """Return the error that has the problems of every item."""
        try:
            self._validate_all()(frame)
        except ValidationError as whole:
            return whole
        return error  # a validator of the program's own has changed its mind


MORE_PROBLEMS: Final = (
    f"There may be more problems: at most {MAX_PROBLEMS} are told, and of a large payload only "
    "those of the first item of a list that does not fit"
)


def _validator(schema: Any, *, is_changed: bool = False) -> Any:
    """Return the function that validates frames.

    Of a schema that ``is_changed`` nothing must be replaced by the validators that models have
    themselves; pydantic has an argument for that since it does so.
    """
    # The frame is read as JSON, so that strict models take UUIDs and dates from strings.
    make: Any = partial(SchemaValidator, schema, CoreConfig(cache_strings=CACHED_STRINGS))
    if is_changed and "_use_prebuilt" in (SchemaValidator.__text_signature__ or ""):
        return make(_use_prebuilt=False).validate_json
    return make().validate_json


COLLECTIONS: Final = {"dict", "frozenset", "list", "set", "tuple"}
"""Types of core schemas that have ``fail_fast``, by which the first wrong item is the last one."""

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
"""Keys of core schemas under which there are others, in lists or by name perhaps."""


def fail_fast_schema(schema: Any) -> Any:
    """Return the core schema that stops at the first wrong item of each collection.

    It is the very ``schema`` where there are no such collections in it. Those within wrap
    validators stay as they are: some of these look at the problems, to leave wrong items out.
    """
    if isinstance(schema, list | tuple):
        items = [fail_fast_schema(item) for item in schema]
        is_same = all(new is old for new, old in zip(items, schema, strict=True))
        return schema if is_same else type(schema)(items)
    if not isinstance(schema, dict) or schema.get("type") == "function-wrap":
        return schema
    kind = schema.get("type")
    is_schema = isinstance(kind, str)  # or else schemas by name, as those of fields
    changes: dict[str, Any] = {"fail_fast": True} if is_schema and kind in COLLECTIONS else {}
    for key, within in schema.items():
        if not is_schema or key in SCHEMAS_WITHIN:
            new = fail_fast_schema(within)
            if new is not within:
                changes[key] = new
    return {**schema, **changes} if changes else schema


def _number_of_values(frame: str | bytes) -> int:
    """Return how many values a frame has at most: one more than commas and brackets."""
    if isinstance(frame, str):
        return 1 + frame.count(",") + frame.count("[") + frame.count("{")
    return 1 + frame.count(b",") + frame.count(b"[") + frame.count(b"{")


def _location(location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Give the parts of the location within the payload, cut to what a reply should hold."""
    for part in location[1 : MAX_LOCATION + 1]:
        yield part[:MAX_KEY] if isinstance(part, str) else part


@dataclass(frozen=True, slots=True)
class ResultType:
    """What a handler may return or yield, and how that is written as JSON."""

    write: Callable[[Any], bytes]
    """Raises for what does not fit, or has no JSON form."""
    takes_events: bool = True
    """Says that a `ClientEvent` fits."""

    @classmethod
    def of(cls, hint: Any, *, takes_events: bool) -> Self:
        """Return what fits ``hint``: it is converted to that type, and written as that type says.

        An instance of the type is taken as it is, and one of a subclass is written without what the
        subclass adds. Raises pydantic's own errors for a type that it cannot serialise, among them
        a `NameError` for a model that names what is not defined yet.
        """
        adapter = _adapter_for_results(hint)
        validate, write = adapter.validator.validate_python, adapter.serializer.to_json

        def write_fitting(value: Any) -> bytes:
            try:
                fitting = validate(value, from_attributes=True)
            except ValidationError as error:
                raise _misfit(value, error) from None
            return write(fitting, by_alias=True, warnings=False)

        return cls(write_fitting, takes_events)


def _write_anything(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="null")


ANYTHING: Final = ResultType(_write_anything)
"""Anything fits, and each object is written as it says itself."""


class ResultEncoder:
    """Frames with what the handler of one command returns or yields; made once for each command."""

    __slots__ = ("_none_fits", "_opening", "_takes_events", "_write")

    def __init__(self, event: str, result_type: ResultType) -> None:
        self._opening = _opening(event)
        self._write = result_type.write
        self._takes_events = result_type.takes_events
        try:
            self._write(None)
            self._none_fits = True
        except Exception:
            self._none_fits = False

    def reply(self, result: Any, id: CommandId) -> str | None:
        """The frame that answers a command; ``None`` for a command that needs no answer.

        Raises `TypeError` for a result that does not fit the annotation, and what pydantic raises
        for one that has no JSON form.
        """
        if result is None and id is None and self._none_fits:
            return None
        if isinstance(result, ClientEvent):
            return self._event(result, id, more=False)
        # Every reply comes by here: so no functions are called for what can be done in place.
        payload = self._write(result).decode()
        if "N" in payload or "I" in payload:  # one letter is looked for much faster than a word
            payload = _without_constants(payload)
        if type(id) is int:
            return f'{self._opening}{payload},"id":{id}}}'
        return f"{self._opening}{payload}{_closing(id, more=False)}"

    def item(self, item: Any, id: CommandId) -> str:
        """The frame with an item of a stream. Raises what `reply` does."""
        if isinstance(item, ClientEvent):
            return self._event(item, id, more=True)
        return f"{self._opening}{_text_of(self._write(item))}{_closing(id, more=True)}"

    def _event(self, event: ClientEvent, id: CommandId, *, more: bool) -> str:
        if not self._takes_events:
            raise TypeError("a ClientEvent does not fit its return annotation")
        return encode_result(event.event, event, id, more=more)


def _refuse(value: Any) -> NoReturn:
    raise TypeError(f"{_named(value)} does not fit its return annotation: it is no ClientEvent")


EVENTS: Final = ResultType(_refuse)
"""Only a `ClientEvent` fits."""


def _misfit(value: Any, error: ValidationError) -> TypeError:
    """Tell which part does not fit, without any value: it is written to the log."""
    details = error.errors(include_url=False, include_input=False)
    problems = [
        f"{'.'.join(map(str, detail['loc'])) or 'it'}: {_text(detail)}"
        for detail in details[:MAX_MISFITS]
    ]
    more = len(details) - MAX_MISFITS
    if more > 0:
        problems.append(f"and {more} more")
    return TypeError(f"{_named(value)} does not fit its return annotation: {'; '.join(problems)}")


def _named(value: Any) -> str:
    return f"an object of type {type(value).__qualname__}"


def _adapter(hint: Any) -> TypeAdapter[Any]:
    """The adapter for a type, which is complete. Raises pydantic's own errors."""
    adapter = TypeAdapter(hint)
    if not adapter.pydantic_complete:
        adapter.rebuild()
    return adapter


def _adapter_for_results(hint: Any) -> TypeAdapter[Any]:
    """The adapter for a type, which may be made of classes that pydantic does not know.

    Those are written like the built-in class that they derive from, as `Token` is one of ``str``.
    """
    try:
        return _adapter(hint)
    except PydanticSchemaGenerationError as error:
        try:
            adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # a class with a config of its own
            raise error from None
        unknown = list(_unknown_classes(adapter.core_schema))
        if not all(issubclass(cls, _WRITTEN) for cls in unknown):
            raise
        return adapter


_WRITTEN: Final = (str, bytes, int, float, dict, list, tuple, set, frozenset)


def _unknown_classes(schema: Any) -> Iterator[type]:
    """The classes in a core schema of which pydantic only looks whether an object is one."""
    if isinstance(schema, dict):
        if schema.get("type") == "is-instance":
            yield schema["cls"]
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from _unknown_classes(part)


def _to_text(value: Any) -> str:
    return _text_of(to_json(value, inf_nan_mode="null"))


def _text_of(data: bytes) -> str:
    """The text of what pydantic wrote, which is JSON whatever a model's config says."""
    text = data.decode()
    return _without_constants(text) if "N" in text or "I" in text else text


def _without_constants(text: str) -> str:
    """What pydantic wrote, with null for ``NaN`` and ``Infinity``, unless they stand in a string.

    ``ser_json_inf_nan="constants"`` of a model is stronger than what its writer is told.
    """
    if "NaN" not in text and "Infinity" not in text:
        return text
    try:
        from_json(text, allow_inf_nan=False, cache_strings=CACHED_STRINGS)
        return text
    except ValueError:
        content = from_json(text, cache_strings=CACHED_STRINGS)
        return to_json(content, inf_nan_mode="null").decode()


def _problem(type: str, text: str, *location: int | str) -> dict[str, Any]:
    return {"loc": list(location), "msg": text, "type": type}


def _is_command_id(id: Any) -> bool:
    if type(id) is str:
        return len(id) <= MAX_ID_LENGTH
    return type(id) is int and -MAX_ID_INTEGER <= id <= MAX_ID_INTEGER


def _all_finite(value: Any) -> bool:
    """Whether no number in parsed JSON is too large for a float: ``1e400`` is read as infinity."""
    # The types are the parser's own, and it bounds the depth: no subclasses, no recursion error.
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return kind is not float or isfinite(value)
    for item in value:
        if type(item) is not str and not _all_finite(item):
            return False
    return True


# pydantic's texts for these quote the input, or a part of it.
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


def _text(problem: ErrorDetails) -> str:
    type, text = problem["type"], problem["msg"]
    if type == "value_error" and text.startswith(_EMAIL):  # goes on with the character at fault
        return _EMAIL
    return _TEXTS_WITHOUT_INPUT.get(type, text)
