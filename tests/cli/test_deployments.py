"""New versions are deployed, and servers stopped, under load without a lost reply."""

import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import pytest
from harness import connect
from run_command import LONG, LOOPS, RunningProgram, run
from websockets.exceptions import ConnectionClosed, InvalidHandshake

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,  # as the clients; servers run on both
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc"),
]

DEPLOYMENTS: Final = int(os.environ.get("WEBSUCKETS_DEPLOYMENTS", "3"))


class Load:
    """Clients that send commands, one after the other, and connect again when they are told to.

    A command that ran must have been answered. A command that the server did not begin, because
    its message came after the close frame of the server, is not sent again, so that the two can be
    told apart.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered: set[int] = set()
        self.refused: list[str] = []
        self.codes: Counter[int] = Counter()
        self.connections = 0
        self.stops = False
        self._numbers: Iterator[int] = itertools.count()

    async def talk(self) -> None:
        """Be a client that stays connected."""
        while not self.stops:
            await self._connection(None)

    async def visit(self) -> None:
        """Be clients that come one after the other, and send one command each."""
        while not self.stops:
            await self._connection(1)

    async def _connection(self, commands: int | None) -> None:
        try:
            async with connect(self.url, open_timeout=LONG) as connection:
                self.connections += 1
                try:
                    while commands != 0 and not self.stops:
                        commands = None if commands is None else commands - 1
                        number = next(self._numbers)
                        frame = {"event": "record", "payload": number, "id": number}
                        await connection.send(json.dumps(frame))
                        reply = json.loads(await connection.recv())
                        assert reply["id"] == number, reply
                        self.answered.add(number)
                except ConnectionClosed as closed:
                    self.codes[0 if closed.rcvd is None else closed.rcvd.code] += 1
        except (OSError, InvalidHandshake, TimeoutError, EOFError) as error:
            if not self.stops:
                self.refused.append(repr(error))


def ran(program: RunningProgram) -> list[int]:
    return [int(line) for line in (program.directory / "ran").read_text().split()]


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
