"""Tasks beside the messages: those of the app, and those of a connection."""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NewType, NoReturn

import anyio
from anyio.abc import TaskGroup, TaskStatus

from websuckets.limits import limit_text
from websuckets.runtime.event_loop import (
    Propagate,
    cancellations,
    on_trio,
    propagate,
    spawn,
)
from websuckets.runtime.failures import Cancelled, Meaning, judge_end
from websuckets.runtime.incidents import log_incident

__all__ = ["AppTasks", "Background", "ConnectionTasks", "TaskSource", "Tasks", "wait_through"]

logger: logging.Logger = logging.getLogger("websuckets")

AppTasks = NewType("AppTasks", TaskGroup)
"""Task group for tasks that last as long as the app runs (APP scope): feeds, game loops, clean-up.

``tasks.start_soon(feed, broker)`` starts a task, as in any task group of anyio. When the app stops,
the tasks are cancelled after the last connection is gone and before APP objects are finalised. A
task that fails is logged with an incident, and disturbs no other task.
"""

ConnectionTasks = NewType("ConnectionTasks", TaskGroup)
"""Task group like `AppTasks`, for as long as a client is connected (SESSION scope).

The tasks are cancelled after the ``on_disconnect`` hooks and before SESSION objects are finalised.
"""


async def wait_through(event: anyio.Event, timeout: float | None = None) -> None:
    """Wait for the event for so many seconds at most, also when the current task is cancelled.

    A cancellation by asyncio's own ``Task.cancel()``, which no shield keeps out, is raised
    afterwards.
    """
    interruption: BaseException | None = None
    with anyio.move_on_after(timeout, shield=True) as scope:
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as cancellation:
                if scope.cancel_called:
                    raise
                interruption = cancellation
    if interruption is not None:
        raise interruption


class Background:
    """Task group of a running app, of which no task of the program is the parent.

    The code that runs the app enters and leaves the group, maybe in different tasks. ``timeout`` is
    the number of seconds that cancelled tasks may take to end before they are left behind.
    ``propagate`` is called with a `SystemExit` or `KeyboardInterrupt` of a task.
    """

    def __init__(self, timeout: float | None, propagate: Propagate = propagate) -> None:
        self.timeout = timeout
        self.propagate = propagate
        self._started = anyio.Event()
        self._ending = anyio.Event()
        self._ended = anyio.Event()
        self._group: TaskGroup

    async def __aenter__(self) -> "Background":
        self._task = spawn(self._live)
        try:
            await self._started.wait()
        except BaseException:
            self._ending.set()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Cancel the tasks that are left, and wait until they are gone."""
        self._ending.set()
        await wait_through(self._ended, self.timeout)

    @property
    def has_ended(self) -> bool:
        """True if no task is left, not even a task that ignored its cancellation."""
        return self._ended.is_set()

    async def _live(self) -> None:
        try:
            async with anyio.create_task_group() as self._group:
                self._started.set()
                await self._ending.wait()
                self._group.cancel_scope.cancel()
        finally:
            self._ended.set()

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start a task, unless the group has ended; log errors of ``function``."""
        if not self.has_ended:
            self._group.start_soon(self._run, function, args)

    async def start(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> Any:
        """Start a task and return the value of its ``task_status``; it may raise only before."""
        return await self._group.start(function, *args)

    async def _run(
        self, function: Callable[..., Coroutine[Any, Any, None]], args: tuple[Any, ...]
    ) -> None:
        try:
            await function(*args)
        except BaseException as error:
            failure = _failure_of(error, self._group, self.propagate)
            if failure is not None:
                log_incident(_name_of(function), failure)


def _failure_of(
    error: BaseException,
    group: TaskGroup,
    propagate: Propagate,
    is_expected: Callable[[BaseException], bool] = lambda error: False,
) -> BaseException | None:
    """Return the error to log, with which a task of the group failed, if it was not just ended.

    Raises errors that concern other tasks: that the group is cancelled, and that the program ends,
    unless ``propagate`` sees to that. Any other error that a task raised would end the other tasks.
    """

    def cancelled() -> Cancelled:
        if group.cancel_scope.cancel_called or on_trio():
            return Cancelled.ENDED
        # Else asyncio's own Task.cancel() hit this one task, or a task for which it waited.
        return Cancelled.ALONE if cancellations() > 0 else Cancelled.NOTHING

    failure = judge_end(error, cancelled, is_expected)
    match failure.meaning:
        case Meaning.PROPAGATE:
            propagate(error)
            return None
        case Meaning.IGNORE:
            return None
    return failure.error


class TaskSource:
    """Source of a task group that is opened when it is first asked for.

    ``whose`` names the owner of the tasks in the log; a failure that ``is_expected`` is not logged.
    A group that is never asked for costs nothing. The group can be opened while its owner runs:
    from `begin` to `stop`, which may come again.
    """

    __slots__ = ("_background", "_ending", "_is_expected", "_tasks", "_whose")

    def __init__(
        self,
        whose: object,
        is_expected: Callable[[BaseException], bool] = lambda error: False,
        background: Background | None = None,
    ) -> None:
        self._whose = whose
        self._is_expected = is_expected
        self._background = background
        self._ending: anyio.Event | None = None
        self._tasks: Tasks | None = None

    async def begin(self, background: Background) -> None:
        """Let tasks run from now on, also in a group that was opened at an earlier time."""
        self._background = background
        if self._tasks is not None:
            await self.open()

    async def open(self) -> "Tasks":
        """Return the group, which is always the same. Raises `RuntimeError` while nothing runs."""
        if self._background is None:
            raise RuntimeError(f"there are no tasks of {self._whose} before it runs")
        if self._ending is None:
            self._ending = anyio.Event()
            propagate = self._background.propagate
            self._tasks = await self._background.start(self._hold_open, self._ending, propagate)
        assert self._tasks is not None
        return self._tasks

    async def stop(self) -> None:
        """Cancel the tasks and wait until they are gone; leave behind tasks that do not end."""
        background, self._background = self._background, None
        ending, self._ending = self._ending, None
        if background is None or ending is None or self._tasks is None:
            return
        ending.set()
        ended = self._tasks.ended
        try:
            await wait_through(ended, background.timeout)
        finally:
            self._log_those_left(ended, background.timeout)

    def _log_those_left(self, ended: anyio.Event, timeout: float | None) -> None:
        if not ended.is_set():
            limit = limit_text("finalize_timeout", timeout)
            logger.error("tasks of %s ignore their cancellation (%s)", self._whose, limit)

    async def _hold_open(
        self, ending: anyio.Event, propagate: Propagate, *, task_status: TaskStatus["Tasks"]
    ) -> None:
        ended = anyio.Event()
        try:
            async with anyio.create_task_group() as group:
                tasks = self._tasks or Tasks(str(self._whose), self._is_expected)
                tasks.start_in(group, ended, propagate)
                task_status.started(tasks)
                await ending.wait()
                group.cancel_scope.cancel()
        finally:
            ended.set()


class Tasks(TaskGroup):
    """A task group in which a failed task is logged with an incident, and other tasks go on.

    The group cannot be entered: the code that opened the group ends it.
    """

    _group: TaskGroup
    ended: anyio.Event
    """Event that is set when no task is left."""

    def __init__(self, whose: str, is_expected: Callable[[BaseException], bool]) -> None:
        self._whose = whose
        self._is_expected = is_expected

    def start_in(self, group: TaskGroup, ended: anyio.Event, propagate: Propagate) -> None:
        """Start tasks in this group from now on."""
        self._group = group
        self._propagate = propagate
        self.cancel_scope: anyio.CancelScope = group.cancel_scope
        self.ended = ended

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        """Start a task as anyio does from 4.14 on; the handle of a failed task gives ``None``."""
        name = options["name"] = options.get("name") or _name_of(coro)
        return self._group.create_task(self._finish(coro, name), **options)

    def start_soon(  # type: ignore[misc, override]  # final from anyio 4.14 on, abstract before
        self, func: Any, *args: Any, name: object = None
    ) -> Any:
        """Start a task as anyio does; raise `TypeError` for a sync ``func`` or wrong ``args``."""
        if not callable(func):
            if isinstance(func, Coroutine):
                func.close()
            raise TypeError(
                f"start_soon(): pass a function and its arguments, without calling it, not a "
                f"{type(func).__name__}"
            )
        coroutine = func(*args)
        if not isinstance(coroutine, Coroutine):
            raise TypeError(f"start_soon(): {_name_of(func)} is not an async function")
        name = name or _name_of(func)
        try:
            return self._group.start_soon(self._finish, coroutine, name, name=name)
        except BaseException:
            coroutine.close()
            raise

    async def start(
        self, func: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **options: Any
    ) -> Any:
        """Start a task as anyio does; raise errors of ``func`` from before it has started."""
        name = options["name"] = options.get("name") or _name_of(func)
        return await self._group.start(self._run_until_started, func, args, name, **options)

    async def __aenter__(self) -> NoReturn:
        raise RuntimeError(f"{self!r}: it is open already, and ends with what it belongs to")

    async def __aexit__(self, *error: object) -> NoReturn:
        raise RuntimeError(f"{self!r}: it ends with what it belongs to")

    def __repr__(self) -> str:
        return f"<tasks of {self._whose}>"

    async def _run_until_started(
        self, func: Callable[..., Awaitable[Any]], args: Any, name: object, *, task_status: Any
    ) -> Any:
        status = _Status(task_status)
        try:
            return await func(*args, task_status=status)
        except BaseException as error:
            if not status.is_started:
                raise
            self._log(error, name)

    async def _finish(self, awaited: Awaitable[Any], name: object) -> Any:
        try:
            return await awaited
        except BaseException as error:
            self._log(error, name)

    def _log(self, error: BaseException, name: object) -> None:
        failure = _failure_of(error, self._group, self._propagate, self._is_expected)
        if failure is not None:
            log_incident(f"{name} of {self._whose}", failure)


class _Status:
    """A ``task_status`` that remembers whether ``started`` was called."""

    def __init__(self, status: TaskStatus[Any]) -> None:
        self._status = status
        self.is_started = False

    def started(self, value: Any = None) -> None:
        self.is_started = True
        self._status.started(value)


def _name_of(func: Any) -> str:
    """Return the name of a function, without arguments: arguments may be secrets."""
    while isinstance(func, partial):
        func = func.func
    return getattr(func, "__qualname__", None) or type(func).__qualname__
