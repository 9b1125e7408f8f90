"""Records of verified users that outlive their connections."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from time import time
from typing import Any, Final, Generic, Protocol, TypeVar

from pydantic_core import from_json, to_json

from websuckets.session import UserId

__all__ = ["MemorySessionStore", "Record", "SessionStore", "key_of"]

Key = TypeVar("Key")
Value = TypeVar("Value")

SCHEMA: Final = 1
"""Of a record's JSON; records of others are none."""

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
    """One more with each change."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the program saved with it."""

    @property
    def is_over(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time()

    def encode(self) -> bytes:
        """Return the record as JSON that `decode` reads.

        Raises `ValueError` for what is none: objects, infinite numbers, what is nested too deep.
        """
        text, _ = _checked(self)
        return text

    @classmethod
    def decode(cls, text: bytes) -> "Record":
        """Raises `ValueError` for what is no record of ours."""
        content = from_json(text, allow_inf_nan=False)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError("no record of this schema")
        id, expires_at = content.get("id"), content.get("expires_at")
        version, data = content.get("version"), content.get("data")
        if (
            type(id) not in (str, int)
            or type(expires_at) not in (float, int, type(None))
            or type(version) is not int
            or type(data) is not dict
        ):
            raise ValueError("no record")
        return cls(id, expires_at, version, data)  # type: ignore[arg-type]  # checked above


class SessionStore(Protocol):
    """Keeps records by keys made of tokens, for some time; shared by all nodes of an app.

    Everything raises `Unavailable` while it is away.
    """

    async def load(self, key: str) -> Record | None:
        """The record, if there is one whose time is not over; its lifetime begins anew.

        What is there but is none, is removed.
        """
        ...

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        """Write it, if what is there is of the version before it, or (for the first) nothing.

        ``again`` says that its user was known here before: where nothing is there any more because
        it was deleted, or its user revoked, nothing is written. Whether it was.

        Raises `ValueError` for what `Record.encode` does.
        """
        ...

    async def delete(self, key: str, user_id: UserId) -> None:
        """Forget one record, but for its lifetime not that it was deleted."""
        ...

    async def revoke(self, user_id: UserId) -> None:
        """Forget all records of this user, but for their lifetime not that they were revoked."""
        ...

    async def revocations(self) -> int:
        """A number that is another one after each call of `revoke`."""
        ...

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        """Which of these keys belong to nobody any more because of a revocation, or because they
        were deleted. Records that have only ended are not among them."""
        ...


def key_of(token: str) -> str:
    """By it nobody who reads the store learns the token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class MemorySessionStore:
    """Keeps them in this process, whose apps may share it; a restart forgets everybody.

    ``lifetime`` is in seconds. Of one user ``records_per_user`` are kept: with one more, the one
    goes that was not used for longest. No call costs more because more is kept.

    Raises `ValueError` for numbers that mean nothing.
    """

    def __init__(
        self, lifetime: float = LIFETIME, records_per_user: int = RECORDS_PER_USER
    ) -> None:
        if not (0 < lifetime < math.inf and records_per_user >= 1):
            raise ValueError(f"{lifetime=}, {records_per_user=}: both are positive and finite")
        self._most = records_per_user
        self._records: _Lasting[str, Record] = _Lasting(lifetime)
        self._keys: dict[UserId, dict[str, None]] = {}  # of each user; the oldest come first
        self._revoked: _Lasting[UserId, None] = _Lasting(lifetime)
        self._deleted: _Lasting[str, None] = _Lasting(lifetime)
        self._revocations = 0

    async def load(self, key: str) -> Record | None:
        self._forget_old()
        record = self._remove(key)
        if record is None or record.is_over:
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
        self._deleted.put(key, None)

    async def revoke(self, user_id: UserId) -> None:
        self._forget_old()
        self._revocations += 1
        self._revoked.put(user_id, None)
        for key in list(self._keys.get(user_id, ())):
            self._remove(key)

    async def revocations(self) -> int:
        return self._revocations

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        self._forget_old()
        gone = {key for key, id in users.items() if id in self._revoked or key in self._deleted}
        return {key for key in gone if key not in self._records}

    def _put(self, key: str, record: Record) -> None:
        self._records.put(key, record)
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
        for key, record in self._records.forget_old():
            self._forget_key(key, record)
        for marks in (self._revoked, self._deleted):
            marks.forget_old()


class _Lasting(Generic[Key, Value]):
    """Values that are kept for one time, in seconds, from when they were put: in that order."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._values: dict[Key, tuple[Value, float]] = {}  # until when; the oldest come first

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key) -> Value | None:
        value, _ = self._values.get(key, (None, 0.0))
        return value

    def put(self, key: Key, value: Value) -> None:
        self._values.pop(key, None)
        self._values[key] = (value, time() + self._lifetime)

    def remove(self, key: Key) -> Value | None:
        value, _ = self._values.pop(key, (None, 0.0))
        return value

    def forget_old(self) -> list[tuple[Key, Value]]:
        """Remove, and return, what was kept for its time."""
        now = time()
        old = list(takewhile(lambda item: item[1][1] <= now, self._values.items()))
        for key, _ in old:
            del self._values[key]
        return [(key, value) for key, (value, _) in old]


def _copied(record: Record) -> Record:
    """As it comes from any other store: what is no JSON cannot be kept, and nothing is shared."""
    _, copy = _checked(record)
    return copy


def _checked(record: Record) -> tuple[bytes, Record]:
    """A record's JSON, and what is read from it. Raises `ValueError` where it cannot be."""
    content = {"schema": SCHEMA, "id": record.id, "expires_at": record.expires_at}
    text = to_json({**content, "version": record.version, "data": record.data})
    try:
        return text, Record.decode(text)
    except ValueError:
        raise ValueError(
            "a record that is saved may hold what JSON can: no infinite numbers or NaN, neither in "
            "its data nor as expires_at, and nothing that is nested too deep"
        ) from None
