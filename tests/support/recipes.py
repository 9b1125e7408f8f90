"""Recipes of the page about production: their files, written down, and their lines, run."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any, Final

import anyio
import httpx2
import pages
from harness import connect, get
from ports import free_port
from run_command import LONG, RunningProgram, children_of
from websockets.exceptions import ConnectionClosed

from websuckets.app import Server

FILES: Final = pages.files(pages.PRODUCTION)
"""Texts of the page's files by their names."""

LINES: Final = [text.strip() for kind, text in pages.blocks(pages.PRODUCTION) if kind == "sh"]
"""Lines for a shell."""

COMMANDS: Final = {
    "alembic": "-m alembic",
    "python": "",
    "uvicorn": "-m uvicorn",
    "websuckets": "-m websuckets",
}
"""Commands in these lines, and how this Python runs each without a `PATH` of its own."""

PROBE: Final = """

import os
from pathlib import Path

from websuckets import Payload

probe = CommandGroup()


@probe.command("wait")
async def wait(socket: Socket) -> int:
    Path(f"begun-{socket.id}").touch()
    while not Path("gate").exists():
        await anyio.sleep(0.01)
    return os.getpid()


@probe.command("process")
async def process(socket: Socket) -> int:
    return os.getpid()


@probe.command("record")
async def record(socket: Socket, number: Payload[int]) -> int:
    with open("ran", "a") as ran:
        ran.write(f"{number}\\n")
    return number


app.include_command_group(probe)
"""
"""Commands for tests, below the program: one waits until the test lets it end."""


def line(beginning: str) -> str:
    """Return the line of the page that begins so."""
    (found,) = [each for each in LINES if each.startswith(beginning)]
    return found


class Recipe:
    """A directory with files of the page, whose ports are free ones."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory = directory
        self.http = free_port()
        self.port = free_port()
        for name in names:
            self.write(name, FILES[name])
        commands = directory / "bin"
        commands.mkdir()
        for name, arguments in COMMANDS.items():
            command = commands / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            command.chmod(0o755)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def write(self, name: str, text: str) -> None:
        """Write a file into the directory."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.with_ports(text))

    def with_ports(self, text: str) -> str:
        """Return a text of the page with ports that are free."""
        return text.replace("8000", str(self.http)).replace("8001", str(self.port))

    @asynccontextmanager
    async def running(self, line: str, **environment: str) -> AsyncIterator[RunningProgram]:
        """Run a line of the page, or the last of its commands, until the context is left."""
        command = self.with_ports(line)
        process = await anyio.open_process(
            ["sh", "-c", command if " exec " in command else f"exec {command}"],
            cwd=self.directory,
            env=self._environment(environment),
            stdin=None,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        program = RunningProgram(process, self.directory)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.read)
            try:
                yield program
            finally:
                with anyio.CancelScope(shield=True):
                    for each in children_of(process.pid):
                        with suppress(ProcessLookupError):
                            os.kill(each, signal.SIGKILL)
                    if process.returncode is None:
                        process.kill()
                    await process.wait()

    def run(self, line: str, **environment: str) -> None:
        """Run a line of the page to its end; expect success."""
        done = subprocess.run(
            ["sh", "-c", self.with_ports(line)],
            cwd=self.directory,
            env=self._environment(environment),
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            timeout=LONG,
        )
        assert done.returncode == 0, done.stdout

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }

    async def health(self, port: int | None = None) -> int:
        """Return the status of the answer to a request for health."""
        return await get(Server(port or self.port, ()), "/health")

    async def until_health(self, status: int, port: int | None = None) -> None:
        """Wait until a server answers requests for its health, with this status."""
        with anyio.fail_after(LONG):
            while True:
                try:
                    if await self.health(port) == status:
                        return
                except httpx2.TransportError:
                    pass  # it does not listen yet
                await anyio.sleep(0.01)

    def open_gate(self) -> None:
        """Let the commands that wait end."""
        (self.directory / "gate").touch()

    @asynccontextmanager
    async def in_flight(self, number: int, url: str) -> AsyncIterator[list[Any]]:
        """Yield clients, each of which has a command that runs until the gate is opened."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(url)) for _ in range(number)]
            for client in clients:
                await client.send('{"event": "wait"}')
            with anyio.fail_after(LONG):
                while len(list(self.directory.glob("begun-*"))) < number:
                    await anyio.sleep(0.01)
            yield clients


async def replies_of(clients: list[Any]) -> tuple[int, set[int | None]]:
    """Return how many frames clients get until they are closed, and their close codes."""
    replies, codes = 0, set()
    with anyio.fail_after(LONG):
        for client in clients:
            try:
                while await client.recv():
                    replies += 1
            except ConnectionClosed as closed:
                codes.add(closed.rcvd.code if closed.rcvd else None)
    return replies, codes
