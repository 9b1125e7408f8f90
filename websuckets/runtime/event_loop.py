"""Facts about the running event loop, asyncio's or trio's, that anyio does not tell."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import partial
from typing import Any, Final

import anyio

__all__ = [
    "ASYNCIO_ENDS",
    "EventLoop",
    "Propagate",
    "cancellations",
    "event_loop_has_ended",
    "event_loop_runs",
    "exit_in",
    "exit_scope",
    "on_trio",
    "propagate",
    "spawn",
    "threadsafe",
]

ASYNCIO_ENDS: Final = asyncio.Runner.close
"""Function in which asyncio waits for remaining tasks when the main task has ended."""

Propagate = Callable[[BaseException], None]
"""Callback that receives an error that may end the program; see `propagate`."""


def on_trio() -> bool:
    """Tell whether trio, and not asyncio, runs the current code."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def event_loop_runs() -> bool:
    """Tell whether any event loop runs in this thread."""
    return on_trio() or asyncio._get_running_loop() is not None


def cancellations() -> int:
    """Return how often asyncio's own ``Task.cancel()``, past anyio, cancelled the current task."""
    if on_trio():
        return 0
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class EventLoop:
    """The event loop in which an instance was made, for objects that no other loop can use.

    In another event loop or another thread, code that waits for such an object would wait for ever.
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


def spawn(main: Callable[[], Coroutine[Any, Any, None]], context: Context | None = None) -> object:
    """Run ``main`` in a task without a parent, which no cancellation of other tasks reaches.

    The task lives at least as long as the returned object. ``main`` must not raise. ``context`` is
    the context (`contextvars`) of the task, which the event loop chooses unless it is given.
    """
    if on_trio():
        return sys.modules["trio"].lowlevel.spawn_system_task(main, context=context)
    return asyncio.get_running_loop().create_task(main(), context=context)


def threadsafe(callback: Callable[[], None]) -> Callable[[], object]:
    """Return a function that has the running event loop call ``callback`` soon.

    The function may be called in any thread, and in a handler of signals. It raises
    ``RuntimeError`` when the event loop has ended.
    """
    if on_trio():
        return partial(sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon, callback)
    return partial(asyncio.get_running_loop().call_soon_threadsafe, callback)


def event_loop_has_ended() -> Callable[[], bool]:
    """Return a function that tells whether the running event loop waits for no thread any more.

    asyncio waits for the threads of its executor before it closes its loop; trio waits for none.
    """
    return _always if on_trio() else asyncio.get_running_loop().is_closed


def _always() -> bool:
    return True


def propagate(error: BaseException) -> None:
    """End the event loop with the error if it ends the program, and raise it again if not.

    asyncio stops its event loop for a `SystemExit` or `KeyboardInterrupt`, whatever task raises
    the error: there the error is raised again, too. trio leaves the error to the parents of a task.
    Tasks of `spawn` have no parent, and code that waits for such tasks waits for other tasks first;
    so another task raises the error at once. Then trio cancels everything, and raises a
    ``TrioInternalError`` that is caused by the error.
    """
    end = exit_in(error)
    if end is None or not on_trio():
        raise error

    async def fail() -> None:
        raise end

    spawn(fail)


def exit_scope() -> AbstractContextManager[Propagate]:
    """Return a context that ends with a `SystemExit` or `KeyboardInterrupt` of tasks below it.

    Such errors are given to the function that the context yields. On trio that function cancels the
    block, after whose end the error is raised; elsewhere the function is `propagate`.
    """
    return _ExitScope() if on_trio() else nullcontext(propagate)


class _ExitScope:
    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._end: BaseException | None = None

    def __enter__(self) -> Propagate:
        self._scope.__enter__()
        return self._propagate

    def __exit__(self, *error: Any) -> bool | None:
        swallows = self._scope.__exit__(*error)
        if self._end is not None:
            raise self._end
        return swallows

    def _propagate(self, error: BaseException) -> None:
        end = exit_in(error)
        if end is None:
            raise error
        self._end = end
        self._scope.cancel()


def exit_in(error: BaseException) -> BaseException | None:
    """Return the error, or the first in a group, that ends the program."""
    group = BaseExceptionGroup("", [error])  # whether the error is a group or not
    found: BaseException | None = group.subgroup((SystemExit, KeyboardInterrupt))
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
