"""``websuckets run`` in processes of their own, and their log, for tests that are its clients."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
import pytest
from anyio.abc import Process
from harness import connect
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed

LONG: Final = 3 * TIMEOUT
"""Seconds for steps in which processes start, on a machine that does other work."""

LOOPS: Final = pytest.mark.parametrize(
    "loop",
    [("--loop", "asyncio"), ("--loop", "uvloop"), ("--backend", "trio")],
    ids=["asyncio", "uvloop", "trio"],
)
"""A mark for tests that run a program on every event loop."""

PROGRAM: Final = """
import os, time
import anyio
from websuckets import CommandGroup, Payload, Socket, WebSuckets

group = CommandGroup()
ran = os.open("ran", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

@group.command("process")
async def process(socket: Socket) -> int:
    return os.getpid()

@group.command("record")
async def record(socket: Socket, number: Payload[int]) -> int:
    os.write(ran, b"%d\\n" % number)
    await anyio.sleep(0.02)
    return number

@group.command("wait")
async def wait(socket: Socket, seconds: Payload[float]) -> int:
    open("waits", "w").close()
    await anyio.sleep(seconds)
    return os.getpid()

@group.command("block")
async def block(socket: Socket, seconds: Payload[float]) -> None:
    time.sleep(seconds)

@group.command("grow")
async def grow(socket: Socket, mib: Payload[int]) -> None:
    globals()["memory"] = os.urandom(1) * (mib << 20)

app = WebSuckets()
app.include_command_group(group)
"""
"""An app whose commands tell which process answers, and misbehave on demand."""


class RunningProgram:
    """A program that runs, with all that it has logged."""

    def __init__(self, process: Process, directory: Path) -> None:
        self.directory = directory
        self.log = ""
        self._process = process
        self._grew = anyio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read(self) -> None:
        """Gather the log until the end of all processes."""
        assert self._process.stderr is not None
        async for chunk in self._process.stderr:
            self.log += chunk.decode(errors="replace")
            self._grew.set()
        self._grew.set()

    async def until(self, pattern: str, times: int = 1, timeout: float = LONG) -> list[str]:
        """Wait until the log has a pattern so many times, and return what it matches."""
        deadline = time.monotonic() + timeout
        while len(found := re.findall(pattern, self.log)) < times:
            self._grew = anyio.Event()
            with anyio.move_on_after(max(0, deadline - time.monotonic())) as scope:
                await self._grew.wait()
            if scope.cancelled_caught:
                raise AssertionError(f"{pattern!r} is not {times} times in the log:\n{self.log}")
        return found

    async def url(self) -> str:
        return (await self.until(r"listening on (\S+),"))[0]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self, timeout: float = LONG) -> int:
        """Wait for the end of the process, and return its status."""
        with anyio.fail_after(timeout):
            return await self._process.wait()

    def children(self) -> set[int]:
        """Return the processes that the program has started and that have not ended."""
        return children_of(self.pid)

    async def until_children(self, number: int) -> set[int]:
        with anyio.fail_after(LONG):
            while len(found := self.children()) != number:
                await anyio.sleep(0.01)
        return found


def children_of(pid: int) -> set[int]:
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
            found |= {int(child) for child in tasks.read_text().split()}
    return found


def descriptors_of(pid: int) -> int:
    """Return the number of file descriptors that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def tasks_of(pid: int) -> int:
    """Return the number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def memory_of(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def until_file(path: Path) -> None:
    """Wait until a program has made a file."""
    with anyio.fail_after(LONG):
        while not path.exists():
            await anyio.sleep(0.01)


async def until_gone(*pids: int) -> None:
    """Wait until processes have ended, whoever has started them."""
    with anyio.fail_after(LONG):
        while any(_runs(pid) for pid in pids):
            await anyio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@asynccontextmanager
async def run(
    directory: Path, *options: str, program: str | None = PROGRAM, **environment: str
) -> AsyncIterator[RunningProgram]:
    """Run ``websuckets run`` in a directory, on a free port, until the context is left."""
    if program is not None:
        (directory / "main.py").write_text(program)
    process = await anyio.open_process(
        [sys.executable, "-m", "websuckets", "run", "--port", "0", *options],
        cwd=directory,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdin=None,
        stdout=None,
        stderr=PIPE,
    )
    running = RunningProgram(process, directory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running.read)
        try:
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                for child in {process.pid, *running.children()}:
                    if _runs(child):
                        os.kill(child, signal.SIGKILL)
                await process.wait()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    """Return a client, whose method is `ask`."""
    async with connect(url) as connection:
        yield connection


async def ask(connection: Any, event: str, payload: object = None, **fields: Any) -> Any:
    """Send a command and return the payload of its reply."""
    await connection.send(json.dumps({"event": event, "payload": payload, "id": 1, **fields}))
    with anyio.fail_after(LONG):
        reply = json.loads(await connection.recv())
    assert reply.get("event") == event, reply
    return reply["payload"]


async def close_code(connection: Any) -> int | None:
    """Wait until the server has closed a connection, and return its close code, if it sent one."""
    with anyio.fail_after(LONG), pytest.raises(ConnectionClosed) as closed:
        while True:
            await connection.recv()
    return None if closed.value.rcvd is None else closed.value.rcvd.code


async def process_of(url: str) -> int:
    """Return the number of the process that a new client reaches."""
    async with connect(url) as connection:
        pid: int = await ask(connection, "process")
        return pid
