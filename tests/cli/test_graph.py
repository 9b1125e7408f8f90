"""Tests of ``websuckets graph``."""

from command_line import Project
from typer.testing import CliRunner

from websuckets.cli.program import program

APP = """\
from websuckets import CommandGroup, Socket, WebSuckets
from websuckets.session import User

group = CommandGroup()


@group.command("hello")
async def hello(socket: Socket, *, user: User) -> str: ...


app = WebSuckets()
app.include_command_group(group)
"""


def test_the_page_goes_to_standard_output(project: Project) -> None:
    project.write(main=f"print('imported')\n{APP}")
    result = project.call("graph", "main:app")
    assert (result.returncode, result.stderr) == (0, "imported\n")
    assert result.stdout.startswith("<html>") and "hello()" in result.stdout


def test_the_page_goes_to_a_file(project: Project) -> None:
    project.write(main=APP)
    file = project.write_file("graph.html", "an older one, which is replaced")
    result = project.call("graph", "-o", "graph.html")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert file.read_text("utf-8").startswith("<html>")


def test_a_file_that_cannot_be_written_is_told(project: Project) -> None:
    project.write(main=APP)
    result = project.call("graph", "-o", "none/graph.html")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "none/graph.html cannot be written: No such file or directory\n"


def test_an_app_that_cannot_start_has_no_page(project: Project) -> None:
    project.write(main=APP.replace("user: User", "user: CommandGroup"))
    result = project.call("graph", "-o", "graph.html")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("command 'hello', `main.hello` (")
    assert not (project.directory / "graph.html").exists()


# In this process --------------------------------------------------------------------------------


def test_both_ways_give_the_same_page(project: Project) -> None:
    project.write(main=APP)
    file = project.directory / "graph.html"
    printed = CliRunner().invoke(program, ["graph"])
    assert CliRunner().invoke(program, ["graph", "--output", str(file)]).exit_code == 0
    assert printed.stdout == file.read_text("utf-8") + "\n"
    refused = CliRunner().invoke(program, ["graph", "--output", str(project.directory)])
    assert refused.exit_code == 1
    assert refused.stderr == f"{project.directory} cannot be written: Is a directory\n"
