"""Tests of ``websuckets asyncapi``."""

import json
import sys

import pytest
import yaml
from command_line import Project

APP = """\
from websuckets import CommandGroup, Payload, Socket, WebSuckets

group = CommandGroup("note")


@group.command("add")
async def add(socket: Socket, text: Payload[str]) -> int:
    'Добавить заметку.'


app = WebSuckets(title="1e3", version="1.10")
app.include_command_group(group)
"""

OUT_OF_DATE = (
    "asyncapi.json is out of date: write it again, with the same command without --check\n"
)


def test_the_document_goes_to_standard_output(project: Project) -> None:
    project.write(main=f"print('imported')\n{APP}")
    result = project.call("asyncapi", "main:app")
    assert (result.returncode, result.stderr) == (0, "imported\n")
    document = json.loads(result.stdout)
    assert document["operations"]["note_add"]["summary"] == "Добавить заметку."
    assert "Добавить" in result.stdout


def test_yaml_has_the_same_document(project: Project) -> None:
    project.write(main=APP)
    result = project.call("asyncapi", "--yaml")
    assert yaml.safe_load(result.stdout) == json.loads(project.call("asyncapi").stdout)
    assert 'title: "1e3"' in result.stdout and 'version: "1.10"' in result.stdout


def test_the_name_of_a_file_decides_on_its_format(project: Project) -> None:
    project.write(main=APP)
    for name in ("a.json", "a.yaml", "a.yml"):
        result = project.call("asyncapi", "-o", name)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    json_, yaml_, yml = [(project.directory / f"a.{end}").read_text("utf-8") for end in FORMATS]
    assert json_.startswith("{") and yaml_.startswith('asyncapi: "3.0.0"') and yml == yaml_
    assert yaml.safe_load(yaml_) == json.loads(json_)


FORMATS = ("json", "yaml", "yml")


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_was_just_written_is_up_to_date(project: Project, format: str) -> None:
    project.write(main=APP)
    file = f"asyncapi.{format}"
    project.call("asyncapi", "-o", file)
    result = project.call("asyncapi", "-o", file, "--check")
    assert (result.returncode, result.stdout) == (0, f"ok: {file} is up to date\n")
    assert result.stderr == ""


def test_a_file_of_another_app_is_out_of_date(project: Project) -> None:
    project.write(main=APP, other=APP.replace("-> int", "-> str"))
    project.call("asyncapi", "other:app", "-o", "asyncapi.json")
    before = (project.directory / "asyncapi.json").read_text("utf-8")
    result = project.call("asyncapi", "main:app", "-o", "asyncapi.json", "--check")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", OUT_OF_DATE)
    assert (project.directory / "asyncapi.json").read_text("utf-8") == before


def test_lines_that_end_as_on_windows_are_up_to_date(project: Project) -> None:
    project.write(main=APP)
    project.call("asyncapi", "-o", "asyncapi.json")
    file = project.directory / "asyncapi.json"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert project.call("asyncapi", "-o", "asyncapi.json", "--check").returncode == 0


def test_files_that_are_not_there_are_told(project: Project) -> None:
    project.write(main=APP)
    result = project.call("asyncapi", "-o", "none/a.json")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "none/a.json cannot be written: No such file or directory\n"
    result = project.call("asyncapi", "-o", "a.json", "--check")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "a.json cannot be read: No such file or directory\n"


def test_a_check_needs_a_file(project: Project) -> None:
    project.write(main=APP)
    result = project.call("asyncapi", "--check")
    assert result.returncode == 2
    assert "add -o FILE" in result.stderr


def test_an_app_that_cannot_start_has_no_document(project: Project) -> None:
    project.write(main=APP.replace("Payload[str]", "Payload[str], other: CommandGroup"))
    result = project.call("asyncapi", "-o", "asyncapi.json")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("command 'note add', `main.add` (")
    assert not (project.directory / "asyncapi.json").exists()


def test_an_app_without_the_groups_of_its_program_is_told(project: Project) -> None:
    project.write(main=f"{APP}\napp = WebSuckets()\n")
    result = project.call("asyncapi")
    assert result.returncode == 0 and json.loads(result.stdout)["asyncapi"] == "3.0.0"
    assert result.stderr.startswith("warning: this app includes no command group")


def test_yaml_without_its_extra_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(main=APP)
    monkeypatch.setitem(sys.modules, "yaml", None)
    result = project.call("asyncapi", "--yaml")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith('YAML needs PyYAML: install websuckets with its extra "yaml"')
    assert project.call("asyncapi").returncode == 0


@pytest.mark.slow
def test_two_processes_write_the_same_text(project: Project) -> None:
    project.write(main=APP)
    first, second = (
        project.run("asyncapi", env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")
    )
    assert first and first == second
