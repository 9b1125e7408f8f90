"""Server process and link for tests of clients: killed, started again, cut and restored."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from chaos_proxy import Link
from ports import free_port
from timeouts import TIMEOUT
from websockets.sync.client import ClientConnection, connect

PROGRAM: Final = Path(__file__).with_name("client_app.py")


class ServerProcess:
    """A process of ``client_app.py``, one after the other on the same port."""

    def __init__(self, database: Path) -> None:
        self.port = free_port()
        self.run = 0
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None
        self._control: ClientConnection | None = None
        self._stack = ExitStack()
        self._id = 0

    def start(self) -> None:
        """Start the program, and wait until it listens."""
        self.run += 1
        arguments = [str(self.port), str(self._database), str(self.run)]
        self._process = subprocess.Popen([sys.executable, str(PROGRAM), *arguments])
        ends = time.monotonic() + TIMEOUT
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("the server has not started")
            time.sleep(0.01)

    def kill(self) -> None:
        """End the process at once, if it runs."""
        self._end("kill")

    def stop(self) -> None:
        """Let the process stop as on a deploy."""
        self._end("terminate")

    def control(self, command: str, payload: Any = None) -> Any:
        """Call a command of the group ``control``, and return the payload of its reply."""
        if self._control is None:
            connecting = connect(f"ws://127.0.0.1:{self.port}", proxy=None)
            self._control = self._stack.enter_context(connecting)
        self._id += 1
        frame = {"event": f"control {command}", "payload": payload, "id": self._id}
        self._control.send(json.dumps(frame))
        reply = json.loads(self._control.recv(TIMEOUT))
        if "error" in reply:
            raise RuntimeError(f"control {command}: {reply['error']}")
        return reply["payload"]

    def _end(self, how: str) -> None:
        self._control = None
        self._stack.close()
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(TIMEOUT)
            self._process = None


class LinkThread:
    """A link to a port of loopback, in a thread of its own, for either event loop."""

    def __init__(self, to: int) -> None:
        self._link = Link("client", to)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def port(self) -> int:
        return self._link.port

    def start(self) -> None:
        self._thread.start()
        self._run(self._link.start())

    def stop(self) -> None:
        self._run(self._link.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    def cut(self) -> None:
        """Reset all connections, and each new one."""
        self._run(_call(self._link.cut))

    def lose_all_data(self) -> None:
        """Be a black hole, whose connections stay silent for good."""
        self._run(_call(lambda: self._link.lose(is_silent=True)))

    def restore(self) -> None:
        self._run(_call(self._link.restore))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT)


async def _call(function: Any) -> None:
    function()
