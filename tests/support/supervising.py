"""Supervisors of small workers (see `small_worker`), in an event loop of this process."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from repository import SUPPORT
from timeouts import TIMEOUT

from websuckets.cli import supervisor, worker_process
from websuckets.cli.run_options import RunOptions

__all__ = ["Log", "small_workers", "supervise", "until_file"]


class Supervised(Protocol):
    async def run(self) -> int: ...


class Log:
    """The log of a supervisor, whose lines can be awaited."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def text(self) -> str:
        return self._caplog.text

    async def until(self, pattern: str, times: int = 1) -> list[Any]:
        """Wait until the log has a pattern so many times, and return what it matches."""
        async with asyncio.timeout(3 * TIMEOUT):
            while len(found := re.findall(pattern, self.text)) < times:
                await asyncio.sleep(0.005)
        return found


async def until_file(path: Path) -> None:
    async with asyncio.timeout(3 * TIMEOUT):
        while not path.exists():
            await asyncio.sleep(0.005)


def small_workers(monkeypatch: pytest.MonkeyPatch, directory: Path, source: str) -> RunOptions:
    """Let supervisors start small workers that do what the source says; return their options."""
    (directory / "behaviour").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setattr(worker_process, "PROGRAM", "small_worker")
    monkeypatch.setattr(worker_process, "HEARTBEAT", 0.02)
    monkeypatch.setattr(worker_process, "TIME_TO_ABORT", 0.1)
    monkeypatch.setattr(supervisor, "DELAYS", (0.0, 0.01, 0.01, 0.01))
    return RunOptions(str(directory / "behaviour"))


def supervise(
    make: Callable[[], Supervised],
    act: Callable[[Log], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> int:
    """Run a supervisor while a function acts, and return the exit status of the supervisor."""

    async def main() -> int:
        running = asyncio.create_task(make().run())
        acting = asyncio.create_task(act(Log(caplog)))  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(4 * TIMEOUT):
                done, _ = await asyncio.wait([running, acting], return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            return running.result()
        finally:
            running.cancel()
            acting.cancel()
            async with asyncio.timeout(TIMEOUT):  # workers are killed, and tasks notice
                while len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(0.005)

    caplog.set_level(logging.INFO)
    return asyncio.run(main())
