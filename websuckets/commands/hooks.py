"""Hooks: functions of an app that run when it starts, when clients come and go, and for health."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from websuckets.commands.injected_function import InjectedFunction
from websuckets.commands.injection import Injection
from websuckets.commands.signature import Declaration, Plan, read_hook
from websuckets.di.injectables import WebSucketsProvider
from websuckets.exc import ConfigurationError, report
from websuckets.introspection.hints import name_of

__all__ = ["HookDeclarations", "Hooks"]

Kind: TypeAlias = Literal["startup", "handshake", "connect", "disconnect", "ready"]

_WITHOUT_CONNECTION: Final[dict[Kind, str]] = {
    "startup": "at startup there is none",
    "ready": "a readiness check has none",
}
"""Kinds of hooks that run for no connection, and the reason to tell."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """All hooks of an app, each kind in the order in which they were decorated."""

    startup: tuple[InjectedFunction, ...] = ()
    handshake: tuple[InjectedFunction, ...] = ()
    connect: tuple[InjectedFunction, ...] = ()
    disconnect: tuple[InjectedFunction, ...] = ()
    ready: tuple[InjectedFunction, ...] = ()
    """The readiness check, if there is one."""

    @property
    def injections(self) -> list[Injection]:
        hooks = (*self.startup, *self.handshake, *self.connect, *self.disconnect, *self.ready)
        return [hook.injection for hook in hooks]


@dataclass(slots=True)
class _Declaration(Declaration):
    kind: Kind
    plan: Plan | None = None

    def read(self) -> Plan:
        """Return the plan; raise `NameError` while a name in an annotation is undefined."""
        if self.plan is None:
            self.plan = read_hook(self.function, self.names)
            self.frame = None
        return self.plan


class HookDeclarations:
    """Hooks that were decorated in an app, kept for as long as the app lives."""

    def __init__(self) -> None:
        self._declarations: list[_Declaration] = []

    def add(self, kind: Kind, function: Callable[..., Any]) -> None:
        """Add a hook; raise `InvalidHandlerSignature` if an error can be known already."""
        declaration = _Declaration(function, kind)
        try:
            declaration.read()
        except NameError:
            pass  # the name may be defined later, until the app starts
        self._declarations.append(declaration)

    def has(self, kind: Kind) -> bool:
        """Tell whether there is a hook of this kind."""
        return any(declaration.kind == kind for declaration in self._declarations)

    def read(self, provider: WebSucketsProvider) -> Hooks:
        """Return the hooks; raise one `ConfigurationError` for all that are wrong or undefined."""
        no_message = dict.fromkeys(
            provider.of_message, "that belongs to a message, and a hook answers none"
        )
        no_connection = {
            kind: dict.fromkeys(
                provider.of_connection,
                f"that belongs to a connection, and {why}; AppTasks, Session and what providers "
                "give with Scope.APP are there",
            )
            for kind, why in _WITHOUT_CONNECTION.items()
        }
        hooks: dict[Kind, list[InjectedFunction]] = {kind: [] for kind in get_args(Kind)}
        errors: list[ConfigurationError] = []
        for declaration in self._declarations:
            kind = declaration.kind
            try:
                plan = declaration.read()
            except NameError as error:
                errors.append(declaration.undefined_names(error))
            except ConfigurationError as error:
                errors.append(error)
            else:
                absent = no_message | no_connection.get(kind, {})
                name = "readiness check" if kind == "ready" else f"on_{kind}"
                name = f"{name} {name_of(declaration.function)}"
                hooks[kind].append(InjectedFunction.of(name, plan, absent))
        if errors:
            raise report(errors)
        return Hooks(**{kind: tuple(of_kind) for kind, of_kind in hooks.items()})
