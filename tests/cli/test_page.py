"""The page of the command line is true: its commands print what stands below them."""

import re
import shlex

import pages
import pytest
import typer
from command_line import Project

from websuckets.cli.program import program as command_line

PAGE = pages.ROOT / "docs" / "command-line.md"
HERE = "/home/ann/desk"
"""Directory of the program, as the page has it."""


def consoles() -> list[tuple[str, str]]:
    """Return the text of each block of a console, behind the program that stands above it."""
    found, program = [], ""
    for language, text in pages.blocks(PAGE):
        if language == "python":
            program += f"{text}\n\n"
        elif language == "console":
            found.append((program, text))
    return found


@pytest.mark.parametrize(("program", "text"), consoles())
def test_a_command_prints_what_the_page_says(project: Project, program: str, text: str) -> None:
    project.write(main=program)
    command, _, printed = text.partition("\n")
    assert command.startswith("$ websuckets ")
    result = project.run(*command.split()[2:])
    output = (result.stdout + result.stderr).replace(str(project.directory), HERE)
    assert output.split() == printed.split()  # spaces in drawings are dishka's


@pytest.mark.parametrize(
    "line", re.findall(r"^websuckets (.*?)(?: +#.*| && .*)?$", PAGE.read_text(), re.M)
)
def test_the_command_line_understands_each_line_of_a_shell(line: str) -> None:
    name, *arguments = shlex.split(line)
    group = typer.main.get_group(command_line)
    group.commands[name].make_context(name, arguments)  # raises where an option is wrong


def test_the_page_shows_each_command_of_the_inspection() -> None:
    shown = {text.split()[2] for _, text in consoles()}
    assert shown >= {"check", "commands", "graph"}
