"""The session store of Redis."""

from collections.abc import Mapping
from typing import Final

from coredis.exceptions import RedisError
from pydantic_core import to_json

from websuckets.redis.foreign import Foreign
from websuckets.redis.line import Line
from websuckets.session import UserId
from websuckets.store import Record

__all__ = ["RedisSessionStore"]

SAVE: Final = """
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
"""
"""Compare, and set: nobody comes in between."""

REVOKE: Final = """
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    redis.call('DEL', ARGV[1] .. key)
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
return redis.call('INCR', KEYS[3])
"""


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
        try:
            text = await self._line.ask(b"HGET", name, "record")
            record = None if text is None else Record.decode(text)
        except (RedisError, ValueError):  # it is of another kind, or no record
            self._foreign.found(name)
            record = None
        if record is None or record.is_over:
            await self._line.ask(b"DEL", name)
            return None
        await self._line.ask(b"PEXPIRE", name, self._lifetime)
        await self._line.ask(b"PEXPIRE", self._keys_of(record.id), self._lifetime)
        return record

    async def save(self, key: str, record: Record) -> bool:
        names = (self._record(key), self._keys_of(record.id))
        versions = (record.version - 1, record.version)
        values = (*versions, record.encode(), self._lifetime, key)
        return bool(await self._line.ask(b"EVAL", SAVE, len(names), *names, *values))

    async def delete(self, key: str, user_id: UserId) -> None:
        await self._line.ask(b"DEL", self._record(key))
        await self._line.ask(b"SREM", self._keys_of(user_id), key)

    async def revoke(self, user_id: UserId) -> None:
        names = (self._keys_of(user_id), self._mark(user_id), self._counter)
        values = (self._record(""), self._lifetime)
        await self._line.ask(b"EVAL", REVOKE, len(names), *names, *values)

    async def revocations(self) -> int:
        count = await self._line.ask(b"GET", self._counter)
        return int(count) if count is not None and count.isdigit() else 0

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        keys = list(users)
        kept = await self._line.ask_all((b"EXISTS", self._record(key)) for key in keys)
        lost = [key for key, is_kept in zip(keys, kept, strict=True) if not is_kept]
        marks = await self._line.ask_all((b"EXISTS", self._mark(users[key])) for key in lost)
        return {key for key, is_marked in zip(lost, marks, strict=True) if is_marked}

    def _record(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    def _keys_of(self, user_id: UserId) -> str:
        return f"{self._prefix}:keys:{to_json(user_id).decode()}"

    def _mark(self, user_id: UserId) -> str:
        return f"{self._prefix}:revoked:{to_json(user_id).decode()}"

    @property
    def _counter(self) -> str:
        return f"{self._prefix}:revocations"
