"""Commands that take effect once: their claims, their stored replies, and their repetition.

The problem: a connection is lost between a commit and its reply, and the client cannot know whether
its command has taken effect. So it sends the command again, with the same ``key``, to this process
or to another one. The command must not run twice, and its client wants the reply of the first run.

The solution has an order, which `_Run.run` keeps to: the scope is opened, and the guards pass; the
payload is validated; the key is claimed in a store; then come the dependencies, the handler, and
its reply, which is given to the store while the scope is still open; the scope closes, and the
store is told how. A store in the handler's own database makes effect and reply one transaction.
See `websuckets.idempotency` for the side of the store.

- A key belongs to its owner, the user as whom the message was authorised, and is good for one
  command with one payload: the fingerprint tells.
- Messages with a key that another message of this process has claimed wait in memory, outside of
  any scope: waiting in a scope, they would hold a connection of the pool each, and the first one
  might need another. So the scope of a message that finds its key taken is closed, and another is
  opened when it is its turn. Its guards run twice; nothing else does.
- A store may say that an error is one of those that another run does not meet again, such as a
  serialisation failure. Then the command runs again in a new scope, within its one timeout.
- A message that gets a stored reply has its scope closed with an error, so that what its guards
  have written is rolled back.

Rejected: to look the reply up before the guards. Whoever is not authorised any more would get it.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
from dishka import AsyncContainer
from pydantic_core import from_json

from websuckets.commands.groups import Command
from websuckets.commands.peer import Peer
from websuckets.commands.results import note_for_result
from websuckets.di.resolver import check_user_of
from websuckets.exc import ClientError, alone
from websuckets.idempotency import IdempotencyStore, RetryingStore, StoredReply
from websuckets.introspection.hints import bare_type, component_of
from websuckets.limits import limit_text
from websuckets.protocol.messages import CommandId, Message, frame_tail
from websuckets.runtime.clock import Timeout
from websuckets.runtime.effects import Effects
from websuckets.runtime.failures import is_failure
from websuckets.runtime.finalisers import Exit
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.once import running_once
from websuckets.runtime.request_scope import RequestScope
from websuckets.security import CurrentUser, check_still_authorised

__all__ = ["Ended", "OnceCommands"]

RETRY_AFTER: Final = 1.0
"""Seconds after which a client may send a command again that is still in progress elsewhere."""

RESERVE: Final = 1.0
"""Seconds before its own deadline at which a message stops waiting for another one; of a timeout of
up to twice this time, half."""

_Name: TypeAlias = tuple[str, str]
"""Owner and key."""


@dataclass(slots=True)
class Ended:
    """The end of a command: its reply, or else at least one error."""

    reply: str | None = None
    failure: BaseException | None = None
    """Error of the command itself."""
    unfinished: BaseException | None = None
    """Failure of its finalisers, or of its store when these had ended."""


class OnceCommands:
    """Runner of the commands that take effect once, for as long as the app runs."""

    def __init__(self) -> None:
        self._turns = _Turns()

    async def run(
        self,
        command: Command,
        timeout: Timeout,
        message: Message,
        frame: str | bytes | None,
        parsed: Any,
        peer: Peer,
        request_scope: RequestScope,
    ) -> Ended:
        """Run a command, or find the reply of its first run.

        ``frame`` and ``parsed`` are the payload as `HandlerCaller` has it. A command without a key
        runs as often as it is sent. Every error is in the result, cancellations and others that
        have to propagate among them.
        """
        begun = anyio.current_time()
        waits_until = begun + _time_to_wait(timeout.seconds)
        times = waits_until, begun + timeout.seconds
        turn: _Name | None = None
        attempt = 0
        try:
            while True:
                mine, turn = turn, None  # the run ends the turn, however the run itself ends
                run = _Run(command, message, peer, request_scope, self._turns, mine, times)
                ended = await run.run(frame, parsed)
                if isinstance(ended.failure, _TakenError):
                    run.log_unfinished(ended)
                    with anyio.move_on_after(waits_until - anyio.current_time()):
                        await self._turns.wait(ended.failure.name)
                        turn = ended.failure.name
                    if turn is None:
                        return Ended(failure=_in_progress())
                    continue
                attempt += 1
                pause = run.retry_after(ended, attempt)
                if pause is None:
                    return ended
                if ended.failure is not None:
                    run.log_unfinished(ended)
                await anyio.sleep(pause)
        except BaseException as error:  # a cancellation, or an error to propagate
            return Ended(failure=error)


class _TakenError(Exception):
    """Another message of this process runs with this owner and key."""

    def __init__(self, name: _Name) -> None:
        super().__init__("another message with this key is handled")
        self.name = name


class _StoredError(Exception):
    """The command has run before; ends the scope of the message, so that it is rolled back."""

    def __init__(self, reply: StoredReply) -> None:
        super().__init__("the command has taken effect before")
        self.reply = reply


class _Run:
    """One run of a command in a scope of its own.

    ``turn`` is the owner and key whose turn the message has waited for. ``times`` are the moment
    until which it may wait for other messages, and that of its own timeout.
    """

    def __init__(
        self,
        command: Command,
        message: Message,
        peer: Peer,
        request_scope: RequestScope,
        turns: "_Turns",
        turn: _Name | None,
        times: tuple[float, float],
    ) -> None:
        self._command = command
        self._message = message
        self._peer = peer
        self._request_scope = request_scope
        self._turns = turns
        self._turn = turn
        self._waits_until, self._ends_at = times
        self._mark = running_once.begin(message.event)
        self._effects = Effects()
        self._store: IdempotencyStore | None = None
        """Store, once its `claim` was called; it has to be settled."""
        self._fingerprint = b""

    async def run(self, frame: str | bytes | None, parsed: Any) -> Ended:
        """Run the command, close its scope, settle its claim, and run its effects."""
        request_scope = self._request_scope
        ended = Ended()
        exits: list[Exit] = []
        try:
            ended.reply = await self._handle(frame, parsed, exits)
        except BaseException as error:
            ended.failure = error
        due = request_scope.pause()
        is_closed = False
        try:
            ended.unfinished = await request_scope.finalise(exits, ended.failure)
            is_closed = True
        finally:
            self._mark.is_over = True
            if not is_closed:
                self._effects.discard()
            try:
                await self._settle(ended, is_closed=is_closed)
            finally:
                if self._turn is not None:
                    self._turns.end(self._turn)
        if ended.failure is None and ended.unfinished is None:
            whose = f"{self._message.event!r:.80}"
            await self._effects.run(whose, request_scope.finalize_timeout)
        else:
            self._effects.discard()
            if isinstance(ended.failure, _StoredError):
                self._replay(ended, ended.failure.reply)
        request_scope.resume(due)
        return ended

    def retry_after(self, ended: Ended, attempt: int) -> float | None:
        """Return the seconds after which the command runs again, as its store says, if it does.

        A `ClientError` is a reply that the program has decided on.
        """
        error = ended.unfinished if ended.failure is None else ended.failure
        if not isinstance(error, Exception) or self._request_scope.is_spent:
            return None
        if isinstance(alone(error), ClientError):
            return None
        store = self._store
        return store.retry_after(error, attempt) if isinstance(store, RetryingStore) else None

    async def _handle(
        self, frame: str | bytes | None, parsed: Any, exits: list[Exit]
    ) -> str | None:
        command, message, peer = self._command, self._message, self._peer
        assert command.once is not None
        injection = command.injection
        values = {Message: message, Effects: self._effects}
        container = peer.scope.request(values, exits, message)
        for guard in injection.guards:
            await container.get(bare_type(guard), component_of(guard))
        user = await self._user(container) if injection.guards else None
        payload = command.once.read_payload(frame, parsed)
        if message.key is not None:
            await self._claim(container, user, message.key, frame, parsed)
        dependencies = await container.get(injection.key) if injection.needs_scope else ()
        if injection.guards:
            check_still_authorised(peer.socket)
        self._mark.is_in_handler = True
        try:
            returned = await command.once.function(peer.socket, *payload, *dependencies)
        finally:
            self._mark.is_in_handler = False
        try:
            text = command.encode.reply(returned, None) or ""
        except Exception as error:
            error.add_note(note_for_result(command.plan.where, "returned", returned))
            raise
        if self._store is not None:
            await self._store.complete(StoredReply(self._fingerprint, text))
        if self._effects.last_step is not None:
            await self._effects.last_step()
        return _reply_to(command, text, message.id)

    async def _user(self, container: AsyncContainer) -> CurrentUser:
        user = await container.get(CurrentUser)
        check_user_of(user, container.registry)
        check_still_authorised(self._peer.socket)
        assert isinstance(user, CurrentUser)
        return user

    async def _claim(
        self,
        container: AsyncContainer,
        user: CurrentUser | None,
        key: str,
        frame: str | bytes | None,
        parsed: Any,
    ) -> None:
        """Claim the key; raise `_TakenError`, `_StoredError`, or a `ClientError`."""
        owner = "" if user is None else f"{type(user.id).__name__}:{user.id}"
        name = owner, key
        if self._turn != name:
            if not self._turns.begin(name):
                raise _TakenError(name)
            if self._turn is not None:  # that of another user, who was verified before
                self._turns.end(self._turn)
            self._turn = name
        self._fingerprint = _fingerprint(self._message.event, frame, parsed)
        store: IdempotencyStore = await container.get(IdempotencyStore)
        self._store = store
        stored: StoredReply | None = None
        # A store gets some time also where guards took so long that no time to wait is left.
        now = anyio.current_time()
        with anyio.move_on_after(
            max(self._waits_until - now, (self._ends_at - now) / 2)
        ) as waiting:
            stored = await store.claim(owner, key, self._fingerprint)
        if waiting.cancelled_caught:
            raise _in_progress()
        if stored is not None:
            self._store = None
            if user is not None:  # maybe verified no longer, if the claim had to wait
                check_still_authorised(self._peer.socket)
            if stored.fingerprint != self._fingerprint:
                raise ClientError("key reused")
            raise _StoredError(stored)

    async def _settle(self, ended: Ended, *, is_closed: bool) -> None:
        """Tell the store how the scope closed; keep its error, which may concern the client."""
        if self._store is None:
            return
        has_succeeded = is_closed and ended.failure is None and ended.unfinished is None
        timeout = self._request_scope.finalize_timeout
        failure: BaseException | None = None
        try:
            with anyio.move_on_after(timeout, shield=True) as life:
                await self._store.settle(has_succeeded)
            if life.cancelled_caught:
                limit = limit_text("finalize_timeout", timeout)
                failure = TimeoutError(
                    f"the idempotency store took more than {timeout} seconds ({limit})"
                )
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = error
        if failure is not None:
            if has_succeeded:
                ended.unfinished = failure
            else:
                log_incident(f"idempotency store of {self._message.event!r:.80}", failure)

    def _replay(self, ended: Ended, stored: StoredReply) -> None:
        """End with a stored reply; what went wrong when the scope was rolled back is logged."""
        self.log_unfinished(ended)
        ended.failure = ended.unfinished = None
        ended.reply = _reply_to(self._command, stored.frame, self._message.id)

    def log_unfinished(self, ended: Ended) -> None:
        """Log the failure of finalisers, if any, of a scope whose end the client is not told."""
        if ended.unfinished is not None:
            log_incident(f"finalisers of {self._message.event!r:.80}", ended.unfinished)


class _Turns:
    """Turns of the messages of this process: of one owner and key, one at a time.

    Nothing is kept of an owner and key that nobody handles or waits for.
    """

    def __init__(self) -> None:
        self._locks: dict[_Name, anyio.Lock] = {}

    def begin(self, name: _Name) -> bool:
        """Begin the turn of the current task, unless another message has it."""
        if name in self._locks:
            return False
        self._locks[name] = lock = anyio.Lock(fast_acquire=True)
        lock.acquire_nowait()
        return True

    async def wait(self, name: _Name) -> None:
        """Wait for the turn of the current task, after those who wait already."""
        lock = self._locks.get(name)
        if lock is None:
            self.begin(name)
            return
        try:
            await lock.acquire()
        except BaseException:  # a cancellation, maybe just after the turn had come
            self._discard_if_over(name, lock)
            raise

    def end(self, name: _Name) -> None:
        """End the turn of the current task."""
        lock = self._locks[name]
        lock.release()
        self._discard_if_over(name, lock)

    def _discard_if_over(self, name: _Name, lock: anyio.Lock) -> None:
        if not lock.locked() and self._locks.get(name) is lock:
            del self._locks[name]


def _time_to_wait(timeout: float) -> float:
    """Return the seconds for which a message with this timeout waits for another message."""
    if timeout == math.inf:
        return timeout
    return timeout - RESERVE if timeout > 2 * RESERVE else timeout / 2


def _in_progress() -> ClientError:
    return ClientError("in progress", {"retry_after": RETRY_AFTER})


def _fingerprint(event: str, frame: str | bytes | None, parsed: Any) -> bytes:
    """Return the SHA-256 of a command's name and payload, whatever the order of its keys."""
    if frame is not None and parsed is None:
        parsed = from_json(frame, allow_inf_nan=False, cache_strings="keys")["payload"]
    text = json.dumps([event, parsed], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _reply_to(command: Command, stored: str, id: CommandId) -> str | None:
    """Return the frame that answers a command: the stored reply, with the ``id`` of this message.

    ``stored`` is that of `StoredReply`.
    """
    if not stored:
        return command.encode.reply(None, id)
    return f"{stored[:-1]}{frame_tail(id, more=False)}"
