"""`websuckets new`: a project has its files, and names that cannot work are refused."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from new_project import FILES, environment, files
from typer.testing import CliRunner

import websuckets
from websuckets.cli.new import DEPENDENCIES, DIRECTORIES, create_project
from websuckets.cli.program import program

WRONG_NAMES: Final = [
    ("", "cannot be the name of a package: write"),
    ("2desk", "cannot be the name of a package: write"),
    ("-desk", "cannot be the name of a package: write"),
    ("desk-", "cannot be the name of a package: write"),
    ("help--desk", "cannot be the name of a package: write"),
    ("_desk", "cannot be the name of a package: write"),
    ("help desk", "cannot be the name of a package: write"),
    ("help.desk", "cannot be the name of a package: write"),
    ("../desk", "cannot be the name of a package: write"),
    ("/desk", "cannot be the name of a package: write"),
    ("desk\nROOT", "cannot be the name of a package: write"),
    ("desk\n", "cannot be the name of a package: write"),
    ("стол", "cannot be the name of a package: write"),
    ("class", "it is a keyword of Python"),
    ("json", "would hide the module json of Python"),
    ("Json", "would hide the module json of Python"),
    ("test", "would hide the module test of Python"),
    ("this", "would hide the module this of Python"),
    ("websuckets", "would hide websuckets, which it needs"),
    ("WebSuckets", "would hide websuckets, which it needs"),
    ("argon2-cffi", "would hide argon2_cffi, which it needs"),
    ("tests", "has another directory tests"),
    ("deploy", "has another directory deploy"),
]

PLACEHOLDER: Final = re.compile(r"\{\{\w+\}\}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return create_project("help-desk", tmp_path)


def test_a_project_has_its_files(project: Path) -> None:
    assert project.name == "help-desk"
    assert set(files(project)) == FILES


def test_no_placeholder_is_left(project: Path) -> None:
    for name, text in files(project).items():
        assert not PLACEHOLDER.search(name + text), name
        assert text.endswith("\n") and "\r" not in text, name


def test_a_project_depends_on_the_version_that_made_it(project: Path) -> None:
    content = tomllib.loads((project / "pyproject.toml").read_text())
    assert content["project"]["name"] == "help-desk"
    dependencies = content["project"]["dependencies"]
    assert f"websuckets[cli,redis]>={version('websuckets')}" in dependencies
    assert content["tool"]["websuckets"]["app"] == "help_desk.main:app"


def test_a_local_version_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websuckets, "__version__", "1.2.3+local")
    project = create_project("desk", tmp_path)
    assert "websuckets[cli,redis]>=1.2.3" in (project / "pyproject.toml").read_text().split('"')


def test_a_name_without_a_dash_is_that_of_the_package(tmp_path: Path) -> None:
    project = create_project("desk", tmp_path)
    assert (project / "desk" / "main.py").is_file()
    assert (project / "deploy" / "desk.service").is_file()
    assert 'PREFIX: Final = "DESK_"' in (project / "desk" / "settings.py").read_text()


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "help-desk").mkdir()
    assert set(files(create_project("help-desk", tmp_path))) == FILES


def test_the_command_tells_the_next_steps(here: Path) -> None:
    result = CliRunner().invoke(program, ["new", "help-desk"])
    assert result.exit_code == 0
    assert set(files(here / "help-desk")) == FILES
    steps = [line.strip() for line in result.stdout.splitlines() if line.startswith("    ")]
    assert steps == [
        "cd help-desk",
        'python -m pip install -e ".[test]"',
        "python -m pytest",
        "websuckets run --reload",
    ]


@pytest.mark.parametrize(("name", "problem"), WRONG_NAMES)
def test_a_wrong_name_is_refused_in_one_line(here: Path, name: str, problem: str) -> None:
    result = CliRunner().invoke(program, ["new", "--", name])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"websuckets new: {name!r} ")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert files(here) == {}


def test_a_directory_that_is_not_empty_is_left_alone(here: Path) -> None:
    (here / "desk").mkdir()
    (here / "desk" / "mine").write_text("mine")
    result = CliRunner().invoke(program, ["new", "desk"])
    assert result.exit_code == 1
    assert result.stderr == "websuckets new: the directory desk is not empty\n"
    assert files(here) == {"desk/mine": "mine"}


def test_a_file_in_the_place_of_the_directory_is_left_alone(here: Path) -> None:
    (here / "desk").write_text("mine")
    result = CliRunner().invoke(program, ["new", "desk"])
    assert result.exit_code == 1
    assert result.stderr.startswith("websuckets new: ")
    assert result.stderr.count("\n") == 1
    assert files(here) == {"desk": "mine"}


@pytest.mark.slow
def test_a_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "websuckets", "new", "json"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("websuckets new: 'json' would hide the module json of Python")
    assert ran.stderr.count("\n") == 1


def test_names_of_all_that_a_project_imports_are_refused(project: Path) -> None:
    imported = {
        name.split(".")[0]
        for path in project.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
        )
    }
    content = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    installed = {
        re.split(r"[\[>]", requirement)[0].replace("-", "_")
        for requirement in content["dependencies"] + content["optional-dependencies"]["test"]
    }
    needed = (imported | installed) - sys.stdlib_module_names - {"help_desk"}
    assert needed == DEPENDENCIES
    assert {path.name for path in project.iterdir() if path.is_dir()} - {"help_desk"} == DIRECTORIES
