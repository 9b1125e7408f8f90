"""Options of ``websuckets run``: where it listens, its event loop, TLS and its log."""

import json
import os
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest
import run_command
import trustme
import websockets.asyncio.client
from command_line import Project
from cryptography.hazmat.primitives import serialization
from run_command import LOOPS, close_code, until_file, until_gone
from run_in_process import PROGRAM, ask, refused, run, served
from websockets.exceptions import WebSocketException

PASSWORD = "WEBSUCKETS_SSL_PASSWORD"

needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="it needs Unix sockets")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")


# Where it listens -----------------------------------------------------------------------------


def test_port_0_of_a_name_is_one_port_on_each_of_its_addresses(
    app: Project, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = {info[4][0] for info in socket.getaddrinfo("localhost", None)}

    def visit(url: str) -> list[str]:
        port = url.rpartition(":")[2]
        urls = [f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}" for host in hosts]
        return [ask(url) for url in urls]

    hosts = sorted(addresses)
    assert len(served("--host", "localhost", "--port", "0", visit=visit)) == len(hosts)
    assert caplog.text.count("ws://") == len(hosts)


@pytest.mark.parametrize(
    ("options", "loop"),
    [
        (["--loop", "asyncio"], "asyncio"),
        (["--loop", "uvloop"], "uvloop"),
        ([], "uvloop"),
        (["--backend", "trio"], "trio"),
    ],
    ids=["asyncio", "uvloop", "auto", "trio"],
)
def test_the_options_choose_the_event_loop(app: Project, options: list[str], loop: str) -> None:
    assert served("--port", "0", *options) == loop


@needs_unix
@LOOPS
def test_a_unix_socket_is_served_and_removed_at_the_end(
    app: Project, loop: tuple[str, str]
) -> None:
    path = app.directory / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert served("--uds", "s", *loop) in ("asyncio", "uvloop", "trio")
    assert not path.exists()


@needs_unix
@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]], ids=str)
def test_a_unix_socket_that_is_served_is_told_in_a_line(app: Project, more: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("s")
        other.listen()
        assert refused("--uds", "s", *more) == "[Errno 98] s: address already in use"
        assert os.path.exists("s")


@needs_unix
@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=str)
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("file", "address already in use"),
        ("missing/s", "no such file or directory"),
        ("x" * 200, "af_unix path too long"),
    ],
)
def test_a_path_without_a_socket_is_told_in_a_line(
    app: Project, path: str, why: str, more: list[str]
) -> None:
    app.write_file("file", "not a socket")
    assert refused("--uds", path, *more).endswith(f"] {path}: {why}")
    assert (app.directory / "file").read_text() == "not a socket"


MODES = pytest.mark.parametrize(
    "more",
    [
        ["--loop", "asyncio"],
        ["--loop", "uvloop"],
        ["--backend", "trio"],
        ["--workers", "2"],
        ["--reload"],
    ],
    ids=" ".join,
)


@MODES
def test_a_port_in_use_is_told_in_a_line(app: Project, more: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        text = refused("--port", port, *more)
    assert text.startswith(f"[Errno 98] 127.0.0.1, port {port}: address already in use")
    assert text.count("\n") == 0


NOT_OURS = ("cannot assign requested address", "could not bind on any address")
"""Texts for an address of another machine; the second one is that of asyncio since Python 3.13."""


@MODES
def test_an_address_of_another_machine_is_told_in_a_line(app: Project, more: list[str]) -> None:
    text = refused("--host", "192.0.2.1", *more)
    assert any(told in text.lower() for told in NOT_OURS)
    assert text.count("\n") == 0


def test_an_error_of_a_server_is_told_in_a_line_where_trio_is_not_installed(
    app: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    text = refused("--host", "192.0.2.1", "--loop", "asyncio")
    assert any(told in text.lower() for told in NOT_OURS)


@MODES
def test_an_unknown_name_of_a_host_is_told_in_a_line(
    app: Project, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refused("--host", "nowhere.invalid", *more)
    assert "] nowhere.invalid: " in text
    assert text.count("\n") == 0


# TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificates(app: Project, authority: trustme.CA) -> Project:
    """Return the project with certificates: of the server, in several ways, and of its clients."""
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = certificate.private_key_pem, certificate.cert_chain_pems[0]
    key.write_to_path("key.pem")
    chain.write_to_path("cert.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path("both.pem")
    authority.cert_pem.write_to_path("authority.pem")
    loaded = serialization.load_pem_private_key(key.bytes(), None)
    encrypted = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    Path("encrypted.pem").write_bytes(encrypted)
    app.write_file("wrong.pem", "nothing of this kind\n")
    return app


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """Return the context of a client who trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    "files",
    [
        ["both.pem"],
        ["cert.pem", "--ssl-keyfile", "key.pem"],
        ["cert.pem", "--ssl-keyfile", "encrypted.pem"],
    ],
    ids=lambda files: files[-1],
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_certificate_makes_the_server_one_for_tls(
    certificates: Project,
    context: ssl.SSLContext,
    files: list[str],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def visit(url: str) -> str:
        assert url.startswith("wss://")
        return ask(url, ssl=context)

    monkeypatch.setenv(PASSWORD, "open sesame")
    options = ("--port", "0", "--backend", backend, "--ssl-certfile", *files)
    assert served(*options, visit=visit)


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_key_whose_password_is_missing_or_wrong_is_told_in_a_line(
    certificates: Project, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password is not None:
        monkeypatch.setenv(PASSWORD, password)
    files = ("--ssl-certfile", "cert.pem", "--ssl-keyfile", "encrypted.pem")
    assert refused(*files) == (
        "cert.pem, encrypted.pem: the key needs a password, and WEBSUCKETS_SSL_PASSWORD does not "
        "have the right one"
    )


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=str)
@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["missing.pem"], "[Errno 2] No such file or directory: 'missing.pem'"),
        (["wrong.pem"], "wrong.pem: cannot be used: "),
        (["cert.pem"], "cert.pem: cannot be used: "),
        (["cert.pem", "--ssl-keyfile", "wrong.pem"], "cert.pem, wrong.pem: cannot be used: "),
        (["both.pem", "--ssl-ca-certs", "wrong.pem"], "wrong.pem: cannot be used: "),
        (
            ["both.pem", "--ssl-ca-certs", "missing.pem"],
            "[Errno 2] No such file or directory: 'missing.pem'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_file_for_tls_is_told_in_a_line(
    certificates: Project, files: list[str], told: str, more: list[str]
) -> None:
    text = refused("--ssl-certfile", *files, *more)
    assert text.startswith(told)
    assert text.count("\n") == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_clients_without_a_certificate_of_the_authority_are_refused(
    certificates: Project, context: ssl.SSLContext, authority: trustme.CA, backend: str
) -> None:
    def visit(url: str) -> list[str]:
        for stranger in (None, trustme.CA()):
            if stranger is not None:
                stranger.issue_cert("client.example").configure_cert(context)
            with pytest.raises((OSError, WebSocketException)):  # perhaps after the handshake
                ask(url, ssl=context)
        authority.issue_cert("client.example").configure_cert(context)
        return ask(url, ssl=context)

    files = ("--ssl-certfile", "both.pem", "--ssl-ca-certs", "authority.pem")
    assert served("--port", "0", "--backend", backend, *files, visit=visit)


# The app --------------------------------------------------------------------------------------


def test_the_app_may_be_made_by_a_function_and_stand_in_another_directory(
    project: Project,
) -> None:
    project.write_file("inner/server.py", f"{PROGRAM}\nmade = app\ndef make(): return made\n")
    options = ("--factory", "--app-dir", "inner", "--port", "0")
    assert served("server:make", *options)


@pytest.mark.parametrize("more", [[], ["--reload"]], ids=str)
def test_a_directory_that_does_not_exist_is_told_in_a_line(app: Project, more: list[str]) -> None:
    nowhere = app.directory / "nowhere"
    text = refused("--port", "0", "--app-dir", "nowhere", *more)
    assert text == f"the directory {nowhere} does not exist"


def test_the_app_is_found_where_pyproject_says(project: Project) -> None:
    project.write(desk=PROGRAM)
    project.write_file("pyproject.toml", '[tool.websuckets]\napp = "desk:app"\n')
    assert served("--port", "0")


@pytest.mark.parametrize("more", [[], ["--factory"]], ids=str)
def test_a_target_without_an_app_is_told_without_a_traceback(
    project: Project, more: list[str]
) -> None:
    assert refused("nowhere:app", *more).startswith("no module `nowhere`")


def test_an_error_of_a_hook_is_told_by_the_frames_of_the_program(app: Project) -> None:
    hook = """
@app.on_startup
async def connect() -> None:
    open_database()

def open_database() -> None:
    raise OSError("no disk")
"""
    app.write(main=PROGRAM + hook)
    result = run("--port", "0")
    lines = [line for line in result.stderr.splitlines() if line.strip(" ~^")]  # no marks
    number = PROGRAM.count("\n")
    assert result.exit_code == 1
    assert lines[:6] == [
        "Traceback (most recent call last):",
        f'  File "{app.directory}/main.py", line {number + 4}, in connect',
        "    open_database()",
        f'  File "{app.directory}/main.py", line {number + 7}, in open_database',
        '    raise OSError("no disk")',
        "OSError: no disk",
    ]
    (note,) = lines[6:]
    assert note.startswith("while running ")


def test_a_module_named_like_one_of_pythons_has_its_frames_in_the_traceback(
    app: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    app.write(
        this="def fail():\n    raise OSError(7)\n",
        main=f"{PROGRAM}\nimport this\n@app.on_startup\nasync def start():\n    this.fail()\n",
    )
    assert f'File "{app.directory}/this.py", line 2, in fail' in run("--port", "0").stderr


def test_a_mistake_in_the_program_is_told_by_its_text_alone(app: Project) -> None:
    app.write(main=PROGRAM.replace("socket: Socket)", "socket: Socket, *, unknown: int)"))
    text = refused("--port", "0")
    assert "unknown" in text
    assert "main.py" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--reload", "--workers", "2"], "leave --workers out"),
        (["--reload-include", "*.toml"], "--reload-include needs --reload"),
        (["--worker-timeout", "5"], "--worker-timeout, --max-memory and --lifetime need --workers"),
        (["--max-memory", "100"], "--worker-timeout, --max-memory and --lifetime need --workers"),
        (["--lifetime", "100"], "--worker-timeout, --max-memory and --lifetime need --workers"),
        (["--backend", "trio", "--loop", "uvloop"], "trio has one event loop"),
        (["--ssl-keyfile", "key.pem"], "need --ssl-certfile"),
        (["--ssl-ca-certs", "ca.pem"], "need --ssl-certfile"),
        (["--log-level", "loud"], "'loud' is not one of"),
        (["--workers", "0"], "1"),
        (["--port", "65536"], "65535"),
        (["--backend", "twisted"], "'twisted' is not one of"),
        (["--loop", "libuv"], "'libuv' is not one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_that_do_not_go_together_are_told_in_a_line(
    app: Project, options: list[str], told: str
) -> None:
    usage, advice, empty, line = refused(*options, status=2).splitlines()
    assert (usage.startswith("Usage: "), advice.startswith("Try "), empty) == (True, True, "")
    assert line.startswith("Error: ")
    assert told in line


@pytest.mark.parametrize(
    ("options", "package"), [(["--loop", "uvloop"], "uvloop"), (["--backend", "trio"], "trio")]
)
def test_an_event_loop_that_is_not_installed_is_told_in_a_line(
    app: Project, options: list[str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert refused(*options, status=2).endswith(f"{package} is not installed")


# Processes of their own -----------------------------------------------------------------------


@pytest.mark.heavy
@on_linux
@pytest.mark.anyio
@pytest.mark.on_asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_after_its_commands(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with run_command.run(tmp_path) as program:
        async with run_command.client(await program.url()) as connection:
            pid = await run_command.ask(connection, "process")
            assert pid == program.pid
            await connection.send('{"event": "wait", "payload": 0.5, "id": 2}')
            await until_file(tmp_path / "waits")
            program.signal(number)
            assert json.loads(await connection.recv())["payload"] == pid
            assert await close_code(connection) == 1012
        assert await program.ended() == 0
        assert "ERROR" not in program.log
        assert f"[{pid}]" not in program.log  # there is one process only


@on_linux
@pytest.mark.heavy
@pytest.mark.anyio
@pytest.mark.on_asyncio
@LOOPS
async def test_workers_serve_a_unix_socket_that_replaces_one_left_behind(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with run_command.run(tmp_path, "--uds", "s", "--workers", "2", *loop) as program:
        await program.until("workers: 2")
        workers = program.children()
        for times in (1, 2):
            connect = websockets.asyncio.client.unix_connect(str(path))
            async with connect as connection:
                assert await run_command.ask(connection, "process") in workers
                program.signal(signal.SIGHUP)
                await program.until("SIGHUP: replaced each worker", times)
                assert await close_code(connection) == 1012
            workers = await program.until_children(2)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert not path.exists()
        await until_gone(*workers)
        assert "ERROR" not in program.log


@on_linux
@pytest.mark.heavy
@pytest.mark.anyio
@pytest.mark.on_asyncio
@LOOPS
async def test_workers_serve_tls_with_the_password_of_the_environment(
    certificates: Project, context: ssl.SSLContext, loop: tuple[str, str]
) -> None:
    files = ("--ssl-certfile", "cert.pem", "--ssl-keyfile", "encrypted.pem")
    async with run_command.run(
        certificates.directory, *files, *loop, "--workers", "2", **{PASSWORD: "open sesame"}
    ) as program:
        url = await program.url()
        assert url.startswith("wss://")
        await program.until("workers: 2")
        workers = program.children()
        for _ in range(2):
            async with websockets.asyncio.client.connect(
                url, ssl=context, proxy=None
            ) as connection:
                assert await run_command.ask(connection, "process") in workers
        program.signal(signal.SIGHUP)
        await program.until("SIGHUP: replaced each worker")
        assert "ERROR" not in program.log


@on_linux
@pytest.mark.heavy
@pytest.mark.anyio
@pytest.mark.on_asyncio
@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]], ids=str)
async def test_every_address_of_a_name_is_served(tmp_path: Path, more: list[str]) -> None:
    hosts = {info[4][0] for info in socket.getaddrinfo("localhost", None)}
    async with run_command.run(tmp_path, "--host", "localhost", *more) as program:
        urls = (await program.until(r"listening on (.*), commands"))[0]
        assert len(urls.split(", ")) == len(hosts)
        for url in urls.split(", "):
            assert await run_command.process_of(url) in {program.pid, *program.children()}
