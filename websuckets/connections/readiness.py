"""Readiness of a running app: its health, as a function of the program sees it."""

import logging
from typing import Final

import anyio

from websuckets.commands.injected_function import InjectedFunction
from websuckets.connections.setup import Setup
from websuckets.limits import Limits, limit_text
from websuckets.runtime.clock import Clock
from websuckets.runtime.contexts import in_context
from websuckets.runtime.failures import Meaning, judge_end
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.tasks import wait_through
from websuckets.session import context_of

__all__ = ["Readiness", "ReadinessLog"]

logger: logging.Logger = logging.getLogger("websuckets")

TIMEOUTS: Final = 2
"""Multiple of `Limits.finalize_timeout` that a cancelled run may take: one timeout is for its
finalisers, one is spare."""


class ReadinessLog:
    """Log of the changes of readiness, for as long as the app lives.

    Health is asked for every few seconds, so nothing is logged twice until the app is ready again.
    """

    def __init__(self) -> None:
        self._level = logging.NOTSET
        """Level of the worst line since the app was ready."""

    def ready(self, name: str) -> None:
        """Take note that a check found the app ready; log the end of a time without readiness."""
        if self._level:
            logger.log(min(self._level, logging.WARNING), "%s: ready again", name)
        self._level = logging.NOTSET

    def refused(self, name: str) -> None:
        """Take note that the program itself says that the app is not ready."""
        if not self._level:
            self._level = logging.INFO
            logger.log(self._level, "%s: not ready", name)

    def failed(self, name: str, error: BaseException) -> None:
        """Take note that a check failed."""
        if self._level < logging.ERROR:
            self._level = logging.ERROR
            log_incident(name, error)


class Readiness:
    """Readiness check of a running app: the function ``ready`` of the program, if there is one.

    One run of the function at a time answers all who ask while the run lasts: many requests for
    health cost no more than one. A run is a task of the app, bound to none of those who ask, so a
    client that leaves neither cancels the run for the others, nor makes the next client begin
    anew. A run that takes too long is answered for, and cancelled; until it has ended, which may
    take some time, the answer to all who ask is that the app is not ready.
    """

    def __init__(self, setup: Setup, log: ReadinessLog) -> None:
        self._setup = setup
        self._log = log
        self._context = context_of(setup.session)
        self._run: _Run | None = None
        self._closed_at: float | None = None

    async def ask(self) -> bool:
        """Return true if the app is ready; false from `close` on, also for all who wait then."""
        if self._closed_at is not None or not self._setup.hooks.ready:
            return self._closed_at is None
        (function,) = self._setup.hooks.ready
        run = self._run
        if run is None:
            run = self._run = _Run(function.name, self._setup.clock, self._setup.limits, self._log)
            self._setup.background.start_soon(self._call, function, run)
        await run.answered.wait()
        return run.is_ready

    def close(self) -> None:
        """Answer all who wait, and cancel the run, if any; nobody asks from now on."""
        if self._closed_at is None:
            self._closed_at = anyio.current_time()
        if self._run is not None:
            self._run.cancel()

    async def stop(self) -> None:
        """Wait until the run has ended, before its objects of the app are finalised.

        A run that ignores its cancellation is left behind, and an error is logged. The time counts
        from the first call of `close`, since when connections have been closing, too.
        """
        self.close()
        run, timeout = self._run, self._setup.limits.finalize_timeout
        if run is None:
            return
        assert self._closed_at is not None
        if timeout is not None:
            timeout = max(0, self._closed_at + TIMEOUTS * timeout - anyio.current_time())
        try:
            await wait_through(run.ended, timeout)
        finally:
            if not run.ended.is_set():
                limit = limit_text("finalize_timeout", self._setup.limits.finalize_timeout)
                logger.error("%s ignores its cancellation (%s)", run.name, limit)

    async def _call(self, function: InjectedFunction, run: "_Run") -> None:
        """Call the function, and give the answer to all who wait for the run.

        Raises errors that have to propagate.
        """
        setup = self._setup
        try:
            with run.life, setup.request_scopes.begin(run.life) as request_scope:
                # Not the context of whoever asked first, which may be a request of a host.
                calling = function.run(setup.scope, request_scope)
                try:
                    result = await in_context(self._context.copy().run, calling)
                    is_ready = result is None or bool(result)
                except BaseException as error:
                    failure = judge_end(error, request_scope.cancelled)
                    match failure.meaning:
                        case Meaning.PROPAGATE:
                            raise
                        case Meaning.INCIDENT:
                            run.failed(failure.error)
                        case _:
                            run.answer(is_ready=False)
                else:
                    run.answer(is_ready=is_ready)
        finally:
            self._run = None
            run.end()


class _Run:
    """One run of the function, and its answer, which is given once."""

    def __init__(self, name: str, clock: Clock, limits: Limits, log: ReadinessLog) -> None:
        self.name = name
        self.life = anyio.CancelScope()
        self.is_ready = False
        self.answered = anyio.Event()
        self.ended = anyio.Event()
        self._timeout = limits.ready_timeout
        self._log = log
        self._timer = clock.timer(self)
        self._timer.start(clock.timeout(self._timeout))

    def answer(self, *, is_ready: bool) -> None:
        """Give the answer of the function."""
        if not self.answered.is_set():
            self.is_ready = is_ready
            self.answered.set()
            note = self._log.ready if is_ready else self._log.refused
            note(self.name)

    def failed(self, error: BaseException) -> None:
        """Give the answer in place of a function that failed."""
        if not self.answered.is_set():
            self.answered.set()
            self._log.failed(self.name, error)

    def ring(self) -> None:
        """Give the answer in place of a function that takes too long, and cancel the function."""
        limit = limit_text("ready_timeout", self._timeout)
        self.failed(TimeoutError(f"it took more than {self._timeout} seconds ({limit})"))
        self.life.cancel()

    def cancel(self) -> None:
        """Give the answer that the app is not ready, and cancel the function."""
        self.answered.set()
        self.life.cancel()

    def end(self) -> None:
        """Take note that the function and its finalisers have ended."""
        self._timer.stop()
        self.answered.set()
        self.ended.set()
