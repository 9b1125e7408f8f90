"""Awaitables whose first step is taken by hand, because they seldom have a second one.

The problem: a wait is guarded, by a deadline, or so that another task can end the wait. But most
of what is awaited for a message, such as the ``send`` of an ASGI server or the end of a provider's
generator, has nothing to wait for, and the guards cost more than the work.

Tried and rejected: guards that cost less. They still are a tenth of a command: code that runs once
for a message, between two system calls, takes twice the time that it takes in a loop.

The solution: ``next(steps_of(awaitable), HAS_ENDED)`` does what the event loop would do first. If
that returns `HAS_ENDED`, the awaitable has ended without waiting, and nothing had to be guarded: no
other task ran meanwhile. Otherwise its caller sets up the guards and awaits `rest_of`.
"""

from collections.abc import Generator
from types import coroutine as awaitable
from typing import Any, Final

__all__ = ["HAS_ENDED", "rest_of", "steps_of"]

HAS_ENDED: Final = object()
"""Default of ``next`` that tells an end from anything that the event loop is to wait for."""


def steps_of(waiting: Any) -> Any:
    """Return the iterator that takes the steps of what could be awaited."""
    try:
        return waiting.__await__()
    except AttributeError:
        if isinstance(waiting, Generator):  # as of a function made by `types.coroutine`
            return waiting
        raise


@awaitable
def rest_of(steps: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    """Await what is left of an awaitable whose first step has been taken.

    ``steps`` takes its steps, see `steps_of`, and ``waits_for`` is the result of the first one.
    Returns the result of the awaitable and raises its errors.
    """
    while True:
        error: BaseException | None = None
        argument: Any = None
        try:
            argument = yield waits_for
        except GeneratorExit:
            if hasattr(steps, "close"):
                steps.close()
            raise
        except BaseException as thrown:
            error = thrown
        try:
            if error is not None:
                if not hasattr(steps, "throw"):  # as the awaitables of granian
                    raise error
                waits_for = steps.throw(error)
            else:
                waits_for = next(steps) if argument is None else steps.send(argument)
        except StopIteration as end:
            return end.value
        finally:
            error = None  # it would keep itself alive by this frame
