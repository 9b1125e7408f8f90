"""Failures: the meaning of an error that comes out of code of the program, decided once.

Commands, hooks, streams, finalisers, tasks and connections all ask `judge`, or `judge_mapped` where
functions of the program may map an error (`WebSuckets.on_error`). The first line that fits decides:

=======================================  ==============  ==========================================
raised                                   cancelled       meaning
=======================================  ==============  ==========================================
`KeyboardInterrupt`, `SystemExit`,       any             propagate
also in a group
``GeneratorExit``                        any             propagate
`ClientError`                            any             reply: the client gets this error
an error of a closed connection          any             ignore: nobody is there to get an answer
any other `Exception` that a function    any             reply: the client gets the `ClientError`
maps (`judge_mapped` alone)                              that the function returned
any other `Exception`, and any           any             incident: the log gets the error, the
`BaseException` of the program's own                     client the number of the incident
a cancellation                           timed out       reply: the client gets `CommandTimeout`
a cancellation                           ended           propagate
a cancellation                           the task alone  ignore: the program itself has ended it
a cancellation                           nothing         incident: the program waited for something
                                                         that another part of it has cancelled
a group of nothing but ``GeneratorExit``  any            incident
=======================================  ==============  ==========================================

Of a group, cancellations and ``GeneratorExit`` count only if the group holds nothing else: they are
how a task group ends its other tasks. A group that holds a single error, at any depth, means what
that error means; a group of several is an incident, unless a function maps it as a group.

A function that fails, by raising or by returning anything but a `ClientError` or ``None``, makes an
incident of both errors. One that raises the very error that it was given has not failed.

Who reacts, and how:

- A command or a stream, with its dependencies and their finalisers: a reply is sent to its client,
  and so is the number of an incident.
- ``on_handshake``: a `HandshakeRefused` is its own HTTP response; of a reply the status is 403, of
  a header that came twice 400, of anything else 500.
- ``on_connect``: a reply closes the connection with 1008, an incident with 1011.
- Middleware: as a command.
- ``on_disconnect`` and finalisers of a connection: each error is logged, that of a closed
  connection, too; nobody else ends.
- A task of `AppTasks` or `ConnectionTasks`: all but ignored errors are logged; nobody else ends.
- The readiness check: the client gets 503 and nothing of the error; an incident is logged when the
  check begins to fail.
- ``on_startup``: the error is raised, and the app does not start.
- Functions map errors of commands, streams, middleware, ``on_handshake`` and ``on_connect`` alone:
  nobody waits for an answer of the others. Finalisers that took too long are always an incident:
  see `RequestScope.is_late`.
- Code of the framework or of a transport that serves a connection: an incident closes the
  connection with 1011.
- An error that propagates ends the task, and is raised to the code that started the task. At the
  end of a task of the framework, ``GeneratorExit`` is an incident: see `judge_end`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import anyio

from websuckets.exc import ClientError, CommandTimeout, alone

__all__ = [
    "Cancelled",
    "Failure",
    "MapError",
    "Meaning",
    "both",
    "ends_the_program",
    "is_failure",
    "judge",
    "judge_end",
    "judge_mapped",
]

ENDS_THE_PROGRAM: Final = (KeyboardInterrupt, SystemExit)


class Meaning(Enum):
    """The meaning of an error; see the table above."""

    REPLY = "the client gets the error"
    INCIDENT = "the log gets the error"
    IGNORE = "nobody gets the error"
    PROPAGATE = "the error is raised again"


class Cancelled(Enum):
    """The part of the program that had been cancelled when an error was raised."""

    NOTHING = "nothing"
    TIMED_OUT = "the code that raised the error, because it took too long"
    ENDED = "the code that raised the error, together with what it belongs to"
    ALONE = "the task that raised the error alone, by the program itself"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error and its meaning."""

    meaning: Meaning
    error: BaseException
    """Error to reply with or to log, which may be part of the raised one, or its translation."""
    mapped: BaseException | None = None
    """Error of the program that a function has mapped to this reply."""


MapError: TypeAlias = Callable[[Exception], Awaitable[ClientError | None]]
"""Function that maps an error of the program to a reply; ``None`` leaves the error an incident."""


def judge(
    error: BaseException,
    cancelled: Callable[[], Cancelled],
    is_of_closed_connection: Callable[[BaseException], bool] = lambda error: False,
) -> Failure:
    """Return the meaning of an error.

    ``cancelled`` is called only if the error is a cancellation.
    """
    if isinstance(error, BaseExceptionGroup):
        return _judge_group(error, cancelled, is_of_closed_connection)
    if isinstance(error, ClientError):
        return Failure(Meaning.REPLY, error)
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return _judge_cancellation(error, cancelled())
    if not is_failure(error):
        return Failure(Meaning.PROPAGATE, error)
    if is_of_closed_connection(error):
        return Failure(Meaning.IGNORE, error)
    return Failure(Meaning.INCIDENT, error)


def judge_end(
    error: BaseException,
    cancelled: Callable[[], Cancelled],
    is_of_closed_connection: Callable[[BaseException], bool] = lambda error: False,
) -> Failure:
    """Return the meaning of an error with which a task of the framework ends, as `judge` does.

    ``GeneratorExit`` has ended the coroutine that raised it, and must not end other tasks: at the
    end of a task it is an incident.
    """
    if isinstance(error, GeneratorExit):
        return Failure(Meaning.INCIDENT, error)
    return judge(error, cancelled, is_of_closed_connection)


async def judge_mapped(
    error: BaseException,
    map_error: MapError,
    cancelled: Callable[[], Cancelled],
    is_of_closed_connection: Callable[[BaseException], bool] = lambda error: False,
) -> Failure:
    """Return the meaning of an error that ``map_error`` may map; else judge as `judge` does.

    ``map_error`` is called for an `Exception` that would be an incident, and gets the error that
    decides: the only error in a group, or else the group. If ``map_error`` fails, the failure is
    both errors in a group; if it is ended, the failure is its end, which propagates, and nobody has
    got ``error``.
    """
    failure = judge(error, cancelled, is_of_closed_connection)
    if failure.meaning is not Meaning.INCIDENT:
        return failure
    cause = alone(_failures_in(error))
    if not isinstance(cause, Exception):
        return failure
    try:
        reply = await map_error(cause)
    except BaseException as second:
        if alone(second) is cause:
            return failure
        if judge(second, cancelled).meaning is Meaning.PROPAGATE:
            return Failure(Meaning.PROPAGATE, second)
        return Failure(Meaning.INCIDENT, both(error, second))
    return failure if reply is None else Failure(Meaning.REPLY, reply, error)


def both(error: BaseException, second: BaseException) -> BaseExceptionGroup[BaseException]:
    """Return an error, and one that was raised while the first was answered, as one error."""
    return BaseExceptionGroup(
        "an error, and another while it was mapped to a reply", [error, second]
    )


def _failures_in(error: BaseException) -> BaseException:
    """Return the part of an error that is not an end of other tasks; see `_judge_group`."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    ends, others = error.split((GeneratorExit, anyio.get_cancelled_exc_class()))
    return error if ends is None or others is None else others  # a part is a copy of the group


def _judge_group(
    group: BaseExceptionGroup[BaseException],
    cancelled: Callable[[], Cancelled],
    is_of_closed_connection: Callable[[BaseException], bool],
) -> Failure:
    if ends_the_program(group):
        return Failure(Meaning.PROPAGATE, group)
    others = group.split((GeneratorExit, anyio.get_cancelled_exc_class()))[1]
    if others is not None:
        cause = alone(others)
        if cause is not others:
            failure = judge(cause, cancelled, is_of_closed_connection)
            if failure.meaning is not Meaning.INCIDENT:
                return failure
        return Failure(Meaning.INCIDENT, group)  # the log shows the group around the error
    if group.split(GeneratorExit)[1] is None:
        return Failure(Meaning.INCIDENT, group)
    return _judge_cancellation(group, cancelled())


def _judge_cancellation(error: BaseException, cancelled: Cancelled) -> Failure:
    match cancelled:
        case Cancelled.TIMED_OUT:
            return Failure(Meaning.REPLY, CommandTimeout())
        case Cancelled.ENDED:
            return Failure(Meaning.PROPAGATE, error)
        case Cancelled.ALONE:
            return Failure(Meaning.IGNORE, error)
    return Failure(Meaning.INCIDENT, error)


def is_failure(error: BaseException) -> bool:
    """Tell whether an error is a failure, an `Exception` or a `BaseException` of the program's own.

    Not a failure is an end: a cancellation, ``GeneratorExit``, ``KeyboardInterrupt`` or
    ``SystemExit``, alone or in a group.
    """
    if isinstance(error, Exception):
        return True
    ends = (*ENDS_THE_PROGRAM, GeneratorExit, anyio.get_cancelled_exc_class())
    return _part_of(error, ends) is None


def ends_the_program(error: BaseException) -> bool:
    """Tell whether the error is ``KeyboardInterrupt`` or ``SystemExit``, or a group with one."""
    return _part_of(error, ENDS_THE_PROGRAM) is not None


def _part_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    return BaseExceptionGroup("", [error]).split(kinds)[0]
