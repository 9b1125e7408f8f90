"""A redis-server of the tests' own: on loopback, on a free port, with nothing kept on disk."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from anyio.abc import SocketStream
from ports import free_port

TRIES, PAUSE = 600, 0.05  # 30 seconds


class RedisServer:
    """A server that tests may kill, stop, and start again on the same port."""

    def __init__(self, binary: str, directory: str, options: tuple[str, ...] = ()) -> None:
        self.port = 0
        self._binary = binary
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[Any] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server on its previous port, if any; else try ports that may be taken first."""
        for _ in range(3):
            port = self.port or free_port()
            if self._starts(port):
                self.port = port
                return
        raise RuntimeError("redis-server does not start")

    def kill(self) -> None:
        """Kill the server like ``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str | bytes) -> bytes:
        """Return the raw answer to one command, by a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            parts = [word.encode() if isinstance(word, str) else word for word in words]
            request = b"*%d\r\n" % len(parts)
            request += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
            connection.sendall(request)
            return connection.recv(65536)

    def _starts(self, port: int) -> bool:
        settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command = [self._binary, *settings, "--dir", self._directory, *self._options]
        if shutil.which("setpriv"):  # so that the server ends even if the tests are killed
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        self._process = subprocess.Popen(command, stdin=DEVNULL, stdout=DEVNULL)
        for _ in range(TRIES):
            if self._process.poll() is not None:
                return False
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(100) == b"+PONG\r\n":
                        return True
            except OSError:
                pass
            time.sleep(PAUSE)  # the server does not announce that it is ready
        raise TimeoutError("redis-server takes too long to start")


def find_binary() -> str | None:
    return shutil.which("redis-server", path=f"{os.environ['PATH']}:/usr/bin:/usr/local/bin")


@contextmanager
def running(binary: str, *options: str) -> Iterator[RedisServer]:
    """Run an empty server, which ends with the context, however the context ends.

    ``options`` are options of its command line.
    """
    with TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(binary, directory, options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


class Proxy:
    """A link to a server that can lose all data while it stays connected."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self._is_clear = anyio.Event()
        self._is_clear.set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def redirect(self, port: int) -> None:
        """Lead new connections to another server; open connections stay."""
        self._to = port

    def swallow(self) -> None:
        """Discard all data from now on, in both directions."""
        self._is_clear = anyio.Event()

    def let_through(self) -> None:
        self._is_clear.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._connect)
            yield self
            tasks.cancel_scope.cancel()

    async def _connect(self, client: SocketStream) -> None:
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self._to)
            except OSError:  # the server does not accept connections for now
                return
            async with server, anyio.create_task_group() as tasks:
                for source, target in ((client, server), (server, client)):
                    tasks.start_soon(self._carry, source, target, tasks.cancel_scope)

    async def _carry(
        self, source: SocketStream, target: SocketStream, both: anyio.CancelScope
    ) -> None:
        try:
            while True:
                data = await source.receive()
                await self._is_clear.wait()
                await target.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            both.cancel()
