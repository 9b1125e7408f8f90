"""The signature of a handler or a hook, read once into a frozen plan."""

import builtins
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType, NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from dishka import FromComponent
from pydantic import BaseModel
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from typing_extensions import TypeAliasType

from websuckets.envelope import PayloadValidator
from websuckets.exc import InvalidHandlerSignature

__all__ = [
    "Declaration",
    "Dependency",
    "Payload",
    "PayloadParameter",
    "Plan",
    "positional",
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
"""Stands for the default of a parameter that has none."""

_FromComponent: Final = type(FromComponent())

_SOCKETS: Final = frozenset(
    {
        "websockets.asyncio.server.ServerConnection",
        "websockets.trio.server.ServerConnection",
        "websockets.legacy.server.WebSocketServerProtocol",
        "websuckets.socket.Socket",
    }
)
"""By name: one is deprecated and another needs trio, so neither is imported to be recognised."""


@dataclass(frozen=True, slots=True)
class PayloadParameter:
    """The parameter that the client's payload is validated into: one of ``types``.

    ``marked`` says that it is written ``Payload[...]``, ``default`` what stands for an absent
    payload: `REQUIRED` if nothing does.
    """

    name: str
    types: tuple[Any, ...]
    marked: bool
    default: Any
    validate: PayloadValidator


@dataclass(frozen=True, slots=True)
class Dependency:
    """A parameter that the container fills."""

    name: str
    hint: Any
    default: Any
    keyword: bool

    @property
    def type(self) -> Any:
        """The hint without what ``Annotated`` adds."""
        return bare_type(self.hint)

    @property
    def component(self) -> str:
        """The dishka component that is asked; ``""`` for the default one."""
        return component_of(self.hint)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to call a handler: ``(socket[, payload], *positional, **keywords)``.

    A hook has neither socket nor payload: whatever it asks for is a dependency.
    """

    function: Callable[..., Any]
    where: str
    payload: PayloadParameter | None
    dependencies: tuple[Dependency, ...]
    is_hook: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether it is an async generator."""
        return inspect.isasyncgenfunction(self.function)


@dataclass(slots=True)
class Declaration:
    """A decorated function, to be read as soon as all that it names is defined.

    ``frame`` is the running function that it is local to, whose names its annotations may use.
    """

    function: Callable[..., Any]
    frame: FrameType | None = field(init=False)

    def __post_init__(self) -> None:
        around, local, _ = getattr(self.function, "__qualname__", "").rpartition(".<locals>.")
        frame = sys._getframe() if local else None
        while frame is not None and frame.f_code.co_qualname != around:
            frame = frame.f_back
        self.frame = frame

    @property
    def names(self) -> Mapping[str, Any]:
        """Those that its annotations see besides its module's."""
        return self.frame.f_locals if self.frame else {}

    def undefined_names(self, error: NameError) -> InvalidHandlerSignature:
        """What to say when reading went on raising `NameError` until the function was needed."""
        culprit = ""
        for name, annotation in getattr(_target(self.function), "__annotations__", {}).items():
            if isinstance(annotation, str) and error.name and error.name in annotation:
                culprit = f"parameter `{name}: {annotation}`: "
                break
        return InvalidHandlerSignature(
            f"{where(self.function)}: {culprit}{error}; define or import it where the function is "
            "defined (an import under `if TYPE_CHECKING:` is not there when the program runs)"
        )


def bare_type(hint: Any) -> Any:
    """The hint without what ``Annotated`` adds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def component_of(hint: Any) -> str:
    """The dishka component that the hint names with ``FromComponent``, or the default one."""
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((item.component for item in metadata if isinstance(item, _FromComponent)), "")


def positional(plan: Plan) -> Callable[..., Any]:
    """The function of the plan, to be called with all its arguments by position."""
    function = plan.function
    keywords = [dependency.name for dependency in plan.dependencies if dependency.keyword]
    if not keywords:
        return function

    def call(*arguments: Any) -> Any:
        by_name = dict(zip(keywords, arguments[-len(keywords) :], strict=True))
        return function(*arguments[: -len(keywords)], **by_name)

    return call


def name_of(thing: Any) -> str:
    """The name of a function or of a hint, as it is written."""
    thing = bare_type(thing)
    if get_args(thing):
        return str(thing).replace("typing.", "")
    return getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or repr(thing)


def where(function: Callable[..., Any]) -> str:
    """The function's name, file and line, for errors."""
    target = _target(function)
    name = f"`{target.__module__}.{name_of(target)}`"
    code = getattr(target, "__code__", None)
    return name if code is None else f"{name} ({code.co_filename}, line {code.co_firstlineno})"


def read_plan(function: Callable[..., Any], names: Mapping[str, Any]) -> Plan:
    """The plan of a handler; ``names`` are those that its annotations see besides its module's.

    Raises `InvalidHandlerSignature` with all that is wrong, and `NameError` where an annotation
    names what is not defined (yet).
    """
    here = where(function)
    parameters = list(inspect.signature(function).parameters.values())
    _refuse(here, [*_misfits_of_handler(function, parameters), *_misfits(parameters)])

    problems = []
    hints = {name: plain(hint) for name, hint in _hints(function, parameters, names).items()}
    socket, *rest = parameters
    if not _is_socket(hints[socket.name]):
        problems.append(
            f"the first parameter, `{socket}`, is not the socket; annotate it with "
            "`websockets.asyncio.server.ServerConnection` or `websuckets.Socket`"
        )
    payload = None
    if rest and rest[0].kind is not rest[0].KEYWORD_ONLY and _is_payload(hints[rest[0].name]):
        try:
            payload = _payload(rest[0], hints[rest[0].name])
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            problems.append(f"parameter `{rest[0]}`: pydantic cannot validate it: {error.message}")
        del rest[0]
    for parameter in rest:
        if _marks_payload(hints[parameter.name]):
            problems.append(f"parameter `{parameter}`: the payload stands second; move it there")
    _refuse(here, problems)
    return Plan(function, here, payload, _dependencies(rest, hints))


def read_hook(function: Callable[..., Any], names: Mapping[str, Any]) -> Plan:
    """The plan of a hook: all of its parameters are dependencies. Raises what `read_plan` does."""
    here = where(function)
    parameters = list(inspect.signature(function).parameters.values())
    problems = []
    if inspect.isasyncgenfunction(function):
        problems.append("it yields; a hook is an `async def` without `yield`")
    elif not inspect.iscoroutinefunction(function):
        problems.append("it is no async function; declare it with `async def`")
    _refuse(here, [*problems, *_misfits(parameters)])
    hints = {name: plain(hint) for name, hint in _hints(function, parameters, names).items()}
    _refuse(
        here,
        [
            f"parameter `{parameter}`: a hook answers no message, so there is no payload"
            for parameter in parameters
            if _marks_payload(hints[parameter.name])
        ],
    )
    return Plan(function, here, None, _dependencies(parameters, hints), is_hook=True)


def _refuse(here: str, problems: Sequence[str]) -> None:
    if problems:
        raise InvalidHandlerSignature(*(f"{here}: {problem}" for problem in problems))


def _dependencies(
    parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> tuple[Dependency, ...]:
    return tuple(
        Dependency(p.name, hints[p.name], p.default, p.kind is p.KEYWORD_ONLY) for p in parameters
    )


def _target(function: Callable[..., Any]) -> Any:
    """The function itself, below wrappers, partials and bound methods."""
    target: Any = function
    while isinstance(target, partial):
        target = target.func
    target = inspect.unwrap(getattr(target, "__func__", target))
    return target if inspect.isroutine(target) or isinstance(target, type) else type(target)


def _misfits_of_handler(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> Iterator[str]:
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        yield "it is no async function; declare it with `async def`"
    if not parameters:
        yield "it has no parameter; the first one is the socket: `socket: ServerConnection`"
    elif parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        yield f"the first parameter, `{parameters[0]}`, is the socket; put it before the `*`"


def _misfits(parameters: Sequence[inspect.Parameter]) -> Iterator[str]:
    """What can be said of parameters without knowing the types."""
    for number, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield f"parameter `{parameter}`: nothing can fill it; name each parameter"
        elif parameter.annotation is parameter.empty and (number, parameter.name) == (0, "self"):
            yield "parameter `self`: it is a method; register that of an object, or a function"
        elif parameter.annotation is parameter.empty:
            yield (
                f"parameter `{parameter.name}` has no annotation; write what it is: "
                f"`{parameter.name}: SomeType`"
            )


def _hints(
    function: Callable[..., Any], parameters: list[inspect.Parameter], names: Mapping[str, Any]
) -> dict[str, Any]:
    # Of the parameters alone: what a handler returns need not be defined at run time.
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    try:
        return evaluated(annotations, function, names)
    except NameError:
        raise
    except Exception as error:  # whatever the annotation's own code raises
        raise InvalidHandlerSignature(
            f"{where(function)}: an annotation cannot be evaluated: {error!r}"
        ) from error


def evaluated(
    annotations: dict[str, Any], of: Callable[..., Any], names: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Annotations, some of which may be strings, as the hints that they mean where ``of`` stands.

    Raises what evaluating them raises: a `NameError` for what is not defined.
    """

    def annotated() -> None: ...

    annotated.__annotations__ = annotations
    module = sys.modules.get(getattr(_target(of), "__module__", ""))
    return get_type_hints(
        annotated, vars(module or builtins), dict(names or {}), include_extras=True
    )


def plain(hint: Any) -> Any:
    """The hint without aliases around it (``type X = ...``), also inside of ``Annotated``."""
    origin = get_origin(hint)
    if isinstance(origin, _ALIASES):
        return plain(_substituted(origin, get_args(hint)))
    if isinstance(hint, _ALIASES):
        return plain(hint.__value__)
    if origin is Annotated:
        inner, *metadata = get_args(hint)
        return Annotated[(plain(inner), *metadata)]
    return hint


def _substituted(alias: Any, arguments: tuple[Any, ...]) -> Any:
    """What a generic alias stands for with these arguments."""
    value = alias.__value__
    by_parameter = dict(zip(alias.__type_params__, arguments, strict=True))
    if value in by_parameter:
        return by_parameter[value]
    parameters = getattr(value, "__parameters__", ())
    return value[tuple(by_parameter[p] for p in parameters)] if parameters else value


_ALIASES: Final = (TypeAliasType, getattr(typing, "TypeAliasType", TypeAliasType))
"""Up to Python 3.13, that of `typing_extensions` is a type of its own."""


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    hint = plain(hint)
    if get_origin(hint) in (Union, UnionType):
        return tuple(plain(member) for member in get_args(hint))
    return (hint,)


def _is_socket(hint: Any) -> bool:
    def is_one(member: Any) -> bool:
        classes = member.__mro__ if isinstance(member, type) else ()
        return any(f"{base.__module__}.{base.__qualname__}" in _SOCKETS for base in classes)

    return all(is_one(bare_type(member)) for member in alternatives(hint))


def _metadata(hint: Any) -> tuple[Any, ...]:
    """What ``Annotated`` adds to the hint, or to a member of the union that it is."""
    return tuple(
        item
        for member in alternatives(hint)
        if get_origin(member) is Annotated
        for item in get_args(member)[1:]
    )


def _marks_payload(hint: Any) -> bool:
    return any(isinstance(item, _PayloadMarker) for item in _metadata(hint))


def _payload_types(hint: Any) -> tuple[Any, ...]:
    """What the hint accepts, member by member, ``None`` among them where it does."""
    return tuple(
        bare_type(type_)
        for member in alternatives(hint)
        for type_ in alternatives(bare_type(member))
    )


def _is_payload(hint: Any) -> bool:
    """Whether a second parameter is the payload: marked as such, or a model (or ``None``)."""
    if _marks_payload(hint):
        return True
    if any(isinstance(item, _FromComponent) for item in _metadata(hint)):
        return False
    models = [type_ for type_ in _payload_types(hint) if type_ is not NoneType]
    return bool(models) and all(isinstance(m, type) and issubclass(m, BaseModel) for m in models)


def _payload(parameter: inspect.Parameter, hint: Any) -> PayloadParameter:
    types = _payload_types(hint)
    default = parameter.default
    if default is REQUIRED and NoneType in types:
        default = None  # on the wire, null and absent are the same
    return PayloadParameter(
        name=parameter.name,
        types=types,
        marked=_marks_payload(hint),
        default=default,
        validate=PayloadValidator(hint),
    )
