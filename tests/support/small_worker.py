"""Program of a worker process that starts fast, and does what a test has written to a file.

It takes the place of `websuckets.cli.worker`, and imports nothing of websuckets. The target that
the supervisor names is the file: Python source that calls `start`, `live` and the others below.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["os", "signal", "time"]  # for the file


def main(descriptor: int) -> None:
    supervisor = socket.socket(fileno=descriptor)
    lines = supervisor.makefile()
    target = Path(json.loads(lines.readline())["options"]["target"])

    def tell(name: str, **fields: Any) -> None:
        supervisor.sendall(json.dumps({"is": name, **fields}).encode() + b"\n")

    def hear() -> str:
        """Return the name of the next message; end the process when the supervisor is gone."""
        line = lines.readline()
        if not line:
            raise SystemExit
        return str(json.loads(line)["is"])

    def start(*files: str, has_broker: bool = True) -> None:
        """Be a worker without a fault until it listens; end the process if it is told to stop."""
        tell("loaded", files=files)
        if hear() != "start":
            raise SystemExit
        tell("listening", urls=[], has_broker=has_broker)

    def live(memory: int = 1) -> str:
        """Give signs of life until the supervisor says that this worker ends; return the word."""
        threading.Thread(target=beat, args=(memory,), daemon=True).start()
        return hear()

    def beat(memory: int) -> None:
        while True:
            tell("alive", memory=memory)
            time.sleep(0.02)

    def is_first(name: str) -> bool:
        """Return true for the first process that asks."""
        try:
            (target.parent / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    exec(target.read_text(), {**globals(), **locals(), "folder": target.parent})


if __name__ == "__main__":
    main(int(sys.argv[1]))
