"""A compiled app: its commands and hooks, read and ready, and what they need of a container."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dishka import AsyncContainer, Provider, Scope
from dishka.provider import BaseProvider

from websuckets.commands.groups import Command, CommandGroup, command_table
from websuckets.commands.hooks import Hook, HookDeclarations, Hooks
from websuckets.commands.injection import Injection
from websuckets.di.graph import scopes_of
from websuckets.di.injectables import WebSucketsProvider, context_types, values_provider
from websuckets.runtime.tasks import AppTasks, TaskSource
from websuckets.security import Identity, SecurityProvider, identify
from websuckets.serving.container import Override, build_container, check_container

__all__ = ["CompiledApp", "read_blueprint"]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledApp:
    """What an app is made of. It can be run any number of times, one after the other."""

    commands: Mapping[str, Command]
    hooks: Hooks
    identification: Hook
    """Runs before the others where a handshake can verify its user."""
    injections: tuple[Injection, ...]
    """Those of all commands and hooks."""
    tasks: TaskSource
    context: WebSucketsProvider
    values: Mapping[Any, object]
    """Objects of the app, by the type that they are injected as."""

    @property
    def providers(self) -> tuple[BaseProvider, ...]:
        """What a container has to contain, so that the app can run with it."""
        return (*self._ours(), *(p for injection in self.injections for p in injection.providers))

    def hooks_for(self, container: AsyncContainer) -> Hooks:
        """All that run with this container."""
        if not self.verifies_at_handshake(container):
            return self.hooks
        return replace(self.hooks, handshake=(self.identification, *self.hooks.handshake))

    def verifies_at_handshake(self, container: AsyncContainer) -> bool:
        return bool(scopes_of(container, Identity | None) or scopes_of(container, Identity))

    def build_container(
        self, providers: Iterable[BaseProvider], overrides: Iterable[Override]
    ) -> AsyncContainer:
        """A container of the app's own; its providers win over ours. Raises what it is told to."""
        ours = (*self._ours(), SecurityProvider())
        return build_container((*ours, *providers), self.injections, overrides)

    def check_container(self, container: AsyncContainer) -> None:
        """Raises a `ConfigurationError` for one with which the app cannot run."""
        context = context_types([self.context])
        check_container(container, self.injections, CompiledApp, self, context)

    def _ours(self) -> tuple[BaseProvider, ...]:
        tasks = Provider(scope=Scope.APP)
        # Not kept: they are other ones each time the app runs, and the container may outlive that.
        tasks.provide(self.tasks.open, provides=AppTasks, cache=False)
        return (self.context, values_provider({CompiledApp: self, **self.values}), tasks)


def read_blueprint(
    groups: Iterable[CommandGroup], hooks: HookDeclarations, values: Mapping[Any, object]
) -> CompiledApp:
    """Raises a `ConfigurationError` for all that is wrong with the commands, or with the hooks."""
    commands = command_table(groups)
    context = WebSucketsProvider()
    ready = hooks.read(context)
    identification = HookDeclarations()
    identification.add("handshake", identify)
    (first,) = identification.read(context).handshake
    of_commands = (command.injection for command in commands.values())
    return CompiledApp(
        commands,
        ready,
        first,
        (first.injection, *of_commands, *ready.injections),
        TaskSource("the app"),
        context,
        values,
    )
