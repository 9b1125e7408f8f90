"""Arguments that commands of the command line have in common: the app, and the file to write."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["AppDir", "Factory", "Output", "Target"]

Target: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help=(
            "The app: module:attribute, as in main:app or desk.server:app. A module alone stands "
            "for its `app`. Without TARGET: the one that pyproject.toml names ([tool.websuckets] "
            'app = "main:app"), or else `app` in main.py, in app.py, or in the package of the '
            "project."
        ),
        metavar="TARGET",
        show_default=False,
    ),
]

Factory: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--factory",
        help="TARGET is a function without arguments that returns the app, as in main:make_app.",
    ),
]

AppDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--app-dir",
        help="The directory from which the app is imported. Default: the current one.",
        metavar="DIRECTORY",
        show_default=False,
    ),
]

Output: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The file to write, which is replaced. Default: standard output.",
        metavar="FILE",
        show_default=False,
    ),
]
