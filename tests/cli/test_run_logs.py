"""The log of ``websuckets run``: ``--log-level`` and ``--log-config``."""

import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import run_command
from command_line import Project
from run_in_process import PROGRAM, refused, run, served


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Yield the log, whose configuration is restored afterwards."""
    loggers = [logging.getLogger(), logging.getLogger("websuckets")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield caplog
    for logger, level, handlers in before:
        logger.setLevel(level)
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:] = handlers


ENDS = """
import os, signal

@app.on_startup
async def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
"""
"""End of a program that stops as soon as it starts."""

HANDLERS = {
    "version": 1,
    "formatters": {"short": {"format": "%(levelname)s! %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "log", "formatter": "short"}},
    "root": {"level": "INFO", "handlers": ["file"]},
}

AS_INI = """\
[loggers]
keys=root
[handlers]
keys=file
[formatters]
keys=short
[logger_root]
level=INFO
handlers=file
[handler_file]
class=FileHandler
args=("log",)
formatter=short
[formatter_short]
format=%(levelname)s! %(message)s
"""


@pytest.mark.parametrize("name", ["log.json", "log.yaml", "log.yml", "log.ini", "log.conf"])
def test_a_file_configures_the_log(app: Project, log: pytest.LogCaptureFixture, name: str) -> None:
    """Expect our own loggers to go on, though the file does not name them."""
    if name.startswith("log.y"):
        pytest.importorskip("yaml")
    is_ini = name in ("log.ini", "log.conf")
    app.write_file(name, AS_INI if is_ini else json.dumps(HANDLERS))
    served("--port", "0", "--log-config", name)
    lines = (app.directory / "log").read_text().splitlines()
    assert lines[0].startswith("INFO! listening on ws://127.0.0.1:")
    assert "INFO! stopping" in lines


def test_a_log_may_use_a_class_of_the_program(app: Project, log: pytest.LogCaptureFixture) -> None:
    app.write_file(
        "inner/shouting.py",
        """\
        import logging
        class Shouting(logging.Formatter):
            def format(self, record):
                return super().format(record).upper()
        """,
    )
    loud = HANDLERS | {"formatters": {"short": {"()": "shouting.Shouting"}}}
    app.write_file("log.json", json.dumps(loud))
    app.write_file("inner/main.py", PROGRAM)
    before = sys.path[:]
    served("--port", "0", "--log-config", "log.json", "--app-dir", "inner")
    assert "STOPPING" in (app.directory / "log").read_text()
    assert sys.path == [str(app.directory / "inner"), *before]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("log.json", "{", "Expecting property name"),
        ("log.json", "[]", "it does not hold a dictionary"),
        ("log.json", "{}", "dictionary doesn't specify a version"),
        ("log.json", '{"version": 1, "root": {"level": "LOUD"}}', "Unknown level: 'LOUD'"),
        (
            "log.json",
            '{"version": 1, "handlers": {"x": {"class": "no.Handler"}}}',
            "Unable to configure handler 'x': Cannot resolve 'no.Handler'",
        ),
        ("log.yaml", "a: [", "while parsing a flow node"),
        ("log.ini", "nothing", "log.ini"),
        ("log.ini", "[loggers]\nkeys=root\n", ""),
        ("missing.json", None, "No such file or directory: 'missing.json'"),
        ("missing.ini", None, "No such file or directory: 'missing.ini'"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=str)
def test_a_wrong_configuration_of_the_log_is_told_without_a_traceback(
    app: Project,
    log: pytest.LogCaptureFixture,
    name: str,
    text: str | None,
    told: str,
    more: list[str],
) -> None:
    if name == "log.yaml":
        pytest.importorskip("yaml")
    if text is not None:
        app.write_file(name, text)
    output = refused("--log-config", name, *more)
    assert output.startswith(f"--log-config {name}: ")
    assert told in output


def test_yaml_without_its_package_is_told_in_a_line(
    app: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    app.write_file("log.yaml", "version: 1")
    assert refused("--log-config", "log.yaml") == (
        "--log-config log.yaml: YAML needs the package PyYAML, which is not installed"
    )


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_the_least_level_of_the_log_is_that_of_the_option(
    app: Project, log: pytest.LogCaptureFixture, level: str
) -> None:
    app.write(main=PROGRAM + ENDS)
    assert run("--port", "0", "--log-level", level).exit_code == 0
    assert logging.getLogger("websuckets").getEffectiveLevel() == getattr(logging, level.upper())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
@pytest.mark.heavy
@pytest.mark.anyio
@pytest.mark.on_asyncio
async def test_supervisor_and_workers_log_by_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(json.dumps(HANDLERS))
    options = ("--log-config", "log.json", "--workers", "2", "--uds", "s")
    async with run_command.run(tmp_path, *options) as program:
        with anyio.fail_after(run_command.LONG):
            while not (log := tmp_path / "log").exists() or "workers: 2" not in log.read_text():
                await anyio.sleep(0.01)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert program.log == ""
        lines = log.read_text().splitlines()
        assert lines.count("INFO! stopping") == 3
        assert sum(line.startswith("INFO! listening on unix:") for line in lines) == 2
