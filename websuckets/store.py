"""Records of verified users that outlive their connections."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from time import time
from typing import Any, Final, Generic, Protocol, TypeVar

from pydantic_core import from_json, to_json

from websuckets.clock import SYSTEM_CLOCK, WallClock
from websuckets.session import UserId, is_user_id

__all__ = ["MemorySessionStore", "Record", "SessionStore", "key_of"]

Key = TypeVar("Key")
Value = TypeVar("Value")

SCHEMA: Final = 1
"""Version of the JSON of a record; JSON of another version is not a record."""

LIFETIME: Final = 24 * 60 * 60.0
"""Seconds that a record is kept after it was last saved or resumed."""

RECORDS_PER_USER: Final = 1000
"""Records of one user that are kept at once."""


@dataclass(frozen=True, slots=True)
class Record:
    """A verified user, as it was saved."""

    id: UserId
    expires_at: float | None = None
    version: int = 1
    """Number of the change: 1 for the first record, and one more with each change."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that the program saved with the user."""

    @property
    def is_over(self) -> bool:
        """True if the time of the user is over, by the clock of the system."""
        return self.is_over_at(time())

    def is_over_at(self, moment: float) -> bool:
        """Tell whether the time of the user is over at ``moment``, in seconds since the epoch."""
        return self.expires_at is not None and self.expires_at <= moment

    def encode(self) -> bytes:
        """Return the record as JSON that `decode` reads.

        Raises `ValueError` for data that JSON cannot hold: objects, infinite numbers, deep nesting.
        """
        text, _ = _checked(self)
        return text

    @classmethod
    def decode(cls, text: bytes) -> "Record":
        """Return the record in this JSON.

        Raises `ValueError` for text that is not a record of this framework.
        """
        content = from_json(text, allow_inf_nan=False)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError("no record of this schema")
        id, expires_at = content.get("id"), content.get("expires_at")
        version, data = content.get("version"), content.get("data")
        if (
            not is_user_id(id)
            or type(expires_at) not in (float, int, type(None))
            or type(version) is not int
            or type(data) is not dict
        ):
            raise ValueError("no record")
        return cls(id, expires_at, version, data)


class SessionStore(Protocol):
    """A store of records by keys made of tokens, for some time; all nodes of an app share it.

    Every method raises `Unavailable` while the store is away.
    """

    async def load(self, key: str) -> Record | None:
        """Return the record of ``key``, if its time is not over; its lifetime begins anew.

        An entry that is not a record is removed.
        """
        ...

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        """Write a record over its previous version, or the first where there is none.

        ``again`` says that the user was saved by this key before: no record is written where the
        previous one was deleted, or its user revoked. Return whether the record was written.

        Raises `ValueError` for a record that `Record.encode` refuses.
        """
        ...

    async def delete(self, key: str, user_id: UserId) -> None:
        """Delete the record of ``key``, which belongs to the user ``user_id``.

        The store remembers for a record's lifetime that the record was deleted.
        """
        ...

    async def revoke(self, user_id: UserId) -> None:
        """Delete all records of the user ``user_id``.

        The store remembers for a record's lifetime that the user was revoked.
        """
        ...

    async def revocations(self) -> int:
        """Return a number that changes with each call of `revoke`."""
        ...

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        """Return the keys of ``users`` without a record because it was deleted or its user revoked.

        The keys of records that have only ended are not among them.
        """
        ...


def key_of(token: str) -> str:
    """Return the key of a token, from which a reader of the store cannot learn the token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class MemorySessionStore:
    """A session store in this process, whose apps may share it; a restart loses all records.

    ``lifetime`` is in seconds. ``records_per_user`` records of one user are kept: one more replaces
    the record that was not used for longest. No call becomes slower because records of other users
    are kept. Times are those of ``clock``.

    Raises `ValueError` for numbers that are not positive and finite.
    """

    def __init__(
        self,
        lifetime: float = LIFETIME,
        records_per_user: int = RECORDS_PER_USER,
        *,
        clock: WallClock = SYSTEM_CLOCK,
    ) -> None:
        if not (0 < lifetime < math.inf and 1 <= records_per_user < math.inf):
            raise ValueError(f"{lifetime=}, {records_per_user=}: both are positive and finite")
        self._clock = clock
        self._most = records_per_user
        self._records: _Lasting[str, Record] = _Lasting(lifetime)
        self._keys: dict[UserId, dict[str, None]] = {}  # by user; the least recently used first
        self._revoked: _Lasting[UserId, None] = _Lasting(lifetime)
        self._deleted: _Lasting[str, None] = _Lasting(lifetime)
        self._revocations = 0

    async def load(self, key: str) -> Record | None:
        self._forget_old()
        record = self._remove(key)
        if record is None or record.is_over_at(self._clock.time()):
            return None
        self._put(key, record)
        return _copied(record)

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        self._forget_old()
        record = _copied(record)
        old = self._records.get(key)
        if (0 if old is None else old.version) != record.version - 1:
            return False
        if again and old is None and (record.id in self._revoked or key in self._deleted):
            return False
        self._deleted.remove(key)
        self._remove(key)
        self._put(key, record)
        if len(self._keys[record.id]) > self._most:
            self._remove(next(iter(self._keys[record.id])))
        return True

    async def delete(self, key: str, user_id: UserId) -> None:
        self._forget_old()
        self._remove(key)
        self._deleted.put(key, None, self._clock.time())

    async def revoke(self, user_id: UserId) -> None:
        self._forget_old()
        self._revocations += 1
        self._revoked.put(user_id, None, self._clock.time())
        for key in list(self._keys.get(user_id, ())):
            self._remove(key)

    async def revocations(self) -> int:
        return self._revocations

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        self._forget_old()
        gone = {key for key, id in users.items() if id in self._revoked or key in self._deleted}
        return {key for key in gone if key not in self._records}

    def _put(self, key: str, record: Record) -> None:
        self._records.put(key, record, self._clock.time())
        self._keys.setdefault(record.id, {})[key] = None

    def _remove(self, key: str) -> Record | None:
        record = self._records.remove(key)
        if record is not None:
            self._forget_key(key, record)
        return record

    def _forget_key(self, key: str, record: Record) -> None:
        keys = self._keys[record.id]
        del keys[key]
        if not keys:
            del self._keys[record.id]

    def _forget_old(self) -> None:
        now = self._clock.time()
        for key, record in self._records.forget_old(now):
            self._forget_key(key, record)
        for marks in (self._revoked, self._deleted):
            marks.forget_old(now)


class _Lasting(Generic[Key, Value]):
    """Values in the order in which they were put, each kept for ``lifetime`` seconds."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._values: dict[Key, tuple[Value, float]] = {}  # with their ends; the oldest first

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key) -> Value | None:
        value, _ = self._values.get(key, (None, 0.0))
        return value

    def put(self, key: Key, value: Value, now: float) -> None:
        self._values.pop(key, None)
        self._values[key] = (value, now + self._lifetime)

    def remove(self, key: Key) -> Value | None:
        value, _ = self._values.pop(key, (None, 0.0))
        return value

    def forget_old(self, now: float) -> list[tuple[Key, Value]]:
        """Remove and return the values whose lifetime is over."""
        old = list(takewhile(lambda item: item[1][1] <= now, self._values.items()))
        for key, _ in old:
            del self._values[key]
        return [(key, value) for key, (value, _) in old]


def _copied(record: Record) -> Record:
    """Return a copy of the record by way of its JSON, so that it acts as in any other store."""
    _, copy = _checked(record)
    return copy


def _checked(record: Record) -> tuple[bytes, Record]:
    """Return the JSON of a record, and the record that is read from that JSON.

    Raises `ValueError` for a record that JSON cannot hold.
    """
    content = {"schema": SCHEMA, "id": record.id, "expires_at": record.expires_at}
    text = to_json({**content, "version": record.version, "data": record.data})
    try:
        return text, Record.decode(text)
    except ValueError:
        raise ValueError(
            "a record that is saved may hold what JSON can: no infinite numbers or NaN, neither in "
            "its data nor as expires_at, and nothing that is nested too deep"
        ) from None
