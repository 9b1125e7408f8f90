"""AsyncAPI 3.0.0 document of an app.

AsyncAPI describes messages by the addresses to which they are sent. Here there is one address, and
the ``event`` in a message says what it is. So the document has one channel, the connection, and on
it an operation for each command (``receive``, with its reply) and for each declared channel
(``send``). Messages are whole frames, so that a validator of the schemas can be given what is on
the wire.

What AsyncAPI has no place for stands under keys that begin with ``x-websuckets``:

- ``x-websuckets-command`` of an operation: the settings of the command.
- ``x-websuckets-channel`` of an operation: the declaration of the channel.
- ``x-websuckets-message`` of a message: its kind, and its name on the wire.

A client can be generated from the document alone. The same app gives the same text.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from websuckets.asyncapi.framework import (
    ERRORS,
    EVENTS,
    ID,
    KEY,
    POSITIONS,
    SCHEMAS,
    SINCE,
    TOKEN,
    object_schema,
    other_messages,
    text,
)
from websuckets.asyncapi.keys import Keys, key_of
from websuckets.asyncapi.results import NOTHING, ResultParts
from websuckets.asyncapi.schemas import Schema, Schemas
from websuckets.commands.declared_errors import DeclaredError
from websuckets.commands.groups import Command
from websuckets.commands.listing import CommandInfo, texts_of
from websuckets.commands.results import adapter_for_results
from websuckets.commands.validation import complete_adapter
from websuckets.delivery.declarations import Channel
from websuckets.introspection.hints import name_of
from websuckets.protocol.events import Event
from websuckets.protocol.messages import MAX_OFFSET

__all__ = ["asyncapi_document"]

VERSION: Final = "3.0.0"
PROTOCOL: Final = 1
"""Version of the wire format."""

CONNECTION: Final = "connection"
"""Key of the only channel of a document."""

_OF_CHANNELS: Final[dict[str, Schema]] = {
    "channel": {"type": "string"},
    "offset": {"type": "integer", "minimum": 1, "maximum": MAX_OFFSET},
}
"""Fields that events of channels with a history have, too."""


def asyncapi_document(
    title: str,
    version: str,
    address: str,
    commands: Mapping[str, Command],
    infos: Mapping[str, CommandInfo],
    channels: Iterable[Channel],
) -> dict[str, Any]:
    """Return the document of an app as JSON objects.

    ``title`` and ``version`` are those of the app, ``address`` is the path at which clients
    connect. ``infos`` are the listed ``commands``, sorted by name.
    """
    document = _Document()
    for name, info in infos.items():
        document.add_command(commands[name], info)
    for channel in sorted(channels, key=lambda channel: channel.pattern):
        document.add_channel(channel)
    document.add_framework()
    return document.complete(title, version, address)


class _Document:
    """A document that is being written."""

    def __init__(self) -> None:
        self._schemas = Schemas()
        self._keys = Keys()
        self._messages: dict[str, dict[str, Any]] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._tags: set[str] = set()

    # Commands

    def add_command(self, command: Command, info: CommandInfo) -> None:
        """Add a command with its replies and its errors."""
        key = self._keys.take(key_of(info.name), ("command", info.name))
        payload = command.plan.payload
        is_required = payload is not None and payload.default is None
        properties: dict[str, Schema] = {"event": text(info.name)}
        if payload is not None:
            schema = self._schemas.of(complete_adapter(payload.hint), "validation")
            properties["payload"] = schema if is_required else _or_null(schema)
        properties |= {"id": ID, "token": TOKEN}
        if info.once:
            properties["key"] = KEY
        if command.takes_log:
            properties["since"] = SINCE
        required = ("event", "payload") if is_required else ("event",)
        sent = self._message(key, "command", info.name, object_schema(properties, required))
        replies = [*self._replies(command, info, key), *self._errors(command, info)]
        self._tags.update(info.tags)
        self._operations[key] = {
            "action": "receive",
            "channel": _REFERENCE,
            "title": info.name,
            **_texts(info.summary, info.description),
            **({"tags": [{"name": tag} for tag in info.tags]} if info.tags else {}),
            "messages": [_on_channel(sent)],
            "reply": {"channel": _REFERENCE, "messages": [_on_channel(key) for key in replies]},
            "x-websuckets-command": {
                "name": info.name,
                "payload": (
                    "none" if payload is None else "required" if is_required else "optional"
                ),
                "stream": info.is_stream,
                "once": info.once,
                "protected": info.protected,
                "guards": [name_of(guard) for guard in info.guards],
                "subscribes": [channel.pattern for channel in info.subscribes],
                "timeout": info.timeout,
                "deprecated": info.deprecated,
            },
        }

    def _replies(self, command: Command, info: CommandInfo, key: str) -> list[str]:
        """Add the messages that answer a command, and return their keys."""
        kind = "item" if info.is_stream else "reply"
        extra: dict[str, Schema] = {"id": ID}
        if info.is_stream:
            extra["more"] = {"type": "boolean", "const": True}
        elif command.takes_log:
            extra["subscribed"] = POSITIONS
        parts = ResultParts.of(info.reply)
        messages: list[tuple[str, str | None, Schema, Schema]] = []
        """Last part of the key, name on the wire, its schema, and that of the payload."""
        if parts.any_event:
            messages.append((f"{kind}.any", None, {"type": "string"}, {}))
        if parts.value is not NOTHING and not (parts.any_event and parts.value is Any):
            value = self._schemas.of(adapter_for_results(parts.value), "serialization")
            messages.append((kind, info.name, text(info.name), value))
        for event, hint in parts.events.items():
            name = event.__event_name__
            payload = self._schemas.of(adapter_for_results(hint), "serialization")
            messages.append((f"{kind}.{key_of(name)}", name, text(name), payload))
        required = ("event", "payload", "more") if info.is_stream else ("event", "payload")
        keys = [
            self._message(
                self._keys.take(f"{key}.{last}", (info.name, last, name)),
                kind,
                name,
                object_schema({"event": event, "payload": payload, **extra}, required),
            )
            for last, name, event, payload in messages
        ]
        if info.is_stream:
            end: dict[str, Schema] = {
                "event": text(info.name),
                "payload": {"type": "null"},
                "id": ID,
            }
            taken = self._keys.take(f"{key}.end", (info.name, "end"))
            schema = object_schema(end, ("event", "payload", "id"))
            keys.append(self._message(taken, "end", info.name, schema))
        return keys

    def _errors(self, command: Command, info: CommandInfo) -> list[str]:
        """Add the errors that answer a command, and return their keys."""
        keys = [self._declared_error(error) for error in command.raises]
        names = {error.name for error in command.raises}
        expected = (name for name in _expected(command, info) if name not in names)
        return [*keys, *map(_error_key, expected)]

    def _declared_error(self, error: DeclaredError) -> str:
        if error.name in ERRORS:  # those of the framework are added once, with all others
            return _error_key(error.name)
        key = self._keys.take(_error_key(error.name), error.error)
        if key not in self._messages:
            details = self._schemas.of(adapter_for_results(error.details), "serialization")
            texts = texts_of(error.error)
            self._error(key, error.name, details, *texts)
        return key

    def _error(
        self,
        key: str,
        name: str,
        details: Schema,
        summary: str | None,
        description: str | None = None,
    ) -> str:
        properties: dict[str, Schema] = {"error": text(name), "details": details, "id": ID}
        schema = object_schema(properties, ("error", "details"))
        return self._message(key, "error", name, schema, summary, description)

    # Channels

    def add_channel(self, channel: Channel) -> None:
        """Add a declared channel with its events."""
        key = self._keys.take(f"channel.{key_of(channel.pattern)}", channel.pattern)
        if channel.events is None:
            keys = [self._event("event.any", None, {"type": "string"}, {}, None)]
        else:
            keys = [self._declared_event(event) for event in channel.events]
        keys.append(_event_key("channel gap"))
        if channel.presence:
            keys.append(_event_key("presence"))
        history = channel.history
        if history is not None:
            keys.append("websuckets.offset")
        self._operations[key] = {
            "action": "send",
            "channel": _REFERENCE,
            "title": channel.pattern,
            "messages": [_on_channel(key) for key in keys],
            "x-websuckets-channel": {
                "pattern": channel.pattern,
                "parameters": list(channel.parameters),
                "history": (
                    None if history is None else {"size": history.size, "seconds": history.seconds}
                ),
                "presence": channel.presence,
                "open": channel.events is None,
            },
        }

    def _declared_event(self, event: type[Event]) -> str:
        name = event.__event_name__
        key = self._keys.take(f"event.{key_of(name)}", event)
        if key in self._messages:
            return key
        payload = self._schemas.of(adapter_for_results(event), "serialization")
        return self._event(key, name, text(name), payload, *texts_of(event))

    def _event(
        self,
        key: str,
        name: str | None,
        event: Schema,
        payload: Schema,
        summary: str | None,
        description: str | None = None,
    ) -> str:
        properties: dict[str, Schema] = {"event": event, "payload": payload, **_OF_CHANNELS}
        schema = object_schema(properties, ("event", "payload"))
        return self._message(key, "event", name, schema, summary, description)

    # The framework

    def add_framework(self) -> None:
        """Add the messages that every app sends and receives."""
        for name, (when, details) in ERRORS.items():
            self._error(_error_key(name), name, details, when)
        for name, (when, payload) in EVENTS.items():
            properties = {"event": text(name), "payload": payload}
            schema = object_schema(properties, ("event", "payload"))
            self._message(_event_key(name), "event", name, schema, when)
        for key, (kind, when, schema) in other_messages().items():
            self._message(key, kind, None, schema, when)
        self._operations["websuckets.ping"] = {
            "action": "receive",
            "channel": _REFERENCE,
            "title": "ping",
            "summary": "Check the connection, as browsers cannot by the protocol.",
            "messages": [_on_channel("websuckets.ping")],
            "reply": {"channel": _REFERENCE, "messages": [_on_channel("websuckets.pong")]},
        }
        self._operations["websuckets.cancel"] = {
            "action": "receive",
            "channel": _REFERENCE,
            "title": "cancel",
            "summary": "End a stream.",
            "messages": [_on_channel("websuckets.cancel")],
        }
        self._operations["websuckets.events"] = {
            "action": "send",
            "channel": _REFERENCE,
            "title": "events and errors of the framework",
            "summary": "What is sent beside the replies to commands and the events of channels.",
            "messages": [
                *(_on_channel(_event_key(name)) for name in EVENTS),
                *(_on_channel(_error_key(name)) for name in ERRORS),
            ],
        }

    def complete(self, title: str, version: str, address: str) -> dict[str, Any]:
        """Return the whole document; nothing is added any more."""
        models = self._schemas.complete()
        messages = dict(sorted(self._messages.items()))
        info: dict[str, Any] = {"title": title, "version": version}
        if self._tags:
            info["tags"] = [{"name": tag} for tag in sorted(self._tags)]
        return {
            "asyncapi": VERSION,
            "info": info,
            "defaultContentType": "application/json",
            "channels": {
                CONNECTION: {
                    "address": address,
                    "title": "The connection",
                    "description": "All messages, in both directions; each is one JSON object.",
                    "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in messages},
                    "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
                }
            },
            "operations": self._operations,
            "components": {
                "messages": messages,
                "schemas": dict(sorted({**models, **SCHEMAS}.items())),
                "correlationIds": {
                    "id": {
                        "description": "Id that the client chose for a command.",
                        "location": "$message.payload#/id",
                    }
                },
            },
            "x-websuckets": {"protocol": PROTOCOL},
        }

    def _message(
        self,
        key: str,
        kind: str,
        name: str | None,
        payload: Schema,
        summary: str | None = None,
        description: str | None = None,
    ) -> str:
        """Add a message, and return its key. A message with an ``id`` is correlated by it."""
        message: dict[str, Any] = {"name": kind if name is None else name}
        message |= _texts(summary, description)
        if "id" in payload["properties"]:
            message["correlationId"] = {"$ref": "#/components/correlationIds/id"}
        message["payload"] = payload
        message["x-websuckets-message"] = {"kind": kind, "name": name}
        self._messages[key] = message
        return key


_REFERENCE: Final = {"$ref": f"#/channels/{CONNECTION}"}


def _on_channel(key: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{CONNECTION}/messages/{key}"}


def _error_key(name: str) -> str:
    prefix = "websuckets.error" if name in ERRORS else "error"
    return f"{prefix}.{key_of(name)}"


def _event_key(name: str) -> str:
    """Return the key of an event of the framework."""
    return f"websuckets.event.{key_of(name)}"


def _texts(summary: str | None, description: str | None) -> dict[str, str]:
    texts = {"summary": summary, "description": description}
    return {name: value for name, value in texts.items() if value is not None}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _expected(command: Command, info: CommandInfo) -> list[str]:
    """Return the names of the framework's errors that may answer a command, in their order."""
    payload = command.plan.payload
    conditions = {
        "forbidden": info.protected,
        "id in use": info.is_stream,
        "in progress": info.once,
        "internal error": True,
        "invalid channel": bool(info.subscribes),
        "invalid message": True,
        "key reused": info.once,
        "not authorized": info.protected,
        "payload required": payload is not None and payload.default is None,
        "rate limited": True,
        "timeout": info.timeout is not None,
        "too many streams": info.is_stream,
        "too many subscriptions": bool(info.subscribes),
        "unavailable": True,
        "validation error": payload is not None,
    }
    return [name for name, is_expected in conditions.items() if is_expected]
