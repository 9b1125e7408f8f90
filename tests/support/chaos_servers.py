"""Servers of the chaos run: nodes, a redis-server and a PostgreSQL, which it kills and stops."""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import STDOUT
from typing import IO, Any, Final

import psycopg
from chaos_history import Disturbance
from ports import free_port
from postgres import LOOPBACK_ONLY, find_binaries, initialise, run_in

SUPPORT: Final = Path(__file__).parent

KEEP_EVERYTHING: Final = ("synchronous_commit=on",)

END_DEAD_CLIENTS: Final = (
    "idle_in_transaction_session_timeout=5s",
    "client_connection_check_interval=1s",
)
"""Settings without which a node that has vanished, and cannot be told from one that is slow, holds
its locks for as long as PostgreSQL takes it for alive."""

STARTING: Final = 30.0

TIME: Final = "#-#-# #:#:#,#"
"""Time in a line of the log of a node, its numbers replaced."""


def until_ended_with_parent(signal_name: str) -> list[str]:
    """Return the words by which a command ends with this process, where that is possible."""
    return ["setpriv", "--pdeathsig", signal_name] if shutil.which("setpriv") else []


def descendants_of(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it, parents first, as Linux shows them."""
    yield pid
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                yield from descendants_of(int(stat.parent.name))


class Postgres:
    """A PostgreSQL that keeps what it has committed, however it ends."""

    def __init__(self, directory: Path) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise RuntimeError("PostgreSQL is not installed")
        self._postgres = binaries / "postgres"
        self._directory = directory
        self._password = secrets.token_hex(16)
        self._options = run_in(directory)
        initialise(binaries / "initdb", directory, self._password, self._options)
        self.port = free_port()
        self._process: subprocess.Popen[Any] | None = None

    @property
    def password(self) -> str:
        return self._password

    def url(self, port: int | None = None) -> str:
        """Return the URL of the database, at a port or directly."""
        return f"postgresql://tests:{self._password}@127.0.0.1:{port or self.port}/postgres"

    async def start(self) -> None:
        settings = [f"port={self.port}", *KEEP_EVERYTHING, *END_DEAD_CLIENTS, *LOOPBACK_ONLY]
        command = [str(self._postgres), "-D", "data", *(f"--{each}" for each in settings)]
        with (self._directory / "log").open("a") as log:
            self._process = subprocess.Popen(
                until_ended_with_parent("QUIT") + command,
                stdout=log,
                stderr=STDOUT,
                **self._options,
            )
        await self._accepts()

    async def _accepts(self) -> None:
        assert self._process is not None
        end = time.monotonic() + STARTING
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(psycopg.OperationalError):
                connection = await psycopg.AsyncConnection.connect(self.url(), connect_timeout=5)
                await connection.close()
                return
            await asyncio.sleep(0.05)  # the server does not announce that it is ready
        raise RuntimeError("PostgreSQL does not start")

    async def kill(self) -> None:
        """End the server at once, without saving anything: the next start has to recover."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(self._process.wait, 30)

    def pause(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in reversed(self._processes()):
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        assert self._process is not None
        return list(descendants_of(self._process.pid))


class Node:
    """A process that serves the app, and that is started again when it was killed."""

    def __init__(self, name: str, options: dict[str, Any], log: Path) -> None:
        self.name = name
        self.port = free_port()
        self.ended_by_itself: list[str] = []
        self.disturbances: list[Disturbance] = []
        """Times in which a process of this node could not do its work."""
        self._options = options
        self._log = log
        self._starts = 0
        self._process: subprocess.Popen[Any] | None = None
        self._began = 0.0

    @property
    def process_name(self) -> str:
        """Name of the present process, as its effects have it."""
        return f"{self.name}.{self._starts}"

    def note(self, cause: str, begin: float, end: float) -> None:
        """Take note of a disturbance of the present process."""
        self.disturbances.append(Disturbance(self.process_name, cause, begin, end))

    def start(self) -> None:
        self._starts += 1
        options = {**self._options, "node": self.process_name, "port": self.port}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*until_ended_with_parent("KILL"), sys.executable, str(SUPPORT / "chaos_app.py")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=STDOUT,
                text=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.close()

    def check(self) -> None:
        """Start the node again if it has ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.ended_by_itself.append(f"{self.process_name}: exit status {status}")
            self.start()

    def kill(self) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        process.wait()
        self.note("killed", time.time(), float("inf"))

    def pause(self) -> None:
        assert self._process is not None
        self._began = time.time()
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.note("stopped", self._began, time.time())

    def stop(self) -> int | None:
        """End as a program is ended, and return the exit status."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(45)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    def open_connections(self) -> int:
        """Return the number of established connections of clients, as Linux shows them."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        port = f":{self.port:04X}"
        return sum(each[1].endswith(port) and each[3] in ("01", "08") for each in fields)


def errors_in(log: IO[str]) -> dict[str, int]:
    """Return how often each kind of line of errors stands in the log of a node."""
    kinds: dict[str, int] = {}
    for line in log:
        if " ERROR " in line or " CRITICAL " in line or line.startswith("Traceback"):
            text = re.sub(r"incident \w+|\d+", "#", line.strip()).removeprefix(f"{TIME} ")[:140]
            kinds[text] = kinds.get(text, 0) + 1
    return kinds
