"""Messages between a supervisor and the worker processes that it has started.

Each worker has one end of a pair of connected sockets. A message is one line of JSON, with its
name as ``"is"``. A worker sends:

- ``loaded``: the app has been loaded; ``files`` are those of the program's modules,
- ``listening``: the app has started; ``urls`` are those of its sockets, and ``has_broker`` tells
  whether anything connects the app with those of other processes,
- ``alive``: the event loop runs, sent every `HEARTBEAT` seconds; ``memory`` is in bytes,
- ``files``: other modules have been imported since,
- ``stopped``: the app has stopped, and the process ends.

The first message to a worker, ``options``, has its `RunOptions` and the descriptors of its sockets.
Then come ``start``, after ``loaded``; and ``stop``, or ``make way`` where another worker takes the
place of this one. A worker also stops when it reads the end of the stream: the supervisor is gone.
"""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

__all__ = ["HEARTBEAT", "Control", "decoded", "encoded"]

HEARTBEAT: Final = 1.0
"""Seconds between two messages that tell that the event loop of a worker runs."""

UNSENT: Final = 100
"""Messages of a worker that may wait while the supervisor does not read; more are dropped."""


def encoded(name: str, **fields: Any) -> bytes:
    """Return the line of a message."""
    return json.dumps({"is": name, **fields}).encode() + b"\n"


def decoded(line: bytes | str) -> dict[str, Any]:
    """Return the message of a line."""
    message: dict[str, Any] = json.loads(line)
    return message


class Control:
    """The worker's end of the connection with its supervisor.

    Messages are sent by a thread of its own: a supervisor that is stopped, or busy, must not block
    the event loop of a worker.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)  # or a child process of the program would keep it open
        self._lines = self._socket.makefile("rb")
        self._unsent: queue.Queue[bytes] = queue.Queue(UNSENT)
        threading.Thread(target=self._send_all, name="websuckets control", daemon=True).start()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the messages of the supervisor until the supervisor is gone."""
        try:
            yield from map(decoded, self._lines)
        except OSError:  # reset, as after messages that the supervisor has not read
            return

    def send(self, name: str, **fields: Any) -> None:
        """Send a message; never waits."""
        try:
            self._unsent.put_nowait(encoded(name, **fields))
        except queue.Full:
            pass

    def flush(self, seconds: float) -> None:
        """Wait until all messages are sent, for so many seconds at most."""
        with self._unsent.all_tasks_done:
            self._unsent.all_tasks_done.wait_for(lambda: not self._unsent.unfinished_tasks, seconds)

    def _send_all(self) -> None:
        while True:
            line = self._unsent.get()
            with suppress(OSError):  # the supervisor is gone: `messages` ends
                self._socket.sendall(line)
            self._unsent.task_done()
