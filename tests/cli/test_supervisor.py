"""Decisions of a supervisor about its workers, which are small programs here."""

import asyncio
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from supervising import Log, small_workers, supervise, until_file

from websuckets.cli import supervisor
from websuckets.cli.supervisor import Supervisor
from websuckets.cli.worker_process import Bounds, WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need a system like Unix")

SERVES = "start()\nlive()\n"
"""Source of a worker without a fault; those below have one."""

FAILS = "raise SystemExit(1)\n"
HANGS = "(folder / 'hangs').touch()\ntime.sleep(1000)\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Return a function that supervises workers with a source; see `supervise`."""

    def run(source: str, act: Any, workers: int = 1, **bounds: float) -> int:
        options = small_workers(monkeypatch, tmp_path, source)
        return supervise(lambda: Supervisor(options, [], workers, Bounds(**bounds)), act, caplog)

    return run


def first(source: str, then: str = SERVES) -> str:
    """Return the source of a first worker, and of all others."""
    return "\n".join(
        [
            "if is_first('first'):",
            *(f"    {line}" for line in source.splitlines()),
            "else:",
            *(f"    {line}" for line in then.splitlines()),
        ]
    )


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("has_broker", [True, False])
def test_several_workers_without_a_broker_between_them_are_told_once(
    run: Any, has_broker: bool
) -> None:
    async def act(log: Log) -> None:
        await log.until("workers: 2")
        send(signal.SIGTERM)
        assert log.text.count("without a broker between them") == (not has_broker)

    assert run(f"start(has_broker={has_broker})\nlive()\n", act, workers=2) == 0


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("os._exit(7)", "exit status 7"),
        ("os._exit(0)", "exit status 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 2)", f"killed by signal {signal.SIGRTMIN + 2}"),
    ],
)
def test_a_worker_that_ends_is_replaced(run: Any, source: str, end: str) -> None:
    async def act(log: Log) -> None:
        (pid,) = await log.until(rf"process (\d+) has ended \({end}\)")
        await log.until(rf"process \d+ takes the place of {pid}")
        send(signal.SIGINT)

    assert run(first(f"start()\n{source}\n"), act) == 0


@pytest.mark.parametrize(
    ("before", "status"), [('tell("stopped")\n', 0), ("", 1)], ids=["stopped", "running"]
)
def test_a_signal_after_the_stop_of_the_app_is_no_failure_of_a_worker(
    run: Any, before: str, status: int
) -> None:
    """Expect it where the message and the end of the process come at the same time."""

    async def act(log: Log) -> None:
        await log.until("workers: 1")
        send(signal.SIGTERM)

    # The signal may take effect a moment later: until then the process does not end by itself.
    source = f"start()\nlive()\n{before}os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"
    assert run(source, act) == status


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGABRT, signal.SIG_IGN)\n"])
def test_a_worker_without_a_sign_of_life_is_ended_and_replaced(run: Any, before: str) -> None:
    async def act(log: Log) -> None:
        (pid,) = await log.until(
            r"process (\d+) gave no sign of life for 0\.5 seconds: aborting it"
        )
        await log.until(rf"process \d+ takes the place of {pid}")
        send(signal.SIGTERM)

    assert run(first(f"start()\n{before}hear()\n"), act, silence=0.5) == 0


def test_a_pause_of_the_supervisor_itself_is_not_taken_for_silence_of_a_worker(run: Any) -> None:
    async def act(log: Log) -> None:
        await log.until("workers: 1")
        time.sleep(0.6)
        await asyncio.sleep(0.1)
        assert "no sign of life" not in log.text
        send(signal.SIGTERM)

    assert run(SERVES, act, silence=0.5) == 0


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        ({"memory": 2.0**20}, "uses 2 MiB of memory"),
        ({"lifetime": 0.05}, "has reached its lifetime"),
    ],
)
def test_a_worker_past_a_bound_makes_way_for_another(
    run: Any, bounds: dict[str, float], why: str, tmp_path: Path
) -> None:
    async def act(log: Log) -> None:
        await log.until(rf"process \d+ {why}")
        await until_file(tmp_path / "told")
        send(signal.SIGTERM)

    source = "start()\nword = live(memory=2 << 20)\n(folder / 'told').write_text(word)\n"
    assert run(first(source), act, **bounds) == 0
    assert (tmp_path / "told").read_text() == "make way"


def test_a_worker_past_a_bound_goes_on_if_its_replacement_fails(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RETRY", 0.2)

    async def act(log: Log) -> None:
        pid = (await log.until(r"process (\d+) has reached its lifetime", times=2))[0]
        await log.until(f"no worker takes its place: process {pid} goes on", times=2)
        send(signal.SIGTERM)

    assert run(first(SERVES, then=FAILS), act, lifetime=0.05) == 0


def test_workers_that_keep_dying_end_the_program(run: Any) -> None:
    async def act(log: Log) -> None:
        await log.until("workers die as soon as they are started: ending the program")

    assert run(first("start()\nos._exit(1)\n", then=FAILS), act) == 1


def test_workers_that_die_after_they_have_started_end_the_program(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "DEATHS_WITHIN", math.inf)  # a start may take seconds here

    async def act(log: Log) -> None:
        await log.until("workers die as soon as they are started: ending the program")
        assert len(await log.until("takes the place of")) == supervisor.DEATHS - 1

    assert run("start()\nos._exit(1)\n", act) == 1


def test_a_replacement_that_never_starts_ends_the_program(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect it also where its attempts take so long that deaths are forgotten meanwhile."""
    monkeypatch.setattr(supervisor, "DEATHS_WITHIN", -1.0)

    async def act(log: Log) -> None:
        await log.until("workers die as soon as they are started: ending the program")

    assert run(first("start()\nos._exit(1)\n", then=FAILS), act) == 1


def test_a_worker_that_dies_while_it_is_replaced_is_replaced_once(run: Any, tmp_path: Path) -> None:
    async def act(log: Log) -> None:
        (pid,) = await log.until(r"workers: 1, processes: (\d+)")
        send(signal.SIGHUP)
        await until_file(tmp_path / "waits")
        os.kill(int(pid), signal.SIGKILL)
        await log.until(f"process {pid} has ended")
        (tmp_path / "goes on").touch()
        await log.until("SIGHUP: replaced each worker")
        assert "takes the place" not in log.text
        send(signal.SIGTERM)

    waits = """\
(folder / 'waits').touch()
while not (folder / 'goes on').exists():
    time.sleep(0.01)
"""
    assert run(first(SERVES, then=waits + SERVES), act) == 0


def test_a_worker_that_has_recovered_before_it_is_looked_at_goes_on(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Supervisor] = []
    init = Supervisor.__init__

    def noted(self: Supervisor, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    async def act(log: Log) -> None:
        (pid,) = await log.until(r"workers: 1, processes: (\d+)")
        worker = made[0]._places[0].worker
        assert worker is not None
        worker.needs_attention.set()
        while worker.needs_attention.is_set():
            await asyncio.sleep(0.005)
        assert worker.pid == int(pid)
        send(signal.SIGTERM)

    monkeypatch.setattr(Supervisor, "__init__", noted)
    assert run(SERVES, act) == 0


def test_a_first_worker_that_cannot_start_ends_the_program(run: Any) -> None:
    async def act(log: Log) -> None:
        await log.until("a worker did not start: ending the program")

    assert run(FAILS, act, workers=3) == 1


def test_sighup_replaces_each_worker_once(run: Any) -> None:
    async def act(log: Log) -> None:
        ((one, two),) = await log.until(r"workers: 2, processes: (\d+), (\d+)")
        send(signal.SIGHUP)
        await log.until("SIGHUP: replacing each worker")
        send(signal.SIGHUP)
        await log.until("SIGHUP: the workers are being replaced already")
        await log.until("SIGHUP: replaced each worker")
        assert await log.until(r"process (\d+) is replaced") == [one, two]
        send(signal.SIGTERM)

    assert run(SERVES, act, workers=2) == 0


def test_sighup_changes_nothing_if_the_new_version_fails(run: Any, tmp_path: Path) -> None:
    async def act(log: Log) -> None:
        ((one, _),) = await log.until(r"workers: 2, processes: (\d+), (\d+)")
        (tmp_path / "behaviour").write_text(FAILS)
        send(signal.SIGHUP)
        await log.until(f"no worker takes its place: process {one} goes on")
        send(signal.SIGTERM)

    assert run(SERVES, act, workers=2) == 0


def test_a_stop_during_a_replacement_is_not_a_failure_of_it(run: Any, tmp_path: Path) -> None:
    async def act(log: Log) -> None:
        await log.until("workers: 2")
        (tmp_path / "behaviour").write_text(HANGS)
        send(signal.SIGHUP)
        await until_file(tmp_path / "hangs")
        send(signal.SIGTERM)
        await log.until("stopping")
        send(signal.SIGTERM)

    assert run(SERVES, act, workers=2) == 1


def test_a_stop_during_a_restart_is_not_a_failure_of_it(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(log: Log) -> None:
        await log.until("has ended")
        send(signal.SIGTERM)

    async def run_then_wait(log: Log) -> None:
        monkeypatch.setattr(supervisor, "DELAYS", (1000.0,))
        await act(log)

    assert run("start()\nos._exit(1)\n", run_then_wait) == 0


def test_a_worker_that_is_being_started_when_a_signal_comes_is_stopped(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = WorkerProcess.start

    async def interrupted(*arguments: Any) -> WorkerProcess:
        send(signal.SIGTERM)
        while not log_of:
            await asyncio.sleep(0)
        await log_of[0].until("stopping")
        return await start(*arguments)

    async def act(log: Log) -> None:
        log_of.append(log)

    log_of: list[Log] = []
    monkeypatch.setattr(WorkerProcess, "start", interrupted)
    assert run(SERVES, act) == 0


def test_a_second_signal_kills_the_workers(run: Any, tmp_path: Path) -> None:
    async def act(log: Log) -> None:
        await log.until("workers: 1")
        send(signal.SIGTERM)
        await log.until("stopping")
        send(signal.SIGTERM)
        await log.until(r"killing the workers that are left: 1")
        await log.until(r"process \d+ has ended \(killed by SIGKILL\)")

    assert run("start()\nlive()\ntime.sleep(1000)\n", act) == 1


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_worker_that_a_signal_ends_before_it_listens_has_not_failed(
    run: Any, number: str, tmp_path: Path
) -> None:
    """SIGINT is that of a terminal, which sends it to all processes."""

    async def act(log: Log) -> None:
        await until_file(tmp_path / "loads")
        send(signal.SIGINT)

    source = f"(folder / 'loads').touch()\nhear()\nsignal.signal(signal.{number}, signal.SIG_DFL)\n"
    assert run(f"{source}os.kill(os.getpid(), signal.{number})\n", act, workers=2) == 0


def test_an_error_of_the_supervisor_kills_its_workers(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(log: Log) -> None:
        await log.until("never")

    def fail(self: Supervisor) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Supervisor, "_log_start", fail)
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        run(SERVES, act)
