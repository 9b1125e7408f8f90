"""The client that a program creates: `Client`, its commands, events, and its state."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, Self, TypeAlias

import anyio

from websuckets.client.authentication import Credentials
from websuckets.client.calls import UNKNOWN_USER
from websuckets.client.commands import NOTHING, Commands
from websuckets.client.connection import silent_logger
from websuckets.client.errors import CommandError, ConnectionLost
from websuckets.client.listeners import Listener
from websuckets.client.reconnecting import Backoff, Retry
from websuckets.client.running import RunningClient, Settings, State, check_url
from websuckets.client.validation import reader
from websuckets.runtime.event_loop import spawn

__all__ = ["Client"]

Authenticated: TypeAlias = str | Credentials | None
HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class Client(Commands):
    """A client of one server, which connects again and again for as long as it is entered.

    Entering starts to connect and waits for nothing: commands wait for the connection. Leaving
    closes the connection with 1000; everything that still waits then fails with `ClientClosed`.

    ``url`` may be a function that is called before each attempt, as to choose one of many servers.
    ``token`` is sent with each command. ``authenticate`` is called with the client after each
    connection, before anything else is sent, async or not; it returns a token, `Credentials`, or
    ``None`` if it calls the commands itself that make the connection known. ``headers`` of the
    opening handshake may be a function, async or not, that is called before each attempt.
    ``errors`` are classes of errors by the names of the errors. ``timeout`` is the time of `call`
    and `subscribe`, in seconds, with ``None`` for no limit. ``queue`` commands may wait for a
    connection; ``buffer`` items wait for each stream and each subscription. ``heartbeat``, in
    seconds, is half of the time in which a dead connection is noticed; ``None`` turns it off.
    Without ``reconnect`` the client is closed where its first connection ends or cannot be made.
    ``backoff`` gives the pauses between attempts, and ``close_codes`` replaces decisions of
    `CLOSE_CODES`. ``open_timeout`` and ``close_timeout``, in seconds, are those of each opening
    and closing handshake. ``options`` are further keyword arguments of ``connect`` of
    ``websockets``, as ``ssl``, ``proxy``, ``origin``, ``subprotocols`` or ``max_size``.

    Raises `ValueError` for a URL that is not one of a WebSocket.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        token: str | None = None,
        authenticate: Callable[["Client"], Awaitable[Authenticated] | Authenticated] | None = None,
        headers: HeadersLike | Callable[[], Any] | None = None,
        errors: Mapping[str, type[CommandError]] = NOTHING,
        timeout: float | None = 30.0,
        queue: int = 100,
        buffer: int = 1000,
        heartbeat: float | None = 20.0,
        reconnect: bool = True,
        backoff: Backoff | None = None,
        close_codes: Mapping[int, Retry] = NOTHING,
        open_timeout: float | None = 10.0,
        close_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        if isinstance(url, str):
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
            reconnect=reconnect,
            close_codes=close_codes,
            close_timeout=close_timeout,
        )
        call = None if authenticate is None else partial(authenticate, self)
        running = RunningClient(settings, call)
        running.authentication.token = token
        super().__init__(running, timeout)
        self._task: object = None

    def __repr__(self) -> str:
        return f"<Client {self._running.place} {self.state}>"

    @property
    def state(self) -> State:
        """State of the client: ``"connecting"``, ``"open"``, ``"waiting"`` or ``"closed"``."""
        return self._running.state

    @property
    def token(self) -> str | None:
        """Token of commands that are given none; it may be set, for those sent from then on."""
        return self._running.authentication.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._running.authentication.token = token

    @property
    def user(self) -> Any:
        """User who is signed in, as `Credentials` or the program has told; ``None`` at first.

        Setting another user makes the commands fail, with `UserChanged`, that wait for a reply and
        were called under the one before.
        """
        user = self._running.authentication.user
        return None if user is UNKNOWN_USER else user

    @user.setter
    def user(self, user: Any) -> None:
        self._running.authentication.user = user

    @property
    def lost(self) -> ConnectionLost | None:
        """Reason why the last connection ended or could not be made; ``None`` before that."""
        end = self._running.last_end
        return None if end is None else ConnectionLost(end.code, end.reason)

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

    async def renew(self) -> None:
        """Call ``authenticate`` again, on the present connection, for a token that ends soon.

        Raises its errors. Without a connection, do nothing: the next one begins with it.
        """
        await self._entered.authenticate()

    async def close(self) -> None:
        """Close the connection with 1000, and do not connect any more; wait until that is done."""
        if self._is_entered:
            await self._running.close()

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
