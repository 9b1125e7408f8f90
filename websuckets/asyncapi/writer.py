"""Writer of an AsyncAPI document: messages and operations by their keys, and schemas."""

from collections.abc import Iterable
from typing import Any, Final

from websuckets.asyncapi.keys import Keys
from websuckets.asyncapi.schemas import Schema, Schemas

__all__ = ["Writer", "object_schema", "text"]

VERSION: Final = "3.0.0"
"""Version of AsyncAPI."""

PROTOCOL: Final = 1
"""Version of the wire format."""

CONNECTION: Final = "connection"
"""Key of the only channel of a document."""


def text(value: str) -> Schema:
    """Return the schema of one text."""
    return {"type": "string", "const": value}


def object_schema(properties: dict[str, Schema], required: tuple[str, ...]) -> Schema:
    """Return the schema of an object, which may have other properties, too."""
    return {"type": "object", "properties": properties, "required": list(required)}


class Writer:
    """A document that is being written."""

    def __init__(self) -> None:
        self.schemas: Schemas = Schemas()
        self.keys: Keys = Keys()
        self._messages: dict[str, dict[str, Any]] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._tags: set[str] = set()

    def has_message(self, key: str) -> bool:
        """Tell whether there is a message with this key."""
        return key in self._messages

    def message(
        self,
        key: str,
        kind: str,
        name: str | None,
        payload: Schema,
        summary: str | None = None,
        description: str | None = None,
    ) -> str:
        """Add a message, and return its key. A message with an ``id`` is correlated by it.

        ``kind`` and ``name`` are those of ``x-websuckets-message``, ``payload`` is the schema of
        whole frames.
        """
        message: dict[str, Any] = {"name": kind if name is None else name}
        message |= _texts(summary, description)
        if "id" in payload["properties"]:
            message["correlationId"] = {"$ref": "#/components/correlationIds/id"}
        message["payload"] = payload
        message["x-websuckets-message"] = {"kind": kind, "name": name}
        self._messages[key] = message
        return key

    def operation(
        self,
        key: str,
        action: str,
        title: str,
        messages: Iterable[str],
        *,
        reply: Iterable[str] = (),
        texts: tuple[str | None, str | None] = (None, None),
        tags: Iterable[str] = (),
        extension: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """Add an operation.

        ``action`` is ``receive`` or ``send``, as the server sees it. ``messages`` and ``reply`` are
        keys of messages, ``texts`` are summary and description, ``extension`` is a key that begins
        with ``x-websuckets``, and its value.
        """
        operation: dict[str, Any] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{CONNECTION}"},
            "title": title,
            **_texts(*texts),
        }
        if tags := list(tags):
            operation["tags"] = [{"name": tag} for tag in tags]
            self._tags.update(tags)
        operation["messages"] = [_on_channel(message) for message in messages]
        if answers := [_on_channel(message) for message in reply]:
            operation["reply"] = {"channel": operation["channel"], "messages": answers}
        if extension is not None:
            operation |= [extension]
        self._operations[key] = operation

    def complete(
        self, title: str, version: str, address: str, schemas: dict[str, Schema]
    ) -> dict[str, Any]:
        """Return the whole document; nothing is added any more.

        ``schemas`` are in the document beside those of the models. The other arguments are those of
        `asyncapi_document`.
        """
        models = self.schemas.complete()
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
                "schemas": dict(sorted({**models, **schemas}.items())),
                "correlationIds": {
                    "id": {
                        "description": "Id that the client chose for a command.",
                        "location": "$message.payload#/id",
                    }
                },
            },
            "x-websuckets": {"protocol": PROTOCOL},
        }


def _on_channel(key: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{CONNECTION}/messages/{key}"}


def _texts(summary: str | None, description: str | None) -> dict[str, str]:
    texts = {"summary": summary, "description": description}
    return {name: value for name, value in texts.items() if value is not None}
