"""Request scopes: opened, bounded in time, and closed so that every finaliser runs."""

import logging
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from dishka import AsyncContainer
from dishka.exceptions import ExitError

from websuckets.exc import CommandTimeout
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.event_loop import cancellations
from websuckets.runtime.failures import ends_the_program, is_failure
from websuckets.runtime.finalisers import finalise
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.scopes import OpenScope, close_at_once, next_exit

__all__ = ["RequestScope", "RequestScopes"]

logger: logging.Logger = logging.getLogger("websuckets")

T = TypeVar("T")


class RequestScopes:
    """All open request scopes of a running app, and the time in which containers must close."""

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
    """Scope in which a task uses one container after the other, and its cancel scopes.

    The task enters the request scope once, as a context, and stays inside while containers come and
    go. That makes closing containers cheap, and lets finalisers leave cancel scopes that were
    entered inside of the request scope.

    There are two cancel scopes. The outer one, ``life``, is cancelled to end what is done;
    containers are shielded from that cancellation while they close. The inner one is cancelled when
    closing takes too long. After a timeout of either kind the request scope `is_spent`, and has to
    be left.
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
        self._timer = request_scopes.clock.timer(self._check)
        self._step: float = math.inf  # of the clock, while what is done has a deadline
        self.doing: str | None = None
        """Name of what is done, for the log."""
        self.due: float = math.inf
        """Moment of the app's clock at which what is done takes too long; see `limit`."""
        self.ends_on_disconnect: bool = False
        """True if what is done is cancelled when the client has left."""
        self.has_timed_out: bool = False
        """True once what is done has taken too long."""
        self.is_late: bool = False
        """True once a container was not closed in time."""
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
        """Cancel what is done if it takes longer than the timeout, from now on."""
        self._step = timeout.step
        # Does what `Timeout.due` does, inlined: every message takes this path.
        due = timeout.due() if timeout.is_short else self._clock.now + timeout.length
        self.due = due
        if due < self._timer.moment:
            self._timer.by(due, timeout.step)

    def _check(self) -> None:
        """Cancel what takes too long, and set the timer for the next check."""
        self.check(self._clock.now)
        self._timer.by(self.due, self._step)
        if not self.is_late:
            self._timer.by(self._close_by, self._request_scopes._time_to_close.step)

    def check(self, now: float) -> None:
        """Cancel what takes too long."""
        if self._close_by <= now:
            self.is_spent = self.is_late = True
            self._scope.cancel()
        elif self.due <= now:
            self.due = math.inf
            self.is_spent = self.has_timed_out = True
            self._life.cancel()

    def ends_with(self, error: BaseException) -> bool:
        """Tell whether this error has to end what the request scope serves, not to be reported."""
        if isinstance(error, Exception):
            return False
        if isinstance(error, BaseExceptionGroup):
            return self._ends_with_all_of(error)
        if not isinstance(error, anyio.get_cancelled_exc_class()):
            return not is_failure(error)
        if self.has_timed_out:
            return False
        if self._life.cancel_called or cancellations() > 0:
            return True
        # The code may have waited for a cancelled task: only a cancelled scope around here counts.
        return not self.is_late and anyio.current_effective_deadline() == -math.inf

    def _ends_with_all_of(self, group: BaseExceptionGroup[BaseException]) -> bool:
        """Tell whether a group has to end what the request scope serves.

        A group that contains failures does so only if it ends the program.

        A task group around a ``yield`` puts the ``GeneratorExit`` that closes a generator into a
        group.
        """
        failures = group.split((GeneratorExit, anyio.get_cancelled_exc_class()))[1]
        if failures is not None:
            return ends_the_program(failures)
        cancellations = group.split(GeneratorExit)[1]
        return cancellations is not None and self.ends_with(cancellations.exceptions[0])

    def rest(self) -> None:
        """Forget what was done, which is over, before the next message."""
        self.doing = None
        self.due = math.inf
        self.ends_on_disconnect = False

    @property
    def is_cancelled(self) -> bool:
        """True if what the request scope serves has to end."""
        return self._life.cancel_called

    async def in_scope(
        self,
        wider: OpenScope,
        context: dict[Any, Any],
        key: Any,
        use: Callable[[Any], Awaitable[T]],
        name: str,
    ) -> tuple[T | None, BaseException | None, str | None]:
        """Use what ``key`` stands for, in a REQUEST scope that is closed afterwards.

        Returns the result of ``use``, or the error instead: what ``use`` or a dependency raised,
        else what finalisers raised. If both failed, the error of finalisers is logged with
        ``name``, and its incident returned, too. Only what ends the task itself is raised: a
        cancellation, ``KeyboardInterrupt``. A cancellation for taking too long is returned as
        `CommandTimeout`.
        """
        scope = wider.request(context)
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = await use(await scope.get(key))
        except BaseException as error:
            failure = error
        self.due = math.inf
        late: BaseException | None = None
        if not close_at_once(scope):
            try:
                await self.close(scope, failure)
                late = self.lateness
            except BaseException as error:
                if self.ends_with(error):
                    raise
                late = error
        if failure is None:
            return result, late, None
        incident = None if late is None else log_incident(f"finalisers of {name!r}", late)
        # Asked only now: until here, the failure may be of a timeout that a provider holds.
        if self.ends_with(failure):
            raise failure
        return None, self.meaning_of(failure), incident

    def meaning_of(self, error: BaseException) -> BaseException:
        """Return the error, or `CommandTimeout` for a cancellation that came of taking too long."""
        cancelled = anyio.get_cancelled_exc_class()
        group = BaseExceptionGroup("", [error])  # whether the error is a group or not
        if self.has_timed_out and group.split(cancelled)[1] is None:
            return CommandTimeout()
        return error

    @property
    def lateness(self) -> TimeoutError | None:
        """Error to report if the request scope `is_late`, else ``None``."""
        if not self.is_late:
            return None
        return TimeoutError(
            f"finalisers took more than {self._request_scopes.finalize_timeout} seconds"
        )

    async def close_scope(self, scope: OpenScope, error: BaseException | None = None) -> None:
        """Close an APP or SESSION scope as `close` closes a container, in the scope's context."""
        try:
            await scope.run(self.close(scope.container, error))
        finally:
            scope.is_closed = True

    async def close(self, container: AsyncContainer, error: BaseException | None = None) -> None:
        """Close a container: its finalisers run to their end, also when this task is cancelled.

        The finalisers get ``error``, which ended what the container was for; without an error, the
        first error that a finaliser raises is passed to the finalisers that follow. If closing
        takes too long, which `is_late` tells afterwards, the finaliser that waits is cancelled, and
        so is each remaining finaliser at its first ``await``. A finaliser that asyncio's own
        ``Task.cancel()`` hits, which nothing can keep out, ends there, too, but the remaining
        finalisers run.

        Raises dishka's ``ExitError`` with the errors of finalisers (a ``BaseExceptionGroup``, if an
        error is not an ``Exception``), and what else ended a finaliser, except being late.
        """
        failures: list[BaseException] = []
        interruption: BaseException | None = None
        self._scope.shield = True
        time_to_close = self._request_scopes._time_to_close
        self._close_by = close_by = time_to_close.due()
        if close_by < self._timer.moment:
            self._timer.by(close_by, time_to_close.step)
        try:
            while (generator := next_exit(container)) is not None:
                try:
                    await finalise(generator, error)
                except BaseException as failure:
                    error = failure if error is None else error
                    if is_failure(failure):
                        failures.append(failure)
                    elif interruption is None:
                        interruption = failure
        finally:
            self._close_by = math.inf
            self._scope.shield = False
        if interruption is None:
            if failures:
                raise _grouped(failures)
            return
        if failures:
            logger.error("finalisers failed", exc_info=_grouped(failures))
        is_cancellation = isinstance(interruption, anyio.get_cancelled_exc_class())
        if not (is_cancellation and self.is_late):
            raise interruption


def _grouped(failures: list[BaseException]) -> BaseException:
    exceptions = [failure for failure in failures if isinstance(failure, Exception)]
    if len(exceptions) == len(failures):
        return ExitError("finalisers failed", exceptions)
    return BaseExceptionGroup("finalisers failed", failures)
