"""``websuckets run --workers``: several processes on one port, and how they are replaced."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from harness import connect
from run_command import PROGRAM, ask, process_of, run, until_file, until_gone
from websockets.exceptions import ConnectionClosed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,  # as the client; servers run on both
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc"),
]

BACKENDS = pytest.mark.parametrize(
    "backend", ["asyncio", pytest.param("trio", marks=pytest.mark.heavy)]
)


@pytest.mark.heavy
@BACKENDS
async def test_each_worker_serves_on_the_same_port(tmp_path: Path, backend: str) -> None:
    async with run(tmp_path, "--workers", "2", "--backend", backend) as program:
        url = await program.url()
        workers = {int(pid) for pid in (await program.until(r"processes: (\d+), (\d+)"))[0]}
        assert workers == program.children()
        reached: set[int] = set()
        with anyio.fail_after(30):
            while reached != workers:
                reached.add(await process_of(url))
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


@pytest.mark.heavy
async def test_a_worker_that_is_killed_is_replaced_and_the_others_clients_notice_nothing(
    tmp_path: Path,
) -> None:
    async with run(tmp_path, "--workers", "2") as program:
        url = await program.url()
        (pids,) = await program.until(r"processes: (\d+), (\d+)")
        connections: dict[int, Any] = {}
        async with anyio.create_task_group() as tasks:
            while len(connections) < 2:
                connection = await connect(url)
                pid = await ask(connection, "process")
                if connections.setdefault(pid, connection) is not connection:
                    await connection.close()
            killed, other = map(int, pids)
            os.kill(killed, signal.SIGKILL)
            await program.until(rf"process {killed} has ended \(killed by SIGKILL\)")
            (replacement,) = await program.until(rf"process (\d+) takes the place of {killed}")
            assert await ask(connections[other], "process") == other
            assert program.children() == {other, int(replacement)}
            with pytest.raises(ConnectionClosed):
                await connections[killed].recv()
            tasks.cancel_scope.cancel()
        for connection in connections.values():
            await connection.close()


@pytest.mark.heavy
@BACKENDS
async def test_sighup_replaces_each_worker_while_commands_are_answered(
    tmp_path: Path, backend: str
) -> None:
    async with run(tmp_path, "--workers", "2", "--backend", backend) as program:
        url = await program.url()
        await program.until("workers: 2")
        before = program.children()
        async with connect(url) as connection:
            pid = await ask(connection, "process")
            replies: list[int] = []

            async def command() -> None:
                replies.append(await ask(connection, "wait", 1))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(command)
                await anyio.sleep(0)
                program.signal(signal.SIGHUP)
            assert replies == [pid]
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        await program.until("SIGHUP: replaced each worker")
        after = await program.until_children(2)
        assert not before & after
        assert await process_of(url) in after


@pytest.mark.heavy
async def test_new_code_that_fails_leaves_the_old_workers_as_they_are(tmp_path: Path) -> None:
    async with run(tmp_path, "--workers", "2") as program:
        url = await program.url()
        await program.until("workers: 2")
        before = program.children()
        (tmp_path / "main.py").write_text("1 / 0\n")
        program.signal(signal.SIGHUP)
        await program.until("no worker takes its place")
        assert "ZeroDivisionError" in program.log
        await program.until_children(2)
        assert program.children() == before
        assert await process_of(url) in before


@pytest.mark.slow
async def test_a_worker_that_cannot_start_ends_the_program_with_its_traceback(
    tmp_path: Path,
) -> None:
    source = 'def connect() -> None:\n    raise ValueError("no database")\n\nconnect()\n'
    async with run(tmp_path, "--workers", "3", program=source) as program:
        assert await program.ended() == 1
        assert program.log.count("Traceback") == 1
        assert "ValueError: no database" in program.log
        assert 'line 2, in connect\n    raise ValueError("no database")' in program.log
        assert "websuckets/cli" not in program.log
        assert "a worker did not start: ending the program" in program.log


@pytest.mark.heavy
async def test_workers_that_keep_dying_end_the_program(tmp_path: Path) -> None:
    dies = PROGRAM + (
        "\n@app.on_startup\nasync def die() -> None:\n"
        "    if os.path.exists('started'):\n        os._exit(7)\n    open('started', 'w').close()\n"
    )
    async with run(tmp_path, "--workers", "1", program=dies) as program:
        await program.until("workers: 1")
        (child,) = program.children()
        os.kill(child, signal.SIGKILL)
        assert await program.ended() == 1
        assert "workers die as soon as they are started: ending the program" in program.log


@pytest.mark.heavy
async def test_a_worker_whose_event_loop_is_blocked_is_aborted_and_replaced(
    tmp_path: Path,
) -> None:
    async with run(tmp_path, "--workers", "1", "--worker-timeout", "5") as program:
        async with connect(await program.url()) as connection:
            pid = await ask(connection, "process")
            await connection.send('{"event": "block", "payload": 1000}')
            await program.until(rf"process {pid} gave no sign of life for 5 seconds: aborting it")
            await program.until(rf"process \d+ takes the place of {pid}")
            assert "in block" in program.log  # the traceback that `faulthandler` writes


@pytest.mark.heavy
async def test_a_worker_that_is_stopped_by_a_signal_is_replaced(tmp_path: Path) -> None:
    async with run(tmp_path, "--workers", "1", "--worker-timeout", "5") as program:
        await program.until("workers: 1")
        (child,) = program.children()
        os.kill(child, signal.SIGSTOP)
        await program.until(rf"process \d+ takes the place of {child}")
        await until_gone(child)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(("--max-memory", "200", r"uses \d+ MiB of memory"), id="memory"),
        pytest.param(("--lifetime", "2", "has reached its lifetime"), id="lifetime"),
    ],
)
async def test_a_worker_past_a_bound_is_replaced_before_it_stops(
    tmp_path: Path, bound: tuple[str, str, str]
) -> None:
    option, value, why = bound
    async with run(tmp_path, "--workers", "1", option, value) as program:
        async with connect(await program.url()) as connection:
            pid = await ask(connection, "process")
            if option == "--max-memory":
                await ask(connection, "grow", 300)
            await program.until(rf"process {pid} {why}")
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        await until_gone(pid)
        assert len(await program.until_children(1)) == 1


@pytest.mark.heavy
async def test_a_supervisor_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    async with run(tmp_path, "--workers", "2") as program:
        await program.until("workers: 2")
        workers = program.children()
        program.signal(signal.SIGKILL)
        await until_gone(*workers)


@pytest.mark.heavy
async def test_a_supervisor_that_is_killed_during_the_import_leaves_no_worker_behind(
    tmp_path: Path,
) -> None:
    slow = "import time\nopen('importing', 'w').close()\ntime.sleep(1000)\n"
    async with run(tmp_path, "--workers", "1", program=slow) as program:
        (worker,) = await program.until_children(1)
        await until_file(tmp_path / "importing")
        program.signal(signal.SIGKILL)
        await until_gone(worker)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.heavy)]
)
async def test_a_signal_stops_all_workers_after_their_commands(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with run(tmp_path, "--workers", "2") as program:
        async with connect(await program.url()) as connection:
            await program.until("workers: 2")
            pid = await ask(connection, "process")
            await connection.send('{"event": "wait", "payload": 0.5, "id": 2}')
            await until_file(tmp_path / "waits")
            program.signal(number)
            reply = await connection.recv()
            assert str(pid) in reply
        assert await program.ended() == 0


@pytest.mark.heavy
async def test_a_second_signal_kills_the_workers(tmp_path: Path) -> None:
    async with run(tmp_path, "--workers", "1") as program:
        async with connect(await program.url()) as connection:
            await program.until("workers: 1")
            pid = await ask(connection, "process")
            await connection.send('{"event": "wait", "payload": 1000, "id": 2}')
            program.signal(signal.SIGTERM)
            await program.until("stopping", times=2)  # by the worker, too
            program.signal(signal.SIGTERM)
            assert await program.ended() == 1
            await until_gone(pid)


@pytest.mark.heavy
async def test_a_signal_during_the_first_import_ends_the_program_without_an_error(
    tmp_path: Path,
) -> None:
    slow = "import time\nopen('importing', 'w').close()\ntime.sleep(1000)\n"
    async with run(tmp_path, "--workers", "2", program=slow) as program:
        await until_file(tmp_path / "importing")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert "CRITICAL" not in program.log


@pytest.mark.heavy
async def test_the_start_says_once_which_features_do_not_cross_workers(tmp_path: Path) -> None:
    async with run(tmp_path, "--workers", "2") as program:
        await program.until("workers: 2")
        program.signal(signal.SIGTERM)
        await program.ended()
        assert program.log.count("2 workers without a broker between them") == 1
