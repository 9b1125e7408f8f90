"""Middleware: functions that run around every command of an app."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from inspect import iscoroutine, signature
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from websuckets.exc import ConfigurationError
from websuckets.introspection.functions import checked as checked_function
from websuckets.introspection.functions import kind_of, where
from websuckets.protocol.messages import Message
from websuckets.socket import Socket

__all__ = ["Around", "Attempt", "CallNext", "Middleware", "Outcome", "checked", "composed"]


@dataclass(slots=True)
class Outcome:
    """The result of answering a message."""

    frame: str | None = field(repr=False)
    """Frame that the client gets, if any."""
    error: str | None = None
    """Name of the error; ``None`` for a command that succeeded."""
    exception: BaseException | None = field(default=None, repr=False)
    """Exception that was raised, if any: a `ClientError`, or a bug that is logged already."""
    seconds: float = 0.0
    """Seconds from the guards until everything was finalised; for a stream, until the stream
    ended."""
    after: "AfterReply | None" = field(default=None, repr=False, compare=False)
    """Subscriptions of the command, which the framework begins when the frame has been sent."""


class AfterReply(Protocol):
    """A consequence of a command that waits for the reply."""

    def in_reply(self, reply: str | None) -> str | None:
        """Return the reply together with what the client is told of the consequence."""
        ...

    async def hold(self) -> None:
        """Wait until the reply may be sent."""
        ...

    def begin(self) -> None:
        """Begin, because the reply has been sent."""
        ...

    def take_back(self) -> None:
        """Undo, because the client is told of an error."""
        ...


CallNext: TypeAlias = Callable[[], Awaitable[Outcome]]
"""A function that runs the next middleware, and at last the command.

The function does not raise for errors of either.
"""

Middleware: TypeAlias = Callable[[Socket, Message, CallNext], Awaitable[Any]]
"""A function ``async def middleware(socket, message, call_next)``.

Middleware returns the `Outcome` of ``await call_next()``, or its own answer: anything that a
handler may return. Raising refuses the command, as in a handler. Middleware also runs for messages
that are not commands of the app: for unknown commands, and for invalid messages, whose
``message.event`` is empty. When a command is cancelled, with its client or with the server,
``call_next()`` raises the cancellation: use ``finally`` for cleaning up.
"""


class Attempt(Protocol):
    """A message that is about to be answered."""

    @property
    def socket(self) -> Socket: ...

    @property
    def message(self) -> Message: ...

    async def answer(self) -> Outcome:
        """Run the command; return its outcome, also for a command that failed."""
        ...

    def outcome_of(self, result: Any) -> Outcome:
        """Return the outcome for ``result``, a value of its own that a middleware returned."""
        ...

    async def explain(self, error: BaseException) -> Outcome:
        """Return the outcome of an error that a middleware raised.

        Raises the error again if it must propagate, as a cancellation must.
        """
        ...


Around: TypeAlias = Callable[[Attempt], Awaitable[Outcome]]


def composed(middleware: Iterable[Middleware]) -> Around | None:
    """Return all middleware as one function, the first outermost; ``None`` if there is none."""
    around: Around | None = None
    for function in reversed(tuple(middleware)):
        around = _layer(function, around or _timed)
    return around


async def _timed(attempt: Attempt) -> Outcome:
    started = perf_counter()
    outcome = await attempt.answer()
    outcome.seconds = perf_counter() - started
    return outcome


def _layer(function: Middleware, inner: Around) -> Around:
    call, place = checked_function(function, "async"), where(function)

    async def around(attempt: Attempt) -> Outcome:
        has_called = False

        def call_next() -> Awaitable[Outcome]:
            nonlocal has_called
            has_called = True
            return inner(attempt)

        try:
            result = await call(attempt.socket, attempt.message, call_next)
            if result is None and has_called:
                raise TypeError(f"{place}: it returned None; return what call_next() gave")
            if iscoroutine(result):
                result.close()
                raise TypeError(f"{place}: it returned a coroutine; `return await call_next()`")
            return result if isinstance(result, Outcome) else attempt.outcome_of(result)
        except BaseException as error:
            return await attempt.explain(error)

    return around


def checked(middleware: Iterable[Any]) -> tuple[Middleware, ...]:
    """Return the middleware as a tuple.

    Raises `ConfigurationError` for objects that cannot be middleware.
    """
    try:
        given = tuple(middleware)
    except TypeError:
        raise ConfigurationError(f"middleware={middleware!r}: write a list") from None
    for function in given:
        if not _is_middleware(function):
            raise ConfigurationError(
                f"middleware=[...]: {function!r} is none; write "
                "`async def middleware(socket, message, call_next)`"
            )
    return given


def _is_middleware(function: Any) -> bool:
    try:
        signature(function).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return kind_of(function) == "async"
