"""The command ``websuckets check``: all that can be proved of an app without serving it."""

import typer

from websuckets.cli.arguments import AppDir, Factory, Target
from websuckets.cli.failures import inspecting
from websuckets.cli.loading import load
from websuckets.security import CurrentUser
from websuckets.serving.compiled_app import CompiledApp
from websuckets.serving.definition import groups_of_the_program

__all__ = ["check", "warn_of_no_group"]


def check(target: Target = None, factory: Factory = False, app_dir: AppDir = None) -> None:
    """Prove all that can be proved of an app without serving it.

    Proved are the signatures of handlers and hooks, that everything that they ask for is provided,
    in all scopes, guards, and limits. No hook runs, and nothing is opened.

    The exit status is 0 if the app can start, and 1 with a report of all problems if it cannot.

    \b
    Examples:
      websuckets check             the app of this directory
      websuckets check main:app    the app named `app` in main.py
      websuckets check --factory desk.server:make_app
    """
    with inspecting():
        app = load(target, factory=factory, app_dir=app_dir)
        compiled, _ = app._proved()
    warn_of_no_group(compiled)
    typer.echo(f"ok: {_summary(compiled)}")


def warn_of_no_group(compiled: CompiledApp) -> None:
    """Warn of an app without commands, if the program included groups in another app."""
    if not compiled.commands and (groups := groups_of_the_program()):
        typer.echo(_SERVES_NOTHING.format(len(groups)), err=True)


_SERVES_NOTHING = (
    "warning: this app includes no command group, and the program included {} in another one; "
    "create WebSuckets() once"
)


def _summary(compiled: CompiledApp) -> str:
    commands = compiled.commands.values()
    protected = sum(CurrentUser in command.injection.guards for command in commands)
    streams = sum(command.is_stream for command in commands)
    checks = len(compiled.hooks.ready)
    others = checks + len(compiled.hooks.docs)
    return (
        f"{_counted(len(commands), 'command')} ({protected} protected, "
        f"{_counted(streams, 'stream')}), "
        f"{_counted(len(compiled.hooks.injections) - others, 'hook')}"
        + (", a readiness check" if checks else "")
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
