"""What is kept of verified users beyond their connections, so that they can go on with another."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any, Final, Protocol

from pydantic_core import from_json, to_json

from websuckets.session import UserId

__all__ = ["MemorySessionStore", "Record", "SessionStore", "key_of"]

SCHEMA: Final = 1
"""Of a record's JSON; records of others are none."""

LIFETIME: Final = 24 * 60 * 60.0
"""Seconds that a record is kept after it was last saved or resumed."""


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
        """As JSON. Raises ``pydantic_core.PydanticSerializationError`` for data without one."""
        content = {"schema": SCHEMA, "id": self.id, "expires_at": self.expires_at}
        return to_json({**content, "version": self.version, "data": self.data})

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
        of a revocation, nothing is written. Whether it was.
        """
        ...

    async def delete(self, key: str, user_id: UserId) -> None:
        """Forget one record."""
        ...

    async def revoke(self, user_id: UserId) -> None:
        """Forget all records of this user, but not that they were revoked."""
        ...

    async def revocations(self) -> int:
        """A number that is another one after each of them."""
        ...

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        """Which of these keys belong to nobody any more because of a revocation."""
        ...


def key_of(token: str) -> str:
    """By it nobody who reads the store learns the token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class MemorySessionStore:
    """Keeps them in this process, whose apps may share it; a restart forgets everybody."""

    def __init__(self, lifetime: float = LIFETIME) -> None:
        self._lifetime = lifetime
        self._records: dict[str, tuple[Record, float]] = {}  # until when; the oldest come first
        self._revoked: dict[UserId, float] = {}  # until when that is remembered
        self._revocations = 0

    async def load(self, key: str) -> Record | None:
        self._forget_old()
        record, _ = self._records.pop(key, (None, 0.0))
        if record is None or record.is_over:
            return None
        self._records[key] = (record, time() + self._lifetime)
        return _copied(record)

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        self._forget_old()
        record = _copied(record)
        old, _ = self._records.get(key, (None, 0.0))
        if (0 if old is None else old.version) != record.version - 1:
            return False
        if again and old is None and record.id in self._revoked:
            return False
        self._records.pop(key, None)
        self._records[key] = (record, time() + self._lifetime)
        return True

    async def delete(self, key: str, user_id: UserId) -> None:
        self._records.pop(key, None)

    async def revoke(self, user_id: UserId) -> None:
        self._revocations += 1
        self._revoked[user_id] = time() + self._lifetime
        for key, (record, _) in list(self._records.items()):
            if record.id == user_id:
                del self._records[key]

    async def revocations(self) -> int:
        return self._revocations

    async def revoked(self, users: Mapping[str, UserId]) -> set[str]:
        self._forget_old()
        return {k for k, id in users.items() if k not in self._records and id in self._revoked}

    def _forget_old(self) -> None:
        now = time()
        self._revoked = {id: until for id, until in self._revoked.items() if until > now}
        while self._records:
            key, (_, until) = next(iter(self._records.items()))
            if until > now:
                break
            del self._records[key]


def _copied(record: Record) -> Record:
    """As it comes from any other store: what is no JSON cannot be kept, and nothing is shared."""
    return Record.decode(record.encode())
