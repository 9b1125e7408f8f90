"""New versions are deployed, and servers stopped, under load without a lost reply."""

import os
import signal
import sys
from pathlib import Path
from typing import Final

import anyio
import pytest
from load import Load, ran
from run_command import LONG, LOOPS, RunningProgram, run

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,  # as the clients; servers run on both
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc"),
]

DEPLOYMENTS: Final = int(os.environ.get("WEBSUCKETS_DEPLOYMENTS", "3"))


async def replace_all(program: RunningProgram, times: int) -> None:
    for done in range(1, times + 1):
        program.signal(signal.SIGHUP)
        await program.until("SIGHUP: replaced each worker", times=done)


async def deploy(directory: Path, loop: tuple[str, str], clients: int, times: int) -> None:
    async with run(directory, "--workers", "2", *loop) as program:
        load = Load(await program.url())
        await program.until("workers: 2")
        async with anyio.create_task_group() as tasks:
            for _ in range(clients):
                tasks.start_soon(load.talk)
            for _ in range(max(2, clients // 20)):
                tasks.start_soon(load.visit)
            await replace_all(program, times)
            load.stops = True
        assert load.refused == []
        assert set(load.codes) == {1012}, load.codes
        executed = ran(program)
        assert len(executed) == len(set(executed))
        assert set(executed) == load.answered
        assert load.connections > clients * 2
        assert "ERROR" not in program.log
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


@LOOPS
@pytest.mark.heavy
@pytest.mark.timeout(60 + 30 * DEPLOYMENTS)
async def test_deployments_under_200_clients_lose_no_reply_and_refuse_no_handshake(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    await deploy(tmp_path, loop, clients=200, times=DEPLOYMENTS)


@pytest.mark.heavy
async def test_a_deployment_loses_no_reply_and_refuses_no_handshake(tmp_path: Path) -> None:
    await deploy(tmp_path, ("--loop", "asyncio"), clients=20, times=1)


@LOOPS
@pytest.mark.heavy
async def test_a_stop_of_all_workers_under_200_clients_loses_no_reply(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    async with run(tmp_path, "--workers", "2", *loop) as program:
        load = Load(await program.url())
        await program.until("workers: 2")
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(load.talk)
            with anyio.fail_after(LONG):
                while len(load.answered) < 2000:
                    await anyio.sleep(0.01)
            load.stops = True
            program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert set(ran(program)) == load.answered
        assert "ERROR" not in program.log
