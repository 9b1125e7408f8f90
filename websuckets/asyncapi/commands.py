"""Commands in an AsyncAPI document: each one an operation, with all that may answer it."""

from typing import NamedTuple

from websuckets.asyncapi.framework import ERRORS, ID, KEY, POSITIONS, SINCE, TOKEN, error_key
from websuckets.asyncapi.keys import key_of
from websuckets.asyncapi.results import NOTHING, ResultParts
from websuckets.asyncapi.schemas import Schema
from websuckets.asyncapi.writer import Writer, object_schema, text
from websuckets.commands.declared_errors import DeclaredError
from websuckets.commands.groups import Command
from websuckets.commands.listing import CommandInfo, texts_of
from websuckets.commands.results import adapter_for_results
from websuckets.commands.validation import complete_adapter
from websuckets.introspection.hints import name_of

__all__ = ["add_command"]


def add_command(writer: Writer, command: Command, info: CommandInfo) -> None:
    """Add a command with its replies and its errors."""
    key = writer.keys.take(key_of(info.name), ("command", info.name))
    payload = command.plan.payload
    is_required = payload is not None and payload.default is None
    properties: dict[str, Schema] = {"event": text(info.name)}
    if payload is not None:
        schema = writer.schemas.of(complete_adapter(payload.hint), "validation")
        properties["payload"] = schema if is_required else _or_null(schema)
    properties |= {"id": ID, "token": TOKEN}
    if info.once:
        properties["key"] = KEY
    if command.takes_log:
        properties["since"] = SINCE
    required = ("event", "payload") if is_required else ("event",)
    received = writer.message(key, "command", info.name, object_schema(properties, required))
    writer.operation(
        key,
        "receive",
        info.name,
        [received],
        reply=[*_replies(writer, command, info, key), *_errors(writer, command, info)],
        texts=(info.summary, info.description),
        tags=info.tags,
        extension=(
            "x-websuckets-command",
            {
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
        ),
    )


class _Reply(NamedTuple):
    """A message that answers a command with an event."""

    last: str
    """Last part of the key of the message."""
    name: str | None
    """Name of the event; ``None`` for any."""
    payload: Schema


def _replies(writer: Writer, command: Command, info: CommandInfo, key: str) -> list[str]:
    """Add the messages that answer a command, and return their keys."""
    kind = "item" if info.is_stream else "reply"
    extra: dict[str, Schema] = {"id": ID}
    if info.is_stream:
        extra["more"] = {"type": "boolean", "const": True}
    elif command.takes_log:
        extra["subscribed"] = POSITIONS
    required = ("event", "payload", "more") if info.is_stream else ("event", "payload")
    keys = []
    for reply in _events(writer, info, kind):
        taken = writer.keys.take(f"{key}.{reply.last}", (info.name, reply.last, reply.name))
        event = {"type": "string"} if reply.name is None else text(reply.name)
        properties = {"event": event, "payload": reply.payload, **extra}
        schema = object_schema(properties, required)
        keys.append(writer.message(taken, kind, reply.name, schema))
    if info.is_stream:
        end: dict[str, Schema] = {"event": text(info.name), "payload": {"type": "null"}, "id": ID}
        taken = writer.keys.take(f"{key}.end", (info.name, "end"))
        schema = object_schema(end, ("event", "payload", "id"))
        keys.append(writer.message(taken, "end", info.name, schema))
    return keys


def _events(writer: Writer, info: CommandInfo, kind: str) -> list[_Reply]:
    """Return the events that answer a command, or that are items of a stream."""
    parts = ResultParts.of(info.reply)
    replies = []
    if parts.any_event:
        replies.append(_Reply(f"{kind}.any", None, {}))
    if parts.value is not NOTHING and not parts.is_anything:
        value = writer.schemas.of(adapter_for_results(parts.value), "serialization")
        replies.append(_Reply(kind, info.name, value))
    for event, hint in parts.events.items():
        name = event.__event_name__
        payload = writer.schemas.of(adapter_for_results(hint), "serialization")
        replies.append(_Reply(f"{kind}.{key_of(name)}", name, payload))
    return replies


def _errors(writer: Writer, command: Command, info: CommandInfo) -> list[str]:
    """Add the errors that answer a command, and return their keys."""
    keys = [_declared_error(writer, error) for error in command.raises]
    names = {error.name for error in command.raises}
    expected = (name for name in _expected(command, info) if name not in names)
    return [*keys, *map(error_key, expected)]


def _declared_error(writer: Writer, error: DeclaredError) -> str:
    """Add an error that a command declares, and return its key."""
    if error.name in ERRORS:  # those of the framework are in each document
        return error_key(error.name)
    key = writer.keys.take(error_key(error.name), error.error)
    if not writer.has_message(key):
        details = writer.schemas.of(adapter_for_results(error.details), "serialization")
        properties = {"error": text(error.name), "details": details, "id": ID}
        schema = object_schema(properties, ("error", "details"))
        writer.message(key, "error", error.name, schema, *texts_of(error.error))
    return key


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
