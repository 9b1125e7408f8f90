"""Tests of the program as a whole: its start, its help, and shell completion."""

import importlib
import runpy
import subprocess
import sys
import tomllib

import pytest
from command_line import Project
from repository import ROOT
from timeouts import TIMEOUT
from typer.testing import CliRunner

import websuckets
from websuckets.cli import EXTRA, main
from websuckets.cli.program import program

COMMANDS = sorted(
    command.name or getattr(command.callback, "__name__", "")
    for command in program.registered_commands
)


def test_the_script_is_the_function_main() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert settings["scripts"] == {"websuckets": f"{main.__module__}:{main.__qualname__}"}


def test_the_extra_is_that_of_the_project() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extra = settings["optional-dependencies"]["cli"]
    assert tuple(requirement.partition(">=")[0] for requirement in extra) == EXTRA


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["rich", "typer"])
def test_without_the_extra_a_line_tells_how_to_get_it(missing: str) -> None:
    """Expect nothing else: neither a traceback, nor advice to install by name from an index."""
    code = f"import sys; sys.modules[{missing!r}] = None; from websuckets.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=5 * TIMEOUT
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"websuckets: {missing} is missing, which the command line needs: install websuckets with "
        'its extra "cli", from a checkout by: pip install ".[cli]"\n'
    )


def test_the_line_is_the_status_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "websuckets.cli.program")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match="websuckets: typer is missing"):
        main()


def test_a_module_of_ours_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websuckets.cli.program", None)
    with pytest.raises(ModuleNotFoundError, match=r"websuckets\.cli\.program"):
        main()


def test_the_module_is_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "websuckets.__main__", raising=False)
    monkeypatch.setattr(sys, "argv", ["websuckets", "--version"])
    monkeypatch.delitem(sys.modules, "websuckets.__main__", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("websuckets", run_name="__main__")
    assert not caught.value.code
    assert capsys.readouterr().out == f"websuckets {websuckets.__version__}\n"


def test_importing_the_module_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "websuckets.__main__", raising=False)
    importlib.import_module("websuckets.__main__")


def test_version_and_help_are_printed(project: Project) -> None:
    assert project.run("--version").stdout == f"websuckets {websuckets.__version__}\n"
    alone, helped = project.call(), project.call("--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith("Usage: websuckets [OPTIONS] COMMAND")
    assert all(f"\n  {name} " in helped.stdout for name in COMMANDS)
    assert alone.stdout + alone.stderr == helped.stdout


@pytest.mark.parametrize("how", ["call", pytest.param("run", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example(project: Project, name: str, how: str) -> None:
    result = getattr(project, how)(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: websuckets {name} ")
    examples = result.stdout.partition("Examples:\n")[2].partition("\n\n")[0]
    assert f"websuckets {name}" in examples
    short = project.call(name, "-h").stdout  # of another width
    assert "".join(short.split()) == "".join(result.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_a_terminal_of_80_columns(name: str) -> None:
    result = CliRunner().invoke(program, [name, "--help"])
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_wrong_command_is_a_wrong_use(project: Project) -> None:
    result = project.call("chek")
    assert (result.returncode, result.stdout) == (2, "")
    assert "No such command 'chek'" in result.stderr


@pytest.mark.slow
def test_a_shell_completes_commands(project: Project) -> None:
    asked = {"COMP_WORDS": "websuckets c", "COMP_CWORD": "1"}
    result = project.run(env={"_WEBSUCKETS_COMPLETE": "complete_bash", **asked})
    groups = [group.name or "" for group in program.registered_groups]
    expected = [name for name in (*COMMANDS, *groups) if name.startswith("c")]
    assert sorted(result.stdout.split()) == sorted(expected)
    script = project.run(env={"_WEBSUCKETS_COMPLETE": "source_bash"})
    assert "complete -o default -F _websuckets_completion websuckets" in script.stdout
