"""Declarations of channels: the names that a channel covers, and the events that it carries."""

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from keyword import iskeyword
from typing import Any, Final, NamedTuple, Self

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from websuckets.exc import ConfigurationError, InvalidChannel, report
from websuckets.history import History
from websuckets.introspection.strings import plain_string
from websuckets.protocol.events import AnyEvent, Event, name_of_event
from websuckets.protocol.messages import CACHED_STRINGS, ClientEvent

__all__ = ["Channel", "ChannelDeclarations", "ChannelName"]

MAX_FOUND: Final = 4096
"""Names whose channels are kept, so that no pattern is tried for them again."""

MAX_FOUND_LENGTH: Final = 256
"""Characters of a name up to which its channel is kept: clients may choose names."""


class _Segment(NamedTuple):
    """A part of a pattern between slashes: a text, or a text with one parameter within."""

    before: str
    parameter: str | None = None
    after: str = ""

    @property
    def expression(self) -> str:
        """Regular expression of the texts that the segment covers."""
        middle = "" if self.parameter is None else "[^/]+"
        return re.escape(self.before) + middle + re.escape(self.after)

    def covers(self, text: str) -> bool:
        """Tell whether the segment, which has a parameter, covers a text without slashes."""
        shortest = len(self.before) + 1 + len(self.after)
        return len(text) >= shortest and text.startswith(self.before) and text.endswith(self.after)

    def overlaps(self, other: "_Segment") -> bool:
        """Tell whether there is a text that both segments cover."""
        if self.parameter is None and other.parameter is None:
            return self.before == other.before
        if self.parameter is None:
            return other.covers(self.before)
        if other.parameter is None:
            return self.covers(other.before)
        # The longer text before, any character, and the longer text after fit both.
        return (self.before.startswith(other.before) or other.before.startswith(self.before)) and (
            self.after.endswith(other.after) or other.after.endswith(self.after)
        )


class ChannelName(str):
    """Name of a channel that was made of its declaration: a ``str``, which keeps its channel."""

    __slots__ = ("channel",)

    channel: "Channel"

    def __new__(cls, name: str, channel: "Channel") -> Self:
        self = super().__new__(cls, name)
        self.channel = channel
        return self

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.channel)


class Channel:
    """Declaration of the channels whose names have one pattern.

    ``Channel("ticket/{id}", events=[Commented, Closed])`` declares the channels ``"ticket/1"``,
    ``"ticket/2"`` and so on. Calling the declaration, ``ticket(id=5)``, returns the name of one of
    them, to be passed to the methods of `Channels`. A ``{parameter}`` fills a segment of the
    ``pattern``, between slashes, or a part of a segment; a segment has one parameter at most, so
    that other parameters always make another name. A pattern without parameters declares one
    channel.

    ``events`` are the classes of the events that may be published to these channels; without it,
    any event may. A channel with a ``history`` keeps its last events for clients that were away.
    With ``presence``, subscribers are told which users come and leave, by the event ``presence``:
    ``{"channel": "ticket/1", "joined": ["ann"], "left": []}``. A user is there while any verified
    connection to any node is subscribed, and leaves `Limits.presence_grace` after the last one.

    A declaration is not changed once it is made; two that were made of the same values are equal.
    It holds for the apps that include it, ``WebSuckets(channels=[ticket])``.

    Raises `ConfigurationError` for values that are not valid.
    """

    __slots__ = (
        "_segments",
        "events",
        "history",
        "parameters",
        "pattern",
        "presence",
    )

    pattern: str
    """Pattern of the names."""
    parameters: tuple[str, ...]
    """Names of the parameters, in the order of the pattern."""
    events: tuple[type[Event], ...] | None
    """Classes of the events that may be published; ``None`` for any event."""
    history: History | None
    """Events that are kept; ``None`` if none is."""
    presence: bool
    """True if subscribers are told who comes and leaves."""

    def __init__(
        self,
        pattern: str,
        *,
        events: Iterable[type[Event]] | None = None,
        history: History | None = None,
        presence: bool = False,
    ) -> None:
        self._segments = _segments_of(pattern)
        self.pattern = plain_string(pattern)
        self.parameters = tuple(
            segment.parameter for segment in self._segments if segment.parameter is not None
        )
        what = f"Channel({self.pattern!r})"
        if len(set(self.parameters)) < len(self.parameters):
            raise ConfigurationError(f"{what}: a parameter stands twice; give each a name")
        self.events = None if events is None else _checked_events(what, events)
        if history is not None and not isinstance(history, History):
            raise ConfigurationError(
                f"{what}: history={history!r:.80}: write History(size=1000, seconds=86_400)"
            )
        self.history = history
        if not isinstance(presence, bool):
            raise ConfigurationError(f"{what}: presence={presence!r:.80}: it is True or False")
        self.presence = presence

    def __call__(self, /, **parameters: object) -> ChannelName:
        """Return the name of the channel with these ``parameters``, each as the text of its value.

        Raises `TypeError` for parameters that are missing, ``None``, or not in the pattern, and
        `InvalidChannel` for a value whose text is empty or has a slash.
        """
        if parameters.keys() != set(self.parameters) or None in parameters.values():
            raise TypeError(self._misfit(parameters))
        texts = {name: _text_of(value) for name, value in parameters.items()}
        if any(not text or "/" in text for text in texts.values()):
            raise InvalidChannel
        return ChannelName(
            "/".join(
                before if parameter is None else f"{before}{texts[parameter]}{after}"
                for before, parameter, after in self._segments
            ),
            self,
        )

    def event_of(self, frame: str | bytes) -> AnyEvent:
        """Return the event in a frame, ``{"event": ..., "payload": ...}``, as its class reads it.

        An event that the declaration does not list is a `ClientEvent`. Raises `ValueError`, with no
        part of the payload, for a frame that is not an event, or whose payload does not fit.
        """
        content = from_json(frame, cache_strings=CACHED_STRINGS)
        if not isinstance(content, dict) or not isinstance(content.get("event"), str):
            raise ValueError(f"{self!r}: the frame is not an event")
        name, payload = content["event"], content.get("payload")
        for event in self.events or ():
            if event.__event_name__ == name:
                try:
                    return event.model_validate_json(to_json(payload))
                except ValidationError as error:
                    number = error.error_count()
                raise ValueError(
                    f"{self!r}: the payload of {name!r:.80} does not fit {event.__qualname__}: "
                    f"{number} problems"
                )
        return ClientEvent(name, payload)

    def _check(self, event: AnyEvent) -> None:
        """Raise `ValueError` for an event that the declaration does not list.

        A `ClientEvent` is listed if a class with its name is.
        """
        if self.events is None:
            return
        name = name_of_event(event)
        for listed in self.events:
            if listed.__event_name__ == name and isinstance(event, (ClientEvent, listed)):
                return
        is_named = any(listed.__event_name__ == name for listed in self.events)
        another = ", which is another class than the listed one" if is_named else ""
        kind = type(event).__name__ if isinstance(event, Event) else "its class"
        raise ValueError(
            f"{self!r} does not list the event {name!r:.80}{another}; add {kind} to the "
            "events=[...] of the channel"
        )

    def _overlaps(self, other: "Channel") -> bool:
        """Tell whether there is a name that the patterns of both, this and ``other``, cover."""
        mine, theirs = self._segments, other._segments
        return len(mine) == len(theirs) and all(
            one.overlaps(another) for one, another in zip(mine, theirs, strict=True)
        )

    @property
    def _expression(self) -> str:
        """Regular expression of the names, without groups."""
        return "/".join(segment.expression for segment in self._segments)

    def _misfit(self, parameters: Mapping[str, object]) -> str:
        """Return the text of the error for parameters that do not fit the pattern."""
        takes = ", ".join(f"{name}=..." for name in self.parameters) or "no parameters"
        problems = [
            *(f"{name} is missing" for name in self.parameters if name not in parameters),
            *(f"{name} is None" for name, value in parameters.items() if value is None),
            *(f"{name} is not one" for name in parameters if name not in self.parameters),
        ]
        return f"{self!r} takes {takes}: {', '.join(problems)}"

    @property
    def _values(self) -> tuple[object, ...]:
        return self.pattern, self.events, self.history, self.presence

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Channel) and self._values == other._values

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"Channel({self.pattern!r})"


def _segments_of(pattern: object) -> tuple[_Segment, ...]:
    """Return the segments of a pattern; raise `ConfigurationError` for an invalid one."""
    if not isinstance(pattern, str) or not pattern:
        raise ConfigurationError(
            f"Channel({pattern!r:.80}): the pattern is a str that is not empty, such as "
            '"ticket/{id}"'
        )
    what = f"Channel({plain_string(pattern)!r:.80})"
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{what}: the pattern has half of a surrogate pair, which has no UTF-8 form"
        ) from None
    segments = []
    for text in plain_string(pattern).split("/"):
        match = _SEGMENT.fullmatch(text)
        if match is None:
            is_balanced = _TWO_PARAMETERS.fullmatch(text) is not None
            raise ConfigurationError(
                f"{what}: the segment {text!r:.80} has two parameters, of which different values "
                "could make one name; put a slash between them"
                if is_balanced
                else f"{what}: the braces of {text!r:.80} do not belong together; write {{name}}"
            )
        before, parameter, after = match.groups()
        if parameter is None:
            segments.append(_Segment(before))
            continue
        if not parameter.isidentifier() or iskeyword(parameter):
            raise ConfigurationError(
                f"{what}: {parameter!r:.80} is not the name of a parameter; write one that a "
                "function could have"
            )
        segments.append(_Segment(before, parameter, after))
    return tuple(segments)


_SEGMENT: Final = re.compile(r"([^{}]*)(?:\{([^{}]*)\}([^{}]*))?")
_TWO_PARAMETERS: Final = re.compile(r"[^{}]*(?:\{[^{}]*\}[^{}]*){2,}")


def _checked_events(what: str, events: Any) -> tuple[type[Event], ...]:
    if isinstance(events, str) or not isinstance(events, Iterable):
        name = events.__name__ if isinstance(events, type) else "Commented"
        raise ConfigurationError(f"{what}: events={events!r:.80}: write a list, events=[{name}]")
    classes: dict[str, type[Event]] = {}
    for event in events:
        if not (isinstance(event, type) and issubclass(event, Event)) or event is Event:
            raise ConfigurationError(
                f"{what}: events=[...]: {event!r:.80} is not a class of an event; list classes "
                "that derive from Event"
            )
        other = classes.setdefault(event.__event_name__, event)
        if other is not event:
            raise ConfigurationError(
                f"{what}: events=[...]: {other.__qualname__} and {event.__qualname__} have one "
                f"name, {event.__event_name__!r}; choose another, class {event.__name__}(Event, "
                "name=...)"
            )
    if not classes:
        raise ConfigurationError(
            f"{what}: events=[]: nothing could be published; leave events out to allow any event"
        )
    return tuple(classes.values())


def _text_of(value: object) -> str:
    """Return the text of a parameter's value; for a member of a ``str`` enum, its value."""
    return plain_string(value) if isinstance(value, str) else str(value)


class ChannelDeclarations:
    """Declarations that an app includes, found by the names of channels.

    Raises one `ConfigurationError` for everything that is not a `Channel`, that stands twice, and
    for patterns that have names in common.
    """

    def __init__(self, channels: Iterable[Channel] = ()) -> None:
        self._channels = _checked_channels(channels)
        self._by_pattern = {channel.pattern: channel for channel in self._channels}
        self._constant = {c.pattern: c for c in self._channels if not c.parameters}
        self._others = [channel for channel in self._channels if channel.parameters]
        groups = (f"({channel._expression})" for channel in self._others)
        self._expression = re.compile("|".join(groups))
        self._found: dict[str, Channel | None] = {}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Declarations in the order in which the program included them."""
        return self._channels

    @property
    def have_history(self) -> bool:
        """True if any of the channels has a history."""
        return any(channel.history is not None for channel in self._channels)

    @property
    def have_presence(self) -> bool:
        """True if any of the channels has presence."""
        return any(channel.presence for channel in self._channels)

    def includes(self, channel: Channel) -> bool:
        """Tell whether the app includes a declaration that is equal to this ``channel``."""
        return self._by_pattern.get(channel.pattern) == channel

    def find(self, name: str) -> Channel | None:
        """Return the declaration that covers the channel ``name``, or ``None`` if none does.

        Raises `ConfigurationError` for a `ChannelName` of a declaration that is not included.
        """
        if type(name) is not str:
            if isinstance(name, ChannelName):
                if not self.includes(name.channel):
                    raise ConfigurationError(
                        f"{name.channel!r} is not included in the app; write "
                        "WebSuckets(channels=[...]) with this channel among them"
                    )
                return name.channel
            name = plain_string(name)
        channel = self._constant.get(name)
        if channel is not None or not self._others:
            return channel
        if name in self._found:
            return self._found[name]
        match = self._expression.fullmatch(name)
        if match is not None:
            assert match.lastindex is not None
            channel = self._others[match.lastindex - 1]
        if len(name) <= MAX_FOUND_LENGTH:
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            self._found[name] = channel
        return channel

    def has_presence(self, name: str) -> bool:
        """Tell whether the channel ``name`` has presence. Raises the errors of `find`."""
        channel = self.find(name) if name else None
        return channel is not None and channel.presence

    def check(self, name: str, event: AnyEvent) -> None:
        """Raise `ValueError` for an ``event`` that the channel ``name`` does not list.

        A channel that is not declared has any event. Raises the errors of `find`, too.
        """
        channel = self.find(name)
        if channel is not None:
            channel._check(event)

    def __repr__(self) -> str:
        return f"ChannelDeclarations({len(self._channels)})"


def _checked_channels(channels: Any) -> tuple[Channel, ...]:
    if isinstance(channels, str | Channel) or not isinstance(channels, Iterable):
        raise ConfigurationError(f"channels={channels!r:.80}: write a list, channels=[...]")
    given = tuple(channels)
    errors = [
        ConfigurationError(
            f'channels=[...]: {channel!r:.80} is not a Channel; write Channel("ticket/{{id}}"), '
            "without calling it"
        )
        for channel in given
        if not isinstance(channel, Channel)
    ]
    checked = tuple(channel for channel in given if isinstance(channel, Channel))
    for one, another in combinations(checked, 2):
        if one == another:
            errors.append(ConfigurationError(f"channels=[...]: {one!r} stands twice"))
        elif one._overlaps(another):
            errors.append(
                ConfigurationError(
                    f"channels=[...]: {one!r} and {another!r} have names in common; begin each "
                    "pattern with a word of its own"
                )
            )
    if errors:
        raise report(errors)
    return checked
