"""The command ``websuckets client``: typed clients of an app, generated from its document."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from websuckets.asyncapi.texts import as_json, check_yaml
from websuckets.cli.arguments import AppDir, Factory, Output, Target
from websuckets.cli.check import warn_of_no_group
from websuckets.cli.failures import inspecting
from websuckets.cli.loading import load
from websuckets.client_generation import (
    Contract,
    Source,
    python_client,
    read_document,
    typescript_client,
)

__all__ = ["client"]

YAML: Final = (".yaml", ".yml")
"""Ends of the names of documents that are read as YAML."""

DocumentFile = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Read this AsyncAPI document, JSON or YAML, and no app.",
        metavar="DOCUMENT",
        show_default=False,
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help=(
            "Write nothing; exit with status 1 if FILE is not up to date, and tell which "
            "commands and types differ."
        ),
    ),
]

client: Final = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Generate a typed client of an app: its commands, streams, channels, events and errors.",
)


@client.callback()
def languages() -> None:
    """Generate a typed client of an app: its commands, streams, channels, events and errors."""


@client.command()
def python(
    target: Target = None,
    document: DocumentFile = None,
    output: Output = None,
    check: Check = False,
    factory: Factory = False,
    app_dir: AppDir = None,
) -> None:
    """Write a Python module with a typed function for each command of an app.

    The module needs websuckets, and belongs into the repository of those who use it. The app and
    its document give the same module.

    \b
    Examples:
      websuckets client python -o api.py
      websuckets client python main:app -o api.py --check
      websuckets client python --from asyncapi.json -o api.py
    """
    _generate(python_client, target, document, output, check, factory, app_dir)


@client.command()
def typescript(
    target: Target = None,
    document: DocumentFile = None,
    output: Output = None,
    check: Check = False,
    factory: Factory = False,
    app_dir: AppDir = None,
) -> None:
    """Write a TypeScript module with a typed function for each command of an app.

    The module needs the npm package websuckets, and belongs into the repository of those who use
    it. The app and its document give the same module.

    \b
    Examples:
      websuckets client typescript -o src/api.ts
      websuckets client typescript main:app -o src/api.ts --check
      websuckets client typescript --from asyncapi.json -o src/api.ts
    """
    _generate(typescript_client, target, document, output, check, factory, app_dir)


def _generate(
    print_client: Callable[[Contract], Source],
    target: str | None,
    document: Path | None,
    output: Path | None,
    check: bool,
    factory: bool,
    app_dir: Path | None,
) -> None:
    """Write, print or check what ``print_client`` makes; the other arguments are the user's."""
    if check and output is None:
        raise typer.BadParameter("it needs the FILE that is to be checked: add -o FILE")
    if document is not None and target is not None:
        raise typer.BadParameter("--from DOCUMENT takes the place of TARGET: drop one of them")
    with inspecting():
        found = _of_app(target, factory, app_dir) if document is None else _of_file(document)
        source = print_client(read_document(found))
    if output is None:
        typer.echo(str(source), nl=False)
    elif check:
        _check(output, source)
    else:
        try:
            output.write_text(str(source), "utf-8", newline="\n")
        except OSError as error:
            _fail(f"{output} cannot be written: {error.strerror}")


def _of_app(target: str | None, factory: bool, app_dir: Path | None) -> Any:
    """Return the document of an app as a file would have it."""
    app = load(target, factory=factory, app_dir=app_dir)
    compiled, _ = app._proved()  # an app that cannot start has no document
    warn_of_no_group(compiled)
    return json.loads(as_json(app.asyncapi()))


def _of_file(path: Path) -> Mapping[str, Any]:
    """Return the document in a file."""
    is_yaml = path.suffix.lower() in YAML
    if is_yaml:
        check_yaml()
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        _fail(f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        _fail(f"{path} cannot be read: it is not UTF-8")
    try:
        found = _read_yaml(text) if is_yaml else json.loads(text)
    except ValueError as error:
        _fail(f"{path} cannot be read: {error}")
    if not isinstance(found, dict):
        _fail(f"{path} is not an AsyncAPI document")
    return found


def _read_yaml(text: str) -> Any:
    """Return what YAML has; raise `ValueError` for a text that is none."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _check(output: Path, source: Source) -> None:
    """End with status 1 if the file has another source, and tell where."""
    try:
        found = output.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError as error:
        _fail(f"{output} cannot be read: {error.strerror}")
    if found != str(source):
        differences = "\n".join(source.differences(found, str(output)))
        _fail(
            f"{output} is out of date: write it again, with the same command without --check\n"
            f"{differences}"
        )
    typer.echo(f"ok: {output} is up to date")


def _fail(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(1) from None
