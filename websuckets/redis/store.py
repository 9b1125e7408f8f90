"""Session store of Redis."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from pydantic_core import to_json

from websuckets.clock import SYSTEM_CLOCK, WallClock
from websuckets.exc import Unavailable
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import AT_ONCE
from websuckets.redis.scripts import NOW, OF_KIND
from websuckets.session import UserId
from websuckets.store import RECORDS_PER_USER, Record

__all__ = ["RedisSessionStore"]

LOAD: Final = (
    OF_KIND
    + NOW
    + """
if not is_of_kind(KEYS[1], 'hash') then return {'', '', ''} end
local found = redis.call('HMGET', KEYS[1], 'version', 'record', 'user')
if found[3] then
    local keys = ARGV[1] .. found[3]
    redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
    redis.pcall('PEXPIRE', keys, ARGV[2])
    redis.pcall('ZADD', keys, 'XX', now() + ARGV[2], ARGV[3])
end
return {found[1], found[2]}
"""
)
"""Script that reads a record.

The lifetime of the record begins anew, unless Redis cannot write: the record is read all the same.
"""

DROP: Final = (
    OF_KIND
    + """
if not is_of_kind(KEYS[1], 'hash') then return end
if (redis.call('HGET', KEYS[1], 'record') or '') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
)
"""Script that deletes an invalid or expired record, unless it changed after it was read."""

SAVE: Final = (
    OF_KIND
    + NOW
    + """
local is_ours = is_of_kind(KEYS[2], 'zset')
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
if version == '0' then
    if ARGV[6] == '1' and redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then return 0 end
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'record', ARGV[3], 'user', ARGV[8])
redis.call('DEL', KEYS[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], now() + ARGV[4], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now())
while redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[9]) do
    redis.call('DEL', ARGV[7] .. redis.call('ZPOPMIN', KEYS[2])[1])
end
return is_ours and 1 or 2
"""
)
"""Script that compares the version and saves the record in one step.

The list of a user's keys is ordered by the end of their records, so records that have ended, and
records over the bound, stand at the beginning of the list. Where memory is full, Redis refuses only
the first write of a script, so the first write is the one that needs memory.
"""

DELETE: Final = (
    OF_KIND
    + """
is_of_kind(KEYS[2], 'zset')
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], '1', 'PX', ARGV[2])
"""
)

REVOKE: Final = (
    OF_KIND
    + """
local is_ours = is_of_kind(KEYS[1], 'zset')
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    redis.call('DEL', ARGV[1] .. key)
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
local count = redis.pcall('INCR', KEYS[3])
if type(count) == 'table' then
    is_ours = false
    redis.call('SET', KEYS[3], '1')
end
return is_ours and 1 or 2
"""
)

LOOK: Final = (
    OF_KIND
    + """
if not is_of_kind(KEYS[1], 'string') then return '' end
return redis.call('GET', KEYS[1]) or '0'
"""
)

LONGEST_COUNT: Final = 20
"""Number of digits: Redis counts with 64 bits."""


class RedisSessionStore:
    """A session store with a hash for each record, and a list of record keys for each user.

    A hash has the record's version, its JSON, and its user. ``lifetime`` is in seconds;
    ``records_per_user`` bounds the records of one user: over the bound, the record that was not
    used for longest is removed. Users expire by ``clock``; lifetimes end by the time of Redis. The
    store lives as long as the container, and works by the connection of the broker, while the
    broker runs.
    """

    def __init__(
        self,
        broker: RedisBroker,
        lifetime: float,
        records_per_user: int = RECORDS_PER_USER,
        clock: WallClock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._redis = broker.redis
        self._root = broker.root
        self._malformed = broker.malformed
        self._lifetime = round(lifetime * 1000)
        self._most = records_per_user

    async def load(self, key: str) -> Record | None:
        name = self._record(key)
        values = (self._name("keys", ""), self._lifetime, key)
        version, text, *malformed = await self._run(LOAD, [name], *values)
        if version is None and text is None:
            return None
        record = None if malformed else _read(version, text)
        if record is None:
            self._malformed.found(name)
        if record is None or record.is_over_at(self._clock.time()):
            with suppress(Unavailable):  # then the record stays, which changes nothing
                await self._run(DROP, [name], text or b"")
            return None
        return record

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        user = _text(record.id)
        keys = self._name("keys", user)
        names = (self._record(key), keys, self._name("revoked", user), self._forgotten(key))
        versions = (record.version - 1, record.version)
        about = (record.encode(), self._lifetime, key, int(again), self._record(""))
        done = await self._run(SAVE, names, *versions, *about, user, self._most)
        return self._was_done(done, keys)

    async def delete(self, key: str, user_id: UserId) -> None:
        names = (self._record(key), self._name("keys", _text(user_id)), self._forgotten(key))
        await self._run(DELETE, names, key, self._lifetime)

    async def revoke(self, user_id: UserId) -> None:
        user = _text(user_id)
        names = (self._name("keys", user), self._name("revoked", user), self._counter)
        done = await self._run(REVOKE, names, self._record(""), self._lifetime)
        self._was_done(done, names[0])

    async def revocations(self) -> int:
        count = await self._run(LOOK, [self._counter])
        if count.isdigit() and len(count) <= LONGEST_COUNT:
            return int(count)
        self._malformed.found(self._counter)
        return 0

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        keys, gone = list(users), set[str]()
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            kept = await self._redis.ask_all((b"EXISTS", self._record(key)) for key in some)
            lost = [key for key, is_kept in zip(some, kept, strict=True) if not is_kept]
            marks = await self._redis.ask_all(
                (b"EXISTS", self._name("revoked", _text(users[key])), self._forgotten(key))
                for key in lost
            )
            gone.update(key for key, is_marked in zip(lost, marks, strict=True) if is_marked)
        return gone

    async def _run(self, script: str, names: Sequence[str], *values: Any) -> Any:
        return await self._redis.ask(b"EVAL", script, len(names), *names, *values)

    def _was_done(self, done: int, where: str) -> bool:
        """Tell whether a script did its task; 2 says that malformed data was in its way."""
        if done > 1:
            self._malformed.found(where)
        return done > 0

    def _record(self, key: str) -> str:
        return self._name("session", key)

    def _forgotten(self, key: str) -> str:
        return self._name("forgotten", key)

    @property
    def _counter(self) -> str:
        return f"{self._root}:revocations"

    def _name(self, kind: str, what: str) -> str:
        return f"{self._root}:{kind}:{what}"


def _text(user_id: UserId) -> str:
    return to_json(user_id).decode()


def _read(version: bytes | None, text: bytes | None) -> Record | None:
    """Return the record in the fields of a hash; ``None`` if the fields hold no record."""
    if version is None or text is None or not version.isdigit() or len(version) > LONGEST_COUNT:
        return None
    try:
        # Scripts compare the field ``version``, so the field counts, not the JSON.
        return replace(Record.decode(text), version=int(version))
    except ValueError:
        return None
