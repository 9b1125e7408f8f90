"""Count what a process holds for its connections, to compare the counts before and after."""

import asyncio
import gc
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import trio
from harness import on_trio

import websuckets

DESCRIPTORS: Final = Path("/proc/self/fd")


def census() -> Counter[str]:
    """Count objects of ours and of ``websockets`` by their class, tasks, and open files."""
    gc.collect()
    counts = Counter(filter(None, map(_class_of_interest, gc.get_objects())))
    counts["tasks"] = sum(1 for _ in _tasks())
    if DESCRIPTORS.exists():
        counts["descriptors"] = len(os.listdir(DESCRIPTORS))
    return counts


async def until_as_before(before: Counter[str], timeout: float) -> None:
    """Wait until nothing more is held than before. Raises `AssertionError` for what is left."""
    with anyio.move_on_after(timeout):
        while census() - before:
            _drop_cancelled_timers()
            await anyio.sleep(0.1)
    left = census() - before
    assert not left, f"left behind: {dict(left)}"


def _drop_cancelled_timers() -> None:
    """Make an asyncio loop forget the timers that were cancelled.

    A loop keeps a cancelled timer until it is due, and with it a copy of the context variables of
    the task that started it. Only when most of many timers are cancelled, it drops them all: see
    `_run_once` in ``asyncio/base_events.py``, which counts a hundred timers as many.
    """
    if not on_trio():
        loop = asyncio.get_running_loop()
        for _ in range(1000):
            loop.call_later(3600, int).cancel()


@contextmanager
def without_tracebacks(logger: str) -> Iterator[None]:
    """Remove errors from records of this logger, so that a kept record does not keep objects."""

    def forget(record: logging.LogRecord) -> bool:
        record.exc_info = None
        return True

    logging.getLogger(logger).addFilter(forget)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(forget)


def _class_of_interest(thing: Any) -> str | None:
    kind = type(thing)
    module = str(kind.__module__)  # some extension types have a descriptor as __module__
    return f"{module}.{kind.__qualname__}" if module.partition(".")[0] in _MODULES else None


_MODULES: Final = {websuckets.__name__, "websockets", "uvicorn", "wsproto", "dishka"}


def _tasks() -> Iterator[Any]:
    if not on_trio():
        yield from asyncio.all_tasks()
        return
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
