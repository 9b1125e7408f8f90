"""Subscriptions of a client, which go on across connections: renewed with the last positions.

The reader of the connection keeps a position for each channel, that of the last event that it has
put into the buffer. In doubt it sends the command again, with these positions, and the reply
decides: after a new connection, after ``channel gap``, where an offset is not the next one, and
where the buffer was full, once it is empty.

Rejected: to let a full buffer keep the reader waiting, as a stream does. Events that do not fit are
in the log of the server, so they can be read again later, and other commands need not wait.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from inspect import isawaitable
from itertools import count
from typing import Any, Final, Generic, NamedTuple, TypeVar

from websuckets.client.buffers import Signal
from websuckets.client.errors import ClientClosed, ConnectionLost, EventsMissed, SlowReader
from websuckets.client.frames import Errors, Frame, ReceivedEvent, cancel_frame, command_frame
from websuckets.client.session import Session
from websuckets.client.timeouts import within
from websuckets.client.validation import Reader
from websuckets.runtime.jitter import uniform

__all__ = ["ANY_EVENT", "OnReload", "Subscription", "Subscriptions", "Watch"]

T = TypeVar("T")

OnReload = Callable[[Any], Awaitable[None] | None]

ANY_EVENT: Final = "*"
"""Name that stands for all events without a channel."""

AGAIN: Final = frozenset({"in progress", "rate limited", "unavailable"})
"""Errors that pass."""

AGAIN_LATER: Final = AGAIN | {"timeout", "internal error"}
"""Errors after which a subscription that has worked before is tried again."""

LONGEST: Final = 30.0
"""Seconds between two attempts to renew a subscription, at most."""


class Watch:
    """A subscription as the reader of the connection sees it."""

    def __init__(
        self,
        event: str,
        payload: bytes | None,
        token: str | None,
        since: Mapping[str, tuple[str, int]] | None,
        names: frozenset[str],
        size: int,
        errors: Errors,
        ids: "count[int]",
    ) -> None:
        self.event = event
        self.items: deque[_Received | _Begun] = deque()
        self.first: _Begun | None = None
        self.failure: Exception | None = None
        self.is_stream: bool = False
        self.has_ended: bool = False
        """True behind the last item of a stream."""
        self.changed: Signal = Signal()
        self.positions: dict[str, tuple[str, int]] = {}
        self._payload = payload
        self._token = token
        self._since = dict(since or {})
        self._names = names
        self._size = size
        self._errors = errors
        self._ids = ids
        self._session: Session | None = None
        self._current: _Renewal | None = None
        self._failures = 0
        self._overflowed = False
        # Fields without a JSON form are the caller's error, and not one of each connection.
        command_frame(event, payload, token, since=self._since)

    @property
    def has_history(self) -> bool:
        return bool(self.positions)

    def begin(self, session: Session | None) -> None:
        """Send the command on a new connection, or wait for the next one."""
        self._session = session
        self._current = None
        self.renew()

    def renew(self) -> None:
        """Send the command, unless its reply is awaited already."""
        session = self._session
        if session is None or not session.is_open or self._current is not None:
            return
        if self.failure is not None or self.has_ended:
            return
        self._overflowed = False
        since = self.positions or self._since
        self._current = _Renewal(self, next(self._ids), since)
        session.send(self._current)

    def leave(self) -> None:
        """Send the command no more, and cancel it if it is a stream that has not ended."""
        if self.is_stream and self._current is not None and self._session is not None:
            self._session.post(cancel_frame(self._current.id))
        self._session = None

    def fail(self, error: Exception) -> None:
        """End the subscription with an error, which the iteration raises behind the events."""
        if self.failure is None:
            self.failure = error
            self.changed.set()

    # Frames

    def take_reply(self, frame: Frame) -> None:
        """Begin behind the positions of a reply, or take the error."""
        if frame.is_error:
            self._take_error(frame)
            return
        self._current = None
        self._failures = 0
        if self.is_stream:
            self.has_ended = True
            self.changed.set()
            return
        has_gap = self._move_to(frame) or not frame.positions
        begun = _Begun(frame.payload, dict(self.positions))
        is_first = self.first is None
        if self.first is None:
            self.first = begun
        if has_gap and not (is_first and not self._since):
            self.items.clear()  # the reply has the state behind these events
            self.items.append(begun)
        self.changed.set()

    def take_item(self, frame: Frame) -> None:
        """Take an item of a stream, which this command answers with instead of subscribing."""
        self.is_stream = True
        if self.first is None:
            self.first = _Begun(None, {})
        if not self._put(frame):
            self.fail(SlowReader(self.event))

    def take_event(self, frame: Frame) -> bool:
        """Take an event; return false if it is not one of this subscription."""
        channel = frame.channel
        if channel is None:
            return self._take_without_history(frame)
        if channel not in self.positions:
            return False
        if self._current is not None or self._overflowed:
            return True  # it comes once more, behind the reply
        epoch, last = self.positions[channel]
        if frame.offset > last + 1:
            self.renew()
        elif frame.offset == last + 1 and (frame.is_offset or self._put(frame, epoch)):
            self.positions[channel] = (epoch, frame.offset)
        return True

    def take_gap(self, channel: str | None) -> bool:
        """Take note that events of a channel may be missing; return true if it is one of these."""
        if channel is None or (self.has_history and channel not in self.positions):
            return False
        self.renew()
        return True

    def renew_if_overflowed(self) -> None:
        """Get the events again that did not fit into the buffer."""
        if self._overflowed:
            self.renew()

    def _take_without_history(self, frame: Frame) -> bool:
        if frame.name not in self._names and ANY_EVENT not in self._names:
            return False
        if self._current is None and not self._overflowed:
            self._put(frame)
        return True

    def _put(self, frame: Frame, epoch: str = "") -> bool:
        if len(self.items) >= self._size:
            self._overflowed = True
            return False
        self.items.append(_Received(frame.event(), epoch))
        self.changed.set()
        return True

    def _move_to(self, frame: Frame) -> bool:
        """Take the positions of a reply; return true if events before them are missing."""
        has_gap = False
        told = frame.positions
        for channel, (epoch, offset, recovered) in told.items():
            asked = self.positions.get(channel) or self._since.get(channel)
            if recovered is True and asked is not None:
                self.positions[channel] = (asked[0], asked[1])
            else:
                self.positions[channel] = (epoch, offset)
                has_gap = True
        for channel in self.positions.keys() - told.keys():
            del self.positions[channel]
        return has_gap

    def _fail_by(self, frame: Frame) -> None:
        try:
            self.fail(frame.error(self._errors))
        except Exception as error:  # of the class that the program has given for this name
            self.fail(error)

    def _take_error(self, frame: Frame) -> None:
        again = AGAIN if self.first is None else AGAIN_LATER
        session = self._session
        if frame.name not in again or session is None:
            self._current = None
            self._fail_by(frame)
            return
        seconds = frame.retry_after
        if seconds is None:
            seconds = uniform(0, min(LONGEST, 2.0 ** min(self._failures, 10)))
        self._failures += 1

        def renew() -> None:  # on this connection alone, and no other command is sent before
            self._current = None
            self.renew()

        session.soon(seconds, renew)


class _Renewal:
    """One command that subscribes, on one connection."""

    is_stream = False

    def __init__(self, watch: Watch, id: int, since: Mapping[str, tuple[str, int]]) -> None:
        self.id = id
        self._watch = watch
        self._since = dict(since) or None

    def text(self, token: str | None) -> str:
        watch = self._watch
        token = token if watch._token is None else watch._token
        return command_frame(watch.event, watch._payload, token, self.id, since=self._since)

    def item(self, frame: Frame) -> None:
        self._watch.take_item(frame)

    def reply(self, frame: Frame) -> None:
        self._watch.take_reply(frame)

    def can_be_sent_again(self) -> bool:
        return False

    def lose(self, error: ConnectionLost) -> bool:
        if self._watch.is_stream:
            self._watch.fail(error)
        return False  # the subscription is renewed by itself


class _Received(NamedTuple):
    """An event, and the epoch of its channel, if that has a history."""

    event: ReceivedEvent
    epoch: str


class _Begun(NamedTuple):
    """Place behind which events begin: the payload of the reply, and the positions."""

    payload: Any
    positions: dict[str, tuple[str, int]]


class Subscriptions:
    """All subscriptions of a client."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []
        self._left: set[str] = set()
        self._session: Session | None = None
        self._failure: ClientClosed | None = None

    def begin(self, session: Session | None) -> None:
        """Renew all on a new connection; without one, wait for it."""
        self._session = session
        self._left.clear()
        for watch in self._watches:
            watch.begin(session)

    def add(self, watch: Watch) -> None:
        """Begin a subscription, now or on the next connection."""
        self._watches.append(watch)
        watch.begin(self._session)
        if self._failure is not None:
            watch.fail(self._failure)

    def remove(self, watch: Watch) -> None:
        """End a subscription on this side: the server goes on to send its events."""
        self._watches.remove(watch)
        watch.leave()
        self._left.update(watch.positions)

    def take(self, frame: Frame) -> bool:
        """Take an event that answers no command; return false if nobody has subscribed to it."""
        if frame.name == "channel gap" and not frame.is_error:
            payload = frame.payload
            channel = payload.get("channel") if isinstance(payload, dict) else None
            named = [watch for watch in self._watches if channel in watch.positions]
            found = [watch.take_gap(channel) for watch in named or self._watches]
            return any(found)
        found = [watch.take_event(frame) for watch in self._watches]
        return any(found) or frame.is_offset or frame.channel in self._left

    def fail_all(self, error: ClientClosed) -> None:
        """End all subscriptions with this error, and those that are yet to come."""
        self._failure = error
        for watch in self._watches:
            watch.fail(error)


class Subscription(AsyncIterator[ReceivedEvent], Generic[T]):
    """A command that subscribes, and the events that follow: `Client.subscribe`.

    Entered as a context, it sends the command and waits for the reply. Iterated over, it yields the
    events of the channels to which the command has subscribed, in their order, each once, across
    connections. Where events are missing for good, ``on_reload`` is called between two events, with
    the reply that has the present state. Leaving the context ends it on this side.

    Raises `CommandError` for an error of the command, also where the command is refused on a later
    connection, and `ClientClosed` when the client is closed.
    """

    def __init__(
        self,
        watch: Watch,
        all: Subscriptions,
        read: Reader,
        readers: Mapping[str, Reader],
        errors: Errors,
        on_reload: OnReload | None,
        timeout: float | None,
    ) -> None:
        self._watch = watch
        self._all = all
        self._read = read
        self._readers = readers
        self._errors = errors
        self._on_reload = on_reload
        self._timeout = timeout
        self._reply: Any = None
        self._positions: dict[str, tuple[str, int]] = {}
        self._is_entered = False

    @property
    def reply(self) -> T:
        """Payload of the last reply to the command: the state behind which the events begin."""
        if not self._is_entered:
            raise RuntimeError("it is not entered yet: async with client.subscribe(...)")
        reply: T = self._reply
        return reply

    @property
    def is_stream(self) -> bool:
        """True for a command that is a stream: its items are the events, and then they end."""
        return self._watch.is_stream

    @property
    def positions(self) -> dict[str, tuple[str, int]]:
        """Epoch and offset of the last event that the iteration has yielded, by channels.

        They are for ``since=`` of a subscription that goes on where this one has ended.
        """
        return dict(self._positions)

    async def __aenter__(self) -> "Subscription[T]":
        if self._is_entered:
            raise RuntimeError("a subscription is entered once; subscribe again")
        watch = self._watch
        try:
            self._all.add(watch)
            with within(self._timeout, f"no reply to {watch.event!r}"):
                while watch.first is None and watch.failure is None:
                    await watch.changed.wait()
            if watch.first is None:
                assert watch.failure is not None
                raise watch.failure.with_traceback(None)
            self._begin(watch.first)
        except BaseException:
            self._all.remove(watch)
            raise
        self._is_entered = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self._all.remove(self._watch)

    async def __anext__(self) -> ReceivedEvent:
        """Return the next event, whose payload has the type that ``events`` has for its name."""
        if not self._is_entered:
            raise RuntimeError("it is not entered yet: async with client.subscribe(...)")
        watch = self._watch
        while True:
            while not watch.items:
                if watch.failure is not None:
                    raise watch.failure.with_traceback(None)
                if watch.has_ended:
                    raise StopAsyncIteration
                watch.renew_if_overflowed()
                await watch.changed.wait()
            item = watch.items.popleft()
            if isinstance(item, _Begun):
                await self._reload(item)
                continue
            event = item.event
            if event.channel is not None and event.offset is not None:
                self._positions[event.channel] = (item.epoch, event.offset)
            if (read := self._readers.get(event.event)) is not None:
                event.payload = read(event.event, event.payload)
            return event

    def _begin(self, begun: _Begun) -> None:
        self._reply = self._read(self._watch.event, begun.payload)
        self._positions = dict(begun.positions)

    async def _reload(self, begun: _Begun) -> None:
        self._begin(begun)
        reply = self._reply
        if self._on_reload is None:
            raise EventsMissed(self._watch.event, reply)
        result = self._on_reload(reply)
        if isawaitable(result):
            await result
