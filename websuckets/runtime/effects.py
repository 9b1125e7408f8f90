"""Effects: functions that are called once a scope has closed without an error.

A message, a hook and each opening of a `ScopeFactory` have effects of their own.
"""

import logging
from collections import deque
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, TypeAlias

import anyio

from websuckets.introspection.functions import where
from websuckets.runtime.event_loop import cancellations
from websuckets.runtime.failures import is_failure
from websuckets.runtime.incidents import log_incident

__all__ = ["Effects"]

logger: logging.Logger = logging.getLogger("websuckets")

_Effect: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Effects:
    """Functions to call in their order when a scope has closed, or to forget if it failed."""

    __slots__ = ("_effects", "_is_over")

    def __init__(self) -> None:
        self._effects: deque[_Effect] | None = None
        self._is_over = False

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
        self._effects = None

    async def run(self, whose: str, timeout: float | None) -> None:
        """Call the functions, also when this task is cancelled, within ``timeout`` seconds in all.

        ``whose`` names the effects for the log. A function that fails, and functions that are left
        when the time is over, are an incident in the log. Raises errors that end the program at
        once, and a cancellation by asyncio's own ``Task.cancel()`` when all functions have run.
        """
        effects = self._effects
        interruption: BaseException | None = None
        try:
            if effects is None:
                return
            with anyio.move_on_after(timeout, shield=True) as scope:
                while effects and not _is_late(scope):
                    effect = effects.popleft()
                    try:
                        await _call(effect)
                    except BaseException as error:
                        if is_failure(error):
                            log_incident(f"effect {where(effect[0])} of {whose}", error)
                        elif not _is_cancellation(error):
                            raise
                        elif _is_late(scope):
                            effects.appendleft(effect)
                        elif cancellations() > 0:
                            interruption = error
                        else:  # it waited for something that another part of the program cancelled
                            log_incident(f"effect {where(effect[0])} of {whose}", error)
            if effects:
                functions = ", ".join(where(effect[0]) for effect in effects)
                late = TimeoutError(
                    f"effects took more than Limits.finalize_timeout, which is {timeout} seconds; "
                    f"not finished or not called: {functions}"
                )
                log_incident(f"effects of {whose}", late)
        finally:
            self.discard()
        if interruption is not None:
            raise interruption


async def _call(effect: _Effect) -> None:
    function, arguments, keywords = effect
    result = function(*arguments, **keywords)
    if isawaitable(result):
        await result


def _is_late(scope: anyio.CancelScope) -> bool:
    return scope.cancel_called


def _is_cancellation(error: BaseException) -> bool:
    """Tell whether an error, or all that is in a group of errors, is a cancellation."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)[1] is None
    return isinstance(error, cancelled)
