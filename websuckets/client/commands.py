"""Commands of a client: `call`, `stream` and `subscribe`."""

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from types import EllipsisType, MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, overload

from pydantic import TypeAdapter

from websuckets.client.buffers import Buffer
from websuckets.client.calls import Call
from websuckets.client.frames import Frame, payload_json
from websuckets.client.running import RunningClient
from websuckets.client.streams import Stream, StreamCall
from websuckets.client.subscriptions import OnReload, Subscription, Watch
from websuckets.client.validation import reader

__all__ = ["NOTHING", "Commands"]

T = TypeVar("T")

Hint: TypeAlias = type[T] | TypeAdapter[T]
"""Type of a value: a class, or ``TypeAdapter(...)`` for any other type, as for unions."""

NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


class Commands:
    """Base class of `Client`: the ways to send a command."""

    def __init__(self, running: RunningClient, timeout: float | None) -> None:
        self._running = running
        self._timeout = timeout
        self._is_entered = False

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
        try:
            with running.gate.awaiting():
                frame = await call.run(running, self._timeout if timeout is ... else timeout)
        except TimeoutError as error:
            if running.state == "open":
                raise
            raise TimeoutError(f"{error}; the client is {running.state}") from None
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
        read, settings = reader(item), running.settings
        fields = (next(running.ids), event, payload_json(payload), token)
        call = StreamCall(*fields, items=Buffer(settings.buffer, running.gate))

        def read_item(frame: Frame) -> Any:
            return read(event, frame.payload)

        return Stream(call, running, read_item, timeout, settings.errors)

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

    @property
    def _entered(self) -> RunningClient:
        if not self._is_entered:
            raise RuntimeError("the client is not entered yet: async with Client(...) as client")
        return self._running
