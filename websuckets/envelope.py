"""Frames to meaning and back: the wire format. Pure: no connection, no event loop."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json
from typing_extensions import TypedDict

from websuckets.exc import ClientError, InvalidMessage

__all__ = [
    "ClientEvent",
    "Message",
    "PayloadValidator",
    "decode",
    "encode_error",
    "encode_event",
    "with_id",
]

MAX_ID_LENGTH: Final = 128
"""Characters of a command's ``id`` that is a string."""

MAX_ID_INTEGER: Final = 2**53
"""The largest ``id`` that is a number: what a JavaScript client can count to exactly."""

CommandId = str | int | None


@dataclass(frozen=True, slots=True)
class Message:
    """One command as the client sent it, without its payload. It lives as long as it is handled."""

    event: str
    token: str | None = field(default=None, repr=False)
    id: CommandId = None


class ClientEvent(str):
    """A message for a client: a JSON text ``{"event": ..., "payload": ...}``.

    It is a ``str``, so that any connection sends it as it is, and it keeps what it was made of as
    ``event`` and ``payload``. The payload is anything that pydantic serialises: models,
    dataclasses, UUIDs, datetimes; it is encoded here, once, and later changes to it are not seen.

    Raises ``pydantic_core.PydanticSerializationError`` for a payload that has no JSON form.
    """

    __slots__ = ("event", "payload")

    event: str
    payload: Any

    def __new__(cls, event: str, payload: Any = None) -> "ClientEvent":
        self = super().__new__(cls, encode_event(event, payload, None))
        self.event = event
        self.payload = payload
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.event, self.payload

    def __repr__(self) -> str:
        """The event's name alone: payloads do not belong in logs."""
        return f"ClientEvent({self.event!r})"


def decode(frame: str | bytes) -> tuple[Message, bool]:
    """What the frame says, and whether it carries a payload (``null`` is none).

    Raises `InvalidMessage` for everything that is not a command.
    """
    try:
        # Values are not cached: passwords and tokens would stay in memory.
        content = from_json(frame, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise InvalidMessage([_problem("json_invalid", f"Invalid JSON: {error}")]) from None
    if type(content) is not dict:
        raise InvalidMessage([_problem("dict_type", "Input should be an object")])

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
        text = (
            f"Input should be a string of at most {MAX_ID_LENGTH} characters "
            "or an integer between -2^53 and 2^53"
        )
        problems.append(_problem("id_type", text, "id"))
    if not _all_finite(content):
        problems.append(_problem("finite_number", "Numbers should be finite"))
    if problems:
        raise InvalidMessage(problems, id)
    return Message(event, token, id), content.get("payload") is not None  # type: ignore[arg-type]  # checked above


def encode_event(event: str, payload: Any, id: CommandId) -> str:
    """A frame that says ``event``; with ``id``, as the answer to that command."""
    content = {"event": event, "payload": payload}
    if id is not None:
        content["id"] = id
    return _to_text(content)


def with_id(event: ClientEvent, id: CommandId) -> str:
    """``event`` as the answer to the command ``id``, without encoding its payload again."""
    return event if id is None else f'{event[:-1]},"id":{_to_text(id)}}}'


def encode_error(error: str, details: Any, id: CommandId) -> str:
    """A frame that says that a command failed."""
    content = {"error": error, "details": details}
    if id is not None:
        content["id"] = id
    return _to_text(content)


class PayloadValidator:
    """Validates the payload of whole frames against one type; made once for each command."""

    def __init__(self, payload_type: Any) -> None:
        """Raises pydantic's own errors for a type that it cannot validate.

        Among them is a `NameError` for a model that names what is not defined yet.
        """
        fields: Any = {"payload": payload_type}
        frame: Any = TypedDict("frame", fields)  # type: ignore[misc]
        adapter = TypeAdapter(frame)
        if not adapter.pydantic_complete:
            adapter.rebuild()
        # The frame is read as JSON, so that strict models take UUIDs and dates from strings.
        self._validate = adapter.validator.validate_json

    def __call__(self, frame: str | bytes) -> Any:
        """The payload; raises a `ClientError` that never holds what was sent."""
        try:
            return self._validate(frame)["payload"]
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            problems = [_problem(d["type"], _text(d), *d["loc"][1:]) for d in details]
            raise ClientError("validation error", problems) from None


def _to_text(value: Any) -> str:
    return to_json(value, inf_nan_mode="null").decode()


def _problem(type: str, text: str, *location: int | str) -> dict[str, Any]:
    return {"loc": list(location), "msg": text, "type": type}


def _is_command_id(id: Any) -> bool:
    if type(id) is str:
        return len(id) <= MAX_ID_LENGTH
    return type(id) is int and -MAX_ID_INTEGER <= id <= MAX_ID_INTEGER


def _all_finite(value: Any) -> bool:
    """Whether no number in parsed JSON is too large for a float: ``1e400`` is read as infinity."""
    # The types are the parser's own, and it bounds the depth: no subclasses, no recursion error.
    if type(value) is float:
        return isfinite(value)
    items = value.values() if type(value) is dict else value
    return all(_all_finite(item) for item in items if type(item) in _MAY_BE_INFINITE)


_MAY_BE_INFINITE: Final = frozenset((float, dict, list))

# pydantic's texts for these quote the input, or a character of it.
_TEXTS_WITHOUT_INPUT: Final = {
    "bytes_invalid_encoding": "Data should be validly encoded",
    "import_error": "Input should be a valid import path",
    "timezone_offset": "Timezone offset is not the required one",
    "union_tag_invalid": "Input tag does not match any of the expected tags",
    "url_parsing": "Input should be a valid URL",
    "url_syntax_violation": "Input should be a valid URL",
    "uuid_parsing": "Input should be a valid UUID",
}


def _text(problem: ErrorDetails) -> str:
    type, text = problem["type"], problem["msg"]
    if "reason" in problem.get(
        "ctx", {}
    ):  # of pydantic's EmailStr: what is wrong at which character
        return text.partition(":")[0]
    return _TEXTS_WITHOUT_INPUT.get(type, text)
