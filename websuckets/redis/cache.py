"""Cache of Redis, with a lease for each value that a node computes.

A lease is a key with the random name of its owner. The node that gets the lease computes the value
and renews the lease meanwhile; other nodes look again and again for the value, or for the lease to
be gone. A node that dies renews nothing, so others wait `LEASE` seconds at most. The result is kept
only by the owner of the lease, in one step: `set` and `delete` remove the lease, so that a result
that was computed of old data does not replace, or bring back, a value.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain, islice
from secrets import token_hex
from typing import Any, Final, TypeAlias

import anyio
from coredis.exceptions import RedisError

from websuckets.cache import JsonCache
from websuckets.exc import Unavailable
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import AT_ONCE
from websuckets.redis.scripts import OF_KIND
from websuckets.runtime.jitter import uniform

__all__ = ["RedisCache"]

LEASE: Final = 5.0
"""Seconds for which a lease is good; it is renewed three times in this time."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2
"""Seconds between two looks for the value that another node computes, at first and at most."""

TIME_TO_RELEASE: Final = 1.0
"""Seconds that a cancelled computation waits for Redis; a lease that stays then ends by itself."""

MOST_OVERDUE: Final = 10_000
"""Keys that are remembered while Redis is away, because their values have to be removed."""

_Names: TypeAlias = tuple[str, str]
"""Names of the keys of Redis for a value and for its lease."""

ACQUIRE: Final = (
    OF_KIND
    + """
if is_of_kind(KEYS[1], 'string') then
    local found = redis.call('GET', KEYS[1])
    if found and found ~= ARGV[3] then return {found} end
end
is_of_kind(KEYS[2], 'string')
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""
)
"""Script that reads a value, or else acquires the lease.

A value that was found to be unfit (the third argument) is taken for missing; it stays until another
one replaces it.
"""

OWNS: Final = (
    OF_KIND
    + """
local function owns(key, owner)
    return is_of_kind(key, 'string') and redis.call('GET', key) == owner
end
"""
)

RENEW: Final = OWNS + "return owns(KEYS[2], ARGV[1]) and redis.call('PEXPIRE', KEYS[2], ARGV[2])"

RELEASE: Final = OWNS + "if owns(KEYS[2], ARGV[1]) then redis.call('DEL', KEYS[2]) end"

KEEP: Final = (
    OWNS
    + """
if owns(KEYS[2], ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    redis.call('DEL', KEYS[2])
end
"""
)

SAVE: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
"""


class RedisCache(JsonCache):
    """A cache with a key of Redis for each value, by the connection of the broker.

    While Redis is away, or refuses, nothing is found, and each node computes for itself. The cache
    remembers the keys of the last 10,000 values that could not be replaced or removed then; these
    values are removed before the cache asks Redis for anything else.

    With ``strict``, each method raises `Unavailable` instead, before it computes anything. The
    cache lives as long as the container.
    """

    def __init__(self, broker: RedisBroker, *, strict: bool = False) -> None:
        super().__init__()
        self._redis = broker.redis
        self._root = broker.root
        self._is_strict = strict
        self._overdue: dict[_Names, object] = {}  # values that have to be removed, the oldest first

    async def _load(self, key: str) -> bytes | None:
        try:
            await self._remove_overdue()
            (answer,) = await self._redis.ask_each([(b"GET", self._names(key)[0])])
        except Unavailable:
            if self._is_strict:
                raise
            return None
        if isinstance(answer, RedisError):  # a key of another kind
            self._found_misfit("text")
            return None
        return answer  # type: ignore[no-any-return]  # bytes or nothing

    async def _save(self, key: str, text: bytes, seconds: float) -> None:
        names = self._names(key)
        await self._write(names, b"EVAL", SAVE, 2, *names, text, _milliseconds(seconds))

    async def _remove(self, key: str) -> None:
        names = self._names(key)
        await self._write(names, b"DEL", *names)

    async def _compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[bytes]],
        seconds: float,
        fits: Callable[[bytes], bool],
    ) -> bytes:
        lease = _Lease(self._ask, self._names(key))
        try:
            text = await lease.acquire(fits)
        except Unavailable:
            if self._is_strict:
                raise
            return await compute()
        return await lease.hold(compute, seconds) if text is None else text

    async def _write(self, names: _Names, *command: Any) -> None:
        """Ask Redis to change a value; remember its names if that is not certain to be done."""
        try:
            await self._ask(*command)
        except BaseException as error:  # also a cancellation: the command may have been sent or not
            self._overdue[names] = object()
            if len(self._overdue) > MOST_OVERDUE:
                del self._overdue[next(iter(self._overdue))]
            if self._is_strict or not isinstance(error, Unavailable):
                raise

    async def _ask(self, *command: Any) -> Any:
        await self._remove_overdue()
        return await self._redis.ask(*command)

    async def _remove_overdue(self) -> None:
        while self._overdue:
            some = dict(islice(self._overdue.items(), AT_ONCE))
            await self._redis.ask(b"DEL", *chain.from_iterable(some))
            for names, mark in some.items():
                if self._overdue.get(names) is mark:  # or else another change was not certain
                    del self._overdue[names]

    def _names(self, key: str) -> _Names:
        """Return the names of the value and of the lease of a key."""
        return f"{self._root}:cache:{key}", f"{self._root}:computing:{key}"


class _Lease:
    """A lease of one computation: the right to keep its result."""

    def __init__(self, ask: Callable[..., Awaitable[Any]], names: _Names) -> None:
        self._ask = ask
        self._names = names
        self._owner = token_hex(8)

    async def acquire(self, fits: Callable[[bytes], bool]) -> bytes | None:
        """Return the value as soon as there is one that fits, or ``None`` with the lease.

        Raises `Unavailable`.
        """
        unfit, pause = b"", FIRST_PAUSE
        while True:
            try:
                answer = await self._run(ACQUIRE, _milliseconds(LEASE), unfit)
            except anyio.get_cancelled_exc_class():  # Redis may have given the lease
                await self._release()
                raise
            if isinstance(answer, list):
                text: bytes = answer[0]
                if fits(text):
                    return text
                unfit = text
            elif answer:
                return None
            else:
                await anyio.sleep(uniform(pause / 2, pause))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def hold(self, compute: Callable[[], Awaitable[bytes]], seconds: float) -> bytes:
        """Return the result of ``compute``; keep it for ``seconds`` if the lease is not lost."""
        has_to_release = True
        try:
            text = await self._renewed(compute)
            with suppress(Unavailable):  # then the next who asks computes it again
                await self._run(KEEP, text, _milliseconds(seconds))
            has_to_release = False
            return text
        finally:
            if has_to_release:
                await self._release()

    async def _release(self) -> None:
        with anyio.move_on_after(TIME_TO_RELEASE, shield=True):
            with suppress(Unavailable, RedisError):
                await self._run(RELEASE)

    async def _renewed(self, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the result of ``compute``, during which the lease is renewed."""
        results: list[bytes] = []
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew)
            try:
                results.append(await compute())
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # which the task group would wrap
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return results[0]

    async def _renew(self) -> None:
        is_owner = True
        while is_owner:
            await anyio.sleep(LEASE / 3)
            with suppress(Unavailable, RedisError):
                is_owner = bool(await self._run(RENEW, _milliseconds(LEASE)))

    async def _run(self, script: str, *values: Any) -> Any:
        return await self._ask(b"EVAL", script, 2, *self._names, self._owner, *values)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
