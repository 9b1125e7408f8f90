"""Reloading of an app whose source changes, for ``websuckets run --reload``.

A change is served by a new process: nothing of the old modules is left in it. The process with the
old modules serves until the new one has imported the program, so that the time in which nobody
serves is that of the app's start alone; until then clients who connect wait in the queue of the
socket, which this process keeps open. The two never run the app at the same time: it may hold what
only one can hold, such as a lock in a database.

A program that cannot be imported, as with a syntax error, is reported, and the old one goes on. A
new process that has not started yet when the source changes again, as one that waits for something
forever, is left behind.
"""

import asyncio
import logging
import socket
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from watchfiles import Change, DefaultFilter, awatch

from websuckets.cli.loading import LoadError
from websuckets.cli.run_options import RunOptions
from websuckets.cli.worker_group import WorkerGroup
from websuckets.cli.worker_process import Bounds, WorkerProcess

__all__ = ["Reloader"]

logger: logging.Logger = logging.getLogger("websuckets")

TEMPLATES: Final = (".html", ".htm", ".jinja", ".jinja2", ".j2", ".mako")
"""Suffixes of files that programs read as templates."""

DEBOUNCE: Final = 300
"""Milliseconds that changes are gathered at most; they end sooner after `STEP` without one."""

STEP: Final = 50

TIME_TO_GO_ON: Final = 1.0
"""Seconds that a process which has not started yet has left once the source has changed again."""

TIME_TO_STOP: Final = 3.0
"""Seconds after which a process with the old source is killed: it is a matter of development."""


class Reloader:
    """Server of one worker process, which is replaced when files of the program change.

    ``includes`` are patterns of further files, such as ``"*.toml"``, as in `Path.match`.
    """

    def __init__(
        self, options: RunOptions, sockets: Sequence[socket.socket], includes: Sequence[str]
    ) -> None:
        self._group = WorkerGroup(options, sockets, Bounds(silence=float("inf")))
        self._root = Path(options.app_dir or ".").resolve()
        self._includes = includes
        self._worker: WorkerProcess | None = None
        """The worker whose app was told to start last, unless it has ended."""
        self._loaded: WorkerProcess | None = None
        """The worker that has imported the present source; ``None`` if none has."""
        self._changed = asyncio.Event()
        self._watched: set[Path] = set()

    async def run(self) -> int:
        """Serve until a signal; return the exit status.

        Raises `LoadError` if the directory of the program does not exist.
        """
        if not self._root.is_dir():
            raise LoadError(f"the directory {self._root} does not exist")
        async with self._group.running() as self._tasks:
            self._tasks.create_task(self._notice_changes([self._root], recursive=True))
            stopped = self._tasks.create_task(self._group.is_stopping.wait())
            while not stopped.done():
                self._changed.clear()
                await self._reload()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([stopped, changed], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        return self._group.status

    async def _reload(self) -> None:
        """Put a worker with the present source in place of the one before, if it can be loaded."""
        self._loaded = None
        new = await self._group.start()
        is_loaded = await self._unless_changed(new.until(new.loaded))
        if not is_loaded:
            new.kill()
            if is_loaded is False:
                self._report_failure("the app cannot be loaded")
            return
        self._loaded = new
        self._tasks.create_task(self._watch_files_of(new))
        old, self._worker = self._worker, None
        if old is not None:
            old.make_way()
            with suppress(TimeoutError):
                await asyncio.wait_for(old.ended.wait(), TIME_TO_STOP)
            old.kill()
            await old.ended.wait()
        self._worker = new
        self._tasks.create_task(self._report_end(new))
        await self._unless_changed(new.begin())

    async def _unless_changed(self, step: Coroutine[Any, Any, bool]) -> bool | None:
        """Return the result of a step of a start; ``None`` if a change came long before its end."""
        taken = asyncio.create_task(step)
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([taken, changed], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([taken], timeout=TIME_TO_GO_ON)
            return taken.result() if taken.done() else None
        finally:
            taken.cancel()
            changed.cancel()

    def _report_failure(self, what: str) -> None:
        if not self._group.is_stopping.is_set():
            self._loaded = None
            then = "waiting for a change" if self._worker is None else "the one before goes on"
            logger.error("%s: %s", what, then)

    async def _report_end(self, worker: WorkerProcess) -> None:
        await worker.ended.wait()
        if worker is self._worker:
            self._worker = None
            if worker.listening.is_set():
                self._report_failure(f"process {worker.pid} has ended ({worker.end})")
            else:
                self._report_failure("the app cannot start")

    async def _watch_files_of(self, worker: WorkerProcess) -> None:
        """Watch the files of a worker that are elsewhere, also those that are imported later."""
        while not worker.ended.is_set():
            worker.has_files.clear()
            self._watch({Path(file).parent for file in worker.files})
            await worker.until(worker.has_files)

    def _watch(self, directories: set[Path]) -> None:
        """Watch those directories that are not below that of the program."""
        new = {
            each
            for each in directories - self._watched
            if not each.is_relative_to(self._root) and each.is_dir()  # it may be an archive
        }
        self._watched |= new
        if new:
            self._tasks.create_task(self._notice_changes(new, recursive=False))

    async def _notice_changes(self, directories: Iterable[Path], *, recursive: bool) -> None:
        changes = awatch(
            *directories,
            watch_filter=_Filter(self),
            debounce=DEBOUNCE,
            step=STEP,
            stop_event=self._group.is_stopping,
            recursive=recursive,
            ignore_permission_denied=True,
        )
        try:
            async for found in changes:
                paths = sorted({Path(path) for _, path in found})
                logger.info("changed: %s", ", ".join(map(self.short, paths)))
                self._changed.set()
        except OSError as error:  # as where the system watches no more directories
            places = ", ".join(map(str, sorted(directories)))
            logger.error("changes in %s are not noticed: %s", places, error)

    def short(self, path: Path) -> str:
        """Return the path within the directory of the program, if it is there."""
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)

    def concerns(self, path: Path) -> bool:
        """Tell whether a change of this file is one of the program.

        A source file that the program has not imported is not, unless the program could not be
        imported, when it is not known which files it would import.
        """
        if path.suffix == ".py":
            own = self._loaded is None or str(path) in self._loaded.files
        else:
            own = path.suffix in TEMPLATES
        return own or any(map(path.match, self._includes))


class _Filter(DefaultFilter):
    """Filter of changes; besides ours, it leaves out folders such as ``.git`` and ``.venv``."""

    def __init__(self, reloader: Reloader) -> None:
        super().__init__()
        self._reloader = reloader

    def __call__(self, change: Change, path: str) -> bool:
        own = self._reloader.short(Path(path))  # the program itself may be in such a folder
        return super().__call__(change, own) and self._reloader.concerns(Path(path))
