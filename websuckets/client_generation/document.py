"""Reader of the AsyncAPI document of an app: what a client is to know, of no language.

Nothing but the document is read, so that the document alone gives the same client as the app.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from websuckets.client_generation.schemas import declaration_of, type_of
from websuckets.client_generation.types import (
    ANYTHING,
    Declaration,
    Type,
    UnionOf,
    is_nullable,
    names_in,
)
from websuckets.exc import ConfigurationError

__all__ = ["Channel", "Command", "Contract", "Error", "Event", "read_document"]

FRAMEWORK: Final = "websuckets."
"""Beginning of the keys of what the documents of all apps have."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts for people: the first paragraph, and the rest."""

    summary: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it is sent with, and what answers it."""

    name: str
    texts: Texts
    payload: Type | None
    """Type of the payload; ``None`` for a command that takes none."""
    needs_payload: bool
    reply: Type
    """Type of the payload of the reply, or of each item of a stream."""
    is_stream: bool
    once: bool
    subscribes: tuple[str, ...]
    """Patterns of the channels to which the command subscribes."""
    errors: tuple[str, ...]
    """Names of the errors that the program declares."""
    other_errors: tuple[str, ...]
    """Names of the errors of the framework."""
    protected: bool
    guards: tuple[str, ...]
    timeout: float | None
    deprecated: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of event of channels, by the key of its message."""

    key: str
    name: str
    texts: Texts
    payload: Type


@dataclass(frozen=True, slots=True)
class Channel:
    """A declared channel, and the keys of its events."""

    pattern: str
    parameters: tuple[str, ...]
    events: tuple[str, ...]
    is_open: bool
    """True if any event may be published to the channel."""
    presence: bool
    history: tuple[int | None, float | None] | None
    """Number of the events that are kept, and their seconds; ``None`` if none are."""


@dataclass(frozen=True, slots=True)
class Error:
    """An error that the program declares, by its name."""

    name: str
    texts: Texts
    details: Type


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything of an app that a client is to know."""

    title: str
    version: str
    declarations: Mapping[str, Declaration] = field(default_factory=dict)
    """Declared types by key, those before it that a type refers to."""
    commands: tuple[Command, ...] = ()
    channels: tuple[Channel, ...] = ()
    events: Mapping[str, Event] = field(default_factory=dict)
    errors: Mapping[str, Error] = field(default_factory=dict)
    recursive: frozenset[str] = frozenset()
    """Keys of the declared types that refer to themselves, by whatever way."""

    def allows_null(self, type: Type) -> bool:
        """Tell whether ``null`` is of a type."""
        return is_nullable(type, self.declarations)


def read_document(document: Mapping[str, Any]) -> Contract:
    """Return the contract that an AsyncAPI document of `websuckets.WebSuckets.asyncapi` states.

    Raises `ConfigurationError` for another document.
    """
    extension = document.get("x-websuckets")
    if not isinstance(extension, dict) or not isinstance(document.get("components"), dict):
        raise ConfigurationError(
            "this is not an AsyncAPI document that websuckets wrote: the key x-websuckets is "
            "missing; write it by: websuckets asyncapi -o asyncapi.json"
        )
    if extension.get("protocol") != 1:
        raise ConfigurationError(
            f"the document is for version {extension.get('protocol')!r:.20} of the protocol, and "
            "this websuckets knows version 1"
        )
    try:
        return _Reader(document).contract()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the AsyncAPI document is damaged: {type(error).__name__}: {error}"
        ) from error


class _Reader:
    """A document that is being read."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._messages: Mapping[str, Any] = document["components"]["messages"]
        self._events: dict[str, Event] = {}
        self._errors: dict[str, Error] = {}

    def contract(self) -> Contract:
        schemas = self._document["components"]["schemas"]
        declared = {
            key: declaration_of(key, schema)
            for key, schema in sorted(schemas.items())
            if not key.startswith(FRAMEWORK)
        }
        commands, channels = [], []
        for operation in self._document["operations"].values():
            if "x-websuckets-command" in operation:
                commands.append(self._command(operation, operation["x-websuckets-command"]))
            elif "x-websuckets-channel" in operation:
                channels.append(self._channel(operation, operation["x-websuckets-channel"]))
        reach = {key: _reach(key, declared) for key in declared}
        info = self._document["info"]
        return Contract(
            info["title"],
            info["version"],
            {key: declared[key] for key in _in_order(declared)},
            tuple(commands),
            tuple(channels),
            dict(sorted(self._events.items(), key=lambda item: (item[1].name, item[0]))),
            dict(sorted(self._errors.items())),
            frozenset(key for key, reached in reach.items() if key in reached),
        )

    def _command(self, operation: Mapping[str, Any], settings: Mapping[str, Any]) -> Command:
        (key,) = _keys(operation["messages"])
        payload = None
        if settings["payload"] != "none":
            schema = _property(self._messages[key], "payload")
            if settings["payload"] == "optional":
                schema = schema["anyOf"][0]  # the other one is null, which stands for none
            payload = type_of(schema)
        replies: list[Type] = []
        errors: list[str] = []
        others: list[str] = []
        for key in _keys(operation["reply"]["messages"]):
            message = self._messages[key]
            match message["x-websuckets-message"]["kind"]:
                case "error":
                    name = message["x-websuckets-message"]["name"]
                    (others if key.startswith(FRAMEWORK) else errors).append(name)
                    if not key.startswith(FRAMEWORK):
                        self._add_error(name, message)
                case "reply" | "item":
                    replies.append(type_of(_property(message, "payload")))
        return Command(
            name=settings["name"],
            texts=_texts(operation),
            payload=payload,
            needs_payload=settings["payload"] == "required",
            reply=_joined(replies),
            is_stream=settings["stream"],
            once=settings["once"],
            subscribes=tuple(settings["subscribes"]),
            errors=tuple(errors),
            other_errors=tuple(others),
            protected=settings["protected"],
            guards=tuple(settings["guards"]),
            timeout=settings["timeout"],
            deprecated=settings["deprecated"],
            tags=tuple(tag["name"] for tag in operation.get("tags", ())),
        )

    def _add_error(self, name: str, message: Mapping[str, Any]) -> None:
        """Add an error; several of one name, whose details differ, are one of either details."""
        details = type_of(_property(message, "details"))
        known = self._errors.get(name)
        if known is not None:
            texts, details = known.texts, _joined([known.details, details])
        else:
            texts = _texts(message)
        self._errors[name] = Error(name, texts, details)

    def _channel(self, operation: Mapping[str, Any], settings: Mapping[str, Any]) -> Channel:
        events = []
        for key in _keys(operation["messages"]):
            message = self._messages[key]
            name = message["x-websuckets-message"]["name"]
            is_event = message["x-websuckets-message"]["kind"] == "event"
            if is_event and name is not None and not key.startswith(FRAMEWORK):
                payload = type_of(_property(message, "payload"))
                self._events[key] = Event(key, name, _texts(message), payload)
                events.append(key)
        history = settings["history"]
        return Channel(
            settings["pattern"],
            tuple(settings["parameters"]),
            tuple(events),
            settings["open"],
            settings["presence"],
            None if history is None else (history["size"], history["seconds"]),
        )


def _keys(references: list[dict[str, str]]) -> list[str]:
    """Return the keys of messages to which references of an operation lead."""
    return [reference["$ref"].rpartition("/")[2] for reference in references]


def _property(message: Mapping[str, Any], name: str) -> Any:
    return message["payload"]["properties"][name]


def _texts(thing: Mapping[str, Any]) -> Texts:
    return Texts(thing.get("summary"), thing.get("description"))


def _joined(types: list[Type]) -> Type:
    """Return the type of values of any of these types. Raises `ValueError` without any."""
    members: list[Type] = []
    for type in types:
        parts = type.members if isinstance(type, UnionOf) and not type.discriminator else (type,)
        members += [part for part in parts if part not in members]
    if ANYTHING in members:
        return ANYTHING
    if len(members) > 1:
        return UnionOf(tuple(members))
    (only,) = members
    return only


def _reach(key: str, declared: Mapping[str, Declaration]) -> set[str]:
    """Return the keys to which a declaration refers, also by others."""
    reached: set[str] = set()
    waiting = [key]
    while waiting:
        for name in names_in(declared[waiting.pop()]):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def _in_order(declared: Mapping[str, Declaration]) -> list[str]:
    """Return all keys, sorted, but each behind those to which its declaration refers.

    Where declarations refer to each other, the first of them comes last.
    """
    order: list[str] = []
    seen: set[str] = set()

    def add(key: str) -> None:
        seen.add(key)
        for name in sorted(set(names_in(declared[key]))):
            if name not in seen:
                add(name)
        order.append(key)

    for key in declared:
        if key not in seen:
            add(key)
    return order
