"""Signature of a handler or a hook, read once into a plan.

A handler is written for its readers, ``async def create(socket, model: Post, db: Connection)``; the
framework has to know at the start of the app which parameter is the payload, which ones the
container fills, and everything that is wrong, told with place and remedy. The rules:

- The first parameter is the socket. The second one is the payload if it is positional and its hint
  is a pydantic model, or any type in ``Payload[...]``. All others are dependencies.
- Hints are evaluated in the function's own globals, and in the names around the decorator, since a
  module may use names before it defines them: a `NameError` means that the signature is read again
  when the app starts.
- All problems of a function are collected, and raised as one `InvalidHandlerSignature`; checks that
  need types come last.
- Defaults are values: markers of other frameworks, such as ``Depends(...)``, are refused.
- The return annotation decides how a result is written, see `commands.results`.
"""

import inspect
import sys
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import wraps
from types import FrameType, NoneType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from websockets.http11 import Request

from websuckets.commands.defaults import Default, field_of, misfit_of, remedy_for_marker
from websuckets.commands.results import ANYTHING, EVENTS, ResultType
from websuckets.commands.validation import PayloadValidator
from websuckets.exc import InvalidHandlerSignature
from websuckets.introspection.functions import Kind, checked, evaluated, kind_of, target_of, where
from websuckets.introspection.hints import (
    FromComponentMarker,
    alternatives,
    bare_type,
    component_of,
    metadata_of,
    name_of,
    open_variables,
    plain,
    shared_by_hint,
)
from websuckets.protocol.events import Event
from websuckets.protocol.messages import ClientEvent

__all__ = [
    "ONE_PAYLOAD",
    "STANDS_SECOND",
    "UNTYPED",
    "Declaration",
    "Dependency",
    "Payload",
    "PayloadParameter",
    "Plan",
    "positional",
    "read_authorize",
    "read_error_function",
    "read_hook",
    "read_plan",
]

T = TypeVar("T")


class _PayloadMarker:
    def __repr__(self) -> str:
        return "Payload"


Payload = Annotated[T, _PayloadMarker()]
"""``model: Payload[T]``: the command's payload, where ``T`` is any type that pydantic validates.

A plain pydantic model standing second needs no mark."""

REQUIRED: Final = inspect.Parameter.empty
"""Value that stands for the default of a parameter without a default."""

_SOCKETS: Final = frozenset(
    {
        "websockets.asyncio.server.ServerConnection",
        "websockets.trio.server.ServerConnection",
        "websockets.legacy.server.WebSocketServerProtocol",
        "websuckets.socket.Socket",
    }
)
"""Names of the socket types: one type is deprecated and another needs trio, so no type is imported
to be recognised."""

_STREAMS: Final = (AsyncGenerator, AsyncIterator, AsyncIterable)

ONE_PAYLOAD: Final = "a command has one payload: put all that the client sends into one model"
STANDS_SECOND: Final = "the payload stands second; move it there"

UNTYPED: Final = (Any, object, typing.NoReturn, typing.Never, typing_extensions.Never)
"""Return annotations under which the returned object determines how it is written."""

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)

_NOT_ASYNC: Final = (
    "it is not an async function; declare it with `async def` (a decorator around one needs "
    "`@functools.wraps(function)`)"
)


@dataclass(frozen=True, slots=True)
class PayloadParameter:
    """The parameter that the client's payload is validated into: one of ``types``.

    ``marked`` is true for a parameter that is written ``Payload[...]``; ``default`` stands for an
    absent payload, and is ``None`` if the payload is required.
    """

    name: str
    types: tuple[Any, ...]
    marked: bool
    default: Default | None
    validate: PayloadValidator
    hint: Any
    """Hint that ``validate`` was made of, with its constraints."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A parameter that the container fills."""

    name: str
    hint: Any
    default: Default | None
    """Value to pass if nothing provides the type; ``None`` if that is an error."""
    keyword: bool

    @property
    def type(self) -> Any:
        """The hint without the metadata of ``Annotated``."""
        return bare_type(self.hint)

    @property
    def component(self) -> str:
        """The dishka component that is asked; ``""`` for the default one."""
        return component_of(self.hint)


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan to call a handler: ``(socket[, payload], *positional, **keywords)``.

    A hook has neither socket nor payload: every parameter of a hook is a dependency.
    """

    function: Callable[..., Any]
    where: str
    payload: PayloadParameter | None
    dependencies: tuple[Dependency, ...]
    is_hook: bool = False
    is_stream: bool = False
    """True if the function is an async generator."""
    result: ResultType = ANYTHING
    """Type of the values that the function returns or, as a stream, yields."""
    result_hint: Any = Any
    """Hint that ``result`` was made of; `Any` where there is none that is used."""
    undefined_result: str | None = None
    """Reason why the return annotation is not used, if the annotation names something undefined."""


@dataclass(slots=True)
class Declaration:
    """A decorated function, to be read as soon as all that its annotations name is defined.

    ``frame`` is the frame of the running function to which the decorated function is local;
    annotations may use the names of that frame.
    """

    function: Callable[..., Any]
    frame: FrameType | None = field(init=False)

    def __post_init__(self) -> None:
        qualified = getattr(target_of(self.function), "__qualname__", "")
        around, local, _ = qualified.rpartition(".<locals>.")
        frame = sys._getframe() if local else None
        while frame is not None and frame.f_code.co_qualname != around:
            frame = frame.f_back
        self.frame = frame

    @property
    def names(self) -> Mapping[str, Any]:
        """Local names that the annotations see besides the globals of the function."""
        return self.frame.f_locals if self.frame else {}

    @property
    def here(self) -> str:
        """Name and place of the function, for errors."""
        return where(self.function)

    def undefined_names(self, error: NameError) -> InvalidHandlerSignature:
        """Return the error for a function that still raises `NameError` when it is needed."""
        culprit = ""
        for name, annotation in getattr(target_of(self.function), "__annotations__", {}).items():
            if isinstance(annotation, str) and error.name and error.name in annotation:
                culprit = f"parameter `{name}: {annotation}`: "
                break
        return InvalidHandlerSignature(
            f"{self.here}: {culprit}{error}; define or import it where the function is "
            "defined (an import under `if TYPE_CHECKING:` is not there when the program runs)"
        )


def positional(plan: Plan) -> Callable[..., Any]:
    """Return the function of the plan, to be called with all its arguments by position."""
    function = checked(plan.function, "stream" if plan.is_stream else "async")
    keywords = [dependency.name for dependency in plan.dependencies if dependency.keyword]
    if not keywords:
        return function

    def call(*arguments: Any) -> Any:
        by_name = dict(zip(keywords, arguments[-len(keywords) :], strict=True))
        return function(*arguments[: -len(keywords)], **by_name)

    return call


def read_plan(
    function: Callable[..., Any], names: Mapping[str, Any], here: str, *, complete: bool = False
) -> Plan:
    """Return the plan of a handler; ``names`` are visible to annotations besides globals.

    ``here`` names the command and the function in errors.

    Raises `InvalidHandlerSignature` with all that is wrong, and `NameError` where an annotation
    names what is not defined (yet). ``complete`` says that nothing more will be defined: then a
    return annotation that is not defined is left unused.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    kind = kind_of(function) or _promised_kind(function, signature, names)
    _refuse(here, [*_misfits_of_handler(kind, parameters), *_misfits(parameters)])

    hints = _hints(function, parameters, names, here)
    socket, *rest = parameters
    problems = []
    if not _is_socket(hints[socket.name]):
        problems.append(
            f"the first parameter, `{socket}`, is not the socket; annotate it with "
            "`websockets.asyncio.server.ServerConnection` or `websuckets.Socket`"
        )
    payload = None
    if rest and rest[0].kind is not rest[0].KEYWORD_ONLY and _is_payload(hints[rest[0].name]):
        given = rest.pop(0)
        wrong = _misfits_of_payload(given, hints[given.name])
        try:
            payload = None if wrong else _payload(given, hints[given.name])
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            wrong = [
                f"parameter `{_shown(given)}`: pydantic cannot validate it; if a provider gives "
                f"it, drop Payload[...]: {error.message.splitlines()[0]}"
            ]
        problems.extend(wrong)
    for parameter in rest:
        if _marks_payload(hints[parameter.name]):
            is_another = payload is not None
            problems.append(
                f"parameter `{_shown(parameter)}`: {ONE_PAYLOAD if is_another else STANDS_SECOND}"
            )
    problems.extend(_misfits_of_dependencies(rest, hints))
    _refuse(here, problems)

    result: tuple[Any, ResultType] = (Any, ANYTHING)
    undefined = None
    try:
        result = _result(function, signature, names, here, is_stream=kind == "stream")
    except NameError as error:
        if not complete:
            raise
        undefined = str(error)
    return Plan(
        function,
        here,
        payload,
        _dependencies(rest, hints),
        is_stream=kind == "stream",
        result=result[1],
        result_hint=result[0],
        undefined_result=undefined,
    )


def read_hook(function: Callable[..., Any], names: Mapping[str, Any]) -> Plan:
    """Return the plan of a hook, all of whose parameters are dependencies; raise as `read_plan`."""
    here = where(function)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    kind = kind_of(function) or _promised_kind(function, signature, names)
    problems = []
    if kind == "stream":
        problems.append(
            "it yields; a hook is an `async def` without `yield` (what is to be closed when the "
            "app stops comes from a provider with Scope.APP)"
        )
    elif kind is None:
        problems.append(_NOT_ASYNC)
    _refuse(here, [*problems, *_misfits(parameters, "SomeType")])
    hints = _hints(function, parameters, names, here)
    problems = [
        f"parameter `{_shown(parameter)}`: a hook answers no message, so there is no payload"
        for parameter in parameters
        if _marks_payload(hints[parameter.name])
    ]
    _refuse(here, [*problems, *_misfits_of_dependencies(parameters, hints)])
    return Plan(function, here, None, _dependencies(parameters, hints), is_hook=True)


def read_error_function(
    function: Callable[..., Any], error: type[Exception], names: Mapping[str, Any]
) -> Plan:
    """Return the plan of a function, sync or async, that maps errors of a class to replies.

    Its first parameter is the error, which needs no annotation; all others are dependencies. Raises
    as `read_plan` does.
    """
    return _read_with_first(
        function,
        error,
        names,
        "error",
        it_yields="it yields; it returns one ClientError, or None",
        no_payload="an error is not a message, so there is no payload",
    )


def _read_with_first(
    function: Callable[..., Any],
    first_type: type,
    names: Mapping[str, Any],
    name: str,
    *,
    it_yields: str,
    no_payload: str,
) -> Plan:
    """Return the plan of a function, sync or async, whose first parameter its caller gives.

    ``name`` is the word for the argument in errors. ``it_yields`` and ``no_payload`` are the errors
    for a generator, and for a payload.
    """
    here = where(function)
    parameters = list(inspect.signature(function).parameters.values())
    if kind_of(function) == "stream" or inspect.isgeneratorfunction(target_of(function)):
        raise InvalidHandlerSignature(f"{here}: {it_yields}")
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise InvalidHandlerSignature(
            f"{here}: it has no parameter for the {name}; put it first: "
            f"`{name}: {first_type.__name__}`"
        )
    first, *parameters = parameters
    is_annotated = first.annotation is not first.empty or first.name == "self"
    annotated = [first, *parameters] if is_annotated else parameters
    _refuse(here, list(_misfits(annotated)))
    hints = _hints(function, annotated, names, here)
    problems = [
        f"parameter `{_shown(parameter)}`: {no_payload}"
        for parameter in parameters
        if _marks_payload(hints[parameter.name])
    ]
    if not _takes(hints.get(first.name, first_type), first_type):
        problems.append(
            f"the first parameter, `{_shown(first)}`, is not the {name}; put the {name} first, "
            f"as `{name}: {first_type.__name__}`"
        )
    _refuse(here, [*problems, *_misfits_of_dependencies(parameters, hints)])
    return Plan(_awaiting(function), here, None, _dependencies(parameters, hints), is_hook=True)


def read_authorize(function: Callable[..., Any], names: Mapping[str, Any]) -> Plan:
    """Return the plan of a function, sync or async, that authorises HTTP requests.

    Its first parameter is the request, which needs no annotation; all others are dependencies.
    Raises as `read_plan` does.
    """
    return _read_with_first(
        function,
        Request,
        names,
        "request",
        it_yields="it yields; it returns True or False",
        no_payload="an HTTP request is not a message, so there is no payload",
    )


def _takes(hint: Any, error: type) -> bool:
    """Tell whether a parameter with this hint may get objects of the class."""
    members = [bare_type(plain(member)) for member in alternatives(bare_type(plain(hint)))]
    classes = [member for member in members if isinstance(member, type) and member is not Any]
    return len(classes) < len(members) or any(issubclass(error, cls) for cls in classes)


def _awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as an async function, also if it is not async itself."""

    @wraps(function)
    async def awaiting(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        return await result if inspect.isawaitable(result) else result

    return awaiting


def _refuse(here: str, problems: Sequence[str]) -> None:
    if problems:
        raise InvalidHandlerSignature(*(f"{here}: {problem}" for problem in problems))


def _dependencies(
    parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> tuple[Dependency, ...]:
    return tuple(
        Dependency(
            p.name,
            plain(hints[p.name]),
            None if p.default is REQUIRED else Default.of(p.default),
            p.kind is p.KEYWORD_ONLY,
        )
        for p in parameters
    )


def _promised_kind(
    function: Callable[..., Any], signature: inspect.Signature, names: Mapping[str, Any]
) -> Kind | None:
    """Return the kind of a plain function's result, if its return annotation tells."""
    if isinstance(target_of(function), type):
        return None
    try:
        promised = _origin(plain(_return_hint(function, signature, names, where(function))))
    except NameError:
        return None
    if promised in _STREAMS:
        return "stream"
    return "async" if promised in (Awaitable, Coroutine) else None


def _misfits_of_handler(
    kind: Kind | None, parameters: Sequence[inspect.Parameter]
) -> Iterator[str]:
    if kind is None:
        yield _NOT_ASYNC
    if not parameters:
        yield "it has no parameter; the first one is the socket: `socket: ServerConnection`"
    elif parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        yield f"the first parameter, `{parameters[0]}`, is the socket; put it before the `*`"


def _misfits(
    parameters: Sequence[inspect.Parameter], first: str = "ServerConnection"
) -> Iterator[str]:
    """Yield the problems of parameters that can be found without knowing the types.

    ``first`` is the name of the type that the first parameter is to have.
    """
    for number, parameter in enumerate(parameters):
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_variadic and parameter.annotation is parameter.empty:
            yield (
                f"parameter `{parameter}`: nothing can fill it; name each parameter (a decorator's "
                "wrapper shows those of what it wraps by `@functools.wraps(function)`)"
            )
        elif is_variadic:
            yield f"parameter `{parameter}`: nothing can fill it; name each parameter"
        elif parameter.annotation is parameter.empty and (number, parameter.name) == (0, "self"):
            yield "parameter `self`: it is a method; register that of an object, or a function"
        elif parameter.annotation is parameter.empty:
            type_ = first if number == 0 else "SomeType"
            marker = remedy_for_marker(parameter.default)
            yield (
                f"parameter `{parameter.name}` has no annotation; write what it is: "
                f"`{parameter.name}: {type_}`{'' if marker is None else f'. {marker}'}"
            )


def _misfits_of_payload(parameter: inspect.Parameter, hint: Any) -> list[str]:
    what = f"parameter `{_shown(parameter)}`"
    problems = [*_open_variables(what, hint), *_markers_of_others(parameter, hint)]
    for item in (parameter.default, *metadata_of(hint)):
        field = field_of(item)
        if field is not None and (field.alias or field.validation_alias):
            problems.append(
                f"{what}: it is not a field of a model that could have an alias; drop it"
            )
    if (why := misfit_of(parameter.default, is_payload=True)) is not None:
        problems.append(f"{what}: {why}")
    return problems


def _misfits_of_dependencies(
    parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> Iterator[str]:
    for parameter in parameters:
        what = f"parameter `{_shown(parameter)}`"
        yield from _open_variables(what, hints[parameter.name])
        yield from _markers_of_others(parameter, hints[parameter.name])
        if (why := misfit_of(parameter.default)) is not None:
            yield f"{what}: {why}"


def _markers_of_others(parameter: inspect.Parameter, hint: Any) -> Iterator[str]:
    for item in (parameter.default, *metadata_of(hint)):
        if (remedy := remedy_for_marker(item)) is not None:
            yield f"parameter `{_shown(parameter)}`: {remedy}"


def _open_variables(what: str, hint: Any) -> Iterator[str]:
    for variable in open_variables(hint):
        yield (
            f"{what}: nothing says what the type variable `{variable.__name__}` stands for; "
            "register a method of an object whose class does: `class Items(Crud[Item])`"
        )


def _shown(parameter: inspect.Parameter) -> str:
    """Return the parameter as it is written, without its default, which may be long."""
    hint = parameter.annotation
    if isinstance(hint, str):
        return f"{parameter.name}: {hint}"
    name = name_of(hint)
    return f"{parameter.name}: {f'Payload[{name}]' if _marks_payload(hint) else name}"


def _hints(
    function: Callable[..., Any],
    parameters: list[inspect.Parameter],
    names: Mapping[str, Any],
    here: str,
) -> dict[str, Any]:
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    return _evaluated(function, annotations, names, here)


def _return_hint(
    function: Callable[..., Any],
    signature: inspect.Signature,
    names: Mapping[str, Any],
    here: str,
) -> Any:
    """Return the hint of the function's result; `Any` without an annotation."""
    if signature.return_annotation is signature.empty:
        return Any
    return _evaluated(function, {"return": signature.return_annotation}, names, here)["return"]


def _evaluated(
    function: Callable[..., Any], annotations: dict[str, Any], names: Mapping[str, Any], here: str
) -> dict[str, Any]:
    try:
        return evaluated(annotations, function, names)
    except NameError:
        raise
    except Exception as error:  # whatever the annotation's own code raises
        failure = error
    wrong = [f"`{name}`" for name in annotations if _is_wrong(function, annotations, name, names)]
    raise InvalidHandlerSignature(
        f"{here}: {', '.join(wrong)}: the annotation cannot be evaluated; write a type: {failure!r}"
    ) from failure


def _is_wrong(
    function: Callable[..., Any], annotations: dict[str, Any], name: str, names: Mapping[str, Any]
) -> bool:
    """Tell whether the annotation with this name cannot be evaluated."""
    try:
        evaluated({name: annotations[name]}, function, names)
    except Exception:
        return True
    return False


def _origin(hint: Any) -> Any:
    return get_origin(hint) or hint


def _result(
    function: Callable[..., Any],
    signature: inspect.Signature,
    names: Mapping[str, Any],
    here: str,
    *,
    is_stream: bool,
) -> tuple[Any, ResultType]:
    """Return the hint of a result, or of an item of a stream, and the result type made of it.

    Raises `InvalidHandlerSignature` for an annotation that cannot be serialised, and `NameError`
    for an annotation that is not defined (yet).
    """
    hint = _return_hint(function, signature, names, here)
    promised = plain(hint)
    what = f"{here}: its return annotation `{name_of(hint)}`"
    if is_stream and promised not in UNTYPED:
        if _origin(promised) not in _STREAMS:
            raise InvalidHandlerSignature(f"{what}: it yields; write `-> AsyncIterator[...]`")
        hint = next(iter(get_args(promised)), Any)
    elif kind_of(target_of(function)) is None and _origin(promised) in (Awaitable, Coroutine):
        hint = next(reversed(get_args(promised)), Any)
    if problems := list(_open_variables(what, hint)):
        raise InvalidHandlerSignature(*problems)
    try:
        return hint, _result_type(hint)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise InvalidHandlerSignature(
            f"{what}: {error.message.splitlines()[0]} Annotate what is sent, or write `-> object` "
            "to send the JSON that the returned object itself has"
        ) from None


@shared_by_hint
def _result_type(hint: Any) -> ResultType:
    """Return the result type of a hint; raise pydantic's own errors for an unserialisable one."""
    parts = alternatives(bare_type(plain(hint)))
    members = [bare_type(part) for part in parts]
    if any(member in UNTYPED for member in members):
        return ANYTHING
    classes = {bare_type(part): part for part in parts if isinstance(bare_type(part), type)}
    kinds = {cls: part for cls, part in classes.items() if issubclass(cls, Event)}
    left_out = [cls for cls in classes if issubclass(cls, ClientEvent) or cls is Event]
    if left_out:
        others = tuple(part for part in parts if bare_type(part) not in left_out)
        # There may be a single member, and `|` does not join any two members.
        hint = Union[others] if others else None  # noqa: UP007
    # A ClientEvent is a str, so it fits where a str does.
    takes_events = str in members or any(issubclass(cls, ClientEvent) for cls in left_out)
    if kinds:
        is_alone = Event not in kinds and len(kinds) == 1 and len(members) == 1 + len(left_out)
        return ResultType.of_events(kinds, hint, is_alone=is_alone, takes_events=takes_events)
    return EVENTS if left_out and hint is None else ResultType.of(hint, takes_events=takes_events)


def _is_socket(hint: Any) -> bool:
    def is_one(member: Any) -> bool:
        classes = member.__mro__ if isinstance(member, type) else ()
        return any(f"{base.__module__}.{base.__qualname__}" in _SOCKETS for base in classes)

    return all(is_one(bare_type(member)) for member in alternatives(hint))


def _marks_payload(hint: Any) -> bool:
    return any(isinstance(item, _PayloadMarker) for item in metadata_of(hint))


def _unmarked(hint: Any) -> Any:
    """Return the hint without the mark of a payload, which pydantic does not need."""
    if get_origin(hint) is not Annotated:
        return hint
    inner, *metadata = get_args(hint)
    rest = [item for item in metadata if not isinstance(item, _PayloadMarker)]
    return Annotated[(inner, *rest)] if rest else inner


def _payload_types(hint: Any) -> tuple[Any, ...]:
    """Return the types that the hint accepts, ``NoneType`` among them if it accepts ``None``."""
    return tuple(
        bare_type(type_)
        for member in alternatives(hint)
        for type_ in alternatives(bare_type(member))
    )


def _is_payload(hint: Any) -> bool:
    """Tell whether a second parameter is the payload: marked as such, or a model (or ``None``)."""
    if _marks_payload(hint):
        return True
    if any(isinstance(item, FromComponentMarker) for item in metadata_of(hint)):
        return False
    models = [type_ for type_ in _payload_types(hint) if type_ is not NoneType]
    return bool(models) and all(isinstance(m, type) and issubclass(m, BaseModel) for m in models)


def _payload(parameter: inspect.Parameter, hint: Any) -> PayloadParameter:
    """Return the payload parameter; raise pydantic's own errors for an invalid type."""
    types, marked = _payload_types(hint), _marks_payload(hint)
    default, field = None, field_of(parameter.default)
    if field is not None:
        hint = Annotated[hint, field]
    elif parameter.default is not REQUIRED:
        default = Default.of(parameter.default, is_payload=True)
    for item in metadata_of(hint):
        if default is None and (field := field_of(item)) is not None:
            default = Default.of_field(field)
    hint = _unmarked(hint)
    validate = _payload_validator(hint)
    if default is None and NoneType in types:
        default = Default.of(None)  # in the protocol, null and absent are the same
    elif default is None and _takes_null(validate):
        default = Default(lambda: validate(NULL))
    return PayloadParameter(parameter.name, types, marked, default, validate, hint)


_payload_validator = shared_by_hint(PayloadValidator)

NULL: Final = b'{"payload": null}'
"""Frame with a payload that is ``null``."""


def _takes_null(validate: PayloadValidator) -> bool:
    """Tell whether a type accepts ``null``: an alias of such types, or a model that is a value."""
    try:
        validate(NULL)
    except Exception:  # also errors of validators of the program
        return False
    return True
