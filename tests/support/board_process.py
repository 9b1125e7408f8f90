"""Process of ``examples/board.py``, killed and started again on the same port."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ports import free_port
from repository import EXAMPLES, ROOT
from timeouts import TIMEOUT

PROGRAM: Final = "from board import app; import sys; app.run('127.0.0.1', int(sys.argv[1]))"


class BoardProcess:
    """A server of boards, which are kept in a file."""

    def __init__(self, file: Path) -> None:
        self.port = free_port()
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the program, and wait until it listens."""
        path = os.pathsep.join([str(ROOT), str(EXAMPLES)])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "DATABASE_URL": f"sqlite:///{self._file}",
        }
        command = [sys.executable, "-c", PROGRAM, str(self.port)]
        self._process = subprocess.Popen(command, env=environment)
        ends = time.monotonic() + TIMEOUT
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("the server has not started")
            time.sleep(0.01)  # nothing tells that a port listens

    def kill(self) -> None:
        """End the process at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
            self._process = None
