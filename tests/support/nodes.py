"""Processes of nodes of one app, which tests may kill."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import DEVNULL, PIPE
from typing import Any

import anyio
import rooms
from anyio.streams.text import TextReceiveStream
from repository import ROOT, SUPPORT
from timeouts import TIMEOUT

from websuckets import Limits
from websuckets.app import Server
from websuckets.redis import RedisProvider

START = 3 * TIMEOUT


class NodeProcess:
    """A process that serves `rooms`."""

    def __init__(self, process: Any, port: int) -> None:
        self.process = process
        self.server = Server(port, (f"ws://127.0.0.1:{port}",))

    def kill(self) -> None:
        """Kill the process like ``kill -9``."""
        self.process.send_signal(signal.SIGKILL)


@asynccontextmanager
async def node_process(
    redis_url: str, backend: str, heartbeat: float, grace: float = 5
) -> AsyncIterator[NodeProcess]:
    """Run a node for as long as the context lasts, or until it is killed."""
    command = [sys.executable, __file__, redis_url, backend, str(heartbeat), str(grace)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT, ROOT)))}
    process = await anyio.open_process(command, stdout=PIPE, stderr=DEVNULL, env=environment)
    async with process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(START):
                port = int(await TextReceiveStream(process.stdout).receive())
            yield NodeProcess(process, port)
        finally:
            if process.returncode is None:
                process.kill()


async def serve(redis_url: str, heartbeat: float, grace: float) -> None:
    limits = Limits(rate=None, presence_grace=grace)
    provider = RedisProvider(redis_url, resume=True, heartbeat=heartbeat)
    app = rooms.app(providers=[provider], limits=limits, channels=[rooms.hall])
    async with app.serve("127.0.0.1", 0) as server:
        print(server.port, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(serve, sys.argv[1], *map(float, sys.argv[3:]), backend=sys.argv[2])
