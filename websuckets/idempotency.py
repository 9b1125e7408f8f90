"""Idempotency of commands: stores of the replies of commands that take effect once.

A command that is declared with ``once=True`` and sent with a ``key`` runs at most once for its
owner and this key; sent again, it gets the first reply. A store keeps these replies, and gives the
right to run a command: the claim. An app uses one object of the store for each message, in this
order:

1. `IdempotencyStore.claim`, when the guards have passed and the payload is valid;
2. the handler runs;
3. `IdempotencyStore.complete`, with the reply, while the scope of the message is still open;
4. the scope closes, and with it the transaction of the handler;
5. `IdempotencyStore.settle`, which says whether the scope closed without an error.

A store that shares the transaction of the handler writes the reply in step 3, so that effect and
reply are committed together. A store that does not share the transaction writes the reply in step
5; when the process dies between 4 and 5, the command runs again.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import anyio

__all__ = [
    "IdempotencyStore",
    "MemoryIdempotencyStore",
    "MemoryReplies",
    "RetryingStore",
    "StoredReply",
]

LIFETIME: Final = 86_400.0
"""Seconds for which a reply is kept after its command has taken effect: a day."""

ENTRIES: Final = 100_000
"""Replies that one process keeps in its memory, at most."""

BYTES: Final = 64 * 1024 * 1024
"""Bytes of all replies that one process keeps in its memory, at most: 64 MiB."""

OVERHEAD: Final = 512
"""Bytes that are counted for each reply beside its texts: the hash, the objects, their places."""


@dataclass(frozen=True, slots=True)
class StoredReply:
    """The final reply of a command that has taken effect."""

    fingerprint: bytes
    """SHA-256 of the command's name and payload: 32 bytes."""
    frame: str = field(repr=False)
    """The reply as a JSON text without an ``id``; empty for the acknowledgement of a command that
    returned nothing, which is sent to clients that gave an ``id`` alone."""


class IdempotencyStore(Protocol):
    """Store of the replies of commands that take effect once (REQUEST scope).

    Each message gets an object of its own from a provider, which the program may replace like any
    other. An object is used for one command: the methods are called in the order in which they
    stand here, each at most once.
    """

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        """Claim the right to run a command; return its reply if the command has run before.

        ``owner`` is the id of the verified user with its type, as ``"str:ann"``; it is empty for a
        command that is open to everybody. ``key`` has from 1 to 128 characters. ``fingerprint`` is
        that of `StoredReply`; the caller compares the two.

        Waits while another message with this owner and key has the claim, on any node, until that
        message is settled; the caller bounds the time by a cancellation. Raises `Unavailable` if
        the store cannot be reached.
        """
        ...

    async def complete(self, reply: StoredReply) -> None:
        """Take the reply of the command whose handler has returned.

        Called only with the claim, before the scope of the message closes. Raises any error if the
        claim has been lost, so that the effect of the command is rolled back.
        """
        ...

    async def settle(self, committed: bool) -> None:
        """Keep the reply if the scope closed without an error; else give the claim back.

        Called once for each `claim` that did not return a reply, also if `claim` raised an error or
        was cancelled. The scope of the message has been closed, and so have the objects that this
        store depends on. Raises any error if the effect of the command is known not to have been
        committed; the client then gets an error.
        """
        ...


@runtime_checkable
class RetryingStore(IdempotencyStore, Protocol):
    """Store that knows errors after which the same command may succeed, such as a deadlock."""

    def retry_after(self, error: BaseException, attempt: int) -> float | None:
        """Return the seconds after which the command runs again; ``None`` to give up.

        ``error`` was raised by the store, the handler, a dependency or the end of the scope.
        ``attempt`` counts the runs of the command so far, from 1. The command runs again in a new
        scope, within the time of its one timeout.
        """
        ...


_Name: TypeAlias = tuple[str, str]
"""Owner and key."""


class _Kept(NamedTuple):
    """A reply, the monotonic time of its end, and the bytes that were counted for it."""

    reply: StoredReply
    end: float
    size: int


class MemoryReplies:
    """Replies that one process keeps, for `MemoryIdempotencyStore` (APP scope).

    A reply is kept for ``lifetime`` seconds, and at most ``entries`` replies with ``size`` bytes of
    memory in all: the oldest reply makes room. Raises `ValueError` for numbers that are not
    positive.
    """

    def __init__(
        self, *, lifetime: float = LIFETIME, entries: int = ENTRIES, size: int = BYTES
    ) -> None:
        if not (lifetime > 0 and entries > 0 and size > 0):
            raise ValueError(f"MemoryReplies({lifetime=}, {entries=}, {size=}): above 0")
        self._lifetime = lifetime
        self._most = entries
        self._most_bytes = size
        self._bytes = 0
        self._kept: OrderedDict[_Name, _Kept] = OrderedDict()  # the oldest first, which ends first
        self._claimed: dict[_Name, anyio.Event] = {}

    async def claim(self, name: _Name) -> StoredReply | None:
        """Return the reply, or ``None`` with the claim, as soon as nobody else has the claim.

        ``name`` is the owner and the key.
        """
        while (settled := self._claimed.get(name)) is not None:
            await settled.wait()
        kept = self._kept.get(name)
        if kept is not None:
            if kept.end > time.monotonic():
                return kept.reply
            self._remove(name)
        self._claimed[name] = anyio.Event()
        return None

    def check(self, name: _Name, reply: StoredReply) -> None:
        """Raise `ValueError` for a reply that would not be kept even if it were the only one.

        ``name`` counts as a part of ``reply``.
        """
        if _size_of(name, reply) > self._most_bytes:
            raise ValueError(
                "the reply of a command that takes effect once has more bytes than MemoryReplies "
                f"keeps in all ({self._most_bytes})"
            )

    def settle(self, name: _Name, reply: StoredReply | None) -> None:
        """Give back the claim of ``name``; keep ``reply`` if there is one."""
        if reply is not None:
            end, size = time.monotonic() + self._lifetime, _size_of(name, reply)
            self._kept[name] = _Kept(reply, end, size)
            self._bytes += size
            self._make_room()
        self._claimed.pop(name).set()

    def _make_room(self) -> None:
        """Remove replies that are too old, and then the oldest ones over the bounds."""
        now = time.monotonic()
        while self._kept:
            name, oldest = next(iter(self._kept.items()))
            fits = len(self._kept) <= self._most and self._bytes <= self._most_bytes
            if fits and oldest.end > now:
                break
            self._remove(name)

    def _remove(self, name: _Name) -> None:
        self._bytes -= self._kept.pop(name).size

    def __repr__(self) -> str:
        return f"MemoryReplies({len(self._kept)})"


def _size_of(name: _Name, reply: StoredReply) -> int:
    """Return the bytes of memory: a character takes from 1 to 4 of them."""
    return OVERHEAD + sum(getsizeof(text) for text in (*name, reply.frame))


class MemoryIdempotencyStore:
    """An `IdempotencyStore` of this process alone, which forgets everything when it ends.

    It is the default. A client that sends a command again to another node, or after a restart, is
    not recognised: use ``RedisProvider(url, once=True)`` or ``SqlProvider`` there. A reply that has
    more bytes than ``replies`` keep in all is a `ValueError` of `complete`.
    """

    def __init__(self, replies: MemoryReplies) -> None:
        self._replies = replies
        self._name: _Name | None = None  # while this object has the claim
        self._reply: StoredReply | None = None

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        name = owner, key
        reply = await self._replies.claim(name)
        if reply is None:
            self._name = name
        return reply

    async def complete(self, reply: StoredReply) -> None:
        assert self._name is not None, "it has the claim"
        self._replies.check(self._name, reply)
        self._reply = reply

    async def settle(self, committed: bool) -> None:
        if self._name is not None:
            self._replies.settle(self._name, self._reply if committed else None)
            self._name = None
