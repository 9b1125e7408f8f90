"""A project that `websuckets new` writes: it works at once, and where it is deployed."""

import json
import re
import shlex
import shutil
import socket as sockets
import sys
from pathlib import Path
from typing import Any, Final
from urllib.request import ProxyHandler, build_opener

import nginx as nginx_server
import pytest
from new_project import FILES, files, run, running
from ports import free_port
from repository import ROOT
from timeouts import TIMEOUT
from websockets.sync.client import ClientConnection, connect

from websuckets import Limits
from websuckets.cli.new import create_project

PROBE: Final = """
from websuckets import CommandGroup, Socket
from help_desk.main import app

probe = CommandGroup("probe")

@probe.command("address")
async def address(socket: Socket) -> str:
    return socket.remote_address[0]

app.include_command_group(probe)
"""
"""Module that adds a command to the app, which tells the address of its client."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return create_project("help-desk", tmp_path)


@pytest.fixture
def nginx() -> str:
    """Return the path of the program."""
    return nginx_server.program()


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
    return nginx_server.configure(directory, text)


def directives(project: Path, name: str) -> list[str]:
    """Return the values of a directive in the unit of systemd, in their order."""
    text = (project / "deploy" / "help-desk.service").read_text()
    return re.findall(rf"^{name}=(.*)$", text, re.M)


def instructions(project: Path) -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments; continued lines are one."""
    lines = (project / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    parts = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(instruction, arguments.strip()) for instruction, _, arguments in parts]


@pytest.mark.heavy
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
    run(env / "bin" / "websuckets", "new", "help-desk", cwd=tmp_path, PYTHONPATH="")
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


@pytest.mark.heavy
def test_a_redis_connects_the_processes_of_a_project(project: Path) -> None:
    program = "from help_desk.main import app; print(app.graph())"
    redis = {"HELP_DESK_REDIS_URL": "redis://localhost"}
    assert "RedisBroker" in run(sys.executable, "-c", program, cwd=project, **redis)


@pytest.mark.heavy
def test_the_dialogue_in_the_readme_takes_place(project: Path) -> None:
    port = free_port()
    command = (sys.executable, "-m", "websuckets", "run", "--port", str(port))
    with running(*command, cwd=project, until="listening on"):
        hold_the_dialogue(project, port)


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
    (project / "probe.py").write_text(PROBE)
    config = site(project, tmp_path, port, backend)
    run(sys.executable, "-m", "help_desk.database", cwd=project)  # as the unit does
    arguments = f"run probe:app --port {backend} --workers 2".split()
    with (
        running(
            sys.executable,
            *("-m", "websuckets", *arguments),
            cwd=project,
            until="listening on",
            HELP_DESK_TRUSTED_PROXIES="127.0.0.1",
        ),
        running(nginx, "-p", tmp_path, "-c", config, cwd=tmp_path, until=nginx_server.STARTED),
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
    (stop_timeout,) = directives(project, "TimeoutStopSec")
    assert float(stop_timeout) > longest
    assert directives(project, "KillMode") == ["mixed"]
    assert directives(project, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    readme = (project / "README.md").read_text()
    (stop_timeout,) = re.findall(r"docker run .* --stop-timeout (\d+)", readme)
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
    name, flag, code = json.loads(last["HEALTHCHECK"].removeprefix("CMD "))
    assert (name, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")


def test_the_unit_runs_the_command_of_the_image_with_workers(project: Path) -> None:
    (command,) = directives(project, "ExecStart")
    program, *arguments = shlex.split(command)
    assert program == "/opt/help-desk/.venv/bin/websuckets"
    expected = "run help_desk.main:app --host 127.0.0.1 --port 8000 --workers 2"
    assert arguments == expected.split()


@pytest.mark.heavy
def test_the_image_and_the_unit_give_options_that_exist(project: Path) -> None:
    image = json.loads(dict(instructions(project))["CMD"])
    unit = shlex.split(directives(project, "ExecStart")[0])
    for _, *arguments in (image, unit):
        run(sys.executable, "-m", "websuckets", *arguments, "--help", cwd=project)
