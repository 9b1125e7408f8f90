"""Events with a type: each class of them has a name, and a payload that pydantic knows."""

from typing import Any, ClassVar, TypeAlias, Unpack

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from websuckets.exc import ConfigurationError
from websuckets.introspection.strings import plain_string, words_of
from websuckets.protocol.messages import ClientEvent, SentEvent, frame_head, text_of

__all__ = ["AnyEvent", "Event", "client_event", "head_and_payload", "name_of_event"]


class Event(BaseModel, SentEvent):
    """An event that is sent to clients: a pydantic model, which is the payload of the event.

    Each subclass is a kind of event. Its name on the wire is the name of the class in lower case,
    word by word: ``class OrderPlaced(Event)`` is sent as ``"order placed"``; a subclass of a
    subclass has a name of its own in the same way. ``class OrderPlaced(Event, name="placed")``
    chooses another name; other keywords are those of pydantic's ``ConfigDict``. A generic event
    keeps its name with any arguments.

    An event may stand wherever a `ClientEvent` may: it is published, sent to a user, returned and
    yielded. The annotation of a handler holds for events as for any model: with ``-> Commented``,
    an instance of a subclass is sent under the name of ``Commented``, with the fields of
    ``Commented``. With ``-> Event``, and without an annotation, the class of the returned event
    decides.

    Raises `ConfigurationError` for a class whose name is not a string that has a UTF-8 form, or is
    empty. `Event` itself is not a kind of event, and cannot be sent.
    """

    __event_name__: ClassVar[str] = ""
    """Name of this kind of event on the wire."""

    __event_head__: ClassVar[str] = ""
    """Frame of an event of this kind up to its payload."""

    def __init_subclass__(cls, *, name: str | None = None, **config: Unpack[ConfigDict]) -> None:
        super().__init_subclass__(**config)

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, **config: Any) -> None:
        """Name the new class; pydantic calls this method when it has made the class."""
        super().__pydantic_init_subclass__(**config)
        if name is None and cls.__pydantic_generic_metadata__["origin"] is not None:
            return  # a generic event with arguments: its name is that of its only base class
        cls.__event_name__ = _checked_name(cls, words_of(cls.__name__) if name is None else name)
        cls.__event_head__ = frame_head(cls.__event_name__)


AnyEvent: TypeAlias = ClientEvent | Event
"""An event that the program sends."""


def _checked_name(cls: type[Event], name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"class {cls.__qualname__}(Event, name=...): the name of an event is a str that is not "
            f"empty, not {name!r:.80}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"class {cls.__qualname__}(Event, name={name!r:.80}): the name has half of a surrogate "
            "pair, which has no UTF-8 form"
        ) from None
    return plain_string(name)


def name_of_event(event: AnyEvent) -> str:
    """Return the name under which an event is sent."""
    return event.event if isinstance(event, ClientEvent) else event.__event_name__


def client_event(event: object) -> ClientEvent:
    """Return an event as a `ClientEvent`, encoded now; a `ClientEvent` is returned itself.

    Raises `TypeError` for anything that is not an event of a kind, and
    ``pydantic_core.PydanticSerializationError`` for a payload that has no JSON form.
    """
    if isinstance(event, ClientEvent):
        return event
    if not isinstance(event, Event):
        raise TypeError(_not_an_event(event))
    head, payload = head_and_payload(event)
    return ClientEvent._of_text(f"{head}{text_of(payload)}}}", event.__event_name__, event)


def head_and_payload(event: Event) -> tuple[str, bytes]:
    """Return the frame of an event up to its payload, and the payload as JSON.

    Raises as `client_event` does.
    """
    head = event.__event_head__
    if not head:
        raise TypeError(_not_an_event(event))
    try:
        return head, to_json(event, inf_nan_mode="null")
    except Exception as error:
        error.add_note(
            f"while encoding the payload of the event {event.__event_name__!r:.80}, an object of "
            f"type {type(event).__qualname__}"
        )
        raise


def _not_an_event(event: object) -> str:
    """Return the text of the error for an object that is not an event of a kind."""
    if type(event) is Event:
        return "Event itself is not a kind of event: send an instance of a subclass"
    if isinstance(event, type) and issubclass(event, SentEvent):
        return f"an event is sent, not its class: write {event.__name__}(...)"
    return (
        f"an event is a ClientEvent or an Event, not {type(event).__name__}; write "
        "ClientEvent(event, payload), or an instance of a class that derives from Event"
    )
