"""Effects: functions that are called once a scope has closed without an error.

A message, a hook and each opening of a `ScopeFactory` have effects of their own.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import anyio

from websuckets.introspection.functions import where
from websuckets.runtime.event_loop import cancellations
from websuckets.runtime.failures import ends_the_program
from websuckets.runtime.incidents import log_incident

__all__ = ["Effects"]

logger: logging.Logger = logging.getLogger("websuckets")

TASK_HANDLES: Final[tuple[type, ...]] = (anyio.TaskHandle,) if hasattr(anyio, "TaskHandle") else ()
"""Types of what `TaskGroup.start_soon` returns, which can be awaited, but need not."""

_Effect: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Effects:
    """Functions to call in their order when a scope has closed, or to forget if it failed."""

    __slots__ = ("_effects", "_is_over", "last_step")

    def __init__(self) -> None:
        self._effects: deque[_Effect] | None = None
        self._is_over = False
        self.last_step: Callable[[], Awaitable[None]] | None = None
        """Function to call as the last thing in the scope, right before it closes."""

    def add(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Call ``function``, sync or async, with these arguments after the effects before it.

        A function that is added while effects run is called last. Raises `RuntimeError` when the
        effects have run, or have been discarded.
        """
        if self._is_over:
            raise RuntimeError(
                "on_commit: the scope has closed already, so nothing would call "
                f"{where(function)}; use it before the handler ends"
            )
        if self._effects is None:
            self._effects = deque()
        self._effects.append((function, arguments, keywords))

    def discard(self) -> None:
        """Forget the effects, because the scope closed with an error."""
        self._is_over = True
        self._effects = self.last_step = None

    async def run(self, whose: str, timeout: float | None) -> None:
        """Call the functions, also when this task is cancelled, within ``timeout`` seconds in all.

        ``whose`` names the effects for the log. A function that fails, and functions that are left
        when the time is over, are an incident in the log. A function that asyncio's own
        ``Task.cancel()`` hits, which nothing can keep out, ends there and is an incident, too; the
        cancellation is raised when the other functions have run. Raises errors that end the
        program at once.
        """
        effects, before = self._effects, cancellations()
        cancellation: BaseException | None = None
        try:
            if effects is None:
                return
            with anyio.move_on_after(timeout, shield=True) as scope:
                cancellation = await _call_each(effects, whose, scope)
            if effects:
                late = TimeoutError(
                    f"effects took more than Limits.finalize_timeout, which is {timeout} seconds; "
                    f"not finished or not called: {_names_of(effects)}"
                )
                log_incident(f"effects of {whose}", late)
            # Else an effect waited for something that another part of the program has cancelled.
            if cancellation is not None and cancellations() > before:
                raise cancellation
        except BaseException as error:
            if effects and error is not cancellation:
                end = f"{type(error).__name__} came before effects: not called: "
                log_incident(f"effects of {whose}", RuntimeError(f"{end}{_names_of(effects)}"))
            raise
        finally:
            self.discard()
            cancellation = None  # its traceback holds this frame


async def _call_each(
    effects: deque[_Effect], whose: str, scope: anyio.CancelScope
) -> BaseException | None:
    """Call functions and remove them, until ``scope`` is over; return a cancellation that came."""
    cancellation: BaseException | None = None
    while effects and not _is_over(scope):
        effect = effects.popleft()
        try:
            await _call(effect)
        except BaseException as error:
            if ends_the_program(error) or isinstance(error, GeneratorExit):
                raise
            if _is_cancellation(error):
                cancellation = error
                if _is_over(scope):
                    effects.appendleft(effect)
                    break
            log_incident(f"effect {where(effect[0])} of {whose}", error)
    return cancellation


async def _call(effect: _Effect) -> None:
    function, arguments, keywords = effect
    result = function(*arguments, **keywords)
    # A task that the function has started goes on by itself; anyio has handles of tasks since 4.14.
    if isawaitable(result) and not isinstance(result, TASK_HANDLES):
        await result


def _names_of(effects: Iterable[_Effect]) -> str:
    return ", ".join(where(effect[0]) for effect in effects)


def _is_over(scope: anyio.CancelScope) -> bool:
    # A function that never waits keeps the event loop from cancelling the scope.
    return scope.cancel_called or anyio.current_time() >= scope.deadline


def _is_cancellation(error: BaseException) -> bool:
    """Tell whether an error, or all that is in a group of errors, is a cancellation."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)[1] is None
    return isinstance(error, cancelled)
