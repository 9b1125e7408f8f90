"""The command ``websuckets asyncapi``: the AsyncAPI document of an app."""

from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from websuckets.asyncapi.texts import as_json, as_yaml
from websuckets.cli.arguments import AppDir, Factory, Output, Target
from websuckets.cli.check import warn_of_no_group
from websuckets.cli.failures import inspecting
from websuckets.cli.loading import load

__all__ = ["asyncapi"]

YAML: Final = (".yaml", ".yml")
"""Ends of the names of files that are written as YAML."""


def asyncapi(
    target: Target = None,
    as_yaml_: Annotated[
        bool,
        typer.Option(
            "--yaml",
            help="Write YAML; a FILE that ends in .yaml or .yml is YAML anyway. Default: JSON.",
        ),
    ] = False,
    output: Output = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; exit with status 1 if FILE is not up to date."
        ),
    ] = False,
    factory: Factory = False,
    app_dir: AppDir = None,
) -> None:
    """Write the AsyncAPI document of an app: its commands, channels, events and errors.

    Other programs generate clients and pages from the document. The same app gives the same text,
    so a repository may have the file, and its tests may check that the file is up to date.

    \b
    Examples:
      websuckets asyncapi -o asyncapi.json
      websuckets asyncapi main:app -o asyncapi.yaml
      websuckets asyncapi main:app -o asyncapi.json --check
    """
    if check and output is None:
        raise typer.BadParameter("it needs the FILE that is to be checked: add -o FILE")
    is_yaml = as_yaml_ or (output is not None and output.suffix.lower() in YAML)
    with inspecting():
        app = load(target, factory=factory, app_dir=app_dir)
        compiled, _ = app._proved()  # an app that cannot start has no document
        text = (as_yaml if is_yaml else as_json)(app.asyncapi())
    warn_of_no_group(compiled)
    if output is None:
        typer.echo(text, nl=False)
    elif check:
        _check(output, text)
    else:
        try:
            output.write_text(text, "utf-8", newline="\n")
        except OSError as error:
            _fail(f"{output} cannot be written: {error.strerror}")


def _check(output: Path, text: str) -> None:
    """End with status 1 if the file has another text."""
    try:
        found = output.read_bytes()
    except OSError as error:
        _fail(f"{output} cannot be read: {error.strerror}")
    if found.replace(b"\r\n", b"\n") != text.encode():
        _fail(f"{output} is out of date: write it again, with the same command without --check")
    typer.echo(f"ok: {output} is up to date")


def _fail(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(1) from None
