"""Tests of ``websuckets check``."""

import pytest
from command_line import Project
from typer.testing import CliRunner

from websuckets.cli.program import program

CHECKED = """\
from collections.abc import AsyncIterator

from dishka import Provider, Scope

from websuckets import CommandGroup, Socket, WebSuckets


class Database: ...


def open_database() -> Database:
    raise AssertionError("a scope was opened")


group = CommandGroup()


@group.command("hello")
async def hello(socket: Socket, *, database: Database) -> str: ...


@group.command("secret", protected=True)
async def secret(socket: Socket) -> str: ...


@group.command("ticks")
async def ticks(socket: Socket) -> AsyncIterator[int]:
    yield 1


provider = Provider(scope=Scope.APP)
provider.provide(open_database)
app = WebSuckets(providers=[provider])
app.include_command_group(group)


@app.on_startup
async def start(database: Database) -> None:
    raise AssertionError("a hook ran")


@app.on_connect
async def come() -> None: ...


@app.on_error(LookupError)
def refuse(error: LookupError, database: Database) -> None:
    raise AssertionError("an error function ran")
"""

BROKEN = CHECKED.replace("providers=[provider]", "")

SUMMARY = "ok: 3 commands (1 protected, 1 stream), 3 hooks\n"


def test_an_app_that_can_start_is_counted(project: Project) -> None:
    """Expect neither an open scope nor a hook that has run: both would raise."""
    project.write(main=CHECKED)
    result = project.call("check", "main:app")
    assert (result.returncode, result.stdout, result.stderr) == (0, SUMMARY, "")


def test_a_readiness_check_is_proved_and_counted(project: Project) -> None:
    """Expect a check that has not run, and the report of what it misses."""
    check = (
        "async def my_check(database: Database) -> None:\n    raise AssertionError('it ran')\n\n\n"
    )
    ready = CHECKED.replace("app = WebSuckets(", f"{check}app = WebSuckets(ready=my_check, ")
    project.write(main=ready)
    result = project.call("check")
    assert (result.returncode, result.stdout) == (0, f"{SUMMARY.rstrip()}, a readiness check\n")
    project.write(other=ready.replace("providers=[provider]", ""))
    result = project.call("check", "other")
    assert result.returncode == 1
    assert "`other.my_check` (" in result.stderr and "Traceback" not in result.stderr


def test_an_app_that_cannot_start_has_all_its_problems_reported(project: Project) -> None:
    project.write(main=BROKEN)
    result = project.call("check")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("3 problems:\n1. command 'hello', `main.hello` (")
    assert "\n2. `main.start` (" in result.stderr
    assert "\n3. `main.refuse` (" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_the_program_has_its_own_traceback(project: Project) -> None:
    project.write(main="1 / 0\n")
    result = project.call("check", "main:app")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Traceback")
    assert result.stderr.count('  File "') == 1
    assert result.stderr.endswith("your program raised this error while `main` was imported\n")


def test_a_syntax_error_has_no_frames(project: Project) -> None:
    project.write(main="def\n")
    result = project.call("check", "main:app")
    assert result.returncode == 1
    assert result.stderr.startswith(f'  File "{project.directory / "main.py"}", line 1\n')


def test_it_tells_what_a_wrong_target_could_have_been(project: Project) -> None:
    project.write(server=CHECKED)
    result = project.call("check", "sever:app")
    assert result.returncode == 1
    assert "did you mean `server`?" in result.stderr


def test_options_choose_the_directory_and_a_factory(project: Project) -> None:
    made = CHECKED.replace("import AssertionError", "") + "\n\ndef make_app():\n    return app\n"
    project.write(**{"src/desk/server": made})
    result = project.call("check", "desk.server:make_app", "--factory", "--app-dir", "src")
    assert (result.returncode, result.stdout) == (0, SUMMARY)


def test_an_app_whose_groups_are_in_another_app_is_noticed(project: Project) -> None:
    project.write(main=f"{CHECKED}\n\napp = WebSuckets()\n")
    result = project.call("check")
    assert (result.returncode, result.stdout) == (
        0,
        "ok: 0 commands (0 protected, 0 streams), 0 hooks\n",
    )
    assert result.stderr.startswith("warning: this app includes no command group, and the program")


# In this process --------------------------------------------------------------------------------


def test_the_report_goes_to_standard_error(project: Project) -> None:
    project.write(main=f"print('imported')\n{CHECKED}")
    result = CliRunner().invoke(program, ["check", "main:app"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, SUMMARY, "imported\n")


@pytest.mark.parametrize(
    ("providers", "text"),
    [
        ("[]", "3 problems:"),
        ("[provider, cyclic]", "Cycle dependencies detected"),
    ],
)
def test_a_report_has_no_traceback(project: Project, providers: str, text: str) -> None:
    cycle = """\
class A:
    def __init__(self, a: "A") -> None: ...

cyclic = Provider(scope=Scope.APP)
cyclic.provide(A)
app ="""
    project.write(
        main=CHECKED.replace("app =", cycle).replace(
            "providers=[provider]", f"providers={providers}"
        )
    )
    result = CliRunner().invoke(program, ["check"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(text)


def test_a_report_has_the_notes_of_its_error(project: Project) -> None:
    project.write(main=f"{BROKEN}\n\napp.providers\n")
    result = CliRunner().invoke(program, ["check"])
    assert result.exit_code == 1
    assert "setup_dishka(container, app)" in result.stderr


def test_clients_that_are_verified_at_the_handshake_need_origins(project: Project) -> None:
    project.write(
        main="""\
        from websockets.http11 import Request

        from websuckets import WebSuckets
        from websuckets.security import HandshakeSecurityProvider


        async def identify(request: Request) -> int | None: ...


        app = WebSuckets(providers=[HandshakeSecurityProvider(identify)])
        """
    )
    result = CliRunner().invoke(program, ["check"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("clients are verified at their handshake")


def test_an_app_without_groups_is_warned_of_those_in_another_one(project: Project) -> None:
    project.write(main=f"{CHECKED}\n\napp = WebSuckets()\n")
    result = CliRunner().invoke(program, ["check"])
    assert (result.exit_code, result.stdout) == (
        0,
        "ok: 0 commands (0 protected, 0 streams), 0 hooks\n",
    )
    assert result.stderr.startswith("warning: this app includes no command group")
