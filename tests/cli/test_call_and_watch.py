"""Tests of ``websuckets call`` and ``watch``, against a server in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from client_servers import ServerProcess
from command_line import Project
from ports import free_port
from timeouts import TIMEOUT

TOKEN = "WEBSUCKETS_TOKEN"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    found = ServerProcess(tmp_path_factory.mktemp("server") / "effects.db")
    found.start()
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def url(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv(TOKEN, raising=False)
    return f"ws://127.0.0.1:{server.port}"


@contextmanager
def started(
    *arguments: str, on_sigint: signal.Handlers = signal.SIG_DFL
) -> Iterator["subprocess.Popen[str]"]:
    """Run ``websuckets`` in a process of its own, where SIGINT does what ``on_sigint`` says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "websuckets", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=partial(signal.signal, signal.SIGINT, on_sigint),  # a shell may ignore it
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def line(process: "subprocess.Popen[str]") -> Any:
    """Return the next line that a process prints, as JSON."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


# call -----------------------------------------------------------------------------------------


def test_call_prints_the_payload_of_the_reply(project: Project, url: str) -> None:
    result = project.call("call", url, "add", "[1, 2]")
    assert (result.returncode, result.stdout, result.stderr) == (0, "3\n", "")


def test_call_prints_one_line_for_programs(project: Project, url: str) -> None:
    result = project.call("call", url, "deposit", '{"amount": 5}', "--json")
    assert result.stdout == '{"payload": {"deposited": 5}}\n'
    result = project.call("call", url, "deposit", '{"amount": 5}')
    assert result.stdout == '{\n  "deposited": 5\n}\n'


def test_call_tells_an_error_of_the_server(project: Project, url: str) -> None:
    result = project.call("call", url, "add", '"many"')
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: validation error\n[\n")
    result = project.call("call", url, "subtract", "--json")
    assert (result.returncode, result.stderr) == (1, "")
    assert json.loads(result.stdout) == {"error": "unknown command", "details": None}


def test_call_with_a_key_takes_effect_once(
    project: Project, url: str, server: ServerProcess
) -> None:
    server.control("reset")
    for _ in range(2):
        result = project.call("call", url, "deposit", '{"amount": 8}', "--key", "once")
        assert result.returncode == 0
    assert server.control("effects") == [8]


def test_call_takes_the_token_of_a_file_or_of_the_environment(
    project: Project, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.call("call", url, "whoami").stderr == "error: not authorized\n"
    file = project.write_file("token", "ann:1\n")
    assert project.call("call", url, "whoami", "--token-file", str(file)).stdout == '"ann"\n'
    monkeypatch.setenv(TOKEN, "bob:1")
    assert project.call("call", url, "whoami").stdout == '"bob"\n'


def test_a_token_is_not_an_argument(project: Project, url: str) -> None:
    assert project.call("call", url, "whoami", "--token", "ann:1").returncode == 2


def test_call_reads_a_payload_from_standard_input(project: Project, url: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "websuckets", "call", url, "add", "-"],
        input="[20, 22]",
        capture_output=True,
        encoding="utf-8",
        timeout=5 * TIMEOUT,
    )
    assert (result.returncode, result.stdout) == (0, "42\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ws://localhost", "add", "[1,"], "it is not JSON"),
        (["http://localhost", "add"], "begins with ws://"),
        (["ws://localhost", "add", "--token-file", "missing"], "missing"),
        (["ws://localhost"], "COMMAND"),
    ],
)
def test_wrong_arguments_are_told(project: Project, arguments: list[str], told: str) -> None:
    result = project.call("call", *arguments)
    assert result.returncode == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


def test_a_file_that_is_not_a_text_is_told(project: Project, url: str) -> None:
    (project.directory / "token").write_bytes(b"\xff")
    result = project.call("call", url, "add", "--token-file", "token")
    assert result.returncode == 2
    assert "is not UTF-8" in " ".join(result.stderr.replace("│", " ").split())


def test_call_has_a_status_of_its_own_without_a_connection(project: Project) -> None:
    result = project.call("call", f"ws://127.0.0.1:{free_port()}", "add")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("not connected: ")


def test_call_has_a_status_of_its_own_for_a_reply_that_does_not_come(
    project: Project, url: str
) -> None:
    result = project.call("call", url, "hold", "--timeout", "0.05")
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr == "no reply to 'hold' within 0.05 seconds\n"


@pytest.mark.slow
def test_call_tells_that_its_connection_was_lost(url: str, server: ServerProcess) -> None:
    server.control("reset")
    with started("call", url, "hold") as process:
        server.control("await", {"name": "hold"})
        server.control("close", 1012)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (3, "")
    assert err.splitlines()[-1] == "the connection was lost (1012, told to)"


def test_a_path_that_the_server_refuses_is_told_by_its_status(project: Project, url: str) -> None:
    result = project.call("call", f"{url}/elsewhere", "add")
    assert result.returncode == 3
    assert (
        result.stderr == "not connected: the server refused the connection with HTTP status 404\n"
    )


# watch ----------------------------------------------------------------------------------------


def test_watch_prints_the_items_of_a_stream_until_its_end(project: Project, url: str) -> None:
    result = project.call("watch", url, "count", "3")
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n2\n3\n", "")


def test_a_stream_may_end_without_an_item(project: Project, url: str) -> None:
    result = project.call("watch", url, "count", "0", "--stream")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = project.call("watch", url, "count", "2", "--stream")
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n2\n", "")
    result = project.call("watch", url, "add", "[1, 2]", "--stream")
    assert (result.returncode, result.stdout) == (2, "")
    assert "'add' is not a stream" in result.stderr


@pytest.mark.parametrize("options", [(), ("--stream",)])
def test_watch_tells_an_error_of_the_server(
    project: Project, url: str, options: tuple[str, ...]
) -> None:
    result = project.call("watch", url, "count", '"x"', *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: validation error\n")


@pytest.mark.parametrize("options", [("watch",), ("watch", "--stream"), ("call",)])
def test_a_failure_to_connect_is_told_once(project: Project, options: tuple[str, ...]) -> None:
    result = project.call(*options, f"ws://127.0.0.1:{free_port()}", "count")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("not connected: ")
    assert result.stderr.count("\n") == 1


def test_watch_prints_the_events_of_a_subscription_until_it_is_interrupted(
    url: str, server: ServerProcess
) -> None:
    with started("watch", url, "watch", "7") as process:
        assert line(process) == {"reply": "watch", "payload": "state of run 1"}
        server.control("say", {"room": 7, "numbers": [1, 2]})
        for number in (1, 2):
            found = line(process)
            assert found["offset"] == number
            assert (found["event"], found["payload"]) == ("said", {"number": number})
            assert found["channel"] == "room/7"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
def test_call_works_where_the_shell_has_sigint_ignored(url: str) -> None:
    with started("call", url, "add", "[1, 2]", on_sigint=signal.SIG_IGN) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output, errors) == (0, "3\n", "")


@pytest.mark.slow
def test_a_shell_may_have_sigint_ignored(url: str, server: ServerProcess) -> None:
    """Expect a signal that a shell ignores, as for a job in the background, to stay ignored."""
    with started("watch", url, "watch", "9", on_sigint=signal.SIG_IGN) as process:
        line(process)
        process.send_signal(signal.SIGINT)
        for number in range(2):
            server.control("say", {"room": 9, "numbers": [number]})
            assert line(process)["payload"] == {"number": number}
        assert process.poll() is None


def test_watch_prints_events_of_channels_without_a_history(url: str, server: ServerProcess) -> None:
    with started("watch", url, "enter hall") as process:
        assert line(process) == {"reply": "enter hall", "payload": "hall of run 1"}
        server.control("hall", [5])
        assert line(process) == {"event": "called", "payload": 5}
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0


def test_watch_goes_on_after_a_lost_connection(url: str, server: ServerProcess) -> None:
    with started("watch", url, "watch", "8") as process:
        line(process)
        server.control("close", 1012)
        server.control("say", {"room": 8, "numbers": [1]})
        assert line(process)["payload"] == {"number": 1}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
        assert "connecting again" in err


@pytest.mark.slow
def test_watch_ends_quietly_where_nobody_reads_any_more(url: str) -> None:
    with started("watch", url, "count for ever") as process:
        assert line(process) == 1
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == ""
        process.stdout = None
