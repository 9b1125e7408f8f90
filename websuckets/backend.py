"""What anyio does not say or do about the event loop that runs: asyncio's or trio's."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["EventLoop", "cancellations", "on_trio", "spawn"]


def on_trio() -> bool:
    """Whether trio runs this, and not asyncio."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def cancellations() -> int:
    """How often the current task was cancelled by asyncio's own ``Task.cancel()``, past anyio."""
    if on_trio():
        return 0
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class EventLoop:
    """The event loop in which this was made, for what no other event loop can use.

    In another one, or in another thread, who waits would wait for good.
    """

    __slots__ = ("_loop", "_running")

    def __init__(self) -> None:
        self._running: Callable[[], object] = asyncio.get_running_loop
        if on_trio():
            self._running = sys.modules["trio"].lowlevel.current_trio_token
        self._loop = self._running()

    def check(self, error: str) -> None:
        """Raise `RuntimeError` with this text in any other event loop, and where none runs."""
        try:
            loop: object = self._running()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise RuntimeError(error)


def spawn(main: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Run ``main`` in a task that is nobody's child, so that no cancellation of others reaches it.

    The task lives at least as long as what is returned. ``main`` must not raise.
    """
    if on_trio():
        return sys.modules["trio"].lowlevel.spawn_system_task(main)
    return asyncio.get_running_loop().create_task(main())
