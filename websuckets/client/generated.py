"""Base of the clients that ``websuckets client python`` generates: typed errors and events."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import EllipsisType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

from pydantic import BaseModel, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

from websuckets.client.client import Client
from websuckets.client.errors import CommandError
from websuckets.client.subscriptions import Subscription
from websuckets.client.validation import reader

__all__ = [
    "AnyEvent",
    "ChannelEvent",
    "GeneratedClient",
    "Omittable",
    "PartialModel",
    "Presence",
    "PresenceEvent",
    "Since",
    "Timeout",
    "TypedError",
    "TypedSubscription",
    "channel_name",
]

T = TypeVar("T")
P = TypeVar("P")
E = TypeVar("E")

Timeout: TypeAlias = float | EllipsisType | None
"""Seconds, ``None`` for no limit, or ``...`` for the timeout of the client."""

Since: TypeAlias = Mapping[str, tuple[str, int]]
"""Positions of channels, by their names: epoch and offset of the last event that was received."""

OMITTED: Final = "omitted where it is None"

Omittable: TypeAlias = Annotated[T | None, OMITTED]
"""Type of a field of a `PartialModel` that the server cannot be sent as null: ``None`` omits it."""


class PartialModel(BaseModel):
    """A model with fields that may be omitted, and whose defaults only the server knows.

    Such a field is ``None`` until it is set, and is then left out of the JSON. Set to ``None``, it
    is sent as null, but for an `Omittable` field, which is left out.
    """

    @model_serializer(mode="wrap")
    def _without_omitted(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for name, field in type(self).model_fields.items():
            is_unset = name not in self.model_fields_set or OMITTED in field.metadata
            if is_unset and self.__dict__.get(name) is None:
                written.pop(name, None)
                written.pop(field.serialization_alias or name, None)
        return written


class TypedError(CommandError, Generic[T]):
    """An error of the server whose details have a type: the argument of the class.

    A subclass derives from the class with its argument, as in ``TypedError[Details]``.
    """

    _adapter: ClassVar[TypeAdapter[Any]] = TypeAdapter(Any)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in vars(cls).get("__orig_bases__", ()):
            if get_origin(base) is TypedError:
                cls._adapter = TypeAdapter(get_args(base)[0])

    @property
    def details(self) -> T:
        """Details of the error. Raises `UnexpectedReply` where they do not fit their type."""
        details: T = reader(type(self)._adapter)(self.error, self._json)
        return details

    @details.setter
    def details(self, details: Any) -> None:
        self._json = details  # read when they are asked for: an error is raised in any case

    def __str__(self) -> str:
        return self.error if self._json is None else f"{self.error}: {self._json}"


class ChannelEvent(BaseModel, Generic[P]):
    """An event of a channel.

    A subclass has a field ``event``, the name of the event. ``payload`` is its payload. Events of
    channels with a history have the name of their ``channel`` and their ``offset``.
    """

    payload: P
    channel: str | None = None
    offset: int | None = None


class Presence(BaseModel):
    """Users that have come to a channel, and those that have left it."""

    channel: str
    joined: list[str | int]
    left: list[str | int]


class PresenceEvent(ChannelEvent[Presence]):
    """Users have come to the channel, or have left it."""

    event: Literal["presence"] = "presence"


class AnyEvent(ChannelEvent[Any]):
    """An event of a channel that declares none: its name and its JSON."""

    event: str


class TypedSubscription(AsyncIterator[E], Generic[T, E]):
    """A command that subscribes, and the events that follow, each of the class of its name.

    It is entered, iterated over and left like the `Subscription` that it is made of. ``events`` is
    the type of the events. Raises also `UnexpectedReply`, for an event that is not of this type;
    whoever goes on with the iteration gets the events that follow.
    """

    def __init__(self, subscription: Subscription[T], events: TypeAdapter[Any]) -> None:
        self._subscription = subscription
        self._read = reader(events)

    @property
    def reply(self) -> T:
        """Payload of the last reply to the command: the state behind which the events begin."""
        return self._subscription.reply

    @property
    def positions(self) -> dict[str, tuple[str, int]]:
        """Epoch and offset of the last event that was received, by channels: for ``since=``."""
        return self._subscription.positions

    async def __aenter__(self) -> Self:
        await self._subscription.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._subscription.__aexit__(*error)

    async def __anext__(self) -> E:
        """Return the next event."""
        received = await self._subscription.__anext__()
        fields = {
            "event": received.event,
            "payload": received.payload,
            "channel": received.channel,
            "offset": received.offset,
        }
        event: E = self._read(received.event, fields)
        return event


class GeneratedClient:
    """Base of generated clients: the commands of one app, by a ``client`` that is entered.

    The client raises the errors of the app as their classes from then on, but for those for whose
    names it was given other classes.
    """

    _errors: ClassVar[Mapping[str, type[CommandError]]] = {}

    def __init__(self, client: Client) -> None:
        self.client: Final = client
        known = cast("dict[str, type[CommandError]]", client._running.settings.errors)
        for name, cls in self._errors.items():
            known.setdefault(name, cls)

    def on(
        self, event: type[ChannelEvent[P]], function: Callable[[P], Awaitable[None] | None]
    ) -> Callable[[], None]:
        """Call ``function``, async or not, with the payload of each such ``event`` from now on.

        Events of subscriptions do not come here. Return a function that removes ``function`` again.
        Raises `TypeError` for `AnyEvent`, which has no name.
        """
        fields = event.model_fields
        name, hint = fields["event"].default, fields["payload"].annotation
        if not isinstance(name, str):
            raise TypeError(f"{event.__name__} has no name; use client.on(name, function)")
        payload: TypeAdapter[Any] = TypeAdapter(cast("Any", hint))
        return self.client.on(name, function, payload=payload)

    def _subscribe(
        self,
        event: str,
        payload: Any,
        result: Any,
        events: TypeAdapter[Any],
        names: tuple[str, ...],
        on_reload: Callable[[Any], Awaitable[None] | None] | None,
        since: Since | None,
        timeout: Timeout,
    ) -> TypedSubscription[Any, Any]:
        """Return a subscription by the command ``event``; see `Client.subscribe`.

        ``events`` is the type of its events, and ``names`` are the names of those that may come
        without a channel.
        """
        subscription: Subscription[Any] = self.client.subscribe(
            event,
            payload,
            result=result,
            events=dict.fromkeys(names),
            on_reload=on_reload,
            since=since,
            timeout=timeout,
        )
        return TypedSubscription(subscription, events)


def channel_name(pattern: str, /, **parameters: object) -> str:
    """Return the name of the channel of a ``pattern`` with these ``parameters``.

    Raises `ValueError` for a parameter whose text is empty or has a slash.
    """
    texts = {
        name: str.__str__(value) if isinstance(value, str) else str(value)
        for name, value in parameters.items()
    }
    for name, text in texts.items():
        if not text or "/" in text:
            raise ValueError(f"{pattern}: {name} is empty or has a slash")
    return re.sub(r"\{([^{}]*)\}", lambda match: texts[match[1]], pattern)
