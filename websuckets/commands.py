"""Commands: names, the handlers that answer to them, and the guards in front."""

import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Concatenate, Final, TypeAlias, TypeVar

from typing_extensions import TypeForm

from websuckets.di.plan import Plan, bare_type, caller, read_plan, undefined_names, where
from websuckets.di.providers import Injection, injection_of
from websuckets.exc import (
    ConfigurationError,
    DuplicateCommand,
    InvalidGuard,
    report,
)
from websuckets.security import CurrentUser

__all__ = ["Command", "CommandGroup", "command_table"]

# The first parameter is open: handlers may name any of the socket types.
Handler = TypeVar("Handler", bound=Callable[Concatenate[Any, ...], Coroutine[Any, Any, Any]])

Protection: TypeAlias = bool | TypeForm[Any] | None


@dataclass(frozen=True, slots=True)
class Command:
    """One command, read and ready: nothing about it is worked out per message."""

    name: str
    plan: Plan
    injection: Injection
    call: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]


class CommandGroup:
    """Commands that share a prefix and a protection; included in apps, it outlives them.

    ``prefix`` stands before each name, with a space between. ``protected`` holds for every command
    of the group: ``True`` asks for a verified user, a type for what it stands for as well.

    Raises `InvalidGuard` for a ``protected`` that is neither.
    """

    def __init__(self, prefix: str = "", *, protected: Protection = None) -> None:
        self.prefix = prefix
        self._protected = _guard_types(protected, f"CommandGroup({prefix!r})")
        self._declarations: list[_Declaration] = []

    def command(self, name: str, protected: Protection = None) -> Callable[[Handler], Handler]:
        """Register the decorated ``async def`` as the handler of ``name``.

        ``protected=True`` lets verified users in, ``protected=SomeType`` those for whom that
        dependency (REQUEST scope) can be built; both add to what the group asks for. Only ``False``
        opens a command of a protected group. A handler that asks for `CurrentUser` is protected.

        Raises `InvalidHandlerSignature` with all that is wrong with the handler, `InvalidGuard` for
        a ``protected`` that would protect nothing.
        """
        if not isinstance(name, str):
            raise ConfigurationError(
                'a command needs a name: write `@group.command("name")`, not `@group.command`'
            )

        def register(handler: Handler) -> Handler:
            frame = sys._getframe(1)
            declaration = _Declaration(
                name=f"{self.prefix} {name}" if self.prefix else name,
                handler=handler,
                opened=protected is False,
                guards=(*self._protected, *_guard_types(protected, where(handler))),
                # What annotations name may be local to the function around the handler.
                frame=None if frame.f_locals is frame.f_globals else frame,
            )
            try:
                declaration.read()
            except NameError:
                pass  # a name that is defined further down; it has until the group is included
            self._declarations.append(declaration)
            return handler

        return register

    def commands(self) -> tuple[Command, ...]:
        """The commands registered so far.

        Raises one `ConfigurationError` for all handlers whose annotations name what is not there.
        """
        commands: list[Command] = []
        errors: list[ConfigurationError] = []
        for declaration in self._declarations:
            try:
                commands.append(declaration.read())
            except NameError as error:
                errors.append(undefined_names(declaration.handler, declaration.names, error))
            except ConfigurationError as error:
                errors.append(error)
        if errors:
            raise report(errors)
        return tuple(commands)

    def __repr__(self) -> str:
        return f"CommandGroup({self.prefix!r}, {len(self._declarations)} commands)"


@dataclass(slots=True)
class _Declaration:
    """A decorated handler; it is read as soon as all that it names is defined."""

    name: str
    handler: Callable[..., Any]
    opened: bool
    guards: tuple[Any, ...]
    frame: FrameType | None
    command: Command | None = None

    @property
    def names(self) -> Mapping[str, Any]:
        return self.frame.f_locals if self.frame else {}

    def read(self) -> Command:
        """The command; raises `NameError` while an annotation names what is not defined."""
        if self.command is None:
            plan = read_plan(self.handler, self.names)
            injection = injection_of(plan, self._guards_of(plan))
            self.command = Command(self.name, plan, injection, caller(plan))
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


def _guard_types(protected: Any, whose: str) -> tuple[Any, ...]:
    """The guards that a ``protected=`` stands for, in their order."""
    if protected is None or protected is False:
        return ()
    if protected is True:
        return (CurrentUser,)
    if isinstance(protected, str | bytes | int | float):
        raise InvalidGuard(
            f"{whose}: protected={protected!r} is no guard; pass True, False or a type that a "
            "provider builds for those who may call"
        )
    if bare_type(protected) == _ANYBODY:
        raise InvalidGuard(
            f"{whose}: protected=CurrentUser | None guards nothing, everybody passes; "
            "write protected=True"
        )
    return (CurrentUser, protected)


_ANYBODY: Final = CurrentUser | None


def command_table(groups: Iterable[CommandGroup]) -> dict[str, Command]:
    """All commands by name.

    Raises one `DuplicateCommand` for every name that stands twice, and what
    `CommandGroup.commands` raises.
    """
    table: dict[str, Command] = {}
    errors: list[ConfigurationError] = []
    for group in groups:
        try:
            commands = group.commands()
        except ConfigurationError as error:
            errors.append(error)
            continue
        for command in commands:
            first = table.get(command.name)
            if first is None:
                table[command.name] = command
            else:
                errors.append(
                    DuplicateCommand(
                        f"the command {command.name!r} stands twice: {first.plan.where} and "
                        f"{command.plan.where}; rename one, or give its group a prefix"
                    )
                )
    if errors:
        raise report(errors)
    return table
