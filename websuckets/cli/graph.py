"""The command ``websuckets graph``: a page that shows the dependencies of an app."""

import typer

from websuckets.cli.arguments import AppDir, Factory, Output, Target
from websuckets.cli.failures import inspecting
from websuckets.cli.loading import load

__all__ = ["graph"]


def graph(
    target: Target = None,
    output: Output = None,
    factory: Factory = False,
    app_dir: AppDir = None,
) -> None:
    """Draw the dependencies of an app, as an HTML page.

    The page shows, scope by scope, providers, guards, and the commands and hooks that depend on
    something. A browser loads the library that draws it, Mermaid, from the internet.

    \b
    Examples:
      websuckets graph -o graph.html
      websuckets graph main:app > graph.html
    """
    with inspecting():
        page = load(target, factory=factory, app_dir=app_dir).graph()
    if output is None:
        typer.echo(page)
        return
    try:
        output.write_text(page, "utf-8")
    except OSError as error:
        typer.echo(f"{output} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None
