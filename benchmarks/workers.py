"""Workers of ``websuckets run``: throughput of several on all cores, and the spread of clients."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.dialects import DIALECTS
from benchmarks.job import Job
from benchmarks.load import Load
from benchmarks.servers import TIME_TO_START, Server, free_port
from benchmarks.subjects import Options
from websuckets import WebSuckets

__all__ = ["LOOPS", "WORKERS", "Rates", "make_app", "shares", "throughput"]

LOOPS: Final = {
    "asyncio": ("--loop", "asyncio"),
    "uvloop": ("--loop", "uvloop"),
    "trio": ("--backend", "trio"),
}

WORKERS: Final = (1, 2)

JOB: Final = Job("workers")


def make_app() -> WebSuckets:
    """Return the app that each worker serves."""
    from benchmarks.subjects.websuckets import build

    return build(Options())


@dataclass
class Rates:
    """Messages per second of each round, by the number of workers."""

    rates: dict[int, list[float]] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """Median of the ratios of a round: the most workers, to one."""
        least, most = min(self.rates), max(self.rates)
        return median(
            several / one for one, several in zip(self.rates[least], self.rates[most], strict=True)
        )


def throughput(
    loops: list[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Rates]:
    """Measure messages per second by event loop, for each number of workers.

    Clients and workers share all cores. A round measures each case once, with a new server.
    """
    found = {loop: Rates({workers: [] for workers in WORKERS}) for loop in loops}
    for number in range(1, rounds + 1):
        for loop in loops:
            for workers in WORKERS:
                with running(loop, workers) as server, load(server) as clients:
                    sample = clients.run(0.3, seconds, server.cpu)
                found[loop].rates[workers].append(sample.per_second)
                progress(f"round {number}: {loop}, {workers}: {sample.per_second:,.0f} messages/s")
    return found


def shares(loop: str, workers: int, connections: int) -> list[float]:
    """Return the part of all connections that each worker has accepted, the smallest first."""
    with running(loop, workers) as server:
        pids = server.pids[1:]
        before = [_sockets(pid) for pid in pids]
        with load(server, connections):
            opened = [_sockets(pid) - own for pid, own in zip(pids, before, strict=True)]
    return sorted(own / connections for own in opened)


def load(server: Server, connections: int = JOB.connections) -> Load:
    job = Job(JOB.name, connections=connections)
    return Load(server.port, DIALECTS["events"], job, sleeps=True)


@contextmanager
def running(loop: str, workers: int) -> Iterator[Server]:
    """Run the workers on all cores, yield their server, and end it after the context."""
    port = free_port()
    command = [sys.executable, "-m", "websuckets", "run", "benchmarks.workers:make_app"]
    command += ["--factory", "--port", str(port), "--workers", str(workers), *LOOPS[loop]]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as output:
            begun = time.perf_counter()
            process = subprocess.Popen(command, stderr=output)
        try:
            while "workers: " not in log.read_text():
                if process.poll() is not None or time.perf_counter() > begun + TIME_TO_START:
                    raise RuntimeError(f"the workers did not start: {log.read_text()}")
                time.sleep(0.01)
            yield Server(process.pid, port, time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait()


def _sockets(pid: int) -> int:
    """Return the number of sockets that a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        found += os.readlink(link).startswith("socket:")
    return found
