"""Worker processes of one server, from the first start to the end of the last one."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from websuckets.cli.failures import FAILED
from websuckets.cli.run_options import RunOptions
from websuckets.cli.worker_process import Bounds, WorkerProcess

__all__ = ["WorkerGroup"]

logger: logging.Logger = logging.getLogger("websuckets")


class WorkerGroup:
    """All worker processes that one process has started, on the same sockets.

    SIGTERM and SIGINT tell all workers to stop; a second signal kills them.
    """

    def __init__(
        self, options: RunOptions, sockets: Sequence[socket.socket], bounds: Bounds
    ) -> None:
        self._options = options
        self._sockets = sockets
        self._bounds = bounds
        self._workers: set[WorkerProcess] = set()
        self._tasks = asyncio.TaskGroup()
        self.is_stopping: asyncio.Event = asyncio.Event()
        self.status: int = 0
        """Exit status of the whole, once all workers have ended."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Return a context that is left when all workers, and tasks in the group, have ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop_or_kill)
        try:
            async with self._tasks:
                yield self._tasks
        finally:
            for worker in self._workers:
                worker.kill()

    async def start(self) -> WorkerProcess:
        """Start a process, which loads the app and then waits for `WorkerProcess.begin`."""
        worker = await WorkerProcess.start(self._options, self._sockets, self._bounds)
        self._workers.add(worker)
        self._tasks.create_task(self._await_end(worker))
        if self.is_stopping.is_set():
            worker.stop()
        return worker

    def fail(self, why: str) -> None:
        """End the program, whose workers cannot be kept."""
        if not self.is_stopping.is_set():
            logger.critical("%s: ending the program", why)
            self.status = FAILED
            self._stop()

    def _stop_or_kill(self) -> None:
        if self.is_stopping.is_set():
            logger.warning("killing the workers that are left: %d", len(self._workers))
            self.status = FAILED
            for worker in self._workers:
                worker.kill()
        else:
            logger.info("stopping")
            self._stop()

    def _stop(self) -> None:
        self.is_stopping.set()
        for worker in self._workers:
            worker.stop()

    async def _await_end(self, worker: WorkerProcess) -> None:
        await worker.ended.wait()
        self._workers.discard(worker)
        if self.is_stopping.is_set() and worker.status and not worker.ended_beside_the_app:
            logger.error("process %d has ended (%s)", worker.pid, worker.end)
            self.status = FAILED
