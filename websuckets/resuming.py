"""Users who continue with their tokens on another connection, and revocations that reach them."""

import logging
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
from dishka import Provider, Scope

from websuckets.clock import WallClock
from websuckets.connections.admission import client_of
from websuckets.exc import NotAuthorized, Unavailable
from websuckets.limits import Limits, limit_text, seconds
from websuckets.protocol.close_codes import REVOKED
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.tasks import Background
from websuckets.security import resumed_user
from websuckets.session import Session, User, UserId, close_unsure, may_be_added
from websuckets.socket import Socket
from websuckets.store import (
    LIFETIME,
    RECORDS_PER_USER,
    MemorySessionStore,
    Record,
    SessionStore,
    key_of,
)

__all__ = ["ResumeProvider", "Resuming"]

logger: logging.Logger = logging.getLogger("websuckets")

LOOKS: Final = 4
"""Number of checks for revocations within `Limits.revocation_lag`."""

LONGEST_LOOK: Final = 10.0
"""Seconds at most between two checks for revocations."""

MINUTE: Final = 60.0


class ResumeProvider(Provider):
    """Provider of `CurrentUser` that lets users continue with their tokens when they reconnect.

    `Session.save` saves a user. Records of users are kept in memory, for ``lifetime`` seconds after
    they were last saved or resumed, and at most ``records_per_user`` of one user; or else in a
    ``store`` of the program's own.
    """

    def __init__(
        self,
        store: SessionStore | None = None,
        *,
        lifetime: float = LIFETIME,
        records_per_user: int = RECORDS_PER_USER,
    ) -> None:
        super().__init__()
        self._own = MemorySessionStore(lifetime, records_per_user) if store is None else None
        if store is None:
            self.provide(self._in_memory, provides=SessionStore, scope=Scope.APP)
        else:
            self.provide(lambda: store, provides=SessionStore, scope=Scope.APP)
        self.provide(resumed_user, scope=Scope.REQUEST)

    def _in_memory(self, clock: WallClock) -> SessionStore:
        """Return the records of all runs of the app, to be kept by the clock of this run."""
        assert self._own is not None
        self._own._clock = clock
        return self._own


class Resuming:
    """The `SessionPersistence` of a running app, which keeps its users in a `SessionStore`."""

    def __init__(
        self, session: Session, store: SessionStore, limits: Limits, background: Background
    ) -> None:
        self._session = session
        self._store = store
        self._start = background.start_soon
        self._lag = seconds(limits.revocation_lag)
        self._between_looks = min(self._lag / LOOKS, LONGEST_LOOK)
        self._limits = limits
        self._guesses: dict[object, _Guesses] = {}  # in this minute, by client
        self._minute_ends = -math.inf
        self._known: int | None = None  # number of revocations that were applied on this node
        self._removals: dict[_Removal, None] = {}  # not confirmed by the store
        self._scope = anyio.CancelScope()

    async def save(self, user: User, data: dict[str, Any]) -> None:
        """Save the user with the attributes ``data``.

        Raises `NotAuthorized` if the user is revoked meanwhile, and the errors of the store.
        """
        try:
            await self._save(user, data)
        except BaseException:
            if user._saved_as is None:
                user.id = None  # the user was about to log in; the client gets the error
            raise

    async def _save(self, user: User, data: dict[str, Any]) -> None:
        id, token = user.id, user.token
        assert id is not None and token is not None
        key = key_of(token)
        again = user._saved_as == key
        while True:
            found = await self._store.load(key)
            if found is None and again and await self._store.revoked({key: id}):
                self._revoke([user])
                raise NotAuthorized
            old = found or Record(id, version=0)
            if old.id != id:
                raise ValueError("session.save(user): its token is that of another user")
            record = Record(id, user.expires_at, old.version + 1, {**old.data, **data})
            if await self._store.save(key, record, again=again):
                break
        if (user.id, user.token) != (id, token):
            await self._store.delete(key, id)
            raise NotAuthorized
        for name, value in data.items():
            setattr(user, name, value)
        user._saved_as = key

    async def forget(self, user: User) -> None:
        id, token, user.id = user.id, user.token, None
        if id is None or token is None:
            return
        key = key_of(token)
        self._session._forget_here(id, key)
        error: Exception | None = None
        # Other nodes are told once the store knows: their clients will try the token again.
        removal = _Removal(id, key)
        for forget in (partial(self._remove, removal), partial(self._forget_elsewhere, key, id)):
            try:
                await forget()
            except Exception as failure:
                error = error or failure
        if error is not None:
            raise error

    async def _forget_elsewhere(self, key: str, id: UserId) -> None:
        assert self._session._other_nodes is not None  # set before this persistence, unset after
        await self._session._other_nodes.forget(id, key)

    async def revoke(self, id: UserId) -> None:
        await self._remove(_Removal(id))

    async def _remove(self, removal: "_Removal") -> None:
        """Remove records from the store; until it has, nobody resumes by them on this node."""
        self._removals[removal] = None
        await self._do(removal)

    async def _do(self, removal: "_Removal") -> None:
        if removal.key is None:
            await self._store.revoke(removal.user_id)
        else:
            await self._store.delete(removal.key, removal.user_id)
        self._removals.pop(removal, None)

    async def resume(self, user: User, token: str) -> None:
        key = key_of(token)
        record, before = None, -1
        guesses = self._guesses_of(client_of(user.socket.remote_address))
        async with guesses.turn():
            while before != self._session._revocations.count:  # again after each new revocation
                before = self._session._revocations.count
                record = await self._store.load(key)
        if record is None:
            guesses.was_unknown(user.socket)
            return
        if any(removal.is_of(record, key) for removal in self._removals):
            return
        if user.id is None:  # else another message of this client was faster
            for name, value in record.data.items():
                if may_be_added(name):
                    setattr(user, name, value)
            user.id, user.token, user.expires_at = record.id, token, record.expires_at
            user._saved_as = key

    async def watch(self) -> None:
        """Check for revocations until `stop`."""
        last_seen = anyio.current_time()
        with self._scope:
            while True:
                if await self._check():
                    last_seen = anyio.current_time()
                elif self._saved() and self._is_late(last_seen):
                    self._close_unsure()
                await anyio.sleep(self._between_looks)

    def _is_late(self, last_seen: float) -> bool:
        """Tell whether the next look at the store may come too late after the last one."""
        return anyio.current_time() + self._between_looks > last_seen + self._lag

    def _close_unsure(self) -> None:
        """Close the connections of all saved users: nobody can tell whether one was revoked."""
        saved = self._saved()
        logger.warning(
            "the store of sessions has been away for too long: closing the connections of %d saved "
            "users (%s)",
            *(len(saved), limit_text("revocation_lag", self._limits.revocation_lag)),
        )
        for user in saved:
            self._start(close_unsure, user)

    def stop(self) -> None:
        """Stop checking for revocations, at the end of the app."""
        self._scope.cancel()

    async def _check(self) -> bool:
        """Check for revocations; return whether the store answers."""
        try:
            with anyio.fail_after(self._between_looks):
                await self._write_to_store()
                count = await self._store.revocations()
                if count != self._known:
                    saved = self._saved()
                    keys = {key: user.id for user, key in saved.items() if user.id is not None}
                    gone = await self._store.revoked(keys)
                    self._revoke(user for user, key in saved.items() if key in gone)
                self._known = count
        except Exception as error:
            if not isinstance(error, Unavailable | TimeoutError):
                log_incident("looking for revocations", error)
            self._known = None  # a revocation may be missing
        return self._known is not None

    async def _write_to_store(self) -> None:
        """Repeat removals that the store has not confirmed: the store may have been away."""
        for removal in list(self._removals):
            await self._do(removal)

    def _saved(self) -> dict[User, str]:
        """Return the users on this node who have a record, each with the key of the record."""
        users = self._session.online.values()
        return {user: user._saved_as for user in users if user._saved_as is not None}

    def _revoke(self, users: Iterable[User]) -> None:
        """Demote the users at once, and close their connections."""
        for user in users:
            user.id = None
            self._start(user.socket.close, *REVOKED)

    def _guesses_of(self, client: object) -> "_Guesses":
        now = anyio.current_time()
        if self._minute_ends <= now:
            self._guesses.clear()
            self._minute_ends = now + MINUTE
        if client not in self._guesses:
            self._guesses[client] = _Guesses(self._limits.unknown_tokens, self._minute_ends)
        return self._guesses[client]


@dataclass(frozen=True, eq=False, slots=True)
class _Removal:
    """A removal of one record from the store, or of all records of a user (no key)."""

    user_id: UserId
    key: str | None = None

    def is_of(self, record: Record, key: str) -> bool:
        """Return whether the removal is one of this record, which is kept by ``key``."""
        return self.user_id == record.id if self.key is None else self.key == key


class _Guesses:
    """Tokens that one client tries within a minute.

    A known token is always accepted: others at its address must not lock it out. So past the limit
    tokens are still looked up, but one at a time, and unknown tokens get another error.
    """

    def __init__(self, most: int | None, minute_ends: float) -> None:
        self._most = most
        self._left = math.inf if most is None else most
        self._minute_ends = minute_ends
        self._looking = 0
        self._lock = anyio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a turn to look up a token: alone, if running lookups might use up the limit."""
        if self._looking >= self._left:
            async with self._lock:
                yield
            return
        self._looking += 1
        try:
            yield
        finally:
            self._looking -= 1

    def was_unknown(self, socket: Socket) -> None:
        """Count an unknown token, of this connection. Raises `NotAuthorized` past the limit."""
        self._left -= 1
        if self._left == -1:
            logger.info(
                "too many unknown tokens within a minute came from the address of %s (%s)",
                *(socket.id, limit_text("unknown_tokens", self._most)),
            )
        if self._left < 0:
            after = self._minute_ends - anyio.current_time()
            raise NotAuthorized("rate limited", {"retry_after": max(1, math.ceil(after))})
