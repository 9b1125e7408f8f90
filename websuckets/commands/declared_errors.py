"""Errors that commands declare: classes of `ClientError`, with names and types of details."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, get_type_hints
from weakref import WeakKeyDictionary

from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from websuckets.commands.results import ResultType
from websuckets.exc import ClientError, ConfigurationError
from websuckets.introspection.functions import where
from websuckets.introspection.hints import name_of
from websuckets.introspection.strings import plain_string, words_of
from websuckets.protocol.messages import CommandId, encode_error, error_frame

__all__ = ["FRAMEWORK_ERRORS", "DeclaredError", "checked_raises", "frame_of_error", "read_raises"]

FRAMEWORK_ERRORS: Final = frozenset(
    {
        "forbidden",
        "id in use",
        "in progress",
        "internal error",
        "invalid channel",
        "invalid message",
        "key reused",
        "not authorized",
        "payload required",
        "rate limited",
        "timeout",
        "too many streams",
        "too many subscriptions",
        "unavailable",
        "unknown command",
        "validation error",
    }
)
"""Names of the errors that the framework itself sends."""

FRAMEWORK: Final = ClientError.__module__
"""Module of the classes of errors that are the framework's."""

Writer = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class DeclaredError:
    """A kind of error, as its class declares it."""

    error: type[ClientError]
    name: str
    """Name on the wire."""
    details: Any = Any
    """Hint of the details; `typing.Any` where the class declares none, and any JSON is sent."""
    write: Writer | None = None
    """Function that writes details as JSON, and raises if they do not fit ``details``."""


_writers: WeakKeyDictionary[type[ClientError], Writer | None] = WeakKeyDictionary()
"""Writers of the details of errors, by class; ``None`` where any JSON is sent."""


def checked_raises(raises: Any, place: str) -> tuple[Any, ...]:
    """Return what is declared by ``raises=``; raise `ConfigurationError` if it is not a list.

    ``place`` names the declaration in the error.
    """
    if isinstance(raises, str | type) or not isinstance(raises, Iterable):
        example = raises.__name__ if isinstance(raises, type) else "NicknameTaken"
        raise ConfigurationError(f"{place}: {raises!r:.80}: write a list, raises=[{example}]")
    return tuple(dict.fromkeys(raises))


def read_raises(
    raises: Iterable[Any], names: Mapping[str, Any], here: str, *, complete: bool
) -> tuple[DeclaredError, ...]:
    """Return the errors that a command declares.

    ``names`` are visible to annotations besides those of the module; ``here`` names the command and
    its function in errors. ``complete`` says that nothing more will be defined.

    Raises one `ConfigurationError` for all that is wrong, and `NameError` for an annotation that is
    not defined yet.
    """
    problems: list[str] = []
    found: dict[str, DeclaredError] = {}
    for error in raises:
        problem = _misfit(error)
        if problem is not None:
            problems.append(f"{here}: raises=[...]: {problem}")
            continue
        try:
            declared = _read(error, names)
        except NameError as undefined:
            if not complete:
                raise
            problems.append(
                f"{here}: raises=[{error.__name__}]: the annotation of its details: {undefined}; "
                f"define or import it in the module of {error.__name__} (an import under "
                "`if TYPE_CHECKING:` is not there when the program runs)"
            )
            continue
        except (PydanticSchemaGenerationError, PydanticUserError) as unknown:
            problems.append(
                f"{here}: raises=[{error.__name__}]: the annotation of its details: "
                f"{unknown.message.splitlines()[0]} Write a type that pydantic serialises, such as "
                "a model"
            )
            continue
        other = found.setdefault(declared.name, declared)
        if other is not declared:
            problems.append(
                f"{here}: raises=[...]: {other.error.__name__} and {error.__name__} have one name, "
                f"{declared.name!r}, and clients could not tell them apart; drop one, or give it "
                'another name, error = "..." in the body of the class'
            )
    if problems:
        raise ConfigurationError(*problems)
    return tuple(found.values())


def frame_of_error(error: ClientError, id: CommandId) -> str:
    """Return the frame with an error, as the answer to the command with that ``id``.

    Raises `TypeError` for details that do not fit the type which the class of the error declares,
    and what pydantic raises for details that have no JSON form.
    """
    kind = type(error)
    if kind is ClientError:
        return encode_error(error.error, error.details, id)
    try:
        write = _writers[kind]
    except KeyError:
        write = _writers[kind] = _writer_if_known(kind)
    if write is None:
        return encode_error(error.error, error.details, id)
    return error_frame(error.error, write(error.details), id)


def _writer_if_known(kind: type[ClientError]) -> Writer | None:
    """Return the writer of the details of an error that no command declares, if there is one."""
    try:
        return _read(kind, {}).write
    except (NameError, PydanticSchemaGenerationError, PydanticUserError):
        return None


def _misfit(error: Any) -> str | None:
    """Return the reason why a command cannot declare this error; ``None`` if it can."""
    if isinstance(error, ClientError):
        return f"{type(error).__name__}(...) is an error; write its class, {type(error).__name__}"
    if not isinstance(error, type) or not issubclass(error, ClientError):
        shown = name_of(error) if isinstance(error, type) else f"{error!r:.80}"
        return (
            f"{shown} is not a ClientError, which clients are sent as it is; derive a class from "
            "ClientError, and map another error to it by app.on_error"
        )
    if error is ClientError:
        return (
            "ClientError itself has no name; derive a class from it for each kind of error: "
            "class NicknameTaken(ClientError): ..."
        )
    name = _name_of_kind(error)
    if name is None:
        return (
            f"the name of {error.__name__} is in its __init__, {where(error.__init__)}, and cannot "
            'be read there; write error = "..." in the body of the class'
        )
    if not isinstance(name, str) or not name or not _has_utf8(name):
        return (
            f"{error.__name__}.error = {name!r:.80}: the name of an error is a str that is not "
            "empty and has a UTF-8 form"
        )
    owner = _owner_of_details(error)
    if name in FRAMEWORK_ERRORS and not _is_of_framework(error, name, owner):
        return (
            f"{error.__name__} has the name {name!r} of an error of websuckets, whose details "
            'clients know; choose another, error = "..." in the body of the class'
        )
    return None


def _is_of_framework(error: type[ClientError], name: str, owner: type | None) -> bool:
    """Tell whether an error has its name, and its details, from a class of the framework."""
    bases = [base for base in error.__mro__ if base.__module__ == FRAMEWORK]
    return owner is None and any(vars(base).get("error") == name for base in bases)


def _name_of_kind(error: type[ClientError]) -> Any:
    """Return the name of the errors of a class; ``None`` if only its ``__init__`` knows it."""
    for base in _kinds(error):
        if "error" in vars(base):
            return vars(base)["error"]
        if "__init__" in vars(base):
            return None
    return words_of(error.__name__)


def _kinds(error: type[ClientError]) -> Iterator[type]:
    """Return the class of an error and its bases, up to `ClientError`, without that."""
    return takewhile(lambda base: base is not ClientError, error.__mro__)


def _has_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _owner_of_details(error: type[ClientError]) -> type | None:
    """Return the class among the bases of an error that declares its details, if any does."""
    owners = (base for base in _kinds(error) if "details" in inspect.get_annotations(base))
    return next(owners, None)


def _read(error: type[ClientError], names: Mapping[str, Any]) -> DeclaredError:
    """Return what a class of errors declares; raise `NameError`, and pydantic's own errors."""
    declared_name = _name_of_kind(error)
    name = plain_string(declared_name) if isinstance(declared_name, str) else error.__name__
    owner = _owner_of_details(error)
    if owner is None:
        _writers[error] = None
        return DeclaredError(error, name)

    def annotated() -> None: ...

    annotated.__annotations__ = {"details": inspect.get_annotations(owner)["details"]}
    module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
    hint = get_type_hints(annotated, module, dict(names), include_extras=True)["details"]
    if hint in (Any, object):
        _writers[error] = None
        return DeclaredError(error, name)
    annotation = f"the annotation of details in {owner.__qualname__}"
    write = ResultType.of(hint, takes_events=False, annotation=annotation).write
    _writers[error] = write
    return DeclaredError(error, name, hint, write)
