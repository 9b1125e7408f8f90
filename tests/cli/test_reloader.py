"""Decisions of a reloader about its worker, which is a small program here."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from supervising import Log, small_workers, supervise, until_file
from timeouts import TIMEOUT

from websuckets.cli import reload
from websuckets.cli.reload import Reloader

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need a system like Unix")

SERVES = "start(str(folder / 'main.py'))\n(folder / 'serves').touch()\nlive()\n"
"""Source of a worker without a fault; those below have one."""

FAILS = "raise SystemExit(1)\n"
FAILS_TO_START = "tell('loaded', files=[str(folder / 'main.py')])\nhear()\nraise SystemExit(1)\n"
HANGS = "(folder / 'hangs').touch()\nhear()\n"
HANGS_AT_ITS_START = "tell('loaded', files=[str(folder / 'main.py')])\nhear()\n" + HANGS
IGNORES_THE_STOP = "start(str(folder / 'main.py'))\n(folder / 'serves').touch()\ntime.sleep(1000)\n"

Run = Callable[[str, Callable[[Log], Awaitable[None]]], int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Run:
    """Return a function that runs a reloader of workers with a source; see `supervise`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reload, "TIME_TO_STOP", 0.2)
    monkeypatch.setattr(reload, "TIME_TO_GO_ON", 0.2)

    def run(source: str, act: Callable[[Log], Awaitable[None]]) -> int:
        options = small_workers(monkeypatch, tmp_path, source)
        return supervise(lambda: Reloader(options, [], ()), act, caplog)

    return run


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def change(directory: Path, source: str) -> None:
    """Change the behaviour of workers that will start, and then a file of the program."""
    (directory / "behaviour").write_text(source)
    (directory / "main.py").write_text(source)


async def until_served(directory: Path) -> None:
    """Wait until a worker serves that has not been waited for yet."""
    await until_file(directory / "serves")
    (directory / "serves").unlink()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (FAILS, "the app cannot be loaded: the one before goes on"),
        (FAILS_TO_START, "the app cannot start: waiting for a change"),
        (HANGS, "changed: main.py"),
        (HANGS_AT_ITS_START, "changed: main.py"),
        (IGNORES_THE_STOP, "changed: main.py"),
    ],
)
def test_a_change_is_served_after_a_version_with_a_fault(
    run: Run, tmp_path: Path, source: str, told: str
) -> None:
    async def act(log: Log) -> None:
        await until_served(tmp_path)
        change(tmp_path, source)
        await log.until(told)
        if "hangs" in source:
            await until_file(tmp_path / "hangs")
        if "serves" in source:
            await until_served(tmp_path)
        change(tmp_path, SERVES)
        await until_served(tmp_path)
        stop()

    assert run(SERVES, act) == 0


def test_a_worker_that_ends_by_itself_is_reported(run: Run, tmp_path: Path) -> None:
    async def act(log: Log) -> None:
        await log.until(r"process \d+ has ended \(exit status 3\): waiting for a change")
        change(tmp_path, SERVES)
        await until_served(tmp_path)
        stop()

    assert run("start()\nos._exit(3)\n", act) == 0


def test_a_stop_while_nothing_serves_ends_the_program(run: Run) -> None:
    async def act(log: Log) -> None:
        await log.until("the app cannot be loaded: waiting for a change")
        stop()

    assert run(FAILS, act) == 0


async def until_watched(file: Path, log: Log) -> None:
    """Change a file again and again until the reloader, which has to hear of it, notices."""
    async with asyncio.timeout(TIMEOUT):
        while f"changed: {file}" not in log.text:
            file.touch()
            await asyncio.sleep(0.02)


def test_files_elsewhere_are_watched_and_archives_are_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    there = tmp_path / "there" / "module.py"
    there.parent.mkdir()

    async def act(log: Log) -> None:
        await until_served(tmp_path)
        await until_watched(there, log)
        await until_served(tmp_path)
        stop()

    files = [str(there), str(tmp_path / "archive.zip" / "module.py")]
    monkeypatch.chdir(here)
    source = f"start()\ntell('files', files={files})\n(folder / 'serves').touch()\nlive()\n"
    assert run(source, act) == 0


def test_directories_that_the_system_does_not_watch_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the notification fail as where its limit is reached."""

    async def awatch(*paths: Path, **options: Any) -> AsyncIterator[Any]:
        raise OSError("OS file watch limit reached.")
        yield

    async def act(log: Log) -> None:
        await until_served(tmp_path)
        await log.until(f"changes in {tmp_path} are not noticed: OS file watch limit reached")
        stop()

    monkeypatch.setattr(reload, "awatch", awatch)
    assert run(SERVES, act) == 0
