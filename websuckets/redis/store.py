"""The session store of Redis."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic_core import to_json

from websuckets.redis.foreign import Foreign
from websuckets.redis.line import AT_ONCE, Line
from websuckets.session import UserId
from websuckets.store import Record

__all__ = ["RedisSessionStore"]

OF_KIND: Final = """
local function is_of_kind(key, kind)
    local found = redis.call('TYPE', key)['ok']
    if found == 'none' or found == kind then return true end
    redis.call('DEL', key)
    return false
end
"""
"""Begins every script: what is of another kind than ours, is removed."""

LOAD: Final = """
if not is_of_kind(KEYS[1], 'hash') then return {'', '', ''} end
return redis.call('HMGET', KEYS[1], 'version', 'record')
"""

DROP: Final = """
if not is_of_kind(KEYS[1], 'hash') then return end
if (redis.call('HGET', KEYS[1], 'record') or '') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
"""If it is still what was found to be none."""

SAVE: Final = """
local is_ours = is_of_kind(KEYS[2], 'set')
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
if version == '0' then
    if ARGV[6] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
    for _, key in ipairs(redis.call('SMEMBERS', KEYS[2])) do
        if redis.call('EXISTS', ARGV[7] .. key) == 0 then redis.call('SREM', KEYS[2], key) end
    end
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return is_ours and 1 or 2
"""
"""Compare, and set: nobody comes in between. With the first of a record, those of the same user
that have ended are taken off the list."""

REVOKE: Final = """
local is_ours = is_of_kind(KEYS[1], 'set')
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
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

LOOK: Final = """
if not is_of_kind(KEYS[1], 'string') then return '' end
return redis.call('GET', KEYS[1]) or '0'
"""

LONGEST_COUNT: Final = 20
"""Digits: Redis counts with 64 bits."""


class RedisSessionStore:
    """Keeps a hash for each record, of its version and its JSON, and a set of keys for each user.

    It lives as long as the container, and works by the line of the broker, while that runs.
    """

    def __init__(self, line: Line, prefix: str, foreign: Foreign, lifetime: float) -> None:
        self._line = line
        self._prefix = prefix
        self._foreign = foreign
        self._lifetime = round(lifetime * 1000)

    async def load(self, key: str) -> Record | None:
        name = self._record(key)
        version, text, *foreign = await self._run(LOAD, [name])
        if version is None and text is None:
            return None
        record = None if foreign else _read(version, text)
        if record is None:
            self._foreign.found(name)
        if record is None or record.is_over:
            await self._run(DROP, [name], text or b"")
            return None
        await self._line.ask(b"PEXPIRE", name, self._lifetime)
        await self._line.ask(b"PEXPIRE", self._keys_of(record.id), self._lifetime)
        return record

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        names = (self._record(key), self._keys_of(record.id), self._mark(record.id))
        versions = (record.version - 1, record.version)
        values = (record.encode(), self._lifetime, key, int(again), self._record(""))
        return self._was_done(await self._run(SAVE, names, *versions, *values), names[1])

    async def delete(self, key: str, user_id: UserId) -> None:
        await self._line.ask(b"DEL", self._record(key))
        await self._line.ask(b"SREM", self._keys_of(user_id), key)

    async def revoke(self, user_id: UserId) -> None:
        names = (self._keys_of(user_id), self._mark(user_id), self._counter)
        done = await self._run(REVOKE, names, self._record(""), self._lifetime)
        self._was_done(done, names[0])

    async def revocations(self) -> int:
        count = await self._run(LOOK, [self._counter])
        if count.isdigit() and len(count) <= LONGEST_COUNT:
            return int(count)
        self._foreign.found(self._counter)
        return 0

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        keys, gone = list(users), set[str]()
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            kept = await self._line.ask_all((b"EXISTS", self._record(key)) for key in some)
            lost = [key for key, is_kept in zip(some, kept, strict=True) if not is_kept]
            marks = await self._line.ask_all((b"EXISTS", self._mark(users[key])) for key in lost)
            gone.update(key for key, is_marked in zip(lost, marks, strict=True) if is_marked)
        return gone

    async def _run(self, script: str, names: Sequence[str], *values: Any) -> Any:
        return await self._line.ask(b"EVAL", OF_KIND + script, len(names), *names, *values)

    def _was_done(self, done: int, where: str) -> bool:
        """Whether a script did what it is for; 2 says that something was in its way."""
        if done > 1:
            self._foreign.found(where)
        return done > 0

    def _record(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    def _keys_of(self, user_id: UserId) -> str:
        return f"{self._prefix}:keys:{to_json(user_id).decode()}"

    def _mark(self, user_id: UserId) -> str:
        return f"{self._prefix}:revoked:{to_json(user_id).decode()}"

    @property
    def _counter(self) -> str:
        return f"{self._prefix}:revocations"


def _read(version: bytes | None, text: bytes | None) -> Record | None:
    """What the fields of a hash say, if that is a record."""
    if version is None or text is None or not version.isdigit() or len(version) > LONGEST_COUNT:
        return None
    try:
        # Its field is what is compared, whatever else somebody has written there.
        return replace(Record.decode(text), version=int(version))
    except ValueError:
        return None
