"""Store of Redis for commands that take effect once: claims with a lease, and replies.

The problem: a command that is sent again must not take effect again, whichever node gets it, and
the node that runs it may die at any moment. Redis does not share the transaction of the handler, so
effect and reply are stored one after the other.

The solution: one key of Redis for each owner and key of a command, which has the claim while the
command runs, and then the reply.

- A claim has a random id of its own and a lease of `LEASE` seconds. A task of the node renews the
  leases of all its claims while their commands run. A node that dies, or that Redis cannot hear,
  renews nothing: the claim is free when the lease is over.
- `complete` asks Redis, before the effect is committed, if the claim is still this one, and begins
  the lease anew. A claim that is lost, because the process was stopped for longer than the lease or
  Redis has lost its data, is an error: the effect is rolled back, and the client may send the
  command again.
- `settle` puts the reply in the place of the claim, unless another message has taken the key
  meanwhile. If Redis does not answer, the effect has happened all the same, and the client gets its
  success: the node keeps the reply, gives it to those who send the command again to this node, and
  tries to store it for `TIME_TO_STORE` seconds.
- Messages with the same key wait on their own node for each other; one of them at a time asks Redis
  again and again, with growing pauses, for the reply or the claim of another node.

The guarantee: a command takes effect at most once while its node lives and keeps its lease. It may
take effect again if, between the commit of the effect and the storing of the reply,

- the process dies;
- the lease is lost: the process is stopped, or Redis away, for longer than the lease;

and if Redis loses what it has stored: by a restart without persistence, by a failover to a replica
that has not got it yet, or by evicting keys. Each such case that the node can see is logged. A
store that shares the transaction of the handler has no such window.

The name of a key has the SHA-256 of owner and key instead of the two, because ids of users and keys
of commands open to everybody are not for readers of Redis. A reply is stored as it is.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, Protocol

import anyio
from coredis.exceptions import RedisError

from websuckets.exc import Unavailable
from websuckets.idempotency import LIFETIME, StoredReply
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import AT_ONCE, Command
from websuckets.redis.scripts import OF_KIND
from websuckets.runtime.jitter import uniform

__all__ = ["RedisClaims", "RedisIdempotencyStore"]

logger: logging.Logger = logging.getLogger("websuckets")

LEASE: Final = 10.0
"""Seconds for which a claim is good."""

RENEWAL: Final = LEASE / 3
"""Seconds between two renewals of all claims."""

LONGEST_LEASE: Final = 3600.0
"""Seconds; a claim that lasts for longer was not written by a node, of whichever version."""

RETRY: Final = 0.5
"""Seconds before the next attempt where Redis did not answer."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2
"""Seconds between two questions for a claim that another node has, at first and at most."""

TIME_TO_SETTLE: Final = 1.0
"""Seconds that a message waits for Redis when it is settled."""

TIME_TO_STORE: Final = 60.0
"""Seconds for which a node tries to store the reply of an effect while Redis does not answer.

Commands begin only while Redis answers, so those that were running then bound the number of these
replies.
"""

AWAY: Final = (Unavailable, RedisError)
"""Errors that say that Redis is away, or refuses: they are logged where they are found."""

FINGERPRINT: Final = 32
"""Bytes of a fingerprint."""

ID: Final = 16
"""Bytes of the id of a claim."""

REPLACED: Final = 2
"""Answer of a script that has replaced what no node has written; 1 if there was no such thing."""

STATE: Final = (
    OF_KIND
    + f"""
local REPLACED = {REPLACED}
local function state_of(key)
    if not is_of_kind(key, 'string') then return 'foreign' end
    local found = redis.call('GET', key)
    if not found then return 'none' end
    local kind = string.sub(found, 1, 1)
    if kind == 'r' and #found >= {1 + ID + FINGERPRINT} then return 'reply', found end
    if kind == 'c' and #found == {1 + ID} then
        local left = redis.call('PTTL', key)
        if left >= 0 and left <= {round(LONGEST_LEASE * 1000)} then return 'claim', found end
    end
    return 'foreign'
end
"""
)
"""Function that tells what a key has: a claim, ``c`` and its id; a reply, ``r``, the id of its
claim, the fingerprint and the frame; nothing; or what no node has written."""

CLAIM: Final = (
    STATE
    + """
local state, found = state_of(KEYS[1])
if state == 'reply' and found ~= ARGV[3] then return {found} end
if state == 'claim' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return state == 'foreign' and REPLACED or 1
"""
)
"""Script that reads a reply, or else takes the claim.

A reply that was found to be unfit (the third argument) is taken for missing.
"""

OWNS: Final = (
    OF_KIND
    + """
local function owns(key, claim)
    return is_of_kind(key, 'string') and redis.call('GET', key) == claim
end
"""
)

RENEW: Final = (
    OWNS + "return owns(KEYS[1], ARGV[1]) and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
)

RELEASE: Final = OWNS + "if owns(KEYS[1], ARGV[1]) then redis.call('DEL', KEYS[1]) end"

STORE: Final = (
    STATE
    + """
local state, found = state_of(KEYS[1])
if found and found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return state == 'foreign' and REPLACED or 1
"""
)
"""Script that puts a reply in the place of its claim, or of nothing, but of nothing else.

It may run again, as nobody knows if it has run when its answer is lost.
"""


class Tasks(Protocol):
    """Part of a task group that the store uses."""

    def start_soon(self, func: Callable[[], Any], /) -> object:
        """Start a task."""
        ...


@dataclass(eq=False, slots=True)
class _Claim:
    """A claim of one message, which it has, waits for, or had."""

    name: str
    """Name of the key of Redis."""
    id: bytes = field(default_factory=lambda: token_hex(ID // 2).encode())
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set when another message of this node may ask Redis."""
    reply: StoredReply | None = None
    """Reply of the command, once the command is complete."""
    stored: bytes = b""
    """Reply as Redis keeps it."""
    end: float | None = None
    """Time (`anyio.current_time`) up to which the reply is tried to be stored, once that failed."""

    @property
    def value(self) -> bytes:
        """Claim as Redis keeps it."""
        return b"c" + self.id


class RedisClaims:
    """Claims of one node, by the connection of the broker (APP scope).

    Replies are kept for ``lifetime`` seconds.
    """

    def __init__(self, broker: RedisBroker, lifetime: float = LIFETIME) -> None:
        self._redis = broker.redis
        self._root = broker.root
        self._malformed = broker.malformed
        self._lifetime = round(lifetime * 1000)
        self._turns: dict[str, _Claim] = {}  # the one of each name that may ask Redis
        self._held: set[_Claim] = set()  # to be renewed, or to be stored
        self._unstored: dict[str, _Claim] = {}  # by name; their effects have happened
        self._is_keeping = False

    def claim(self, owner: str, key: str) -> _Claim:
        """Return a claim that nobody has asked for yet."""
        # With the length of the owner, so that no other owner and key are the same text.
        text = f"{len(owner)}:{owner}{key}".encode("utf-8", "surrogatepass")
        name = sha256(text).hexdigest()
        return _Claim(f"{self._root}:once:{name}")

    async def acquire(self, claim: _Claim, tasks: Tasks) -> StoredReply | None:
        """Return the reply, or ``None`` as soon as the claim has been given.

        Raises `Unavailable`. A call that raises any error has to be followed by `release`.
        """
        while (other := self._turns.get(claim.name)) is not None:
            await other.settled.wait()
        unstored = self._unstored.get(claim.name)
        if unstored is not None:
            return unstored.reply
        self._turns[claim.name] = claim
        reply = await self._ask_for(claim)
        if reply is None:
            self._hold(claim, tasks)
        else:
            self._end_turn(claim)
        return reply

    async def complete(self, claim: _Claim, reply: StoredReply) -> None:
        """Begin the lease anew. Raises `Unavailable`, also if the claim has been lost."""
        claim.stored = b"r" + claim.id + reply.fingerprint + reply.frame.encode()
        if not await self._redis.ask(*_renewal(claim)):
            # Neither the owner nor the key, which may be secrets.
            logger.warning(
                "a command that takes effect once has lost its claim, and is rolled back: this "
                "process was stopped, or Redis away, for more than %s seconds",
                LEASE,
            )
            raise Unavailable
        claim.reply = reply

    async def store(self, claim: _Claim, tasks: Tasks) -> None:
        """Store the reply; if Redis does not answer now, try again later."""
        answer: int | None = None
        try:
            with anyio.move_on_after(TIME_TO_SETTLE, shield=True), suppress(*AWAY):
                answer = await self._redis.ask(*self._storing(claim))
        finally:  # also for a cancellation that no shield keeps out
            if answer is None:
                logger.warning(
                    "Redis does not answer, so the reply of a command that took effect is not "
                    "stored yet; this node tries for %s seconds",
                    TIME_TO_STORE,
                )
                claim.end = anyio.current_time() + TIME_TO_STORE
                self._unstored[claim.name] = claim
            else:
                self._stored(claim, answer)
            self._end_turn(claim)
            if answer is None:
                with suppress(RuntimeError):  # the app has stopped: nobody can try again
                    self._hold(claim, tasks)

    async def release(self, claim: _Claim) -> None:
        """Give the claim back, if this message has it; a claim that stays ends by itself."""
        self._held.discard(claim)
        if self._turns.get(claim.name) is claim:
            try:
                with anyio.move_on_after(TIME_TO_SETTLE, shield=True), suppress(*AWAY):
                    await self._redis.ask(b"EVAL", RELEASE, 1, claim.name, claim.value)
            finally:
                self._end_turn(claim)

    def _end_turn(self, claim: _Claim) -> None:
        del self._turns[claim.name]
        claim.settled.set()

    async def _ask_for(self, claim: _Claim) -> StoredReply | None:
        unfit, pause = b"", FIRST_PAUSE
        while True:
            values = (claim.value, _milliseconds(LEASE), unfit)
            answer = await self._redis.ask(b"EVAL", CLAIM, 1, claim.name, *values)
            if isinstance(answer, list):
                reply = _read(answer[0])
                if reply is not None:
                    return reply
                unfit = answer[0]
                self._count(REPLACED)
            elif answer:
                self._count(answer)
                return None
            else:
                await anyio.sleep(uniform(pause / 2, pause))
                pause = min(2 * pause, LONGEST_PAUSE)

    def _hold(self, claim: _Claim, tasks: Tasks) -> None:
        """Keep a claim from now on, in a task that ends when there is nothing to keep."""
        self._held.add(claim)
        if not self._is_keeping:
            tasks.start_soon(self._keep)

    async def _keep(self) -> None:
        """Renew leases, and store replies that could not be stored before."""
        if self._is_keeping:
            return
        self._is_keeping, has_answered = True, True
        try:
            while self._held:
                # Soon after a failure: what is left of the leases may be short.
                await anyio.sleep(RENEWAL if has_answered else min(RENEWAL, RETRY))
                held = list(self._held)
                some = [held[start : start + AT_ONCE] for start in range(0, len(held), AT_ONCE)]
                has_answered = all([await self._keep_some(claims) for claims in some])
        finally:
            self._is_keeping = False
            if self._unstored:
                logger.warning(
                    "the app stops before Redis has the replies of %d commands that took effect: "
                    "sent again, they take effect again",
                    len(self._unstored),
                )

    async def _keep_some(self, claims: list[_Claim]) -> bool:
        """Return True if Redis has answered."""
        # A claim may be settled while Redis is asked, so the questions are remembered.
        unstored = [claim.end is not None for claim in claims]
        questions = [
            self._storing(claim) if is_unstored else _renewal(claim)
            for claim, is_unstored in zip(claims, unstored, strict=True)
        ]
        with suppress(*AWAY):
            answers = await self._redis.ask_all(questions)
            for claim, is_unstored, answer in zip(claims, unstored, answers, strict=True):
                if is_unstored:
                    self._stored(claim, answer)
                elif not answer and claim.end is None:  # `complete` tells
                    self._held.discard(claim)
            return True
        for claim in claims:
            if claim.end is not None and claim.end <= anyio.current_time():
                self._forget(claim)
                logger.warning(
                    "Redis did not answer for %s seconds, and does not have the reply of a command "
                    "that took effect: sent again, the command takes effect again",
                    TIME_TO_STORE,
                )
        return False

    def _stored(self, claim: _Claim, answer: int) -> None:
        """Take the answer to `STORE`."""
        self._forget(claim)
        self._count(answer)
        if not answer:
            logger.warning(
                "a command that takes effect once has lost its claim to another message after its "
                "effect was committed: it may have taken effect twice"
            )

    def _count(self, answer: int) -> None:
        """Count what no node has written, if a script has found that."""
        if answer == REPLACED:
            self._malformed.found(f"{self._root}:once")

    def _forget(self, claim: _Claim) -> None:
        self._held.discard(claim)
        if self._unstored.get(claim.name) is claim:
            del self._unstored[claim.name]

    def _storing(self, claim: _Claim) -> Command:
        return (b"EVAL", STORE, 1, claim.name, claim.value, claim.stored, self._lifetime)


class RedisIdempotencyStore:
    """An `IdempotencyStore` of all nodes with the same Redis (REQUEST scope).

    Leases are renewed in ``tasks``, which outlive the message. Read the essay above about what it
    guarantees.
    """

    def __init__(self, claims: RedisClaims, tasks: Tasks) -> None:
        self._claims = claims
        self._tasks = tasks
        self._claim: _Claim | None = None  # that has to be settled

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        self._claim = claim = self._claims.claim(owner, key)
        reply = await self._claims.acquire(claim, self._tasks)
        if reply is not None:
            self._claim = None
        return reply

    async def complete(self, reply: StoredReply) -> None:
        assert self._claim is not None, "it has the claim"
        await self._claims.complete(self._claim, reply)

    async def settle(self, committed: bool) -> None:
        claim, self._claim = self._claim, None
        if claim is None:
            return
        if committed and claim.reply is not None:
            await self._claims.store(claim, self._tasks)
        else:
            await self._claims.release(claim)


def _renewal(claim: _Claim) -> Command:
    return (b"EVAL", RENEW, 1, claim.name, claim.value, _milliseconds(LEASE))


def _read(stored: bytes) -> StoredReply | None:
    """Return a reply as it was stored; ``None`` for bytes that are none."""
    start = 1 + ID
    try:
        frame = stored[start + FINGERPRINT :].decode()
    except UnicodeDecodeError:
        return None
    return StoredReply(stored[start : start + FINGERPRINT], frame)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
