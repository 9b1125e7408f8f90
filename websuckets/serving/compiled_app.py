"""A compiled app: its commands and hooks, read and ready, and their needs of a container."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dishka import AsyncContainer, Provider, Scope
from dishka.provider import BaseProvider

from websuckets.commands.groups import Command, CommandGroup, command_table
from websuckets.commands.hooks import HookDeclarations, Hooks
from websuckets.commands.injected_function import InjectedFunction
from websuckets.commands.injection import Injection, name_for_errors
from websuckets.di.graph import scopes_of
from websuckets.di.injectables import WebSucketsProvider, context_types, values_provider
from websuckets.on_commit import OnCommit
from websuckets.runtime.tasks import AppTasks, TaskSource
from websuckets.security import Identity, SecurityProvider, identify
from websuckets.serving.container import Override, build_container, check_container

__all__ = ["CompiledApp", "compile_app"]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledApp:
    """Parts of an app, which can be run any number of times, one run after the other."""

    commands: Mapping[str, Command]
    hooks: Hooks
    identification: InjectedFunction
    """Function that verifies the user of a handshake, where that can be done."""
    injections: tuple[Injection, ...]
    """Injections of all commands and hooks."""
    tasks: TaskSource
    context: WebSucketsProvider
    values: Mapping[Any, object]
    """Objects of the app, by the type that they are injected as."""

    @property
    def providers(self) -> tuple[BaseProvider, ...]:
        """Providers that a container has to contain, so that the app can run with it.

        Their factories are named by place and remedy: dishka shows the names where a container that
        the program builds lacks something.
        """
        for injection in self.injections:
            name_for_errors(injection)
        return (*self._ours(), *(p for injection in self.injections for p in injection.providers))

    def verifies_at_handshake(self, container: AsyncContainer) -> bool:
        return bool(scopes_of(container, Identity | None) or scopes_of(container, Identity))

    def build_container(
        self, providers: Iterable[BaseProvider], overrides: Iterable[Override]
    ) -> AsyncContainer:
        """Build a container of the app's own, whose providers win over those of the framework.

        Raises the errors of the function `build_container`.
        """
        ours = (*self._ours(), SecurityProvider())
        return build_container((*ours, *providers), self.injections, overrides)

    def check_container(self, container: AsyncContainer) -> None:
        """Raise a `ConfigurationError` for a container with which the app cannot run."""
        context = context_types([self.context])
        check_container(container, self.injections, CompiledApp, self, context)

    def _ours(self) -> tuple[BaseProvider, ...]:
        tasks = Provider(scope=Scope.APP)
        # Not cached: `open` raises while the app does not run, and the container may outlive a run.
        tasks.provide(self.tasks.open, provides=AppTasks, cache=False)
        effects = Provider(scope=Scope.REQUEST)
        effects.provide(OnCommit)
        return (
            self.context,
            values_provider({CompiledApp: self, **self.values}),
            tasks,
            effects,
        )


def compile_app(
    groups: Iterable[CommandGroup], hooks: HookDeclarations, values: Mapping[Any, object]
) -> CompiledApp:
    """Compile an app; raise a `ConfigurationError` with all errors of commands, or of hooks."""
    commands = command_table(groups)
    context = WebSucketsProvider()
    ready = hooks.read(context)
    identification = InjectedFunction.of_framework("identification", identify)
    of_commands = (command.injection for command in commands.values())
    return CompiledApp(
        commands,
        ready,
        identification,
        (identification.injection, *of_commands, *ready.injections),
        TaskSource("the app"),
        context,
        values,
    )
