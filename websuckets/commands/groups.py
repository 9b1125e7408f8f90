"""Commands: their names, their handlers, and the guards that protect them."""

import copy
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Concatenate, Final, Literal, NewType, TypeAlias, TypeVar, get_origin

from typing_extensions import TypeForm

from websuckets.commands.declared_errors import DeclaredError, checked_raises, read_raises
from websuckets.commands.injection import Injection, injection_of
from websuckets.commands.results import ResultEncoder
from websuckets.commands.signature import Declaration, Plan, positional, read_plan
from websuckets.delivery.declarations import Channel, ChannelDeclarations
from websuckets.exc import (
    ClientError,
    ConfigurationError,
    DuplicateCommand,
    InvalidGuard,
    InvalidHandlerSignature,
    report,
)
from websuckets.history import MessageLog
from websuckets.idempotency import IdempotencyStore
from websuckets.introspection.functions import where
from websuckets.introspection.hints import alternatives, bare_type, name_of, plain
from websuckets.introspection.strings import plain_string
from websuckets.middleware import Middleware, checked
from websuckets.on_commit import OnCommit
from websuckets.security import CurrentUser
from websuckets.socket import Socket

__all__ = [
    "Command",
    "CommandGroup",
    "check_groups",
    "check_subscribes",
    "command_table",
    "commands_so_far",
]

# The first parameter is open: handlers may name any of the socket types.
Handler = TypeVar(
    "Handler", bound=Callable[Concatenate[Any, ...], Coroutine[Any, Any, Any] | AsyncIterator[Any]]
)

Protection: TypeAlias = bool | TypeForm[Any] | None

_ABSENT_IN_STREAMS: Final = {
    OnCommit: (
        "a stream ends by a cancellation as a rule, which commits nothing; open a scope for each "
        "step with ScopeFactory[tuple[AsyncSession, OnCommit]], or what else the step needs"
    )
}
"""Types that a stream cannot get in its own scope, and the reasons."""

UNSET: Final = math.inf
"""Value that stands for a timeout that is not given."""


HandlerCaller: TypeAlias = Callable[[Socket, str | bytes | None, Any, tuple[Any, ...]], Any]
"""Function that calls a handler with its socket, its payload and its dependencies.

The arguments are the socket, the frame that carries the payload (``None`` without a payload),
the same payload as parsed JSON (``None`` if the parsed JSON was not kept), and the dependencies.
Raises a `ClientError` for a payload that is missing or invalid.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is read completely: nothing about it is worked out per message."""

    name: str
    plan: Plan
    injection: Injection
    call_handler: HandlerCaller
    encode: ResultEncoder
    timeout: float | None
    """Seconds that the command may take, ``None`` for any number; `UNSET` for those of `Limits`."""
    cancel_on_disconnect: bool
    middleware: tuple[Middleware, ...] = ()
    """Middleware of the group, which runs inside of that of the app."""
    is_stream: bool = False
    once: "OnceHandler | None" = None
    """Handler of a command that takes effect once; ``None`` for others."""
    subscribes: tuple[Channel, ...] = ()
    """Channels to which the handler subscribes its connection."""
    raises: tuple[DeclaredError, ...] = ()
    """Errors that the command and its group declare."""
    deprecated: bool = False
    tags: tuple[str, ...] = ()
    """Tags of the group, for documents."""

    @property
    def takes_log(self) -> bool:
        """True if its last dependency is a `MessageLog`, for its subscriptions."""
        return _have_history(self.subscribes)


@dataclass(frozen=True, slots=True)
class OnceHandler:
    """A handler that is called with a payload that was validated before."""

    function: Callable[..., Any]
    """Function that is called with socket, payload and dependencies by position."""
    read_payload: Callable[[str | bytes | None, Any], tuple[Any, ...]]
    """Function that returns the arguments for the payload: one, or none; raises as
    `HandlerCaller` does, whose arguments it has."""


def _once_handler(plan: Plan) -> OnceHandler:
    payload = plan.payload

    def read(frame: str | bytes | None, parsed: Any) -> tuple[Any, ...]:
        if payload is None:
            return ()
        if frame is not None:
            return (payload.validate(frame, parsed),)
        if payload.default is None:
            raise ClientError("payload required")
        return (payload.default.make(),)

    return OnceHandler(positional(plan), read)


def _caller(plan: Plan) -> HandlerCaller:
    function, payload = positional(plan), plan.payload
    if payload is None:

        def call(
            socket: Socket, frame: str | bytes | None, parsed: Any, dependencies: tuple[Any, ...]
        ) -> Any:
            return function(socket, *dependencies)

        return call

    validate, default = payload.validate, payload.default

    def call_with_payload(
        socket: Socket, frame: str | bytes | None, parsed: Any, dependencies: tuple[Any, ...]
    ) -> Any:
        if frame is not None:
            return function(socket, validate(frame, parsed), *dependencies)
        if default is None:
            raise ClientError("payload required")
        return function(socket, default.make(), *dependencies)

    return call_with_payload


class CommandGroup:
    """Commands that share a prefix and settings; the group outlives apps that include it.

    ``prefix`` stands before each name, with a space between. ``protected`` holds for every command
    of the group: ``True`` asks for a verified user, a type for a dependency of that type as well.
    ``timeout`` is that of each command without one of its own, in seconds; ``None`` sets no limit.
    ``middleware`` runs around each command of the group, inside of the app's, the first outermost;
    unlike that of the app, it does not see commands that are refused without being run.

    ``raises`` are errors that each command of the group may raise; see `command`. ``tags`` are
    names under which documents list the commands; without ``tags``, the prefix is the only one.

    Raises `InvalidGuard` for a ``protected`` that is not a guard, and `ConfigurationError` for
    other values that are not valid.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        protected: Protection = None,
        timeout: float | None = UNSET,
        middleware: Iterable[Middleware] = (),
        raises: Iterable[type[ClientError]] = (),
        tags: Iterable[str] | None = None,
    ) -> None:
        if not isinstance(prefix, str):
            raise ConfigurationError(f"CommandGroup({prefix!r}): the prefix is a string")
        _check_timeout(timeout, f"CommandGroup({prefix!r}, timeout={timeout!r})")
        self.prefix: str = plain_string(prefix)
        self._timeout = timeout
        self._middleware = checked(middleware)
        self._raises = checked_raises(raises, f"CommandGroup({prefix!r}, raises=...)")
        self._tags = _checked_tags(tags, self.prefix)
        self._protected = _guard_types(protected, f"CommandGroup({prefix!r})")
        self._declarations: list[_Declaration] = []

    def command(
        self,
        name: str,
        protected: Protection = None,
        *,
        timeout: float | None = UNSET,
        cancel_on_disconnect: bool = False,
        once: bool = False,
        subscribes: Iterable[Channel] = (),
        raises: Iterable[type[ClientError]] = (),
        deprecated: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Return a decorator that registers an ``async def`` as the handler of ``name``.

        The decorator returns the function unchanged.

        A handler that yields, an async generator, is a stream: each value is sent as it comes,
        beside the commands that follow, until the stream ends or the client cancels the stream.

        ``protected=True`` admits verified users, ``protected=SomeType`` verified users for whom
        that dependency (REQUEST scope) can be built; both add to the guards of the group. Only
        ``False`` opens a command of a protected group. A handler that asks for `CurrentUser` is
        protected.

        ``timeout``, in seconds, takes the place of the group's, or of `Limits.handler_timeout`;
        ``None`` sets no limit.
        ``cancel_on_disconnect`` cancels the command, and rolls back, when its client is gone;
        otherwise the command is finished. A stream always ends with its client.

        ``once`` lets a command that is sent with a ``key`` take effect once, however often it is
        sent: sent again, it gets its first reply, which the `IdempotencyStore` keeps. Its handler
        cannot be a stream, subscribe its connection, or set ``User.id``.

        ``subscribes`` are the declarations of the channels to which the handler subscribes its
        connection. The app has to include them, which is checked when it starts.

        ``raises`` are the classes of errors that the handler may raise, besides those of the
        group: subclasses of `ClientError`. Documents and generated clients know their names and
        the types of their details; an error that is not declared is sent all the same.
        ``deprecated`` tells clients, by the same way, to use the command no longer.

        Raises `InvalidHandlerSignature` with all that is wrong with the handler, `InvalidGuard` for
        a ``protected`` that would protect nothing, `ConfigurationError` for a missing name and for
        other values that are not valid.
        """
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                'a command needs a name: write `@group.command("name")`, not `@group.command`'
            )
        _check_timeout(timeout, f"@group.command({name!r}, timeout={timeout!r})")
        channels = _checked_channels(subscribes, f"@group.command({name!r}, subscribes=...)")
        errors = checked_raises(raises, f"@group.command({name!r}, raises=...)")
        if not isinstance(deprecated, bool):
            raise ConfigurationError(
                f"@group.command({name!r}, deprecated={deprecated!r:.80}): it is True or False; "
                "write in the docstring what takes the place of the command"
            )
        if once and channels:
            raise ConfigurationError(
                f"@group.command({name!r}, once=True, subscribes=...): a command that takes effect "
                "once cannot subscribe its connection, because it is not run for a resend; "
                "subscribe in another command"
            )

        own = plain_string(name)

        def register(handler: Handler) -> Handler:
            declaration = _Declaration(
                function=handler,
                name=f"{self.prefix} {own}" if self.prefix else own,
                opened=protected is False,
                guards=(*self._protected, *_guard_types(protected, where(handler))),
                timeout=self._timeout if timeout is UNSET else timeout,
                cancel_on_disconnect=cancel_on_disconnect,
                once=once,
                subscribes=channels,
                middleware=self._middleware,
                raises=tuple(dict.fromkeys((*self._raises, *errors))),
                deprecated=deprecated,
                tags=self._tags,
            )
            try:
                declaration.read()
            except NameError:
                pass  # the name may be defined later, until the group is included
            self._declarations.append(declaration)
            return handler

        return register

    def __repr__(self) -> str:
        return f"CommandGroup({self.prefix!r}, commands={len(self._declarations)})"


@dataclass(slots=True)
class _Declaration(Declaration):
    """The handler of a command, and the arguments of its decorator."""

    name: str
    opened: bool
    guards: tuple[Any, ...]
    timeout: float | None
    cancel_on_disconnect: bool
    once: bool
    subscribes: tuple[Channel, ...]
    middleware: tuple[Middleware, ...]
    raises: tuple[Any, ...]
    deprecated: bool
    tags: tuple[str, ...]
    command: Command | None = None

    @property
    def here(self) -> str:
        """Name of the command, with name and place of its handler, for errors."""
        return f"command {self.name!r}, {where(self.function)}"

    def read(self, *, complete: bool = False) -> Command:
        """Return the command; raise `NameError` while a name in an annotation is undefined.

        ``complete`` is passed on to `read_plan`.
        """
        if self.command is None:
            plan = read_plan(self.function, self.names, self.here, complete=complete)
            if self.once and plan.is_stream:
                raise InvalidHandlerSignature(
                    f"{plan.where}: once=True: it is a stream, and has no single reply that could "
                    "be kept; drop once=True"
                )
            absent_here = _ABSENT_IN_STREAMS if plan.is_stream else {}
            for dependency in plan.dependencies:
                if dependency.type in absent_here:
                    name = f"{dependency.name}: {name_of(dependency.hint)}"
                    raise InvalidHandlerSignature(
                        f"{plan.where}: parameter `{name}`: {absent_here[dependency.type]}"
                    )
            raises = read_raises(self.raises, self.names, self.here, complete=complete)
            injection = injection_of(
                plan,
                self._guards_of(plan),
                absent_here=absent_here,
                also=(IdempotencyStore,) if self.once else (),
                last=(MessageLog,) if _have_history(self.subscribes) else (),
            )
            self.command = Command(
                self.name,
                plan,
                injection,
                _caller(plan),
                ResultEncoder(self.name, plan.result),
                self.timeout,
                self.cancel_on_disconnect,
                self.middleware,
                is_stream=plan.is_stream,
                once=_once_handler(plan) if self.once else None,
                subscribes=self.subscribes,
                raises=raises,
                deprecated=self.deprecated,
                tags=self.tags,
            )
            self.frame = None
        return self.command

    def _guards_of(self, plan: Plan) -> tuple[Any, ...]:
        asking = next((d for d in plan.dependencies if d.type is CurrentUser), None)
        if self.opened:
            if asking is not None:
                raise InvalidGuard(
                    f"{plan.where}: parameter `{asking.name}: CurrentUser` protects the command, "
                    f"but protected=False opens it; drop one of the two, or write "
                    f"`{asking.name}: CurrentUser | None` to serve everybody"
                )
            return ()
        guards = (CurrentUser, *self.guards) if asking is not None else self.guards
        return tuple(dict.fromkeys(guards))


def _check_timeout(timeout: Any, where: str) -> None:
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise ConfigurationError(f"{where}: it is a number of seconds, or None")


def _checked_channels(channels: Any, where: str) -> tuple[Channel, ...]:
    """Return the channels, each once; raise `ConfigurationError` for anything else."""
    if isinstance(channels, str | Channel) or not isinstance(channels, Iterable):
        raise ConfigurationError(f"{where}: {channels!r:.80}: write a list, subscribes=[...]")
    given = tuple(channels)
    for channel in given:
        if not isinstance(channel, Channel):
            raise ConfigurationError(
                f"{where}: {channel!r:.80} is not a Channel; write the declaration, without "
                "calling it"
            )
    return tuple(dict.fromkeys(given))


def _checked_tags(tags: Any, prefix: str) -> tuple[str, ...]:
    """Return the tags, each once; the prefix if none are given."""
    if tags is None:
        return (prefix,) if prefix else ()
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise ConfigurationError(f"CommandGroup({prefix!r}, tags={tags!r:.80}): write a list")
    given = tuple(tags)
    for tag in given:
        if not isinstance(tag, str) or not tag:
            raise ConfigurationError(
                f"CommandGroup({prefix!r}, tags=[...]): {tag!r:.80} is not a name; write a str "
                "that is not empty"
            )
    return tuple(dict.fromkeys(map(plain_string, given)))


def _have_history(channels: Iterable[Channel]) -> bool:
    return any(channel.history is not None for channel in channels)


def _guard_types(protected: Any, whose: str) -> tuple[Any, ...]:
    """Return the guards that a ``protected=`` stands for, in their order."""
    if protected is None or protected is False:
        return ()
    if protected is True:
        return (CurrentUser,)
    guard = plain(protected)
    if type(None) in alternatives(bare_type(guard)):
        raise InvalidGuard(
            f"{whose}: protected={name_of(guard)} guards nothing, because None passes; a guard is "
            "a type that is only built for those who may call"
        )
    bare = bare_type(guard)
    is_type = isinstance(bare, type | NewType) or get_origin(bare) not in (None, Literal)
    if not is_type or bare in (bool, int, str):
        raise InvalidGuard(
            f"{whose}: protected={name_of(guard)} is not a guard; pass True, False or a type of "
            "your own that a provider builds for those who may call"
        )
    return (CurrentUser, guard)


def check_groups(groups: Iterable[CommandGroup]) -> None:
    """Check as `command_table` does, as far as possible before all names are defined."""
    _read(groups, complete=False)


def command_table(groups: Iterable[CommandGroup]) -> dict[str, Command]:
    """Return all commands by name.

    Raises one `ConfigurationError` for all names that are used twice (`DuplicateCommand`), and for
    all handlers that are wrong or name something undefined (`InvalidHandlerSignature`).
    """
    return _read(groups, complete=True)


def commands_so_far(groups: Iterable[CommandGroup]) -> dict[str, Command]:
    """Return what `command_table` would return now, and raise its errors; more may come later.

    Names that are not defined yet may still be defined until `command_table` reads them.
    """
    return _read(groups, complete=True, is_final=False)


def check_subscribes(commands: Iterable[Command], declarations: ChannelDeclarations) -> None:
    """Raise one `ConfigurationError` for all channels of commands that the app does not include."""
    problems = [
        f"{command.plan.where}: subscribes=[...]: the app does not include {channel!r}; write "
        "WebSuckets(channels=[...]) with this channel among them"
        for command in commands
        for channel in command.subscribes
        if not declarations.includes(channel)
    ]
    if problems:
        raise ConfigurationError(*problems)


def _read(
    groups: Iterable[CommandGroup], *, complete: bool, is_final: bool = True
) -> dict[str, Command]:
    table: dict[str, Command] = {}
    seen: dict[str, _Declaration] = {}
    errors: list[ConfigurationError] = []
    for group in groups:
        for declaration in group._declarations:
            first = seen.setdefault(declaration.name, declaration)
            if first is not declaration:
                errors.append(_stands_twice(first, declaration))
            elif declaration.name in table:
                errors.append(DuplicateCommand(f"{group!r} is included twice; include it once"))
                break
            try:
                reader = declaration if is_final else copy.copy(declaration)
                table[declaration.name] = reader.read(complete=complete)
            except NameError as error:
                if complete:
                    errors.append(declaration.undefined_names(error))
            except ConfigurationError as error:
                errors.append(error)
    if errors:
        raise report(errors)
    return table


def _stands_twice(first: _Declaration, second: _Declaration) -> DuplicateCommand:
    return DuplicateCommand(
        f"the command {first.name!r} stands twice: {where(first.function)} and "
        f"{where(second.function)}; rename one, or give its group a prefix"
    )
