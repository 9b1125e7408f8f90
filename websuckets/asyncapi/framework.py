"""Part of an AsyncAPI document that is in those of all apps: the framework's own messages."""

from collections.abc import Mapping
from typing import Final

from websuckets.asyncapi.keys import key_of
from websuckets.asyncapi.schemas import Schema
from websuckets.asyncapi.writer import Writer, object_schema, text
from websuckets.protocol.messages import (
    MAX_EPOCH_LENGTH,
    MAX_ID_INTEGER,
    MAX_ID_LENGTH,
    MAX_KEY_LENGTH,
    MAX_OFFSET,
)

__all__ = [
    "ERRORS",
    "EVENTS",
    "ID",
    "KEY",
    "POSITIONS",
    "SCHEMAS",
    "SINCE",
    "TOKEN",
    "add_framework",
    "error_key",
    "event_key",
]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/websuckets.{name}"}


ID: Final = _ref("id")
KEY: Final = _ref("key")
POSITIONS: Final = _ref("positions")
SINCE: Final = _ref("since")
TOKEN: Final = _ref("token")

_EPOCH: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_EPOCH_LENGTH}
_OFFSET: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET}
_ID_TYPES: Final[list[Schema]] = [
    {"type": "string", "maxLength": MAX_ID_LENGTH},
    {"type": "integer", "minimum": -MAX_ID_INTEGER, "maximum": MAX_ID_INTEGER},
]
_NULL: Final[Schema] = {"type": "null"}
_RETRY: Final = object_schema({"retry_after": {"type": "number"}}, ("retry_after",))

SCHEMAS: Final[Mapping[str, Schema]] = {
    "websuckets.id": {
        "description": "Id of a command, which comes back with its replies.",
        "anyOf": [*_ID_TYPES, _NULL],
    },
    "websuckets.key": {
        "description": "Key of a command that takes effect once for each key.",
        "anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH}, _NULL],
    },
    "websuckets.positions": {
        "description": "Positions behind which the events of channels begin, by channel.",
        "type": "object",
        "additionalProperties": object_schema(
            {"epoch": _EPOCH, "offset": _OFFSET, "recovered": {"type": "boolean"}},
            ("epoch", "offset"),
        ),
    },
    "websuckets.problems": {
        "description": "Problems of a message, each with its place.",
        "type": "array",
        "items": object_schema(
            {
                "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                "msg": {"type": "string"},
                "type": {"type": "string"},
            },
            ("loc", "msg", "type"),
        ),
    },
    "websuckets.since": {
        "description": "Positions up to which the client has seen channels: epoch and offset.",
        "type": ["object", "null"],
        "additionalProperties": {
            "type": "array",
            "items": [_EPOCH, _OFFSET],
            "additionalItems": False,
            "minItems": 2,
        },
    },
    "websuckets.token": {
        "description": "Token of the user.",
        "type": ["string", "null"],
    },
}
"""Schemas to which messages refer, by their key among the schemas of a document."""

ERRORS: Final[Mapping[str, tuple[str, Schema]]] = {
    "forbidden": ("The user is known, and may not do this.", {}),
    "id in use": ("A stream, or a command that runs, has this id.", _NULL),
    "in progress": ("A message with this key is being handled; send it again then.", _RETRY),
    "internal error": (
        "A fault of the server, which its log has under the number of the incident.",
        object_schema({"incident": {"type": "string"}}, ("incident",)),
    ),
    "invalid channel": ("No channel can have this name.", _NULL),
    "invalid message": ("The message is not a command.", _ref("problems")),
    "key reused": ("The key came before with another command or another payload.", _NULL),
    "not authorized": ("The client is not known as a user who may run the command.", {}),
    "payload required": ("The command needs a payload.", _NULL),
    "rate limited": ("Too many messages came; wait for so many seconds.", _RETRY),
    "timeout": ("The command took longer than it may, and was rolled back.", _NULL),
    "too many streams": ("Too many streams of this connection run.", _NULL),
    "too many subscriptions": ("The connection has too many subscriptions.", _NULL),
    "unavailable": ("A service that is needed does not answer for now.", _NULL),
    "unknown command": ("No command has this name.", _NULL),
    "validation error": ("The payload does not fit its schema.", _ref("problems")),
}
"""Errors of the framework by name: when each is sent, and the schema of its details."""

_USERS: Final[Schema] = {"type": "array", "items": {"type": ["string", "integer"]}}

EVENTS: Final[Mapping[str, tuple[str, Schema]]] = {
    "channel gap": (
        "Events of the channel may be missing: load the state anew. Without a channel, events to "
        "the user may be missing.",
        object_schema({"channel": {"type": ["string", "null"]}}, ("channel",)),
    ),
    "presence": (
        "Users have come to the channel, or have left it.",
        object_schema(
            {"channel": {"type": "string"}, "joined": _USERS, "left": _USERS},
            ("channel", "joined", "left"),
        ),
    ),
    "subscribed": ("Subscriptions begin at these positions.", POSITIONS),
}
"""Events of the framework by name: when each is sent, and the schema of its payload."""


def error_key(name: str) -> str:
    """Return the key of an error, of the framework or of the program."""
    return f"{'websuckets.' if name in ERRORS else ''}error.{key_of(name)}"


def event_key(name: str) -> str:
    """Return the key of an event of the framework."""
    return f"websuckets.event.{key_of(name)}"


def add_framework(writer: Writer) -> None:
    """Add the messages that every app sends and receives."""
    for name, (when, details) in ERRORS.items():
        properties: dict[str, Schema] = {"error": text(name), "details": details, "id": ID}
        schema = object_schema(properties, ("error", "details"))
        writer.message(error_key(name), "error", name, schema, when)
    for name, (when, payload) in EVENTS.items():
        schema = object_schema({"event": text(name), "payload": payload}, ("event", "payload"))
        writer.message(event_key(name), "event", name, schema, when)
    for kind, (when, schema) in _OTHERS.items():
        writer.message(f"websuckets.{kind}", kind, None, schema, when)
    writer.operation(
        "websuckets.ping",
        "receive",
        "ping",
        ["websuckets.ping"],
        reply=["websuckets.pong"],
        texts=("Check the connection, for browsers, which have no pings of the protocol.", None),
    )
    writer.operation(
        "websuckets.cancel",
        "receive",
        "cancel",
        ["websuckets.cancel"],
        texts=("End a running stream.", None),
    )
    writer.operation(
        "websuckets.events",
        "send",
        "events and errors of the framework",
        [*map(event_key, EVENTS), *map(error_key, ERRORS)],
        texts=("Messages beside the replies to commands and the events of channels.", None),
    )


_NUMBER: Final[Schema] = {"anyOf": [*_ID_TYPES, {"type": "number"}]}

_OTHERS: Final[Mapping[str, tuple[str, Schema]]] = {
    "cancel": (
        "End the running stream that answers the command with this id.",
        object_schema({"cancel": {"anyOf": _ID_TYPES}}, ("cancel",)),
    ),
    "offset": (
        "An event of the channel that this connection does not get, though it counts.",
        object_schema({"channel": {"type": "string"}, "offset": _OFFSET}, ("channel", "offset")),
    ),
    "ping": ("Ask for a pong.", object_schema({"ping": _NUMBER}, ("ping",))),
    "pong": ("The answer to a ping, with its number.", object_schema({"pong": _NUMBER}, ("pong",))),
}
"""Messages that are neither commands, errors nor events, by kind: when, and the schema."""
