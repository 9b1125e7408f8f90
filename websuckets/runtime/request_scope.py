"""Request scopes: entered once by a task, bounded in time, and left so that every finaliser runs.

The problem. A message opens objects, and they have to be finalised whatever happens: when the
handler fails, takes too long, is cancelled with its client or with the server, or when a finaliser
itself hangs. Providers hold task groups and timeouts of anyio around their ``yield``; such a cancel
scope has to be left in the task, and inside of the scope, in which it was entered. Nearly every
message is answered in time, so all this may cost next to nothing until something goes wrong.

Tried and rejected: a cancel scope for each message and another for its finalisers (3 to 7 us each
on Python 3.11, a quarter of a command), but for messages that run beside others or behind
middleware; a task for each message, or for its finalisers, which cannot leave a cancel scope that
another task has entered; a timer for each message.

The solution. A task enters one request scope, and handles one message after the other inside of it.
There are two cancel scopes around each other. The outer one, ``life``, is cancelled to end what is
done: the message took too long, or its client has left, or the server stops. While finalisers run,
the inner one is shielded from that, unless it is known that they wait for nothing. It is cancelled
itself if finalisers take too long, from when one of them waits first. After either has been
cancelled for taking too long, the request scope `is_spent`: the task leaves it, and enters another.
Deadlines are moments of the app's clock, which checks them all with one timer; see
`websuckets.runtime.clock`.
"""

import logging
import math
from types import TracebackType
from typing import Protocol, Self

import anyio
from dishka.exceptions import ExitError

from websuckets.limits import limit_text
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.event_loop import cancellations
from websuckets.runtime.failures import Cancelled, Meaning, is_failure, judge
from websuckets.runtime.finalisers import Exit, finalise, refuse_second_yield
from websuckets.runtime.scopes import ExitsOf, OpenScope
from websuckets.runtime.steps import HAS_ENDED, rest_of, steps_of

__all__ = ["RequestScope", "RequestScopes"]

logger: logging.Logger = logging.getLogger("websuckets")


class Exits(Protocol):
    """Generators to resume for the end of a scope: the one that `pop` returns comes next."""

    def __len__(self) -> int: ...

    def pop(self) -> Exit: ...


class RequestScopes:
    """All open request scopes of a running app, and the time that finalisers may take."""

    def __init__(self, clock: Clock, finalize_timeout: float | None) -> None:
        self.clock = clock
        self.finalize_timeout = finalize_timeout
        self._time_to_close = clock.timeout(finalize_timeout)
        self._open: set[RequestScope] = set()

    def begin(self, life: anyio.CancelScope) -> "RequestScope":
        """Return a request scope inside of ``life``, whose cancellation ends the scope early."""
        return RequestScope(self, life)

    @property
    def running(self) -> list[str]:
        """Names of the commands that are handled at the moment."""
        return [
            request_scope.doing for request_scope in self._open if request_scope.doing is not None
        ]


class RequestScope:
    """Scope in which a task handles one message after the other, and its cancel scopes.

    The task enters the request scope once, as a context. See the essay above.
    """

    __slots__ = (
        "_clock",
        "_close_by",
        "_life",
        "_request_scopes",
        "_scope",
        "_step",
        "_timer",
        "doing",
        "due",
        "ends_on_disconnect",
        "has_timed_out",
        "is_late",
        "is_spent",
    )

    def __init__(self, request_scopes: RequestScopes, life: anyio.CancelScope) -> None:
        self._request_scopes = request_scopes
        self._clock = request_scopes.clock
        self._life = life
        self._scope = anyio.CancelScope()
        self._close_by = math.inf
        self._timer = request_scopes.clock.timer(self)
        self._step: float = math.inf  # of the clock, while the current step has a deadline
        self.doing: str | None = None
        """Name of the current step, for the log."""
        self.due: float = math.inf
        """Moment of the app's clock at which the current step takes too long; see `limit`."""
        self.ends_on_disconnect: bool = False
        """True if the current step is cancelled when the client has left."""
        self.has_timed_out: bool = False
        """True once the current step has taken too long."""
        self.is_late: bool = False
        """True once finalisers have taken too long."""
        self.is_spent: bool = False
        """True once nothing more can be done in the request scope: it is late, or has timed out."""

    def within(self, life: anyio.CancelScope) -> "RequestScope":
        """Return a request scope inside of this one, which code between the two may cancel."""
        return RequestScope(self._request_scopes, life)

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._request_scopes._open.add(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._request_scopes._open.discard(self)
        self._timer.stop()
        return bool(self._scope.__exit__(exc_type, exc, traceback))

    def limit(self, timeout: Timeout) -> None:
        """Cancel the current step if it takes longer than the timeout, from now on."""
        self._step = timeout.step
        # Inlined from `Timeout.due`, because every message takes this path.
        due = timeout.due() if timeout.is_short else self._clock.now + timeout.length
        self.due = due
        if due < self._timer.moment:
            self._timer.by(due, timeout.step)

    def pause(self) -> float:
        """Let the current step take any time until `resume`, which gets the returned moment."""
        due, self.due = self.due, math.inf
        return due

    def resume(self, due: float) -> None:
        """Cancel the current step if it is not over at this moment of the clock."""
        self.due = due
        if due < self._timer.moment:
            self._timer.by(due, self._step)

    def ring(self) -> None:
        """Cancel a step that takes too long, and set the timer for the next check."""
        self.check(self._clock.now)
        self._timer.by(self.due, self._step)
        if not self.is_late:
            self._timer.by(self._close_by, self._request_scopes._time_to_close.step)

    def check(self, now: float) -> None:
        """Cancel the step that takes too long."""
        if self._close_by <= now:
            self.is_spent = self.is_late = True
            self._scope.cancel()
        elif self.due <= now:
            self.due = math.inf
            self.is_spent = self.has_timed_out = True
            self._life.cancel()

    def cancelled(self) -> Cancelled:
        """Return the cause of a cancellation that came out of the current step."""
        if self.has_timed_out:
            return Cancelled.TIMED_OUT
        if self._life.cancel_called or cancellations() > 0:
            return Cancelled.ENDED
        # The code may have waited for a cancelled task: only a cancelled scope around here counts.
        if not self.is_late and anyio.current_effective_deadline() == -math.inf:
            return Cancelled.ENDED
        return Cancelled.NOTHING

    def rest(self) -> None:
        """Forget the last step, which is over, before the next message."""
        self.doing = None
        self.due = math.inf
        self.ends_on_disconnect = False

    @property
    def is_cancelled(self) -> bool:
        """True if the work of the request scope has to end."""
        return self._life.cancel_called

    @property
    def finalize_timeout(self) -> float | None:
        """Seconds that finalisers may take; ``None`` for any number."""
        return self._request_scopes.finalize_timeout

    @property
    def lateness(self) -> TimeoutError | None:
        """Error to report if the request scope `is_late`, else ``None``."""
        if not self.is_late:
            return None
        timeout = self.finalize_timeout
        limit = limit_text("finalize_timeout", timeout)
        return TimeoutError(f"finalisers took more than {timeout} seconds ({limit})")

    async def close_scope(
        self, scope: OpenScope, error: BaseException | None = None
    ) -> BaseException | None:
        """Finalise the objects of an APP or SESSION scope, in the scope's context.

        Returns the result of `finalise` and raises its errors.
        """
        try:
            return await scope.run(self.finalise(ExitsOf(scope.container), error))
        finally:
            scope.close()

    async def finalise(
        self, exits: Exits, error: BaseException | None = None, *, waits: bool = True
    ) -> BaseException | None:
        """Run finalisers to their end, also when this task is cancelled.

        ``waits`` is false where it is known that no finaliser waits for anything: then nothing has
        to be kept out. The finalisers get ``error``, which ended what their objects were for;
        without an error, the first error that a finaliser raises is passed to the finalisers that
        follow. If they take too long, which `is_late` tells afterwards, the finaliser that waits is
        cancelled, and so is each remaining finaliser at its first ``await``. A finaliser that
        asyncio's own ``Task.cancel()`` hits, which nothing can keep out, ends there, too, but the
        remaining finalisers run.

        Returns the failure to report, if any: dishka's ``ExitError`` with the errors of finalisers
        (a ``BaseExceptionGroup``, if an error is not an ``Exception``), a cancellation that nobody
        meant, or a ``TimeoutError``. Raises errors that have to propagate; see `judge`.
        """
        failures: list[BaseException] = []
        interruption: BaseException | None = None
        scope = self._scope
        if waits:
            scope.shield = True
        try:
            while exits:
                exit = exits.pop()
                try:
                    if error is None and exit[1] is not None:  # the usual case of `finalise`
                        steps = steps_of(exit[1].asend(None))
                        waits_for = next(steps, HAS_ENDED)
                        if waits_for is not HAS_ENDED:
                            self._limit_closing()
                            await rest_of(steps, waits_for)
                        self._limit_closing()
                        await refuse_second_yield(exit)
                    self._limit_closing()
                    await finalise(exit, error)
                except StopAsyncIteration:
                    pass
                except BaseException as failure:
                    error = failure if error is None else error
                    if is_failure(failure):
                        failures.append(failure)
                    elif interruption is None:
                        interruption = failure
        finally:
            self._close_by = math.inf
            if waits:
                scope.shield = False
        if interruption is None:
            return _grouped(failures, self.lateness) if failures or self.is_late else None
        return self._interrupted(interruption, failures)

    def _limit_closing(self) -> None:
        """Let the time of all finalisers begin, unless it runs, as one of them may wait."""
        if self._close_by == math.inf:
            time_to_close = self._request_scopes._time_to_close
            self._close_by = close_by = time_to_close.due()
            if close_by < self._timer.moment:
                self._timer.by(close_by, time_to_close.step)

    def _interrupted(
        self, interruption: BaseException, failures: list[BaseException]
    ) -> BaseException | None:
        """Return or raise the error that ended a finaliser, but is not a failure of its own."""
        failure = _grouped(failures, self.lateness)
        if isinstance(interruption, anyio.get_cancelled_exc_class()) and self.is_late:
            return failure
        if failure is not None:
            logger.error("finalisers failed", exc_info=failure)
        if judge(interruption, self.cancelled).meaning is Meaning.PROPAGATE:
            raise interruption
        return interruption


def _grouped(failures: list[BaseException], lateness: TimeoutError | None) -> BaseException | None:
    """Return the one error to report for all that went wrong."""
    if not failures:
        return lateness
    if lateness is not None:
        failures = [*failures, lateness]
    exceptions = [failure for failure in failures if isinstance(failure, Exception)]
    if len(exceptions) == len(failures):
        return ExitError("finalisers failed", exceptions)
    return BaseExceptionGroup("finalisers failed", failures)
