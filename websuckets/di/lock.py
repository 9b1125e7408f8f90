"""A lock for containers, on every backend, that costs nothing while nobody waits."""

from collections import deque
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, cast

import anyio

__all__ = ["lock_factory"]


class _Done(tuple[()]):
    """An awaitable that is done already: awaiting it neither suspends nor starts a coroutine."""

    __slots__ = ()
    __await__ = tuple.__iter__  # ends at once, and is written in C


_DONE: Awaitable[None] = cast(Any, _Done())


class Lock(AbstractAsyncContextManager[None]):
    """A lock between tasks; waiting tasks get the lock in the order in which they came.

    dishka's default, ``asyncio.Lock``, does not run on trio, and ``anyio.Lock`` costs several times
    as much as the rest of a resolution. Like ``asyncio.Lock``, the lock is not reentrant: an APP
    factory that itself calls ``container.get()`` waits for ever.
    """

    __slots__ = ("_locked", "_waiting")

    def __init__(self) -> None:
        self._locked = False
        self._waiting: deque[anyio.Event] = deque()

    def __aenter__(self) -> Awaitable[None]:  # type: ignore[override]  # any awaitable serves
        if self._locked:
            return self._wait()
        self._locked = True
        return _DONE

    def __aexit__(  # type: ignore[override]  # any awaitable serves
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        self._release()
        return _DONE

    async def _wait(self) -> None:
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # cancelled with the lock already handed over
                self._release()
            else:
                self._waiting.remove(turn)
            raise

    def _release(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()  # stays locked: handed over
        else:
            self._locked = False


def lock_factory() -> AbstractAsyncContextManager[None]:
    """Return a lock, as the ``lock_factory`` of dishka, for a container that websuckets uses.

    ``make_async_container(..., lock_factory=lock_factory)`` makes a container whose objects are
    built once, however many tasks first ask for the objects, on asyncio and on trio.
    """
    return Lock()
