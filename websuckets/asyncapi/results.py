"""Results of a command as a document has them: a value under the command's name, and events."""

from dataclasses import dataclass, field
from typing import Any, Final, Self, Union

from websuckets.commands.signature import UNTYPED
from websuckets.introspection.hints import alternatives, bare_type, plain
from websuckets.protocol.events import Event
from websuckets.protocol.messages import ClientEvent

__all__ = ["NOTHING", "ResultParts"]

NOTHING: Final = object()
"""Object that stands for the hint of values that a command never returns."""


@dataclass(frozen=True, slots=True)
class ResultParts:
    """Parts of a return annotation, or of that of the items of a stream."""

    value: Any = NOTHING
    """Hint of values that are sent under the name of the command, or `NOTHING`."""
    events: dict[type[Event], Any] = field(default_factory=dict)
    """Hints of the kinds of events, by their classes."""
    any_event: bool = False
    """True if events of any name are sent, too."""

    @property
    def is_anything(self) -> bool:
        """True if any value and any event may be sent."""
        return self.any_event and self.value is Any

    @classmethod
    def of(cls, hint: Any) -> Self:
        """Return the parts of a hint; `typing.Any` stands for any value and any event."""
        parts = alternatives(bare_type(plain(hint)))
        kinds: dict[type[Event], Any] = {}
        others: list[Any] = []
        any_event = False
        for part in parts:
            member = bare_type(part)
            if member in UNTYPED:
                return cls(Any, {}, True)
            if isinstance(member, type) and (issubclass(member, ClientEvent) or member is Event):
                any_event = True
            elif isinstance(member, type) and issubclass(member, Event):
                kinds[member] = part
            else:
                others.append(part)
        if len(others) == len(parts):
            return cls(hint)
        # There may be a single member, and `|` does not join any two members.
        value = Union[tuple(others)] if others else NOTHING  # noqa: UP007
        return cls(value, kinds, any_event)
