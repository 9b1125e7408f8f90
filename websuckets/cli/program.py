"""The program of the command line, with all its commands."""

from typing import Annotated, Final

import typer

import websuckets
from websuckets.cli.asyncapi import asyncapi
from websuckets.cli.call import call
from websuckets.cli.check import check
from websuckets.cli.client import client
from websuckets.cli.commands import commands
from websuckets.cli.graph import graph
from websuckets.cli.new import new
from websuckets.cli.run import run
from websuckets.cli.watch import watch

__all__ = ["program"]

program: Final = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a fault of ours is reported as Python does
    rich_markup_mode=None,  # texts and examples of the help are printed as they are written
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"websuckets {websuckets.__version__}")
        raise typer.Exit


@program.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version of websuckets and exit.",
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Serve and inspect a websuckets app: commands over WebSocket, answered by typed handlers.

    Commands take the app as module:attribute, main:app for the `app` in main.py, and find
    it by themselves where it usually is; call and watch take the URL of a server that runs.
    `websuckets COMMAND --help` shows examples.
    """


program.command()(new)
program.command()(run)
program.command()(check)
program.command()(commands)
program.command()(graph)
program.command()(asyncapi)
program.add_typer(client, name="client")
program.command()(call)
program.command()(watch)
