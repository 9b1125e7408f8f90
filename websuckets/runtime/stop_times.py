"""Times that starts and stops of an app may take: multiples of `Limits.finalize_timeout`."""

import math

from websuckets.limits import Limits, seconds

__all__ = ["time_to_abort", "time_to_stop", "time_to_undo_a_start"]


def time_to_undo_a_start(limits: Limits) -> float:
    """Return the seconds in which a start that was cancelled is undone.

    One timeout each is for the scope of the hook, tasks of the app, objects of the app, and the
    broker; one is spare.
    """
    return 5 * seconds(limits.finalize_timeout)


def time_to_abort(limits: Limits, functions: int) -> float | None:
    """Return the seconds in which connections that are aborted are finalised; ``None`` for no end.

    ``functions`` is the number of functions of the program that may run one after the other for one
    connection meanwhile: its ``on_disconnect`` hooks, and one error function. One timeout each is
    for the scope of the message, streams, tasks, and the scope of the connection; two are for each
    function, of which one is for the scope of the function; one is spare.
    """
    timeout = limits.finalize_timeout
    return None if timeout is None else (5 + 2 * functions) * timeout


def time_to_stop(limits: Limits, functions: int) -> float:
    """Return the seconds in which an app stops if nothing ignores its cancellation.

    ``functions`` is that of `time_to_abort`. After the connections, one timeout each is for tasks
    and for objects of the app; one is spare.
    """
    aborting = time_to_abort(limits, functions)
    of_the_app = 3 * seconds(limits.finalize_timeout)
    return seconds(limits.drain_timeout) + (math.inf if aborting is None else aborting) + of_the_app
