"""Coroutines that run in a context (`contextvars`) other than that of their task."""

from collections.abc import Callable, Coroutine, Generator
from types import coroutine as awaitable
from typing import Any, TypeVar

__all__ = ["in_context"]

T = TypeVar("T")


@awaitable
def in_context(
    run: Callable[..., Any], coroutine: Coroutine[Any, Any, T]
) -> Generator[Any, Any, T]:
    """Await a coroutine, each of whose steps is made by ``run(step, argument)``.

    With the ``run`` of a ``Context``, the coroutine and all that it awaits run in that context,
    while the task waits as ever for what the coroutine waits for: event loops, cancel scopes and
    cancellations notice nothing. Tasks that the coroutine starts get a copy of the context. Between
    two steps other coroutines may run in the context, too.

    Returns the coroutine's result and raises its errors; raises `RuntimeError` if the
    context is entered.
    """
    step: Callable[[Any], Any]
    try:  # most coroutines have nothing to wait for
        waits_for = run(coroutine.send, None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # a T
    while True:
        try:
            argument = yield waits_for
            step = coroutine.send
        except BaseException as error:
            argument = error
            step = coroutine.throw
        try:
            waits_for = run(step, argument)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            argument = None  # an error would keep itself alive by this frame
