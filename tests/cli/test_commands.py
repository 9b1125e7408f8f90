"""Tests of ``websuckets commands``."""

import errno
import json
import os
import re
from contextlib import redirect_stdout
from functools import partial

import pytest
from command_line import Project
from typer.testing import CliRunner

from websuckets.cli.commands import commands
from websuckets.cli.program import program

POSTS = """\
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from dishka import Provider, Scope
from pydantic import BaseModel, Field

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets
from websuckets.security import CurrentUser


class Post(BaseModel):
    title: str


class Author:
    def __init__(self, user: CurrentUser) -> None: ...


class Admin(Author): ...


posts = CommandGroup("post", protected=True)
others = CommandGroup()


@posts.command("edit", protected=Author)
async def edit(socket: Socket, post: Post) -> Post: ...


@posts.command("delete", protected=Admin, timeout=0.5)
async def delete(socket: Socket, number: Payload[Annotated[int, Field(gt=0)]]) -> None:
    'Delete a post.'


@posts.command("create")
async def create(socket: Socket, post: Post | None = None) -> list[Post] | None: ...


@others.command("watch", timeout=None)
async def watch(socket: Socket, pair: Payload[tuple[int, ...]]) -> AsyncIterator[Literal["a.b", 1]]:
    yield 1


@others.command("bad\\nname")
async def bad(socket: Socket): ...


@others.command("later")
async def later(socket: Socket) -> "Nowhere": ...


compiled = Provider(scope=Scope.REQUEST)
compiled.provide(Author)
compiled.provide(Admin)
app = WebSuckets(providers=[compiled], limits=Limits(handler_timeout=20))
app.include_command_group(posts)
app.include_command_group(others)
"""

TABLE = """\
name         payload          reply              guards     time limit  stream  where
'bad\\nname'  -                Any                -          20 s        -       main.py:44
later        -                Any                -          20 s        -       main.py:48
post create  Post | None      list[Post] | None  protected  20 s        -       main.py:35
post delete  int              None               Admin      0.5 s       -       main.py:30
post edit    Post             Post               Author     20 s        -       main.py:26
watch        tuple[int, ...]  Literal['a.b', 1]  -          none        stream  main.py:39
"""

DELETE = {
    "name": "post delete",
    "payload": "int",
    "reply": "None",
    "protected": True,
    "guards": ["Admin"],
    "timeout": 0.5,
    "stream": False,
    "summary": "Delete a post.",
    "line": 30,
}


@pytest.mark.slow
def test_commands_are_lines_of_whole_values_where_nobody_looks(project: Project) -> None:
    project.write(main=POSTS)
    result = project.run("commands", "main:app", env={"COLUMNS": "20", "FORCE_COLOR": "1"})
    assert (result.returncode, result.stdout, result.stderr) == (0, TABLE, "")


def test_a_program_gets_json(project: Project) -> None:
    project.write(main=POSTS)
    result = project.call("commands", "--json")
    assert result.returncode == 0
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows][:2] == ["bad\nname", "later"]
    file = str(project.directory / "main.py")
    assert DELETE | {"file": file} in rows


def test_a_program_that_prints_does_not_disturb_the_json(project: Project) -> None:
    project.write(main=f"print('imported')\n{POSTS}")
    result = project.call("commands", "--json")
    assert len(json.loads(result.stdout)) == 6
    assert result.stderr == "imported\n"


def test_an_app_without_commands_has_a_heading_alone(project: Project) -> None:
    project.write(main="from websuckets import WebSuckets\n\napp = WebSuckets()\n")
    result = project.call("commands")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1)


def test_an_app_that_cannot_start_is_not_listed(project: Project) -> None:
    project.write(main=POSTS.replace("compiled.provide(Admin)\n", ""))
    result = project.call("commands")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("command 'post delete', `main.delete` (")


# In this process --------------------------------------------------------------------------------


def test_the_table_and_the_json_say_the_same(project: Project) -> None:
    project.write(main=POSTS)
    assert CliRunner().invoke(program, ["commands"]).stdout == TABLE
    rows = json.loads(CliRunner().invoke(program, ["commands", "--json"]).stdout)
    assert DELETE | {"file": str(project.directory / "main.py")} in rows


def test_a_handler_elsewhere_has_its_whole_path(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    file = Project(elsewhere).write_file("posts.py", POSTS)
    result = CliRunner().invoke(program, ["commands", "posts", "--app-dir", str(elsewhere)])
    assert f"  {file}:30\n" in result.stdout


def test_a_compiled_handler_has_no_place(project: Project) -> None:
    project.write(
        main="""\
        import inspect
        from websuckets import CommandGroup, Socket, WebSuckets


        async def hello(socket: Socket) -> str: ...


        class Compiled:  # as compilers make functions
            __signature__ = inspect.signature(hello)
            __get__ = __call__ = lambda self, *arguments: hello(*arguments)


        group = CommandGroup()
        group.command("hello")(Compiled())
        app = WebSuckets()
        app.include_command_group(group)
        """
    )
    result = CliRunner().invoke(program, ["commands"])
    assert result.stdout.splitlines()[1].split() == ["hello", "-", "str", "-", "30", "s", "-", "-"]
    (row,) = json.loads(CliRunner().invoke(program, ["commands", "--json"]).stdout)
    assert (row["file"], row["line"]) == (None, None)


def read_terminal(descriptor: int) -> bytes:
    """Read what a terminal has, by parts; ``b""`` is the end."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError as error:
        assert error.errno == errno.EIO  # which Linux raises once the other end is closed
        return b""


def test_a_terminal_gets_a_table_with_whole_values(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(main=POSTS)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    reading, writing = os.openpty()
    with open(writing, "w", encoding="utf-8") as terminal, redirect_stdout(terminal):
        commands("main:app")
    text = b"".join(iter(partial(read_terminal, reading), b"")).decode()
    os.close(reading)
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert {len(line) for line in lines} == {60}
    rows = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    columns = ["".join("".join(column).split()) for column in zip(*rows, strict=True)]
    assert columns[0].startswith(r"'bad\nname'later")
    assert columns[2] == "AnyAnylist[Post]|NoneNonePostLiteral['a.b',1]"
