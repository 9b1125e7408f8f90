"""The command ``websuckets new``: a small project with tests, to begin with."""

import re
import sys
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Final

import typer

import websuckets

__all__ = ["create_project", "new"]

TEMPLATES: Final = Path(__file__).parent / "project"
SUFFIX: Final = ".template"
"""End of the name of each template: without it, tools would take templates for source code."""

NAME: Final = re.compile(r"[A-Za-z](?:[-_]?[A-Za-z0-9])*")
"""Pattern of names that are names of distributions, too, and of services."""

STANDARD_LIBRARY: Final = sys.stdlib_module_names | {"test"}

DEPENDENCIES: Final = {
    "aiosqlite",
    "anyio",
    "argon2",
    "argon2_cffi",
    "dishka",
    "pydantic",
    "pytest",
    "sqlalchemy",
    "websuckets",
}
"""Packages that the project imports, and distributions that it depends on."""

DIRECTORIES: Final = {"deploy", "tests"}
"""Directories of the project, beside that of its package."""


def create_project(name: str, parent: Path) -> Path:
    """Write the files of a new project into the directory ``parent / name``, and return it.

    The name of the project's package is ``name`` with ``_`` in the place of each ``-``. Raises
    `ValueError` for a ``name`` that is not a name of a package, or that hides another one,
    `FileExistsError` where something but an empty directory is there already, and other kinds of
    `OSError` where files cannot be written.
    """
    package = _package(name)
    directory = parent / name
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(f"the directory {directory} is not empty")
    values = {
        "{{name}}": name,
        "{{package}}": package,
        "{{PACKAGE}}": package.upper(),
        "{{version}}": websuckets.__version__.partition("+")[0],  # without the local part
    }
    for template in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        path = template.relative_to(TEMPLATES).as_posix().removesuffix(SUFFIX)
        file = directory / _filled(path, values)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = _filled(template.read_text(encoding="utf-8"), values)
        file.write_text(text, encoding="utf-8", newline="\n")
    return directory


def new(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the project and of its directory, as in desk or help-desk.",
            metavar="NAME",
            show_default=False,
        ),
    ],
) -> None:
    """Create a small project: accounts, tickets, a database, tests, and files to deploy it.

    The files are written into the directory NAME, which is made here, or is empty. The package has
    the same name, with _ in the place of -. Nothing that exists is changed: a wrong name, and a
    directory with files, end with exit status 1.

    \b
    Examples:
      websuckets new desk
      websuckets new help-desk    a project help-desk with a package help_desk
    """
    try:
        directory = create_project(name, Path())
    except (ValueError, OSError) as error:
        typer.echo(f"websuckets new: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"Created the project {name}. Its README.md says more; to begin with, in an active virtual "
        "environment that has websuckets:\n"
    )
    for line in (
        f"cd {directory}",
        'python -m pip install -e ".[test]"',
        "python -m pytest",
        "websuckets run --reload",
    ):
        typer.echo(f"    {line}")


def _package(name: str) -> str:
    """Return the name of a project's package. Raises `ValueError` as `create_project` does."""
    package = name.replace("-", "_")
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a package: write letters of ASCII, digits, and single "
            "- or _ between them, and begin with a letter"
        )
    if iskeyword(package):
        raise ValueError(f"{name!r} cannot be the name of a package: it is a keyword of Python")
    # File systems may take Json for json.
    module = package.lower()
    if module in map(str.lower, STANDARD_LIBRARY):
        raise ValueError(f"{name!r} would hide the module {module} of Python: choose another name")
    if module in DEPENDENCIES:
        raise ValueError(f"{name!r} would hide {module}, which it needs: choose another name")
    if module in DIRECTORIES:
        raise ValueError(f"{name!r} has another directory {module}: choose another name")
    return package


def _filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
