"""Results of handlers, held to their return annotations and written as frames."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import isawaitable, iscoroutine
from typing import Any, Final, NoReturn, Self, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import SchemaError, to_json

from websuckets.commands.validation import complete_adapter, problem_text
from websuckets.protocol.events import Event, head_and_payload
from websuckets.protocol.messages import (
    ClientEvent,
    CommandId,
    SentEvent,
    encode_result,
    frame_head,
    frame_tail,
    text_of,
    without_constants,
)

__all__ = [
    "ANYTHING",
    "EVENTS",
    "ResultEncoder",
    "ResultType",
    "adapter_for_results",
    "note_for_result",
]

MAX_MISFITS: Final = 5
"""Parts of one result that do not fit and that the error names, at most."""


NamedWriter: TypeAlias = Callable[[Any], tuple[str | None, bytes]]
"""Function that writes a value as JSON behind the head of a frame.

The head is ``None`` for a value that is not an event, and so has the name of its command. Raises if
the value does not fit or has no JSON.
"""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ResultType:
    """Type of the values that a handler returns or yields, with their JSON writer."""

    write: Callable[[Any], bytes]
    """Function that writes a value as JSON; raises if the value does not fit or has no JSON."""
    takes_events: bool
    """True if a `ClientEvent` fits."""
    takes_none: bool
    """True if ``None`` fits."""
    head: str | None = None
    """Head of the frames of all values, if each of them is an `Event` of one class."""
    write_named: NamedWriter | None = None
    """Writer of an `Event`, where its class decides on the head of its frame."""
    is_mixed: bool = False
    """True if any value, not only an `Event`, has to be written by ``write_named``."""

    @classmethod
    def of(
        cls, hint: Any, *, takes_events: bool, annotation: str = "its return annotation"
    ) -> Self:
        """Return the type of results that fit ``hint``.

        Each result is converted to that type, and written as that type says. ``annotation`` names
        the place of the hint, for the error of a result that does not fit.

        An instance of the type is taken as it is, and one of a subclass is written without what the
        subclass adds. Raises pydantic's own errors for a type that it cannot serialise, among them
        a `NameError` for a model with a name that is not defined yet.
        """
        adapter = adapter_for_results(hint)
        validate, write = adapter.validator.validate_python, adapter.serializer.to_json
        fits_at_once = _check_of_container(adapter.core_schema)

        def write_fitting(value: Any) -> bytes:
            if fits_at_once is not None and fits_at_once(value):
                return write(value, by_alias=True, warnings=False)
            try:
                fitting = validate(value, from_attributes=True)
            except ValidationError as error:
                raise _misfit(value, error, annotation) from None
            return write(fitting, by_alias=True, warnings=False)

        return cls(write_fitting, takes_events, takes_none=_takes_none(write_fitting))

    @classmethod
    def of_events(
        cls, kinds: Mapping[type[Event], Any], hint: Any, *, is_alone: bool, takes_events: bool
    ) -> Self:
        """Return the type of results that are events of these ``kinds``, or fit ``hint``.

        ``kinds`` are the hints of classes of events; ``hint`` is that of the kinds and of all else
        that fits, but for `Event` itself, and ``None`` if nothing is left. ``is_alone`` says that
        nothing fits but events of the one kind, and values that pydantic converts to that kind.

        An event is written with the fields and under the name of the most specific of the kinds
        that it is an instance of; if that is `Event`, with its own. An event of any other kind does
        not fit. Raises as `of` does.
        """
        writers = {
            kind: (kind.__event_head__, cls.of(part, takes_events=False).write)
            for kind, part in kinds.items()
            if kind is not Event
        }

        def write_event(event: Event) -> tuple[str, bytes]:
            for base in type(event).__mro__:
                if base in writers:
                    head, write = writers[base]
                    return head, write(event)
            if Event in kinds:
                return head_and_payload(event)
            raise TypeError(
                f"{_named(event)} does not fit its return annotation: it is an event of another "
                "kind"
            )

        if is_alone:
            ((head, write),) = writers.values()
            return cls(write, takes_events, _takes_none(write), head, write_event)
        if hint is None:
            return cls(_refuse_all_but_events, takes_events, False, None, write_event)
        adapter = adapter_for_results(hint)
        validate, write_other = adapter.validator.validate_python, adapter.serializer.to_json

        def write_named(value: Any) -> tuple[str | None, bytes]:
            if not isinstance(value, Event):
                try:
                    value = validate(value, from_attributes=True)
                except ValidationError as error:
                    raise _misfit(value, error) from None
            if isinstance(value, Event):
                return write_event(value)
            return None, write_other(value, by_alias=True, warnings=False)

        takes_none = _takes_none(write_named)
        return cls(_refuse_all_but_events, takes_events, takes_none, None, write_named, True)


def _takes_none(write: Callable[[Any], object]) -> bool:
    """Tell whether a writer writes ``None``."""
    try:
        write(None)
    except Exception:
        return False
    return True


def _check_of_container(schema: Any) -> Callable[[Any], bool] | None:
    """Return the check whether a value fits as it is, for a list or dict that holds anything.

    A validator would copy the value, item by item: for a handler that returns a small dict, the
    copy is 2 % of all that its command costs. Return ``None`` for other schemas.
    """
    match schema:
        case {"type": "list", "items_schema": {"type": "any"}} if len(schema) == 2:
            return _is_list
        case {"type": "dict", "keys_schema": {"type": "any"}, "values_schema": {"type": "any"}} if (
            len(schema) == 3
        ):
            return _is_dict
        case {"type": "dict", "keys_schema": {"type": "str"}, "values_schema": {"type": "any"}} if (
            len(schema) == 3 and len(schema["keys_schema"]) == 1
        ):
            return _is_dict_with_text_keys
    return None


def _is_list(value: Any) -> bool:
    return type(value) is list


def _is_dict(value: Any) -> bool:
    return type(value) is dict


def _is_dict_with_text_keys(value: Any) -> bool:
    if type(value) is not dict:
        return False
    for key in value:  # `all` would make a generator
        if type(key) is not str:
            return False
    return True


def _write_anything(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="null")


ANYTHING: Final = ResultType(
    _write_anything, takes_events=True, takes_none=True, write_named=head_and_payload
)
"""Result type that every value fits; each object determines how it is written."""


class ResultEncoder:
    """Encoder of the results of one command's handler; made once for each command."""

    __slots__ = ("_head", "_named", "_takes_events", "_takes_none", "_write", "_write_named")

    def __init__(self, event: str, result_type: ResultType) -> None:
        self._head = result_type.head or frame_head(event)
        self._write = result_type.write
        self._write_named = result_type.write_named
        self._named: type = object if result_type.is_mixed else SentEvent
        """Class of the values that may have another head than ``_head``."""
        self._takes_events = result_type.takes_events
        self._takes_none = result_type.takes_none

    def reply(self, result: Any, id: CommandId) -> str | None:
        """Return the frame that answers a command; ``None`` for a command that needs no answer.

        Raises `TypeError` for a result that does not fit the annotation, and what pydantic raises
        for a result that has no JSON form.
        """
        if result is None and id is None and self._takes_none:
            return None
        if isinstance(result, self._named):
            return self._with_name(result, id, more=False)
        # Every reply takes this path: so no functions are called where inline code does.
        payload = self._write(result).decode()
        if "N" in payload or "I" in payload:  # one letter is looked for much faster than a word
            payload = without_constants(payload)
        if id is None:
            return f"{self._head}{payload}}}"
        if type(id) is int:
            return f'{self._head}{payload},"id":{id}}}'
        return f"{self._head}{payload}{frame_tail(id, more=False)}"

    def item(self, item: Any, id: CommandId) -> str:
        """Return the frame with an item of a stream; raise the errors of `reply`."""
        if isinstance(item, self._named):
            return self._with_name(item, id, more=True)
        return f"{self._head}{text_of(self._write(item))}{frame_tail(id, more=True)}"

    def _with_name(self, value: Any, id: CommandId, *, more: bool) -> str:
        """Return the frame with an event, or with a value that may turn out to be one."""
        if isinstance(value, ClientEvent):
            if not self._takes_events:
                raise TypeError("a ClientEvent does not fit its return annotation")
            return encode_result(value.event, value, id, more=more)
        head: str | None = None
        if self._write_named is None:
            payload = self._write(value)
        else:
            head, payload = self._write_named(value)
        # Most ids are numbers, whose text costs less than a call, in `reply` too.
        tail = f',"id":{id}}}' if type(id) is int and not more else frame_tail(id, more=more)
        return f"{head or self._head}{text_of(payload)}{tail}"


def _refuse(value: Any) -> NoReturn:
    raise TypeError(f"{_named(value)} does not fit its return annotation: it is not a ClientEvent")


def _refuse_all_but_events(value: Any) -> NoReturn:
    raise TypeError(f"{_named(value)} does not fit its return annotation: it is not an Event")


EVENTS: Final = ResultType(_refuse, takes_events=True, takes_none=False)
"""Result type that only a `ClientEvent` fits."""


def note_for_result(where: str, how: str, value: Any) -> str:
    """Return the note for an error that came of encoding a value that the handler there gave.

    A coroutine is closed, which nobody will await.
    """
    if iscoroutine(value):
        value.close()
    if isawaitable(value):
        remedy = f"it has to be awaited: `{'yield' if how == 'yielded' else 'return'} await ...`"
    else:
        remedy = (
            "let the return annotation name the type that is sent, such as a pydantic model with "
            "the attributes that clients may see, and the value fit it"
        )
    return f"while encoding what {where} {how}, {_named(value)}; {remedy}"


def _misfit(
    value: Any, error: ValidationError, annotation: str = "its return annotation"
) -> TypeError:
    """Return the error that names the wrong part, without any value: the error is logged."""
    details = error.errors(include_url=False, include_input=False)
    problems = [
        f"{'.'.join(map(str, detail['loc'])) or 'it'}: {problem_text(detail)}"
        for detail in details[:MAX_MISFITS]
    ]
    more = len(details) - MAX_MISFITS
    if more > 0:
        problems.append(f"and {more} more")
    return TypeError(f"{_named(value)} does not fit {annotation}: {'; '.join(problems)}")


def _named(value: Any) -> str:
    return f"an object of type {type(value).__qualname__}"


def adapter_for_results(hint: Any) -> TypeAdapter[Any]:
    """Return the adapter for a type, which may be made of classes that pydantic does not know.

    Such a class is written like the built-in class that it derives from, as `Token` like ``str``.
    """
    try:
        return complete_adapter(hint)
    except PydanticSchemaGenerationError as error:
        try:
            adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except (PydanticUserError, SchemaError):  # a class with a config of its own, or a protocol
            raise error from None
        unknown = list(_unknown_classes(adapter.core_schema))
        if not all(issubclass(cls, _WRITTEN) for cls in unknown):
            raise
        return adapter


_WRITTEN: Final = (str, bytes, int, float, dict, list, tuple, set, frozenset)


def _unknown_classes(schema: Any) -> Iterator[type]:
    """Yield the classes in a core schema that pydantic checks with ``isinstance`` alone."""
    if isinstance(schema, dict):
        if schema.get("type") == "is-instance":
            yield schema["cls"]
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from _unknown_classes(part)
