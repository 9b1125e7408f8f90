"""Declared channels in an AsyncAPI document: each one an operation that sends its events."""

from websuckets.asyncapi.framework import event_key
from websuckets.asyncapi.keys import key_of
from websuckets.asyncapi.schemas import Schema
from websuckets.asyncapi.writer import Writer, object_schema, text
from websuckets.commands.listing import texts_of
from websuckets.commands.results import adapter_for_results
from websuckets.delivery.declarations import Channel
from websuckets.protocol.events import Event
from websuckets.protocol.messages import MAX_OFFSET

__all__ = ["add_channel"]


def add_channel(writer: Writer, channel: Channel) -> None:
    """Add a declared channel with its events."""
    if channel.events is None:
        keys = [_event(writer, "event.any", None, {})]
    else:
        keys = [_declared_event(writer, event) for event in channel.events]
    keys.append(event_key("channel gap"))
    if channel.presence:
        keys.append(event_key("presence"))
    history = channel.history
    if history is not None:
        keys.append("websuckets.offset")
    short = channel.pattern.replace("/", "-").replace("{", "").replace("}", "")
    writer.operation(
        writer.keys.take(f"channel.{key_of(short)}", channel.pattern),
        "send",
        channel.pattern,
        keys,
        extension=(
            "x-websuckets-channel",
            {
                "pattern": channel.pattern,
                "parameters": list(channel.parameters),
                "history": (
                    None if history is None else {"size": history.size, "seconds": history.seconds}
                ),
                "presence": channel.presence,
                "open": channel.events is None,
            },
        ),
    )


def _declared_event(writer: Writer, event: type[Event]) -> str:
    """Add a kind of event, and return the key of its message."""
    name = event.__event_name__
    key = writer.keys.take(f"event.{key_of(name)}", event)
    if writer.has_message(key):
        return key
    payload = writer.schemas.of(adapter_for_results(event), "serialization")
    return _event(writer, key, name, payload, texts_of(event))


def _event(
    writer: Writer,
    key: str,
    name: str | None,
    payload: Schema,
    texts: tuple[str | None, str | None] = (None, None),
) -> str:
    """Add the message of an event of channels; those with a history add channel and offset."""
    properties: dict[str, Schema] = {
        "event": {"type": "string"} if name is None else text(name),
        "payload": payload,
        "channel": {"type": "string"},
        "offset": {"type": "integer", "minimum": 1, "maximum": MAX_OFFSET},
    }
    schema = object_schema(properties, ("event", "payload"))
    return writer.message(key, "event", name, schema, *texts)
