"""Reloading of an app whose source changes, for ``websuckets run --reload``.

A change is served by a new process: nothing of the old modules is left in it. The process with the
old modules serves until the new one has imported the program, so that the time in which nobody
serves is that of the app's start alone; until then clients who connect wait in the queue of the
socket, which this process keeps open. The two never run the app at the same time: it may hold what
only one can hold, such as a lock in a database.

A program that cannot be imported, as with a syntax error, is reported, and the old one goes on.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, awatch

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
        self._files: frozenset[str] = frozenset()
        """Files of the program as it was last imported."""
        self._changed = asyncio.Event()
        self._watched: set[Path] = set()

    async def run(self) -> int:
        """Serve until a signal; return the exit status."""
        async with self._group.running() as self._tasks:
            self._watch(self._root, recursive=True)
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
        new = await self._group.start()
        if not await new.until(new.loaded):
            self._report_failure("the app cannot be loaded")
            return
        if self._worker is not None:
            self._worker.make_way()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._worker.ended.wait(), TIME_TO_STOP)
            self._worker.kill()
            self._worker = None
        if not await new.begin():
            self._report_failure("the app cannot start")
            return
        self._worker = new
        self._tasks.create_task(self._follow(new))

    def _report_failure(self, what: str) -> None:
        if not self._group.is_stopping.is_set():
            self._files = frozenset()
            then = "waiting for a change" if self._worker is None else "the one before goes on"
            logger.error("%s: %s", what, then)

    async def _follow(self, worker: WorkerProcess) -> None:
        """Watch the files of a worker, and report its end."""
        while not worker.ended.is_set():
            worker.has_files.clear()
            self._files = worker.files
            for file in worker.files:
                if not Path(file).is_relative_to(self._root):
                    self._watch(Path(file).parent, recursive=False)
            await worker.until(worker.has_files)
        if worker is self._worker and not self._group.is_stopping.is_set():
            self._worker = None
            self._report_failure(f"process {worker.pid} has ended ({worker.end})")

    def _watch(self, directory: Path, *, recursive: bool) -> None:
        if directory not in self._watched:
            self._watched.add(directory)
            self._tasks.create_task(self._notice_changes(directory, recursive))

    async def _notice_changes(self, directory: Path, recursive: bool) -> None:
        changes = awatch(
            directory,
            watch_filter=_Filter(self),
            debounce=DEBOUNCE,
            step=STEP,
            stop_event=self._group.is_stopping,
            recursive=recursive,
        )
        async for found in changes:
            paths = sorted({Path(path) for _, path in found})
            logger.info("changed: %s", ", ".join(map(self._short, paths)))
            self._changed.set()

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)

    def concerns(self, path: Path) -> bool:
        """Tell whether a change of this file is one of the program.

        A source file that the program has not imported is not, unless the program could not be
        imported, when it is not known which files it would import.
        """
        if path.suffix == ".py":
            own = not self._files or str(path) in self._files
        else:
            own = path.suffix in TEMPLATES
        return own or any(map(path.match, self._includes))


class _Filter(DefaultFilter):
    """Filter of changes; besides ours, it leaves out folders such as ``.git`` and ``.venv``."""

    def __init__(self, reloader: Reloader) -> None:
        super().__init__()
        self._reloader = reloader

    def __call__(self, change: Change, path: str) -> bool:
        return super().__call__(change, path) and self._reloader.concerns(Path(path))
