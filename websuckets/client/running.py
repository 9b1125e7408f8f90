"""A running client: connects, authenticates, renews, and connects again until it is closed."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import isawaitable
from itertools import count
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import anyio

from websuckets.client.authentication import Authenticate, Authentication
from websuckets.client.buffers import ReadingGate
from websuckets.client.calls import Call, Queue
from websuckets.client.connection import end_of_attempt, open_link
from websuckets.client.errors import ClientClosed, CommandError, ConnectionLost
from websuckets.client.frames import Errors, Frame, retry_after_of
from websuckets.client.listeners import Listeners
from websuckets.client.reconnecting import Backoff, ConnectionEnd, Reconnecting, Retry
from websuckets.client.session import Session
from websuckets.client.subscriptions import AGAIN_LATER, Subscriptions
from websuckets.runtime.event_loop import EventLoop, exit_in, propagate

__all__ = ["RunningClient", "Settings", "State"]

State = Literal["connecting", "open", "waiting", "closed"]

NOT_AUTHENTICATED: Final = 4401

logger: Final = logging.getLogger("websuckets.client")

_OTHER_LOOP: Final = "this client was entered in another event loop, and works in that one only"


@dataclass(frozen=True)
class Settings:
    """Options of a client: see `Client`."""

    url: str | Callable[[], str] = field(repr=False)
    headers: Any = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    errors: Errors
    queue: int
    buffer: int
    heartbeat: float | None
    backoff: Backoff
    reconnect: bool
    close_codes: Mapping[int, Retry]
    close_timeout: float


class RunningClient:
    """The client's connections, one after the other, and all that outlives each of them."""

    def __init__(self, settings: Settings, authenticate: Authenticate | None) -> None:
        self.settings = settings
        self.gate: ReadingGate = ReadingGate()
        self.listeners: Listeners = Listeners(settings.buffer, self.gate)
        self.subscriptions: Subscriptions = Subscriptions()
        self.ids: count[int] = count(1)
        self.state: State = "closed"
        self.place: str = place_of(settings.url) if isinstance(settings.url, str) else "?"
        """Server of the last attempt to connect, as logs have it."""
        self.on_state: list[Callable[[State], None]] = []
        self.failure: ClientClosed | None = None
        self.last_end: ConnectionEnd | None = None
        self.authentication: Authentication = Authentication(authenticate, self._drop_others)
        self._queue = Queue(settings.queue)
        self._reconnecting = Reconnecting(settings.backoff, settings.close_codes)
        self._session: Session | None = None
        self._is_closing = False
        self._has_told_bad_frame = False

    def begin(self) -> None:
        """Take note that the event loop runs in which the client is to live."""
        self.loop: EventLoop = EventLoop()
        self.has_ended: anyio.Event = anyio.Event()
        self._scope = anyio.CancelScope()
        self._set_state("connecting")

    # The program's side

    def check_loop(self) -> None:
        """Raise `RuntimeError` in another event loop than that of the client."""
        self.loop.check(_OTHER_LOOP)

    def start(self, call: Call) -> None:
        """Send a command, or let it wait for a connection. Raises `QueueFull`, `ClientClosed`."""
        self.check_loop()
        if self.failure is not None:
            raise self._closed_error()
        session = self._session
        if session is not None and session.is_open:
            if self.state != "open" and self.authentication.runs_for(session):
                call.is_bound = True
                session.send(call)
                return
            if self.state == "open":
                call.user = self.authentication.user
                session.send(call)
                return
        call.user = self.authentication.user
        call.text(self.authentication.token)  # fields without a JSON form are the caller's error
        self._queue.put(call)

    def cancel(self, call: Call) -> None:
        """Take note that nobody waits for a call any more; cancel it if it is a stream."""
        call.cancel()
        self._queue.remove(call)
        if self._session is not None:
            self._session.cancel(call)

    async def authenticate(self) -> None:
        """Run ``authenticate`` on this connection, if there is one. Raises its errors."""
        if self._session is not None:
            await self.authentication.run(self._session)

    async def close(self) -> None:
        """Close the connection with 1000, and end; everything that waits fails."""
        self._is_closing = True
        session = self._session
        if session is not None and session.is_open:
            with anyio.move_on_after(self.settings.close_timeout):
                await session.close()
                session.lose(ConnectionEnd(1000))  # its reader may be kept waiting by a full buffer
                await self.has_ended.wait()
        self._scope.cancel()
        await self.has_ended.wait()

    # The task of the client

    async def run(self) -> None:
        """Connect until the client is closed. Raises nothing but cancellations."""
        failure = ClientClosed()
        try:
            with _Parentless(), self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.listeners.run)
                    failure = await self._connect_again_and_again()
                    tasks.cancel_scope.cancel()
        finally:
            self.failure = ClientClosed() if self._is_closing else failure
            self._queue.fail_all(self.failure)
            self.subscriptions.fail_all(self.failure)
            self._set_state("closed")
            self.has_ended.set()

    async def _connect_again_and_again(self) -> ClientClosed:
        """Return the reason for which the client does not connect any more."""
        while True:
            self._set_state("connecting")
            self.authentication.begin()
            try:
                end = await self._connect()
            except Exception as error:
                failure = ClientClosed(1006, f"{type(error).__name__}: see the cause")
                if isinstance(error, ClientClosed):
                    return error
                failure.__cause__ = error
                return failure
            self.last_end = end
            if self._is_closing:
                return ClientClosed()
            can_authenticate = self.authentication.can_change
            pause = self._reconnecting.pause_after(end, can_authenticate=can_authenticate)
            if not self.settings.reconnect:
                pause = None
            place, code = self.place, end.status or end.code
            if pause is None:
                logger.warning("%s: closed for good: %s %s", place, code, end.reason)
                return ClientClosed(end.code, end.reason, end.status)
            logger.info("%s: not connected: %s %s; again in %.1f s", place, code, end.reason, pause)
            self._set_state("waiting")
            await anyio.sleep(pause)

    async def _connect(self) -> ConnectionEnd:
        """Return the end of one connection. Raises errors after which none follows."""
        settings = self.settings
        url = settings.url
        if not isinstance(url, str):
            url = url()
            check_url(url)
            self.place = place_of(url)
        headers = settings.headers() if callable(settings.headers) else settings.headers
        if isawaitable(headers):
            headers = await headers
        options = dict(settings.options)
        options["additional_headers"] = headers
        session: Session | None = None
        with anyio.CancelScope() as scope:  # ends a connection that does not close by itself
            try:
                async with open_link(url, options) as link:
                    session = Session(
                        *(link, self.gate, self.receive, self._current_token, settings.heartbeat)
                    )
                    try:
                        await self._use(session)
                    except BaseException:
                        link.abort()
                        raise
                    if session.is_dead:
                        link.abort()
                        scope.cancel()
            except ClientClosed:
                raise
            except Exception as error:
                if session is None:
                    return end_of_attempt(error)
                logger.exception("%s: a connection was ended by an error", self.place)
        return ConnectionEnd() if session is None else session.end

    async def _use(self, session: Session) -> None:
        self._session = session
        try:
            await session.run(self._prepare)
        finally:
            self._session = None
            self.subscriptions.begin(None)
            if session.opened_at is not None:
                lasted = anyio.current_time() - session.opened_at
                session.end = replace(session.end, lasted=lasted)
            lost = ClientClosed() if self._is_closing else _lost(session.end)
            self._queue.put_back(session.take_lost(lost))
        if session.failure is not None:
            raise session.failure

    async def _prepare(self) -> None:
        """Authenticate, then send what has waited for the connection."""
        session = self._session
        assert session is not None
        try:
            await self.authenticate()
        except Exception as error:
            self._end_unauthenticated(session, error)
            return
        session.opened_at = anyio.current_time()
        self._set_state("open")
        self.subscriptions.begin(session)
        for call in self._queue.in_order():
            call.user = self.authentication.user  # calls of others were dropped
            session.send(call)
            self._queue.remove(call)  # not before: a token without a JSON form is an error

    def _end_unauthenticated(self, session: Session, error: Exception) -> None:
        """End a session after an error of ``authenticate``, and perhaps the client, too."""
        if isinstance(error, ClientClosed):
            session.fail(error)
        elif not isinstance(error, CommandError):
            logger.error("%s: authenticate failed; it is tried again", self.place, exc_info=error)
            session.lose(ConnectionEnd(reason=f"authenticate: {type(error).__name__}"))
        elif error.error in AGAIN_LATER:
            wait = retry_after_of(error.details)
            session.lose(ConnectionEnd(reason=f"authenticate: {error.error}", retry_after=wait))
        else:
            failure = ClientClosed(NOT_AUTHENTICATED, "authenticate was refused")
            failure.__cause__ = error
            session.fail(failure)

    def receive(self, frame: Frame) -> None:
        """Take a frame that answers no command that is awaited."""
        if frame.is_pong or (frame.is_reply and frame.id is not None):
            return  # the reply to a command for which nobody waits any more
        if not frame.is_reply and not frame.is_offset:
            if not self._has_told_bad_frame:
                self._has_told_bad_frame = True
                size, place = len(frame.content), self.place
                text = "%s: ignored a frame of %d bytes: not an event, an error or a pong"
                logger.error(text, place, size)
        elif not self.subscriptions.take(frame):
            if frame.is_error:
                logger.warning("%s: the server sent the error %r", self.place, frame.name)
            else:
                self.listeners.put(frame)

    def _current_token(self) -> str | None:
        return self.authentication.token

    def _drop_others(self, user: Any) -> None:
        """Fail the calls of other users than this one."""
        self._queue.drop_others(user)
        if self._session is not None:
            self._session.drop_others(user)

    def _closed_error(self) -> ClientClosed:
        """Return a new error for the present call, with the cause of the first one."""
        assert self.failure is not None
        error = ClientClosed(self.failure.code, self.failure.reason, self.failure.status)
        error.__cause__ = self.failure.__cause__
        return error

    def _set_state(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        for function in list(self.on_state):
            try:
                function(state)
            except Exception:
                logger.exception("a function for the state failed")


class _Parentless:
    """Context of a task that has no parent, to which an error that ends the program could go."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        end = None if error is None else exit_in(error)
        if end is None:
            return False
        propagate(end)
        return True


def _lost(end: ConnectionEnd) -> ConnectionLost:
    return ConnectionLost(end.code, end.reason)


def place_of(url: str) -> str:
    """Return a URL without user, password and query, in which there may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_url(url: str) -> None:
    """Raise `ValueError` for a URL that is not one of a WebSocket."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("ws", "wss") and parts.hostname:
            return
    raise ValueError("the URL of a client begins with ws:// or wss://, and names a host")
