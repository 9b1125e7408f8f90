"""A redis-server for the benchmarks: on loopback, on a free port, with nothing kept on disk."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import create_connection
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.job import HOST
from benchmarks.servers import free_port

__all__ = ["find_redis", "running_redis"]

TIME_TO_START: Final = 30.0
TIME_TO_END: Final = 10.0


def find_redis() -> str | None:
    """Return the path of the program, or None if it is not installed."""
    return shutil.which("redis-server")


@contextmanager
def running_redis(program: str) -> Iterator[str]:
    """Yield the URL of a server that ends with the context, even by an error."""
    port = free_port()
    with TemporaryDirectory(prefix="redis-") as folder:
        settings = f"--port {port} --bind {HOST} --appendonly no --dir {folder}".split()
        process = subprocess.Popen(
            [program, *settings, "--save", ""], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            _wait_until_it_answers(process, port)
            yield f"redis://{HOST}:{port}"
        finally:
            _end(process)


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.perf_counter() + TIME_TO_START
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"redis-server ended with {process.returncode}")
        with suppress(OSError), create_connection((HOST, port), 1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(100) == b"+PONG\r\n":
                return
        time.sleep(0.02)  # the server does not report when it is ready
    raise RuntimeError(f"redis-server did not start within {TIME_TO_START:.0f} seconds")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(TIME_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
