"""Hooks: functions of an app for its start, its health, clients that come and go, and errors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from websuckets.commands.error_functions import ErrorFunctions
from websuckets.commands.injected_function import InjectedFunction
from websuckets.commands.injection import Injection
from websuckets.commands.signature import (
    Declaration,
    Plan,
    read_authorize,
    read_error_function,
    read_hook,
)
from websuckets.di.injectables import WebSucketsProvider
from websuckets.exc import ClientError, ConfigurationError, report
from websuckets.introspection.functions import where
from websuckets.introspection.hints import name_of

__all__ = ["HookDeclarations", "Hooks", "check_error_class"]

Kind: TypeAlias = Literal["startup", "handshake", "connect", "disconnect", "ready", "docs"]

_WITHOUT_CONNECTION: Final[dict[Kind, str]] = {
    "startup": "at startup there is none",
    "ready": "a readiness check has none",
    "docs": "a request for the document has none",
}
"""Kinds of hooks that run for no connection, and the reason to tell."""
KindOrError: TypeAlias = Kind | type[Exception]
"""Kind of a hook, or the class of the errors that an error function maps."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """All hooks of an app, each kind in the order in which they were decorated."""

    startup: tuple[InjectedFunction, ...] = ()
    handshake: tuple[InjectedFunction, ...] = ()
    connect: tuple[InjectedFunction, ...] = ()
    disconnect: tuple[InjectedFunction, ...] = ()
    ready: tuple[InjectedFunction, ...] = ()
    """The readiness check, if there is one."""
    docs: tuple[InjectedFunction, ...] = ()
    """The function that authorises requests for the document, if there is one."""
    errors: ErrorFunctions = field(default_factory=ErrorFunctions)

    @property
    def injections(self) -> list[Injection]:
        hooks = (
            *(*self.startup, *self.handshake, *self.connect, *self.disconnect),
            *(*self.ready, *self.docs),
        )
        return [hook.injection for hook in (*hooks, *self.errors.functions.values())]

    @property
    def at_the_end(self) -> int:
        """Number of hooks that may run one after the other for a connection that is aborted."""
        return len(self.disconnect) + bool(self.errors.functions)


@dataclass(slots=True)
class _Declaration(Declaration):
    kind: KindOrError
    plan: Plan | None = None

    def read(self) -> Plan:
        """Return the plan; raise `NameError` while a name in an annotation is undefined."""
        if self.plan is None:
            if self.kind == "docs":
                self.plan = read_authorize(self.function, self.names)
            elif isinstance(self.kind, str):
                self.plan = read_hook(self.function, self.names)
            else:
                self.plan = read_error_function(self.function, self.kind, self.names)
            self.frame = None
        return self.plan

    @property
    def name(self) -> str:
        """Name of the hook, for the log."""
        if self.kind == "ready":
            return f"readiness check {name_of(self.function)}"
        if self.kind == "docs":
            return f"authorisation of the document {name_of(self.function)}"
        kind = self.kind if isinstance(self.kind, str) else f"error({name_of(self.kind)})"
        return f"on_{kind} {name_of(self.function)}"


class HookDeclarations:
    """Hooks that were decorated in an app, kept for as long as the app lives."""

    def __init__(self) -> None:
        self._declarations: list[_Declaration] = []

    def add(self, kind: Kind, function: Callable[..., Any]) -> None:
        """Add a hook; raise `InvalidHandlerSignature` if an error can be known already."""
        self._add(_Declaration(function, kind))

    def add_error_function(self, error: type[Exception], function: Callable[..., Any]) -> None:
        """Add an error function as `add` does; raise `ConfigurationError` if there is another."""
        if not callable(function):
            raise ConfigurationError(
                f"app.on_error({name_of(error)}): {function!r} is not a function that could be "
                "called with the error"
            )
        for other in self._declarations:
            if other.kind is error:
                raise ConfigurationError(
                    f"app.on_error({name_of(error)}) stands twice: {where(other.function)} and "
                    f"{where(function)}; drop one, or map a subclass of the error by it"
                )
        self._add(_Declaration(function, error))

    def _add(self, declaration: _Declaration) -> None:
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
        no_connection: dict[KindOrError, dict[Any, str]] = {
            kind: dict.fromkeys(
                provider.of_connection,
                f"that belongs to a connection, and {why}; AppTasks, Session and what providers "
                "give with Scope.APP are there",
            )
            for kind, why in _WITHOUT_CONNECTION.items()
        }
        hooks: dict[Kind, list[InjectedFunction]] = {kind: [] for kind in get_args(Kind)}
        error_functions: dict[type[Exception], InjectedFunction] = {}
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
                function = InjectedFunction.of(
                    declaration.name, plan, no_message | no_connection.get(kind, {})
                )
                if isinstance(kind, str):
                    hooks[kind].append(function)
                else:
                    error_functions[kind] = function
        if errors:
            raise report(errors)
        of_kinds = {kind: tuple(of_kind) for kind, of_kind in hooks.items()}
        return Hooks(**of_kinds, errors=ErrorFunctions(error_functions))


def check_error_class(error: Any) -> None:
    """Raise `ConfigurationError` for anything but a class of errors that would be incidents."""
    if not isinstance(error, type):
        whose = where(error) if callable(error) else repr(error)
        raise ConfigurationError(
            f"app.on_error({whose}): it takes the class of the errors; write "
            "`@app.on_error(SomeError)` above the function"
        )
    name = f"app.on_error({name_of(error)})"
    if issubclass(error, ClientError):
        raise ConfigurationError(f"{name}: a ClientError is a reply already, and is sent as it is")
    if not issubclass(error, Exception):
        raise ConfigurationError(f"{name}: it is not a subclass of Exception, and cannot be mapped")
