"""One worker process, as its supervisor starts, watches and stops it."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from websuckets.cli.control import HEARTBEAT, decoded, encoded
from websuckets.cli.run_options import RunOptions
from websuckets.runtime.jitter import uniform

__all__ = ["Bounds", "WorkerProcess"]

PROGRAM: Final = "websuckets.cli.worker"
"""Module that a worker process runs."""

LONGEST_LINE: Final = 2**24
"""Bytes of a message, at most: the files of a large program are one line."""

TIME_TO_ABORT: Final = 1.0
"""Seconds after SIGABRT until SIGKILL: a process that is stopped does not receive SIGABRT."""

TIME_TO_READ: Final = 1.0
"""Seconds after the end of a process in which its last messages are read, at most."""

JITTER: Final = 0.1
"""Part of `Bounds.lifetime` by which workers live longer or shorter, not to end all at once."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds past which a worker is replaced."""

    silence: float = 30.0
    """Seconds without a sign of life from the event loop, after which a worker is aborted."""
    memory: float | None = None
    """Resident bytes; ``None`` for no bound."""
    lifetime: float | None = None
    """Seconds since the start; ``None`` for no bound."""


class WorkerProcess:
    """A worker process, from its start until the process has ended.

    ``needs_attention`` is set when the supervisor has to do something: the process has ended, is
    silent, or has reached a bound (see `trouble`), or was told to make way for another worker.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        bounds: Bounds,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._bounds = bounds
        self._time = asyncio.get_running_loop().time
        self._heard_at = self._time()
        self._expires_at = self._time() + _lifetime(bounds)
        self._memory = 0
        self._app_has_stopped = False
        self.files: frozenset[str] = frozenset()
        """Source files of the program that the worker has imported; see `has_files`."""
        self.has_broker: bool = False
        self.has_files: asyncio.Event = asyncio.Event()
        self.loaded: asyncio.Event = asyncio.Event()
        self.listening: asyncio.Event = asyncio.Event()
        self.ended: asyncio.Event = asyncio.Event()
        self.needs_attention: asyncio.Event = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls, options: RunOptions, sockets: Sequence[socket.socket], bounds: Bounds
    ) -> Self:
        """Start a process, which loads the app and then waits for `begin`."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = [each.fileno() for each in sockets]
            # With -P no file of the current directory takes the place of a module of Python while
            # the worker itself is imported.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno())),
                pass_fds=[theirs.fileno(), *descriptors],
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        worker = cls(process, reader, writer, bounds)
        worker._send("options", options=asdict(options), sockets=descriptors)
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status of the process, negative for a signal; ``None`` until the process ended."""
        return self._process.returncode

    @property
    def end(self) -> str:
        """Text that says how the process has ended."""
        if self.status is None or self.status >= 0:
            return f"exit status {self.status}"
        with suppress(ValueError):
            return f"killed by {signal.Signals(-self.status).name}"
        return f"killed by signal {-self.status}"

    @property
    def is_silent(self) -> bool:
        """True if the event loop gave no sign of life for too long, after the app has started."""
        return self.listening.is_set() and self._time() - self._heard_at > self._bounds.silence

    @property
    def trouble(self) -> str | None:
        """Reason to replace a worker that runs; ``None`` for no reason."""
        if self._bounds.memory is not None and self._memory > self._bounds.memory:
            return f"uses {self._memory / 2**20:.0f} MiB of memory"
        if self._time() > self._expires_at:
            return "has reached its lifetime"
        return None

    def postpone(self, seconds: float) -> None:
        """Give no reason to replace the worker for some time, after its replacement failed."""
        self._expires_at = max(self._expires_at, self._time() + seconds)
        self._memory = 0
        self.needs_attention.clear()

    async def begin(self) -> bool:
        """Let the app start once it is loaded; return whether it listens, or has ended before."""
        if not await self.until(self.loaded):
            return False
        self._send("start")
        return await self.until(self.listening)

    @property
    def ended_beside_the_app(self) -> bool:
        """True if a stop has ended the process before the app received signals, or after its stop.

        A terminal sends SIGINT to this process, too.
        """
        by_signal = self.status in (-signal.SIGTERM, -signal.SIGINT)
        return by_signal and (not self.listening.is_set() or self._app_has_stopped)

    def stop(self) -> None:
        """Tell the worker to drain and end; nothing takes its place."""
        self._send("stop")

    def make_way(self) -> None:
        """Tell the worker to drain and end: another one accepts clients from now on."""
        self._send("make way")
        self.needs_attention.set()

    def kill(self) -> None:
        """End the process at once."""
        self._signal(self._process.kill)

    async def abort(self) -> None:
        """End a process that does not answer; the process writes its traceback if it can."""
        self._signal(self._process.send_signal, signal.SIGABRT)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), TIME_TO_ABORT)
        self.kill()
        await self.ended.wait()

    def _signal(self, send: Callable[..., None], *arguments: Any) -> None:
        with suppress(ProcessLookupError):
            send(*arguments)

    def _send(self, name: str, **fields: Any) -> None:
        if not self._writer.is_closing():
            self._writer.write(encoded(name, **fields))

    async def until(self, event: asyncio.Event) -> bool:
        """Wait for an event or for the end of the process; return whether the event was set."""
        waits = [asyncio.create_task(each.wait()) for each in (event, self.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return event.is_set() and not self.ended.is_set()

    async def _read(self) -> None:
        with suppress(OSError):  # reset: the process has ended
            async for line in self._reader:
                self._take(decoded(line))

    def _take(self, message: dict[str, Any]) -> None:
        self._heard_at = self._time()
        if "files" in message:
            self.files = frozenset(message["files"])
            self.has_files.set()
        match message["is"]:
            case "loaded":
                self.loaded.set()
            case "listening":
                self.has_broker = message["has_broker"]
                self.listening.set()
            case "stopped":
                self._app_has_stopped = True
            case "alive":
                self._memory = message["memory"]

    async def _watch(self) -> None:
        """Look at the worker until its process has ended."""
        waiting = asyncio.create_task(self._process.wait())
        looked_at = self._time()
        while not (await asyncio.wait([waiting], timeout=HEARTBEAT))[0]:
            if self._time() - looked_at > 3 * HEARTBEAT:  # this process itself did not run
                self._heard_at = self._time()
            looked_at = self._time()
            if self.is_silent or self.trouble is not None:
                self.needs_attention.set()
        # A process that was forked may hold the other end open.
        await asyncio.wait([self._reading], timeout=TIME_TO_READ)
        self._writer.close()
        self.ended.set()
        self.needs_attention.set()


def _lifetime(bounds: Bounds) -> float:
    """Return the seconds that a worker lives, at random around the bound."""
    if bounds.lifetime is None:
        return float("inf")
    return bounds.lifetime * uniform(1 - JITTER, 1 + JITTER)
