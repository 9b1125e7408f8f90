"""Servers as processes of their own, with their processor time and memory."""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.job import HOST
from benchmarks.subjects import Options, Subject

__all__ = ["LOAD_CORE", "SERVER_CORE", "Server", "free_port", "most_files", "pin", "running"]

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
TIME_TO_START: Final = 60.0

KEEPS_MEMORY: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}
"""Settings of glibc.

asyncio reads into 256 KiB, which are free again after each message. Whether the C library returns
them to the system each time depends on the neighbouring allocations, and takes up to 16
microseconds.
"""


def pin(core: int) -> None:
    """Run this process, and those that it starts, on one core, where there is more than one."""
    if len(os.sched_getaffinity(0)) > 1 or core in os.sched_getaffinity(0):
        with suppress(OSError):  # there is no such core
            os.sched_setaffinity(0, {core})


def most_files() -> int:
    """Let this process, and those that it starts, open as many files as allowed; return the
    limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Server:
    """A running server."""

    def __init__(self, pid: int, port: int, start_seconds: float) -> None:
        self.pid = pid
        self.port = port
        self.start_seconds = start_seconds
        """Seconds from the start of the process until it accepts connections."""
        self.pids = [pid, *_descendants(pid)]
        """The process and those that it has started, their own included."""

    def cpu(self) -> float:
        """Return the processor time of all processes and threads, user and system, in seconds."""
        return sum(time.clock_gettime(_cpu_clock(pid)) for pid in self.pids)

    def memory(self) -> int:
        """Return the private memory of all processes, in bytes."""
        return sum(_private_bytes(pid) for pid in self.pids)


def _cpu_clock(pid: int) -> int:
    """Return the clock of ``clock_getcpuclockid``, which Python does not offer.

    The clock counts nanoseconds, where ``/proc/<pid>/stat`` has hundredths of a second.
    """
    return (~pid << 3) | 2


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in children for found in (int(child), *_descendants(int(child)))]


@contextmanager
def running(
    subject: Subject, options: Options | None = None, environment: Mapping[str, str] = KEEPS_MEMORY
) -> Iterator[Server]:
    """Start the subject, yield its server, and end it after the context."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.subjects", subject.name, str(port)]
    command += [str(SERVER_CORE), (options or Options()).to_json()]
    with tempfile.TemporaryFile("w+") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=subject.root,  # Python imports from there first
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        )
        try:
            _wait_until_it_accepts(process, port)
            yield Server(process.pid, port, time.perf_counter() - begun)
        except BaseException as error:
            output.seek(0)
            error.add_note(f"{subject.name} said: {output.read()[-3000:]}")
            raise
        finally:
            _end(process)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait_until_it_accepts(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.perf_counter() + TIME_TO_START
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with suppress(OSError):
            socket.create_connection((HOST, port)).close()
            return
        time.sleep(0.005)
    raise RuntimeError(f"the server did not start within {TIME_TO_START:.0f} seconds")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
