"""Computations that are shared by all who ask for the result at the same time.

The problem: many tasks want the result of one function at once, the function is to run once, and
any of these tasks may be cancelled at any time, the task that brought the function among them. The
function is a closure as a rule: it uses objects of the scope of its caller, such as a transaction.

Rejected: the function runs in the task of its caller. A cancellation of that task, which on asyncio
passes every shield, would take the result from all others. Rejected, too: the function runs in a
task of its own, and its caller leaves when it is cancelled. The function would go on with objects
of a scope that has been closed.

The solution: the function runs in a task of its own, with a copy of its caller's context
(`contextvars`), and its caller never leaves before it. A caller that is cancelled cancels the
function, too, unless others wait: then the caller stays until the function has ended, or the others
have left, for `HOLD` seconds at most. If the time is over, the function is cancelled, and one of
those who wait begins anew with the function that it has brought itself.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio

from websuckets.runtime.event_loop import spawn
from websuckets.runtime.tasks import wait_through

__all__ = ["HOLD", "Computations"]

Result = TypeVar("Result")

HOLD: Final = 3.0
"""Seconds for which a cancelled caller stays for others: less than `Limits.finalize_timeout`, after
which an app that stops would leave the caller behind."""

_around: ContextVar[tuple["_Computation[Any]", ...]] = ContextVar("computations", default=())
"""Computations whose function runs the current code."""


class Computations(Generic[Result]):
    """Computations that run now, by the key under which others ask for their results.

    Nothing is kept of a computation that has ended.
    """

    def __init__(self) -> None:
        self._running: dict[str, _Computation[Result]] = {}

    async def result(self, key: str, compute: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of the computation of ``key`` that runs, or else of ``compute``.

        Raises the error of the function that was called, for all who wait for its result. Raises
        `RuntimeError` where the function asks for its own key: it would wait for itself.
        """
        while True:
            computation = self._running.get(key)
            if computation is None:
                return await self._lead(key, compute)
            if computation in _around.get():
                raise RuntimeError("a computation waits for itself: it asks for its own key")
            if await computation.wait():
                return computation.result()

    def forget(self, key: str) -> None:
        """Let a computation that runs go on for those who wait, and nobody else wait for it."""
        self._running.pop(key, None)

    async def _lead(self, key: str, compute: Callable[[], Awaitable[Result]]) -> Result:
        computation = self._running[key] = _Computation()
        context = copy_context()
        context.run(_around.set, (*_around.get(), computation))
        computation.task = spawn(partial(self._run, key, computation, compute), context)
        try:
            await computation.ended.wait()
        except BaseException:  # a cancellation
            await computation.leave()
            raise
        return computation.result()

    async def _run(
        self,
        key: str,
        computation: "_Computation[Result]",
        compute: Callable[[], Awaitable[Result]],
    ) -> None:
        await computation.run(compute)
        if self._running.get(key) is computation:
            del self._running[key]
        computation.ended.set()


class _Computation(Generic[Result]):
    """One run of a function, for its caller and all who wait for the result beside the caller."""

    task: object
    """Task that runs the function; kept here because an event loop may not keep it."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self._scope = anyio.CancelScope()
        self._waiting = 0  # beside the caller
        self._is_left = False
        self._results: list[Result] = []
        self._error: BaseException | None = None

    async def run(self, compute: Callable[[], Awaitable[Result]]) -> None:
        try:
            with self._scope:
                self._results.append(await compute())
        except BaseException as error:
            self._error = error
            self._traceback = error.__traceback__

    def result(self) -> Result:
        """Return the result of the function that has ended, or raise its error."""
        if self._error is not None:
            # Several tasks raise the error; none of them sees frames of the others.
            raise self._error.with_traceback(self._traceback)
        return self._results[0]

    async def wait(self) -> bool:
        """Wait until the function has ended; return false if it was cancelled."""
        self._waiting += 1
        try:
            await self.ended.wait()
        finally:
            self._waiting -= 1
            self._cancel_if_unwanted()
        cancelled = anyio.get_cancelled_exc_class()
        has_failed = self._error is not None and not isinstance(self._error, cancelled)
        return has_failed or bool(self._results)

    async def leave(self) -> None:
        """Stay until the function has ended, on behalf of its caller, which is cancelled."""
        self._is_left = True
        self._cancel_if_unwanted()
        try:
            await wait_through(self.ended, HOLD)
        finally:
            self._scope.cancel()
            await wait_through(self.ended)

    def _cancel_if_unwanted(self) -> None:
        if self._is_left and not self._waiting:
            self._scope.cancel()
