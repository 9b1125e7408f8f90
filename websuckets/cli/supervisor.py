"""Supervisor of the worker processes of ``websuckets run --workers``.

The supervisor binds the sockets once and hands them to each worker, so that clients who connect
wait in one queue, whichever workers live: neither a worker that dies nor one that is replaced
closes the port. The supervisor itself serves nobody and imports nothing of the program, so that no
error of the program reaches it.

Each worker has a place, whose task keeps a worker in it:

- A worker that dies is started again, after a delay that grows. A place whose workers die
  `DEATHS` times within `DEATHS_WITHIN` seconds, or that cannot start one that many times in a row,
  ends the program; so does a worker that cannot start at the very beginning.
- A worker whose event loop gives no sign of life is aborted, and started again.
- A worker that is old or large is replaced, as SIGHUP replaces each worker: first the new worker
  listens, then the old one makes way; one after the other, so that at most one more than usual
  runs. If the new worker does not start, the old one stays.

SIGTERM and SIGINT tell all workers to stop; a second signal kills them. A supervisor that is killed
leaves no worker behind: each of them reads the end of its connection with the supervisor, and
stops. Connections rather than signals carry all this, because a signal has no sender: a worker
could not tell the SIGTERM of its supervisor from that of a service manager, and a second one would
end it at once.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from websuckets.cli.run_options import RunOptions
from websuckets.cli.worker_group import WorkerGroup
from websuckets.cli.worker_process import Bounds, WorkerProcess

assert sys.platform != "win32"  # `run` refuses it

__all__ = ["Supervisor"]

logger: logging.Logger = logging.getLogger("websuckets")

DEATHS: Final = 5
"""Deaths of workers in one place, within `DEATHS_WITHIN` seconds, that end the program."""

DEATHS_WITHIN: Final = 10.0

DELAYS: Final = (0.0, 0.2, 0.4, 0.8)
"""Seconds before a start after the first death within `DEATHS_WITHIN`, the second, and so on."""

RETRY: Final = 60.0
"""Seconds after which an old or large worker that could not be replaced is replaced."""

_ALONE: Final = (
    "%d workers without a broker between them: events of channels and messages to users reach the "
    "clients of one worker only, and each worker knows its own users only; provide a broker, such "
    "as RedisProvider"
)


class _Place:
    """The place of one worker."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        """The worker that serves; ``None`` before the first one, and while one has died."""
        self.lock = asyncio.Lock()
        """Held by whoever puts another worker into this place."""
        self._deaths: list[float] = []

    def delay_after_death(self, now: float) -> float | None:
        """Return the seconds to wait before the next start; ``None`` after too many deaths.

        ``now`` is the time of the death on a monotonic clock, in seconds.
        """
        self._deaths = [*(each for each in self._deaths if now - each <= DEATHS_WITHIN), now]
        if len(self._deaths) >= DEATHS:
            return None
        return DELAYS[len(self._deaths) - 1]


class Supervisor:
    """Supervisor of several worker processes that serve one app on the same sockets."""

    def __init__(
        self, options: RunOptions, sockets: Sequence[socket.socket], workers: int, bounds: Bounds
    ) -> None:
        self._bounds = bounds
        self._group = WorkerGroup(options, sockets, bounds)
        self._places = [_Place() for _ in range(workers)]
        self._turn = asyncio.Lock()
        """Held while a worker is replaced: only one at a time."""
        self._replacing: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serve until a signal, or until workers cannot be kept; return the exit status."""
        async with self._group.running() as self._tasks:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._replace_all_soon)
            await self._fill(self._places[0])  # alone: an app that cannot start says so once
            await asyncio.gather(*map(self._fill, self._places[1:]))
            if not self._is_stopping():
                self._log_start()
            for place in self._places:
                self._tasks.create_task(self._keep(place))
        return self._group.status

    def _is_stopping(self) -> bool:
        return self._group.is_stopping.is_set()

    def _log_start(self) -> None:
        workers = [place.worker for place in self._places if place.worker is not None]
        processes = ", ".join(str(worker.pid) for worker in workers)
        logger.info("workers: %d, processes: %s", len(workers), processes)
        if len(workers) > 1 and not all(worker.has_broker for worker in workers):
            logger.warning(_ALONE, len(workers))

    async def _fill(self, place: _Place) -> None:
        """Start the first worker of a place, unless the program stops."""
        if not self._is_stopping():
            place.worker = await self._start()
        if place.worker is None:
            self._group.fail("a worker did not start")

    async def _start(self) -> WorkerProcess | None:
        """Start a worker; return ``None`` for one whose process ended before it listened."""
        worker = await self._group.start()
        if await worker.begin():
            return worker
        await worker.ended.wait()
        return None

    async def _keep(self, place: _Place) -> None:
        """Keep a worker in a place until the program stops."""
        while not self._is_stopping() and place.worker is not None:
            worker = place.worker
            await worker.needs_attention.wait()
            if self._is_stopping() or worker is not place.worker:
                continue
            if worker.ended.is_set():
                logger.error("process %d has ended (%s)", worker.pid, worker.end)
                await self._restart(place, worker)
            elif worker.is_silent:
                logger.error(
                    "process %d gave no sign of life for %g seconds: aborting it",
                    worker.pid,
                    self._bounds.silence,
                )
                await worker.abort()
                await self._restart(place, worker)
            elif (trouble := worker.trouble) is None:
                worker.needs_attention.clear()
            elif not await self._replace(place, trouble):
                worker.postpone(RETRY)

    async def _restart(self, place: _Place, dead: WorkerProcess) -> None:
        """Start a worker in place of one that has died; end the program if that is in vain."""
        async with place.lock:
            if place.worker is not dead:  # it was being replaced
                return
            place.worker = None
            for _ in range(DEATHS):
                delay = place.delay_after_death(asyncio.get_running_loop().time())
                if delay is None:
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._group.is_stopping.wait(), delay)
                if self._is_stopping():
                    return
                place.worker = await self._start()
                if place.worker is not None:
                    logger.info("process %d takes the place of %d", place.worker.pid, dead.pid)
                    return
            self._group.fail("workers die as soon as they are started")

    def _replace_all_soon(self) -> None:
        if self._replacing is None or self._replacing.done():
            self._replacing = self._tasks.create_task(self._replace_all())
        else:
            logger.warning("SIGHUP: the workers are being replaced already")

    async def _replace_all(self) -> None:
        logger.info("SIGHUP: replacing each worker")
        for place in self._places:
            if not await self._replace(place, "is replaced"):
                return
        logger.info("SIGHUP: replaced each worker")

    async def _replace(self, place: _Place, why: str) -> bool:
        """Start a worker, and let the one before make way; return false if it did not start.

        Return when the process of the worker before has ended.
        """
        async with self._turn:
            async with place.lock:
                old = place.worker
                if old is None or self._is_stopping():
                    return True
                logger.info("process %d %s", old.pid, why)
                new = await self._start()
                if self._is_stopping():
                    return True
                if new is None:
                    logger.error("no worker takes its place: process %d goes on", old.pid)
                    return False
                place.worker = new
                old.make_way()
            await old.ended.wait()
        return True
