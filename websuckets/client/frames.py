"""Frames of a client: those that the server sends, decoded, and those that the client sends."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from typing import Any, Final

from pydantic_core import PydanticSerializationError, from_json, to_json

from websuckets.client.errors import CommandError
from websuckets.protocol.messages import CACHED_STRINGS, ClientEvent

__all__ = [
    "Errors",
    "Frame",
    "ReceivedEvent",
    "cancel_frame",
    "command_frame",
    "payload_json",
    "ping_frame",
    "read_frame",
    "retry_after_of",
]

Errors = Mapping[str, type[CommandError]]
"""Classes of errors, by the names of the errors."""


class ReceivedEvent(ClientEvent):
    """A received event: a `ClientEvent` with the ``id`` of the command that it answers, if any.

    ``more`` is true for an item of a stream, and false for the last reply. An event of a channel
    with a history has the name of its ``channel`` and its ``offset``, which are ``None`` for
    others. ``subscribed`` has the positions at which a command has subscribed to such channels, by
    their names: ``{"news": {"epoch": ..., "offset": ..., "recovered": ...}}``.
    """

    __slots__ = ("channel", "id", "more", "offset", "subscribed")

    id: str | int | None
    more: bool
    channel: str | None
    offset: int | None
    subscribed: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that the server sent, with its fields if it is a JSON object."""

    content: str | bytes
    fields: dict[str, Any]

    @property
    def id(self) -> str | int | None:
        id = self.fields.get("id")
        return id if isinstance(id, str | int) else None

    @property
    def more(self) -> bool:
        """True for an item of a stream."""
        return self.fields.get("more") is True

    @property
    def name(self) -> str | None:
        """Name of the event or of the error; ``None`` for a frame that is neither."""
        name = self.fields.get("event", self.fields.get("error"))
        return name if isinstance(name, str) else None

    @property
    def is_reply(self) -> bool:
        """True for an event or an error."""
        return self.name is not None

    @property
    def is_error(self) -> bool:
        return self.is_reply and "event" not in self.fields

    @property
    def is_offset(self) -> bool:
        """True for the offset of an event from which this connection was excluded."""
        return self.fields.keys() == {"channel", "offset"}

    @property
    def is_pong(self) -> bool:
        return "pong" in self.fields and not self.is_reply

    @property
    def payload(self) -> Any:
        return self.fields.get("payload")

    @property
    def channel(self) -> str | None:
        """Name of the channel with a history of which the frame is an event or an offset."""
        channel, offset = self.fields.get("channel"), self.fields.get("offset")
        return channel if isinstance(channel, str) and type(offset) is int else None

    @property
    def offset(self) -> int:
        """Offset in the `channel`. Raises `KeyError` for a frame without one."""
        offset: int = self.fields["offset"]
        return offset

    @property
    def positions(self) -> dict[str, tuple[str, int, bool | None]]:
        """Epoch, offset and ``recovered`` of each channel to which the command has subscribed."""
        subscribed = self.fields.get("subscribed")
        found = {}
        for name, position in subscribed.items() if isinstance(subscribed, dict) else ():
            match position:
                case {"epoch": str(epoch), "offset": int(offset)}:
                    found[name] = (epoch, offset, position.get("recovered"))
        return found

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again, if this error tells them."""
        return retry_after_of(self.fields.get("details"))

    def error(self, errors: Errors | None = None) -> CommandError:
        """Return the error of this frame, of the class that ``errors`` has for its name."""
        name = str(self.name)
        cls = (errors or {}).get(name, CommandError)
        return cls(name, self.fields.get("details"), self.id)

    def event(self) -> ReceivedEvent:
        """Return the event of this frame. Raises `CommandError` for an error."""
        if "event" not in self.fields:
            raise self.error()
        content = self.content if isinstance(self.content, str) else self.content.decode()
        event = ReceivedEvent._of_text(content, self.fields["event"], self.payload)
        event.id, event.more = self.id, self.more
        event.channel, event.offset = self.fields.get("channel"), self.fields.get("offset")
        event.subscribed = self.fields.get("subscribed", {})
        return event


def retry_after_of(details: Any) -> float | None:
    """Return the seconds that the details of an error tell to wait, if they do."""
    match details:
        case {"retry_after": int(seconds) | float(seconds)} if seconds >= 0:
            return float(seconds)
    return None


def read_frame(content: str | bytes) -> Frame:
    """Return the frame of this content, which has no fields if it is not a JSON object."""
    try:
        fields = from_json(content, cache_strings=CACHED_STRINGS)
    except ValueError:
        fields = None
    return Frame(content, fields if isinstance(fields, dict) else {})


def payload_json(payload: Any) -> bytes | None:
    """Return a payload, anything that pydantic serialises, as JSON; ``None`` stands for none."""
    return None if payload is None else to_json(payload, fallback=_text_of)


_WRITTEN_AS_TEXT: Final = (
    *(IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
    PurePath,
)
"""Classes whose objects some versions of pydantic serialise in models alone."""


def _text_of(value: object) -> str:
    """Return the text of an object that pydantic serialises in models alone, as a pure path."""
    if isinstance(value, _WRITTEN_AS_TEXT):
        return str(value)
    raise PydanticSerializationError(f"Unable to serialize unknown type: {type(value)}")


def command_frame(
    event: str,
    payload: bytes | None = None,
    token: str | None = None,
    id: str | int | None = None,
    key: str | None = None,
    since: Mapping[str, tuple[str, int]] | None = None,
) -> str:
    """Return the frame of a command, with those fields that are not ``None``.

    The ``payload`` is JSON, by `payload_json`.
    """
    fields = {"token": token, "id": id, "key": key, "since": since}
    given = {name: value for name, value in fields.items() if value is not None}
    head = b'{"event":' + to_json(event)
    if payload is not None:
        head += b',"payload":' + payload
    rest = b"," + to_json(given)[1:] if given else b"}"
    return (head + rest).decode()


def cancel_frame(id: str | int) -> str:
    """Return the frame that ends the stream of this id."""
    return to_json({"cancel": id}).decode()


def ping_frame(number: int) -> str:
    """Return the frame that is answered with a pong."""
    return f'{{"ping":{number}}}'
