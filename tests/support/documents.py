"""Parts of the AsyncAPI document of an app, as tests look at them."""

from typing import Any

from harness import app_with
from jsonschema import Draft7Validator

from websuckets import CommandGroup


def document_of(group: CommandGroup, **options: Any) -> dict[str, Any]:
    return app_with(group, **options).asyncapi()


def keys_of(messages: list[dict[str, str]]) -> list[str]:
    prefix = "#/channels/connection/messages/"
    assert all(message["$ref"].startswith(prefix) for message in messages)
    return [message["$ref"].removeprefix(prefix) for message in messages]


def message(document: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a message, to which the channel refers by the same key."""
    assert document["channels"]["connection"]["messages"][key] == {
        "$ref": f"#/components/messages/{key}"
    }
    found: dict[str, Any] = document["components"]["messages"][key]
    return found


def property_of(document: dict[str, Any], key: str, name: str) -> Any:
    return message(document, key)["payload"]["properties"][name]


def validator_of(document: dict[str, Any], message: str) -> Draft7Validator:
    """Return the validator of the frames of a message, by its key in a document."""
    schema = document["components"]["messages"][message]["payload"]
    return Draft7Validator({**schema, "components": document["components"]})
