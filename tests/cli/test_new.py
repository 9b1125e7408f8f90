"""`websuckets new`: the project that it writes works at once, and names that cannot work do not."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket as sockets
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.request import ProxyHandler, build_opener

import pytest
import typer
from ports import free_port
from repository import ROOT
from timeouts import TIMEOUT
from typer.testing import CliRunner
from websockets.sync.client import ClientConnection, connect

import websuckets
from websuckets import Limits
from websuckets.cli.new import DEPENDENCIES, DIRECTORIES, create_project, new

FILES: Final = {
    ".dockerignore",
    ".gitignore",
    "Dockerfile",
    "README.md",
    "deploy/help-desk.service",
    "deploy/nginx.conf",
    "help_desk/__init__.py",
    "help_desk/accounts.py",
    "help_desk/database.py",
    "help_desk/main.py",
    "help_desk/models.py",
    "help_desk/settings.py",
    "help_desk/tickets.py",
    "pyproject.toml",
    "tests/conftest.py",
    "tests/test_accounts.py",
    "tests/test_tickets.py",
}

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

PROBE: Final = """
import sys
from websuckets import CommandGroup, Socket
from {package}.main import app

probe = CommandGroup("probe")

@probe.command("address")
async def address(socket: Socket) -> str:
    return socket.remote_address[0]

app.include_command_group(probe)
app.run("127.0.0.1", int(sys.argv[1]))
"""
"""Program that serves a project with one more command, which tells the address of its client."""

NGINX: Final = """
daemon off;
pid {path}/nginx.pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {path}/body;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    include {path}/site.conf;
}}
"""
"""Configuration of a server that has one site, and writes to no directory but one."""


@pytest.fixture
def program() -> typer.Typer:
    """Return a program with two commands, so that `new` has its name."""
    program = typer.Typer()
    program.command()(new)
    program.command("other")(lambda: None)
    return program


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return create_project("help-desk", tmp_path)


@pytest.fixture
def nginx() -> str:
    """Return the path of the program."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed")
    return found


def files(directory: Path) -> dict[str, str]:
    """Return the texts of all files in a directory by their paths within it."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_text() for path in paths}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program that imports the package of this checkout."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))
    }
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """Run a program, and return its output; fail with the output if the program fails."""
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@contextmanager
def running(*command: str | Path, cwd: Path, until: str, **more: str) -> Iterator[None]:
    """Run a program meanwhile, from the line of its log that contains ``until``."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    log: list[str] = []
    try:
        for line in process.stdout:
            log.append(line)
            if until in line:
                break
        else:
            pytest.fail("".join(log))
        reader = threading.Thread(target=lambda: log.extend(process.stdout or ()))
        reader.start()  # so that the process never waits for a reader of its log
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0, "".join(log)
        reader.join(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def answer(client: ClientConnection, event: str, payload: Any = None, token: str = "") -> Any:
    """Send a command and return the next frame."""
    client.send(json.dumps({"event": event, "payload": payload, "token": token}))
    return json.loads(client.recv(TIMEOUT))


def site(project: Path, directory: Path, port: int, backend: int) -> Path:
    """Write a configuration of nginx with the project's site, and return its path."""
    text = (project / "deploy" / "nginx.conf").read_text()
    assert text.count("127.0.0.1:8000") == 1
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{backend}")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    text = text.replace("listen [::]:80;", "")  # not every machine has IPv6
    (directory / "site.conf").write_text(text)
    path = directory / "nginx.conf"
    path.write_text(NGINX.format(path=directory))
    return path


def directives(project: Path, name: str) -> list[str]:
    """Return the values of a directive in the unit of systemd, in their order."""
    text = (project / "deploy" / "help-desk.service").read_text()
    return re.findall(rf"^{name}=(.*)$", text, re.M)


def instructions(project: Path) -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments; continued lines are one."""
    lines = (project / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    parts = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(instruction, arguments.strip()) for instruction, _, arguments in parts]


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


def test_the_command_tells_the_next_steps(program: typer.Typer, here: Path) -> None:
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
def test_a_wrong_name_is_refused_in_one_line(
    program: typer.Typer, here: Path, name: str, problem: str
) -> None:
    result = CliRunner().invoke(program, ["new", "--", name])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"websuckets new: {name!r} ")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert files(here) == {}


def test_a_directory_that_is_not_empty_is_left_alone(program: typer.Typer, here: Path) -> None:
    (here / "desk").mkdir()
    (here / "desk" / "mine").write_text("mine")
    result = CliRunner().invoke(program, ["new", "desk"])
    assert result.exit_code == 1
    assert result.stderr == "websuckets new: the directory desk is not empty\n"
    assert files(here) == {"desk/mine": "mine"}


def test_a_file_in_the_place_of_the_directory_is_left_alone(
    program: typer.Typer, here: Path
) -> None:
    (here / "desk").write_text("mine")
    result = CliRunner().invoke(program, ["new", "desk"])
    assert result.exit_code == 1
    assert result.stderr.startswith("websuckets new: ")
    assert result.stderr.count("\n") == 1
    assert files(here) == {"desk": "mine"}


def test_a_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    command = "import typer; from websuckets.cli.new import new; typer.run(new)"
    ran = subprocess.run(
        [sys.executable, "-c", command, "json"],
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


@pytest.mark.timeout(300)  # on a machine that does much else
def test_the_tests_of_a_project_pass(project: Path) -> None:
    output = run(sys.executable, "-m", "pytest", "-q", cwd=project)
    assert re.search(r"^\d\d passed", output, re.M), output


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["help-desk", "a"])
def test_the_source_of_a_project_is_typed_and_formatted(tmp_path: Path, name: str) -> None:
    for tool in ("mypy", "ruff"):
        pytest.importorskip(tool, reason="it is in the extra dev")
    project = create_project(name, tmp_path)
    # Errors of websuckets itself are another test's.
    mypy = ("mypy", "--strict", "--follow-imports=silent", "--cache-dir=.mypy_cache", ".")
    run(sys.executable, "-m", *mypy, cwd=project, MYPYPATH=str(ROOT))
    config = f"--config={ROOT / 'pyproject.toml'}"
    run(sys.executable, "-m", "ruff", "check", config, ".", cwd=project)
    if name == "a":  # the length of other names may change where lines are broken
        return
    run(sys.executable, "-m", "ruff", "format", "--check", config, ".", cwd=project)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_a_project_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    env = tmp_path / "env"
    python = env / "bin" / "python"
    run(sys.executable, "-m", "venv", env, cwd=tmp_path)
    run(python, "-m", "pip", "install", "--quiet", f"{ROOT}[cli]", cwd=tmp_path, PYTHONPATH="")
    run(python, "-m", "pip", "install", "--quiet", "typer", cwd=tmp_path, PYTHONPATH="")
    made = "import typer; from websuckets.cli.new import new; typer.run(new)"
    run(python, "-I", "-c", made, "help-desk", cwd=tmp_path, PYTHONPATH="")
    project = tmp_path / "help-desk"
    assert set(files(project)) == FILES
    run(python, "-m", "pip", "install", "--quiet", "-e", ".[test]", cwd=project, PYTHONPATH="")
    output = run(env / "bin" / "pytest", "-q", cwd=project, PYTHONPATH="")
    assert re.search(r"^\d\d passed", output, re.M), output
    run(python, "-m", "help_desk.database", cwd=tmp_path, PYTHONPATH="")
    assert (tmp_path / "help_desk.db").is_file()


def test_settings_come_from_the_environment_and_hide_secrets(project: Path) -> None:
    program = """
from help_desk.settings import Settings
settings = Settings.from_environment()
print(settings)
print(settings.origins, settings.redis_url.get_secret_value())
print(settings.login_days)
"""
    output = run(
        sys.executable,
        "-c",
        program,
        cwd=project,
        HELP_DESK_REDIS_URL="redis://:hidden@localhost",
        HELP_DESK_DATABASE_URL="postgresql+psycopg://ann:hidden@localhost/desk",
        HELP_DESK_ORIGINS="https://a.example.org https://b.example.org",
        HELP_DESK_LOGIN_DAYS="7",
        HELP_DESK_PORT="tcp://10.0.0.1:80",  # as Kubernetes sets it for a service of this name
    ).splitlines()
    assert "hidden" not in output[0]
    assert output[1:] == [
        "('https://a.example.org', 'https://b.example.org') redis://:hidden@localhost",
        "7",
    ]


def test_a_redis_connects_the_processes_of_a_project(project: Path) -> None:
    program = "from help_desk.main import app; print(app.graph())"
    redis = {"HELP_DESK_REDIS_URL": "redis://localhost"}
    assert "RedisBroker" in run(sys.executable, "-c", program, cwd=project, **redis)


def test_the_dialogue_in_the_readme_takes_place(project: Path) -> None:
    port = free_port()
    with running(*served(project, port), cwd=project, until="listening on"):
        hold_the_dialogue(project, port)


def served(project: Path, port: int) -> tuple[str, ...]:
    program = f"from help_desk.main import app; app.run('127.0.0.1', {port})"
    return (sys.executable, "-c", program)


def hold_the_dialogue(project: Path, port: int) -> None:
    """Send what the README sends, and expect the replies that stand there."""
    lines = re.findall(r"^([<>]) (\{.*\})$", (project / "README.md").read_text(), re.M)
    assert len(lines) >= 8
    token = ""
    with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
        for direction, line in lines:
            frame = json.loads(line)
            if direction == ">":
                if "token" in frame:
                    frame["token"] = token
                client.send(json.dumps(frame))
                continue
            received = json.loads(client.recv(TIMEOUT))
            if frame.get("payload") == "...":
                token = received["payload"]
                frame["payload"] = token
            assert received == frame


def test_nginx_takes_the_configuration(nginx: str, project: Path, tmp_path: Path) -> None:
    config = site(project, tmp_path, free_port(), free_port())
    assert "test is successful" in run(nginx, "-t", "-p", tmp_path, "-c", config, cwd=tmp_path)


def test_nginx_waits_for_longer_than_the_server_between_two_pings(project: Path) -> None:
    text = (project / "deploy" / "nginx.conf").read_text()
    timeouts = dict(re.findall(r"proxy_(read|send)_timeout (\d+)s;", text))
    assert set(timeouts) == {"read", "send"}
    ping_interval, ping_timeout = 20, 20  # the defaults of websockets
    assert min(map(int, timeouts.values())) > ping_interval + ping_timeout


@pytest.mark.heavy
def test_clients_talk_to_a_project_through_nginx(nginx: str, project: Path, tmp_path: Path) -> None:
    port, backend = free_port(), free_port()
    (project / "probe.py").write_text(PROBE.format(package="help_desk"))
    config = site(project, tmp_path, port, backend)
    with (
        running(
            sys.executable,
            "probe.py",
            str(backend),
            cwd=project,
            until="listening on",
            HELP_DESK_TRUSTED_PROXIES="127.0.0.1",
        ),
        running(nginx, "-p", tmp_path, "-c", config, cwd=tmp_path, until="start worker process "),
    ):
        hold_the_dialogue(project, port)
        with sockets.create_connection(
            ("127.0.0.1", port), TIMEOUT, source_address=("127.0.0.2", 0)
        ) as own:
            with connect(
                f"ws://127.0.0.1:{port}",
                sock=own,
                additional_headers={"X-Forwarded-For": "192.0.2.1"},  # not believed
            ) as client:
                assert answer(client, "probe address")["payload"] == "127.0.0.2"
        direct = build_opener(ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=TIMEOUT) as health:
            assert health.status == 200


def test_systemd_takes_the_unit(project: Path, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd is not installed")
    text = (project / "deploy" / "help-desk.service").read_text()
    for program in ("python", "websuckets"):  # systemd looks whether they are there
        text = text.replace(f"/opt/help-desk/.venv/bin/{program} ", "/bin/true ")
    unit = tmp_path / "help-desk.service"
    unit.write_text(text)
    assert run(tool, "verify", unit, cwd=tmp_path) == ""


def test_the_unit_lets_commands_finish(project: Path) -> None:
    limits = Limits()
    assert limits.drain_timeout is not None and limits.finalize_timeout is not None
    longest = limits.drain_timeout + 8 * limits.finalize_timeout  # as docs/serving.md says
    assert [float(seconds) for seconds in directives(project, "TimeoutStopSec")] > [longest]
    assert directives(project, "KillMode") == ["mixed"]
    assert directives(project, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    readme = (project / "README.md").read_text()
    (stop_timeout,) = re.findall(r"--stop-timeout (\d+)", readme)
    assert float(stop_timeout) > longest


def test_the_unit_and_the_image_set_settings_that_exist(project: Path) -> None:
    program = "from help_desk.settings import Settings; print(*Settings.model_fields)"
    fields = set(run(sys.executable, "-c", program, cwd=project).split())
    for path in ("deploy/help-desk.service", "Dockerfile", "README.md"):
        text = (project / path).read_text()
        names = {name.lower() for name in re.findall(r"HELP_DESK_([A-Z_]+)", text)}
        assert names and names <= fields, path
    table = re.findall(r"^\| `HELP_DESK_([A-Z_]+)`", (project / "README.md").read_text(), re.M)
    assert {name.lower() for name in table} == fields


def test_the_image_is_built_from_files_that_are_there(project: Path) -> None:
    sources = [
        source
        for instruction, arguments in instructions(project)
        if instruction == "COPY"
        for source in arguments.split()[:-1]
    ]
    let_in = (project / ".dockerignore").read_text().splitlines()
    assert sources
    for source in sources:
        assert (project / source).exists()
        assert f"!{source}" in let_in or f"!{source}/" in let_in


def test_the_image_runs_commands_that_a_shell_can_read(project: Path) -> None:
    commands = [arguments for name, arguments in instructions(project) if name == "RUN"]
    assert commands
    for command in commands:
        run("/bin/sh", "-n", "-c", command, cwd=project)


def test_the_server_of_the_image_is_its_first_process_and_not_root(project: Path) -> None:
    last = dict(instructions(project))  # the last of each kind
    assert last["USER"] == "app"
    assert json.loads(last["CMD"]) == [
        *("websuckets", "run", "help_desk.main:app", "--host", "0.0.0.0", "--port", "8000")
    ]
    check: Mapping[str, str] = dict([last["HEALTHCHECK"].split(" ", 1)])
    name, flag, code = json.loads(check["CMD"])
    assert (name, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")


def test_the_unit_runs_the_command_of_the_image_with_workers(project: Path) -> None:
    (command,) = directives(project, "ExecStart")
    program, *arguments = shlex.split(command)
    assert program == "/opt/help-desk/.venv/bin/websuckets"
    expected = "run help_desk.main:app --host 127.0.0.1 --port 8000 --workers 2"
    assert arguments == expected.split()
