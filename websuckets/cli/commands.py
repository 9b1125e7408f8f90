"""The command ``websuckets commands``: a table of the commands that an app answers."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from websuckets.app import CommandInfo
from websuckets.cli.arguments import AppDir, Factory, Target
from websuckets.cli.failures import inspecting
from websuckets.cli.loading import load
from websuckets.introspection.hints import bare_type, name_of

__all__ = ["commands"]


def commands(
    target: Target = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON array with one object for each command."),
    ] = False,
    factory: Factory = False,
    app_dir: AppDir = None,
) -> None:
    """List the commands that an app answers, sorted by name.

    Each one has the type of its payload and of its reply (of each item, for a stream), its guards,
    the seconds that it may take, and the file and line of its handler; in JSON also the first
    paragraph of the handler's docstring.

    Printed to a file or another program, each command is one line, without frames.

    \b
    Examples:
      websuckets commands
      websuckets commands main:app --json
      websuckets commands | grep protected
    """
    with inspecting():
        app = load(target, factory=factory, app_dir=app_dir)
        app._proved()  # an app that cannot start answers no commands
        rows = [_Row.of(command) for command in app.commands.values()]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        Console().print(_framed(rows))
    else:
        typer.echo(_plain(rows))


@dataclass(frozen=True, slots=True)
class _Row:
    """A command as it is listed; the names of the fields are the keys of its JSON."""

    name: str
    payload: str | None
    reply: str
    protected: bool
    guards: tuple[str, ...]
    """Names of the guards besides that of verified users."""
    timeout: float | None
    stream: bool
    summary: str | None
    file: str | None
    line: int | None

    @classmethod
    def of(cls, command: CommandInfo) -> "_Row":
        return cls(
            command.name,
            None if command.payload is None else _shown(command.payload),
            _shown(command.reply),
            command.protected,
            tuple(map(_shown, command.guards)),
            command.timeout,
            command.is_stream,
            command.summary,
            command.file,
            command.line,
        )

    @property
    def cells(self) -> tuple[str, ...]:
        name = self.name if self.name.isprintable() else repr(self.name)
        guards = ", ".join(self.guards) or ("protected" if self.protected else "-")
        timeout = "none" if self.timeout is None else f"{self.timeout:g} s"
        stream = "stream" if self.stream else "-"
        return (name, self.payload or "-", self.reply, guards, timeout, stream, self._where)

    @property
    def _where(self) -> str:
        if self.file is None:
            return "-"
        path = Path(self.file)
        here = Path.cwd()
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{self.line}"


HEADINGS: Final = ("name", "payload", "reply", "guards", "time limit", "stream", "where")


def _shown(hint: Any) -> str:
    """Return a hint as a program writes it, with the names of its types alone."""
    hint = bare_type(hint)
    if hint is None or hint is NoneType:
        return "None"
    if hint is ...:
        return "..."
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin in (Union, UnionType):
        return " | ".join(map(_shown, parts))
    if origin is not None:
        return f"{_shown(origin)}[{', '.join(map(_shown, parts))}]"
    return name_of(hint)


def _plain(rows: Sequence[_Row]) -> str:
    """Return lines of columns that stand below each other, with two spaces between them."""
    table = [HEADINGS, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in table
    )
    return "\n".join(line.rstrip() for line in lines)


def _framed(rows: Sequence[_Row]) -> Table:
    """Return a table whose cells are folded where the terminal is too narrow for them."""
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.cells))
    return table
