"""Definition of an app: everything that a program gives before the start, and its container."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dishka import AsyncContainer
from dishka.provider import BaseProvider

from websuckets.broker import Broker
from websuckets.clock import WallClock
from websuckets.commands.groups import (
    Command,
    CommandGroup,
    check_groups,
    command_table,
    commands_so_far,
)
from websuckets.commands.hooks import HookDeclarations, Kind
from websuckets.di.graph import needed_by, needs_finalising
from websuckets.exc import ConfigurationError
from websuckets.history import EventLog
from websuckets.runtime.tasks import AppTasks
from websuckets.serving.compiled_app import CompiledApp, compile_app
from websuckets.serving.container import Override
from websuckets.store import SessionStore

__all__ = ["AppDefinition", "groups_of_the_program"]


class AppDefinition:
    """Groups, hooks, and either providers of the app's own or a container of the program's.

    The definition lives as long as the app. Raises `ConfigurationError` for parts that do not go
    together.
    """

    def __init__(self, providers: Iterable[BaseProvider]) -> None:
        if isinstance(providers, BaseProvider):
            raise ConfigurationError(f"providers={providers!r}: write a list, [{providers!r}]")
        self._providers = _checked(providers)
        self._groups: list[CommandGroup] = []
        self._hooks = HookDeclarations()
        self._overrides: list[Override] = []
        self._container: AsyncContainer | None = None
        self._sealed: CompiledApp | None = None  # set once a container may contain it

    @property
    def groups(self) -> tuple[CommandGroup, ...]:
        return tuple(self._groups)

    def commands(self) -> Mapping[str, Command]:
        """Return the commands by name; raise `ConfigurationError` for groups that are wrong."""
        return commands_so_far(self._groups) if self._sealed is None else self._sealed.commands

    def include(self, group: CommandGroup) -> None:
        self._check_not_sealed(f"include {group!r}")
        check_groups([*self._groups, group])
        self._groups.append(group)
        _included_groups.append(weakref.ref(group))

    def add_hook(self, kind: Kind, hook: Callable[..., Any]) -> None:
        self._check_not_sealed(f"register on_{kind} hooks")
        self._hooks.add(kind, hook)

    def add_error_function(self, error: type[Exception], function: Callable[..., Any]) -> None:
        self._check_not_sealed("register on_error functions")
        self._hooks.add_error_function(error, function)

    @contextmanager
    def override(
        self, providers: Iterable[BaseProvider], values: Mapping[Any, object]
    ) -> Iterator[None]:
        if self._container is not None:
            raise ConfigurationError(
                "the app runs with a container that setup_dishka() gave to it, which cannot be "
                "changed any more; build one for the test, with the other providers last, and give "
                "that to setup_dishka()"
            )
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"override(values={values!r}): write {{Type: object}}")
        override = Override(_checked(providers), dict(values))
        self._overrides.append(override)
        try:
            yield
        finally:
            self._overrides.remove(override)

    def use_container(self, container: AsyncContainer) -> None:
        """Use a container of the program's, in place of any earlier container."""
        if self._providers or self._overrides:
            raise ConfigurationError(
                "setup_dishka(container, app): the app has providers of its own, which would not "
                "be in the container; give them to make_async_container() rather than to the app"
            )
        self._container = container

    @property
    def has_own_container(self) -> bool:
        return self._container is None

    def seal(self, values: Mapping[Any, object]) -> CompiledApp:
        """Compile the app for a container of the program's; nothing can be added any more.

        ``values`` are objects of the app, by the type that they are injected as.
        """
        if self._sealed is None:
            self._sealed = compile_app(self._groups, self._hooks, values)
        return self._sealed

    def ready(
        self, values: Mapping[Any, object], groups: Iterable[CommandGroup] | None = None
    ) -> tuple[CompiledApp, AsyncContainer]:
        """Return the app, compiled and proved. ``groups`` take the place of the app's groups."""
        compiled = self._sealed
        if compiled is None:
            groups = self._groups if groups is None else groups
            compiled = compile_app(groups, self._hooks, values)
        else:
            self._check_complete(compiled)
        if self._container is not None:
            compiled.check_container(self._container)
            return compiled, self._container
        try:
            return compiled, compiled.build_container(self._providers, self._overrides)
        except ConfigurationError as error:
            if self._sealed is not None:
                error.add_note(_NOT_GIVEN)
            raise

    def needs_lifespan(self, values: Mapping[Any, object]) -> bool:
        """Tell whether there is anything to start, or to finalise."""
        if self._hooks.has("startup") or (self._providers and self._container is None):
            return True
        compiled, container = self.ready(values)
        wanted = [root for injection in compiled.injections for root in injection.roots]
        return needed_by(container, wanted, AppTasks) or needs_finalising(
            container, [*wanted, Broker, SessionStore, WallClock, EventLog]
        )

    def _check_complete(self, compiled: CompiledApp) -> None:
        """Raise `ConfigurationError` if groups have got commands since the app was compiled."""
        late = command_table(self._groups).keys() - compiled.commands.keys()
        if late:
            raise ConfigurationError(
                f"the commands {sorted(late)} came after app.providers was read: import what adds "
                "commands to groups before\n    container = make_async_container(*app.providers, "
                "...)"
            )

    def _check_not_sealed(self, what: str) -> None:
        if self._sealed is not None:
            raise ConfigurationError(
                f"app.providers was read already, and a container built of it perhaps: {what} "
                "before\n    container = make_async_container(*app.providers, ...)"
            )


_NOT_GIVEN = """app.providers was read, but the app was given no container; if there is one:
    setup_dishka(container, app)"""


def _checked(providers: Iterable[Any]) -> tuple[BaseProvider, ...]:
    return tuple(_provider(given) for given in providers)


def _provider(given: Any) -> BaseProvider:
    if isinstance(given, BaseProvider):
        return given
    if isinstance(given, type) and issubclass(given, BaseProvider):
        remedy = f"create it: {given.__name__}()"
    else:
        remedy = "pass a dishka.Provider(), or what provide_context(...) makes"
    raise ConfigurationError(f"providers=[...]: {given!r} is not a provider; {remedy}")


# The documented programs include their groups in one app and run another app, made later under the
# same name. So an app without groups, started as the program itself, serves what the program
# included.
_included_groups: list[weakref.ref[CommandGroup]] = []


def groups_of_the_program() -> tuple[CommandGroup, ...]:
    """Return every group that was included in any app and still exists, in that order."""
    alive = (reference() for reference in _included_groups)
    return tuple(dict.fromkeys(group for group in alive if group is not None))
