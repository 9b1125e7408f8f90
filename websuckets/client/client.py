"""The client that a program creates: `Client`, its commands, events, and its state."""

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from types import EllipsisType, MappingProxyType
from typing import Any, Final, Self, TypeAlias, TypeVar, overload

import anyio
from pydantic import TypeAdapter

from websuckets.client.calls import Call
from websuckets.client.errors import CommandError
from websuckets.client.frames import payload_json
from websuckets.client.listeners import Listener
from websuckets.client.reconnecting import Backoff, Retry
from websuckets.client.running import (
    Credentials,
    RunningClient,
    Settings,
    State,
    check_url,
    silent_logger,
)
from websuckets.client.streams import Stream, StreamCall
from websuckets.client.subscriptions import OnReload, Subscription, Watch
from websuckets.client.validation import reader
from websuckets.runtime.event_loop import spawn

__all__ = ["Client"]

T = TypeVar("T")

Authenticated: TypeAlias = str | Credentials | None
HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
Hint: TypeAlias = type[T] | TypeAdapter[T]
"""Type of a value: a class, or ``TypeAdapter(...)`` for any other type, as for unions."""

NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


class Client:
    """A client of one server, which connects again and again for as long as it is entered.

    Entering starts to connect and waits for nothing: commands wait for the connection. Leaving
    closes the connection with 1000; everything that still waits then fails with `ClientClosed`.

    ``token`` is sent with each command. ``authenticate`` is called with the client after each
    connection, before anything else is sent, async or not; it returns a token, `Credentials`, or
    ``None`` if it calls the commands itself that make the connection known. ``headers`` of the
    opening handshake may be a function, async or not, that is called before each attempt.
    ``errors`` are classes of errors by the names of the errors. ``timeout`` is the time of `call`
    and `subscribe`, in seconds, with ``None`` for no limit. ``queue`` commands may wait for a
    connection; ``buffer`` items wait for each stream and each subscription. ``heartbeat``, in
    seconds, is half of the time in which a dead connection is noticed; ``None`` turns it off.
    ``backoff`` gives the pauses between attempts, and ``close_codes`` replaces decisions of
    `CLOSE_CODES`. ``open_timeout`` and ``close_timeout``, in seconds, are those of each opening
    and closing handshake. ``options`` are further keyword arguments of ``connect`` of
    ``websockets``, as ``ssl``, ``proxy``, ``origin``, ``subprotocols`` or ``max_size``.

    Raises `ValueError` for a URL that is not one of a WebSocket.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        authenticate: Callable[["Client"], Awaitable[Authenticated] | Authenticated] | None = None,
        headers: HeadersLike | Callable[[], Any] | None = None,
        errors: Mapping[str, type[CommandError]] = NOTHING,
        timeout: float | None = 30.0,
        queue: int = 100,
        buffer: int = 1000,
        heartbeat: float | None = 20.0,
        backoff: Backoff | None = None,
        close_codes: Mapping[int, Retry] = NOTHING,
        open_timeout: float | None = 10.0,
        close_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        check_url(url)
        if queue < 0 or buffer < 1 or (heartbeat is not None and heartbeat <= 0):
            raise ValueError("Client: 0 <= queue, 1 <= buffer, and 0 < heartbeat")
        options |= {"open_timeout": open_timeout, "close_timeout": close_timeout}
        options |= {"ping_interval": heartbeat, "ping_timeout": heartbeat}
        options.setdefault("logger", silent_logger())
        settings = Settings(
            url=url,
            headers=headers,
            options=options,
            errors=dict(errors),
            queue=queue,
            buffer=buffer,
            heartbeat=heartbeat,
            backoff=backoff or Backoff(),
            close_codes=close_codes,
            close_timeout=close_timeout,
        )
        call = None if authenticate is None else partial(authenticate, self)
        self._running = RunningClient(settings, call)
        self._running.token = token
        self._timeout = timeout
        self._is_entered = False
        self._task: object = None

    def __repr__(self) -> str:
        return f"<Client {self._running.settings.place} {self.state}>"

    @property
    def state(self) -> State:
        """State of the client: ``"connecting"``, ``"open"``, ``"waiting"`` or ``"closed"``."""
        return self._running.state

    @property
    def token(self) -> str | None:
        """Token of commands that are given none; it may be set, for those sent from then on."""
        return self._running.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._running.token = token

    @property
    def user(self) -> Any:
        """User who is signed in, as `Credentials` or the program has told; ``None`` at first.

        Setting another user makes the commands fail, with `UserChanged`, that wait for a reply and
        were called under the one before.
        """
        return self._running.user

    @user.setter
    def user(self, user: Any) -> None:
        self._running.user = user

    def on(self, event: str, function: Listener, *, payload: Any = None) -> Callable[[], None]:
        """Call ``function`` with the payload of each event named ``event`` from now on.

        ``function``, async or not, is called for one event after the other, in the order in which
        the events came; its errors are logged. Events that answer a command, and those of
        subscriptions, do not come here. ``payload`` is the type of payloads. Return a function that
        removes ``function`` again.
        """
        return self._running.listeners.add(event, function, reader(payload))

    def on_state(self, function: Callable[[State], None]) -> Callable[[], None]:
        """Call ``function`` with each new `state`; return a function that removes it again."""
        functions = self._running.on_state
        functions.append(function)

        def remove() -> None:
            if function in functions:
                functions.remove(function)

        return remove

    @overload
    async def call(
        self,
        event: str,
        payload: Any = None,
        *,
        result: Hint[T],
        timeout: float | EllipsisType | None = ...,
        key: str | None = None,
        once: bool = False,
        token: str | None = None,
    ) -> T: ...

    @overload
    async def call(
        self,
        event: str,
        payload: Any = None,
        *,
        result: None = None,
        timeout: float | EllipsisType | None = ...,
        key: str | None = None,
        once: bool = False,
        token: str | None = None,
    ) -> Any: ...

    async def call(
        self,
        event: str,
        payload: Any = None,
        *,
        result: Any = None,
        timeout: float | EllipsisType | None = ...,
        key: str | None = None,
        once: bool = False,
        token: str | None = None,
    ) -> Any:
        """Send the command ``event`` and return the payload of its reply.

        The ``payload`` is anything that pydantic serialises. ``result`` is the type of the reply,
        JSON where it is not given. ``timeout``, in seconds from the call on, is that of the client
        unless it is given. With a ``key``, of 1 to 128 characters, a command that is declared with
        ``once=True`` takes effect once, and is sent again after a lost connection; ``once=True``
        stands for a random key. ``token`` is one for this command alone.

        Raises `CommandError` for an error of the server, `ConnectionLost`, `ClientClosed`,
        `QueueFull`, `UserChanged`, `UnexpectedReply`, and `TimeoutError`.
        """
        running = self._entered
        read = reader(result)
        if once and key is None:
            key = secrets.token_hex(16)
        call = Call(next(running.ids), event, payload_json(payload), token, key)
        seconds = self._timeout if timeout is ... else timeout
        running.start(call)
        try:
            with running.gate.awaiting(), anyio.fail_after(seconds):
                frame = await call.wait()
        except TimeoutError:
            running.abandon(call)
            state = "" if self.state == "open" else f"; the client is {self.state}"
            text = f"no reply to {event!r} within {seconds} seconds{state}"
            raise TimeoutError(text) from None
        except BaseException:
            running.abandon(call)
            raise
        if frame.is_error:
            raise frame.error(running.settings.errors)
        return read(event, frame.payload)

    @overload
    def stream(
        self,
        event: str,
        payload: Any = None,
        *,
        item: Hint[T],
        timeout: float | None = None,
        token: str | None = None,
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def stream(
        self,
        event: str,
        payload: Any = None,
        *,
        item: None = None,
        timeout: float | None = None,
        token: str | None = None,
    ) -> AsyncGenerator[Any, None]: ...

    def stream(
        self,
        event: str,
        payload: Any = None,
        *,
        item: Any = None,
        timeout: float | None = None,
        token: str | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Send the command ``event`` and return an async iterator of the items of its stream.

        ``payload`` and ``token`` are those of `call`. ``item`` is the type of items, and
        ``timeout`` the seconds that each may take. Leaving the iteration cancels the stream.

        Raises `ClientClosed` and `QueueFull` at once; the iterator raises `CommandError`,
        `ConnectionLost`, after the items that came before, `UnexpectedReply`, `SlowReader` and
        `TimeoutError`.
        """
        running = self._entered
        settings = running.settings
        fields = (next(running.ids), event, payload_json(payload), token)
        call = StreamCall(*fields, size=settings.buffer, gate=running.gate)
        abandon, start = running.abandon, running.start
        return Stream(call, reader(item), settings.errors, timeout, start, abandon)

    @overload
    def subscribe(
        self,
        event: str,
        payload: Any = None,
        *,
        result: Hint[T],
        events: Mapping[str, Any] = NOTHING,
        on_reload: Callable[[T], Awaitable[None] | None] | None = None,
        since: Mapping[str, tuple[str, int]] | None = None,
        timeout: float | EllipsisType | None = ...,
        token: str | None = None,
    ) -> Subscription[T]: ...

    @overload
    def subscribe(
        self,
        event: str,
        payload: Any = None,
        *,
        result: None = None,
        events: Mapping[str, Any] = NOTHING,
        on_reload: OnReload | None = None,
        since: Mapping[str, tuple[str, int]] | None = None,
        timeout: float | EllipsisType | None = ...,
        token: str | None = None,
    ) -> Subscription[Any]: ...

    def subscribe(
        self,
        event: str,
        payload: Any = None,
        *,
        result: Any = None,
        events: Mapping[str, Any] = NOTHING,
        on_reload: OnReload | None = None,
        since: Mapping[str, tuple[str, int]] | None = None,
        timeout: float | EllipsisType | None = ...,
        token: str | None = None,
    ) -> Subscription[Any]:
        """Return a subscription by the command ``event``, to be entered as a context.

        ``payload``, ``result``, ``timeout`` and ``token`` are those of `call`. ``events`` has the
        types of the payloads of events, ``None`` for JSON, by their names; events with these names
        that belong to no channel with a history come to the iteration, too. ``on_reload``, async or
        not, is called with the new reply where events were missed for good; without it the
        iteration raises `EventsMissed` there. ``since`` has positions of channels, each an epoch
        and an offset, behind which the events begin.
        """
        running = self._entered
        settings = running.settings
        watch = Watch(
            *(event, payload_json(payload), token, since, frozenset(events)),
            *(settings.buffer, settings.errors, running.ids),
        )
        return Subscription(
            watch,
            running.subscriptions,
            reader(result),
            {name: reader(hint) for name, hint in events.items() if hint is not None},
            settings.errors,
            on_reload,
            self._timeout if timeout is ... else timeout,
        )

    async def renew(self) -> None:
        """Call ``authenticate`` again, on the present connection, for a token that ends soon.

        Raises its errors. Without a connection, do nothing: the next one begins with it.
        """
        await self._entered.authenticate()

    async def close(self) -> None:
        """Close the connection with 1000, and do not connect any more; wait until that is done."""
        if self._is_entered:
            await self._running.close()

    @property
    def _entered(self) -> RunningClient:
        if not self._is_entered:
            raise RuntimeError("the client is not entered yet: async with Client(...) as client")
        return self._running

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("a Client is entered once; make another")
        self._is_entered = True
        self._running.begin()
        # Not in a task group: that would wrap the errors of the block into a group, and another
        # task may leave a fixture than the one that entered it.
        self._task = spawn(self._running.run, context=copy_context())
        return self

    async def __aexit__(self, *error: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()
