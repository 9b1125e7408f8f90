"""Frames to messages and back: the wire format. Pure: no connection, no event loop."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Self

from pydantic_core import from_json, to_json

from websuckets.exc import InvalidMessage
from websuckets.introspection.strings import plain_string
from websuckets.protocol.refused_json import value_of

__all__ = [
    "CACHED_STRINGS",
    "Cancel",
    "ClientEvent",
    "CommandId",
    "Control",
    "Message",
    "Ping",
    "SentEvent",
    "decode",
    "encode_error",
    "encode_event",
    "encode_logged",
    "encode_offset",
    "encode_pong",
    "encode_result",
    "error_frame",
    "frame_head",
    "frame_tail",
    "logged_tail",
    "problem",
    "text_of",
    "with_subscribed",
    "without_constants",
]

MAX_ID_LENGTH: Final = 128
"""Greatest number of characters in a command's ``id`` that is a string."""

MAX_KEY_LENGTH: Final = 128
"""Greatest number of characters in a command's ``key``."""

MAX_ID_INTEGER: Final = 2**53
"""The largest ``id`` that is a number: JavaScript counts exactly up to it."""

MAX_OFFSET: Final = MAX_ID_INTEGER
"""The largest offset of an event in ``since``."""

MAX_EPOCH_LENGTH: Final = 128
"""Greatest number of characters in an epoch in ``since``."""

CACHED_STRINGS: Final = "keys"
"""Strings that the parser caches: keys alone, because passwords and tokens, which are values, would
stay in memory long after they were needed."""

CommandId = str | int | None


@dataclass(slots=True)  # not frozen, which would cost three times more for each message
class Message:
    """One command as the client sent it, without its payload; lives as long as it is handled."""

    event: str
    token: str | None = field(default=None, repr=False)
    id: CommandId = None
    key: str | None = field(default=None, repr=False)
    """Identifies the command for good, so that it takes effect once: see `IdempotencyStore`."""
    since: Mapping[str, tuple[str, int]] | None = field(default=None, repr=False)
    """Positions up to which the client has seen channels, each as epoch and offset: see
    `websuckets.history`."""


class Control:
    """A message to the connection itself, which no handler answers."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cancel(Control):
    """Control message that ends the running stream that answers the command ``id``."""

    id: str | int


@dataclass(frozen=True, slots=True)
class Ping(Control):
    """Control message that checks the connection; its number comes back in a pong."""

    number: str | float


class SentEvent:
    """Base class of all that a program sends as an event: `ClientEvent`, and `Event`."""

    __slots__ = ()


class ClientEvent(str, SentEvent):
    """A message for a client: a JSON text ``{"event": ..., "payload": ...}``.

    A `ClientEvent` is a ``str``, so that any connection sends it as it is, and keeps its ``event``
    and its ``payload``. The payload is anything that pydantic serialises: models,
    dataclasses, UUIDs, datetimes; it is encoded here, once, and later changes to it are not seen.

    Raises ``pydantic_core.PydanticSerializationError`` for a payload that has no JSON form, and
    `TypeError` for an event that is not a string.
    """

    __slots__ = ("event", "payload")

    event: str
    payload: Any

    def __new__(cls, event: str, payload: Any = None) -> "ClientEvent":
        if not isinstance(event, str):
            raise TypeError(
                f"ClientEvent: the event is a str, not {type(event).__name__}; what is sent with "
                "it is the payload"
            )
        event = plain_string(event)
        try:
            text = encode_event(event, payload, None)
        except Exception as error:
            error.add_note(
                f"while encoding the payload of ClientEvent({event!r:.80}); give a payload that "
                "pydantic serialises"
            )
            raise
        return cls._of_text(text, event, payload)

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
        """Return the event's name alone: payloads do not belong in logs."""
        return f"ClientEvent({self.event!r})"


def decode(frame: str | bytes) -> tuple[Message | Control, Any]:
    """Return the message of a frame, and its payload as parsed JSON: ``None`` if it has none.

    Raises `InvalidMessage` for everything that is neither a command nor a `Control`.
    """
    try:
        content = from_json(frame, allow_inf_nan=False, cache_strings=CACHED_STRINGS)
    except ValueError as error:
        unreadable = problem("json_invalid", f"Invalid JSON: {error}")
        id = value_of(frame, "id", MAX_ID_LENGTH)
        raise InvalidMessage([unreadable], id if _is_command_id(id) else None) from None
    if type(content) is not dict:
        raise InvalidMessage([problem("dict_type", "Input should be an object")])

    event, token, id = content.get("event"), content.get("token"), content.get("id")
    payload, key, since = content.get("payload"), content.get("key"), content.get("since")
    if (
        type(event) is str
        and (token is None or type(token) is str)
        and (id is None or _is_command_id(id))
        and (payload is None or _all_finite(payload))
        and (key is None or _is_key(key))
    ):
        if since is None:
            return Message(event, token, id, key), payload
        if _are_positions(since):
            seen = {name: (epoch, offset) for name, (epoch, offset) in since.items()}
            return Message(event, token, id, key, seen), payload
    if event is None and "event" not in content:
        if content.get("cancel") is not None:
            return _cancel(content), None
        if content.get("ping") is not None:
            return _ping(content), None
    raise _invalid(content)


def _invalid(content: dict[str, Any]) -> InvalidMessage:
    """Return an error with all that is wrong with the content."""
    event, token, id = content.get("event"), content.get("token"), content.get("id")
    problems = []
    if type(event) is not str:
        if "event" in content:
            problems.append(problem("string_type", "Input should be a valid string", "event"))
        else:
            problems.append(problem("missing", "Field required", "event"))
    if token is not None and type(token) is not str:
        problems.append(problem("string_type", "Input should be a valid string", "token"))
    if id is not None and not _is_command_id(id):
        id = None
        problems.append(_no_command_id("id"))
    key = content.get("key")
    if key is not None and not _is_key(key):
        text = f"Input should be a string of 1 to {MAX_KEY_LENGTH} characters, without U+0000"
        problems.append(problem("key_type", text, "key"))
    since = content.get("since")
    if since is not None:
        problems.extend(_problems_of_positions(since))
    if not _all_finite(content.get("payload")):
        problems.append(problem("finite_number", "Numbers should be finite", "payload"))
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
    raise InvalidMessage([problem("ping_type", text, "ping")], id if _is_command_id(id) else None)


def _no_command_id(field: str) -> dict[str, Any]:
    text = (
        f"Input should be a string of at most {MAX_ID_LENGTH} characters "
        "or an integer between -2^53 and 2^53"
    )
    return problem("id_type", text, field)


def encode_event(event: str, payload: Any, id: CommandId, *, more: bool = False) -> str:
    """Return a frame with an event; with ``id``, the frame is an answer to that command.

    ``more`` says that the frame is not the last answer.
    """
    return f"{frame_head(event)}{_to_text(payload)}{frame_tail(id, more=more)}"


def encode_result(event: str, result: Any, id: CommandId, *, more: bool = False) -> str:
    """Return a frame with a handler's result: a `ClientEvent`, or an event named ``event``."""
    if isinstance(result, ClientEvent):
        return f"{result[:-1]}{frame_tail(id, more=more)}"
    return encode_event(event, result, id, more=more)


def frame_head(event: str) -> str:
    """Return a frame up to its payload."""
    return f'{{"event":{_to_text(event)},"payload":'


def frame_tail(id: CommandId, *, more: bool) -> str:
    """Return the rest of a frame behind its payload."""
    rest = "" if id is None else f',"id":{_to_text(id)}'
    return f'{rest},"more":true}}' if more else f"{rest}}}"


def encode_error(error: str, details: Any, id: CommandId) -> str:
    """Return a frame that says that a command failed."""
    content = {"error": error, "details": details}
    if id is not None:
        content["id"] = id
    return _to_text(content)


def error_frame(error: str, details: bytes, id: CommandId) -> str:
    """Return a frame that says that a command failed, with ``details`` that are JSON already."""
    head = f'{{"error":{_to_text(error)},"details":'
    return f"{head}{text_of(details)}{frame_tail(id, more=False)}"


def logged_tail(channel: str) -> bytes:
    """Return what stands before the offset in each frame of a channel with history."""
    return b',"channel":' + to_json(channel) + b',"offset":'


def encode_logged(frame: bytes, tail: bytes, offset: int) -> bytes:
    """Return the frame of an event with its channel and its offset.

    ``frame`` is the event alone, and ``tail`` that of its channel, by `logged_tail`.
    """
    return b"%b%b%d}" % (frame[:-1], tail, offset)


def encode_offset(tail: bytes, offset: int) -> bytes:
    """Return the frame that stands for an event which its receiver does not get."""
    return b"{%b%d}" % (tail[1:], offset)


def with_subscribed(frame: str, subscribed: Mapping[str, Any]) -> str:
    """Return a reply together with the positions at which its command has subscribed."""
    return f'{frame[:-1]},"subscribed":{_to_text(subscribed)}}}'


def encode_pong(ping: Ping) -> str:
    """Return the frame that answers a ping."""
    return _to_text({"pong": ping.number})


def _to_text(value: Any) -> str:
    return text_of(to_json(value, inf_nan_mode="null"))


def text_of(data: bytes) -> str:
    """Return pydantic's output as a text that is JSON whatever a model's config says."""
    text = data.decode()
    return without_constants(text) if "N" in text or "I" in text else text


def without_constants(text: str) -> str:
    """Return pydantic's output, with null for ``NaN`` and ``Infinity`` that are in no string.

    ``ser_json_inf_nan="constants"`` of a model is stronger than the argument of `to_json`.
    """
    if "NaN" not in text and "Infinity" not in text:
        return text
    try:
        from_json(text, allow_inf_nan=False, cache_strings=CACHED_STRINGS)
        return text
    except ValueError:
        content = from_json(text, cache_strings=CACHED_STRINGS)
        return to_json(content, inf_nan_mode="null").decode()


def problem(type: str, text: str, *location: int | str) -> dict[str, Any]:
    """Return one item of an error's details, in the form in which pydantic has them."""
    return {"loc": list(location), "msg": text, "type": type}


def _is_command_id(id: Any) -> bool:
    if type(id) is str:
        return len(id) <= MAX_ID_LENGTH
    return type(id) is int and -MAX_ID_INTEGER <= id <= MAX_ID_INTEGER


def _is_key(key: Any) -> bool:
    return type(key) is str and 1 <= len(key) <= MAX_KEY_LENGTH and "\0" not in key


def _is_position(value: Any) -> bool:
    """Tell whether a value is an epoch and an offset."""
    if type(value) is not list or len(value) != 2:
        return False
    epoch, offset = value
    if type(epoch) is not str or not 1 <= len(epoch) <= MAX_EPOCH_LENGTH:
        return False
    return type(offset) is int and 0 <= offset <= MAX_OFFSET


def _are_positions(since: Any) -> bool:
    return type(since) is dict and all(map(_is_position, since.values()))


def _problems_of_positions(since: Any) -> Iterator[dict[str, Any]]:
    """Yield what is wrong with the ``since`` of a command."""
    if type(since) is not dict:
        yield problem("dict_type", "Input should be an object", "since")
        return
    for name, value in since.items():
        if not _is_position(value):
            text = (
                f"Input should be an array of an epoch, a string of 1 to {MAX_EPOCH_LENGTH} "
                "characters, and an offset, an integer between 0 and 2^53"
            )
            yield problem("position_type", text, "since", name)


def _all_finite(value: Any) -> bool:
    """Tell whether all numbers in parsed JSON are finite: ``1e400`` is read as infinity.

    The text does not tell in less time: an ``e`` behind a digit, or 309 digits in a row, are found
    at 1 to 10 ns for each character, and most values are strings.
    """
    # The types are the parser's own, and it bounds the depth: no subclasses, no recursion error.
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return kind is not float or isfinite(value)
    for item in value:
        kind = type(item)
        if kind is str or kind is int:
            continue
        if not (isfinite(item) if kind is float else _all_finite(item)):
            return False
    return True
