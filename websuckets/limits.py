"""Limits: how much of the server one peer, one message or one shutdown may take."""

import enum
import math
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, Self

__all__ = ["Limits", "OutboxBound", "Overflow", "seconds"]


class Overflow(enum.Enum):
    """Ways to treat a connection that reads published events too slowly."""

    CLOSE = "close it with 1013"
    DROP_OLDEST = "throw away what has waited longest"
    DROP_NEWEST = "throw away what comes"


def _number(default: float | None, *, least: float) -> Any:
    """Return a field of `Limits`: a number that is at least ``least``, or ``None``."""
    return field(default=default, metadata={"least": least, "is_count": False})


def _count(default: int | None, *, least: int) -> Any:
    """Return a field of `Limits`: a whole number that is at least ``least``, or ``None``."""
    return field(default=default, metadata={"least": least, "is_count": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that an app enforces for as long as it runs; ``None`` turns a bound off.

    Limits are given to `WebSuckets` and can be injected (APP scope) to be read. Times are in
    seconds and, but for ``rate``, measured coarsely: a time may be up to a quarter longer. Close
    codes below 4000 are codes of RFC 6455, section 7.4, others the framework's own.

    Raises `ValueError` for values that are not limits, and for times under a millisecond.
    """

    max_size: int | tuple[int | None, int | None] | None = 64 * 1024
    """Bytes of one incoming message; a larger message closes the connection with 1009. As in
    ``websockets``, the limit may be ``(message, fragment)``, with a bound for each frame of a
    fragmented message; other servers hand over whole messages, and bound frames by themselves."""

    concurrency: int | None = _count(1, least=1)
    """Commands that may run at once on one connection; further commands wait. With 1, commands are
    answered in the order in which they came, with more in the order in which they finish."""

    streams: int | None = _count(8, least=0)
    """Streams that may run at once on one connection; a further stream gets the error ``too many
    streams``."""

    rate: float | None = _number(200, least=0.001)
    """Messages per second of one connection, on average; each message past this rate gets the error
    ``rate limited``, whose details say after how many seconds to go on (``retry_after``). A
    connection with 100 refused messages in ten seconds is closed with 4429."""

    burst: int | None = _number(400, least=1)
    """Messages that may come at once before ``rate`` bounds them; with ``None`` nothing does."""

    handler_timeout: float | None = _number(30, least=0.001)
    """Seconds that a command may take from its guards to its result, and a stream for each next
    item; past this limit the command is cancelled, and the client gets the error ``timeout``. A
    command may have a limit of its own: ``@group.command("report", timeout=300)``."""

    finalize_timeout: float | None = _number(5, least=0.001)
    """Seconds that the finalisers of one scope may take, each ``on_disconnect`` hook, and each
    ``on_error`` function; past this limit finalisers are cancelled, in the order in which they
    would have run, and an error is logged. Tasks of `AppTasks` and `ConnectionTasks` that ignore
    their cancellation for longer are left behind."""

    ready_timeout: float | None = _number(5, least=0.001)
    """Seconds that the function ``ready`` of an app may take, with its dependencies and their
    finalisers; past this limit the function is cancelled, and the answer is 503. Whoever asks for
    the health of an app seldom waits for as long as a command may take, and ``websockets`` ends a
    connection without an answer after its ``open_timeout``, 10 seconds."""

    send_timeout: float | None = _number(10, least=0.001)
    """Seconds that a peer may leave data sent to it unread, and that a sender waits; past this
    limit the connection is aborted."""

    outbox: tuple[int, int] | None = (256, 1024 * 1024)
    """Frames, and bytes, that may wait for a peer while no sender waits for them. Past either
    bound, ``overflow`` decides about frames that `Channels` sends; after ``websockets.broadcast``
    the connection is aborted."""

    overflow: Overflow = Overflow.CLOSE
    """Action when more frames wait for one connection than its ``outbox`` holds. Frames are thrown
    away silently, which suits values of which only some matter, such as prices. A frame that alone
    is larger than the ``outbox`` is thrown away in the place of others."""

    channel_name: int | None = _count(128, least=1)
    """Bytes of UTF-8 in the name of a channel; for a longer name, subscribing and publishing raise
    `InvalidChannel`, which the client gets as the error ``invalid channel``."""

    subscriptions: int | None = _count(100, least=0)
    """Channels to which one connection may be subscribed; a further subscription raises
    `TooManySubscriptions`, which the client gets as the error ``too many subscriptions``."""

    recovery: int | None = _count(1000, least=0)
    """Events of one channel with a history that a client may have missed and still gets; whoever
    has missed more is told to load its state anew (``"recovered": false``)."""

    presence_grace: float | None = _number(5, least=0)
    """Seconds within which a user who has gone from a channel with presence may be back, on any
    node, without having left: nobody is told of either. With 0 or ``None``, others are told at
    once. It has to be the same on all nodes."""

    revocation_lag: float | None = _number(30, least=0.001)
    """Seconds that a revoked user may stay on a node that cannot hear of the revocation. Users who
    were saved in a `SessionStore` have their connections closed with 1013 when the store has been
    away for so long; after the same time, so have all users who were verified when a broker lost
    announcements of other nodes."""

    unknown_tokens: int | None = _count(30, least=0)
    """Tokens per minute, of one IPv4 address or one /64 network of IPv6, that a `SessionStore` does
    not know; each further unknown token gets the error ``rate limited``, and the tokens of that
    address are looked up one after the other. Known tokens are accepted at any time."""

    auth_timeout: float | None = _number(None, least=0.001)
    """Seconds that a client may be connected without being verified; past this limit the connection
    is closed with 4408."""

    auth_failures: int | None = _count(10, least=1)
    """Refused protected commands in a row with which a connection is closed with 4401. Refusals of
    a user whose time has expired do not count."""

    unknown_streak: int | None = _count(100, least=1)
    """Messages in a row, invalid or with an unknown command, with which a connection is closed with
    1008."""

    max_connections: int | None = _count(None, least=0)
    """Connections at once; the opening handshake of a further one is answered with HTTP 503."""

    max_connections_per_ip: int | None = _count(None, least=0)
    """Connections at once of one IPv4 address, or of one /64 network of IPv6; the opening handshake
    of a further one is answered with HTTP 429."""

    drain_timeout: float | None = _number(30, least=0)
    """Seconds that a stopping server waits for running commands and closing handshakes; past this
    limit commands are cancelled and finalised, and their connections aborted."""

    compression: str | None = None
    """``"deflate"`` offers permessage-deflate. Off by default: compression costs about 32 KiB of
    memory per connection and lets an attacker who controls a part of a message guess the rest
    (CRIME, BREACH)."""

    if not TYPE_CHECKING:  # checkers know the names by the fields

        def __new__(cls, *arguments: Any, **values: Any) -> Self:
            """Raise `TypeError` for a limit that there is not, with the nearest name."""
            for name in values.keys() - {limit.name for limit in fields(cls)}:
                nearest = get_close_matches(name, [limit.name for limit in fields(cls)], n=1)
                remedy = f"; the nearest is {nearest[0]!r}" if nearest else ""
                raise TypeError(f"Limits({name}=...): there is no such limit{remedy}")
            return object.__new__(cls)

    def __post_init__(self) -> None:
        for limit in fields(self):
            if limit.metadata:
                _check(limit.name, getattr(self, limit.name), **limit.metadata)
        if not all(_is_limit(size, 1) and _is_whole(size) for size in self._sizes):
            raise ValueError(
                f"Limits(max_size={self.max_size!r}): it is a whole number, at least 1, or "
                "None, or two of these: (message, fragment)"
            )
        outbox: Any = self.outbox
        if outbox is not None and not (
            isinstance(outbox, tuple)
            and len(outbox) == 2
            and all(_is_number(most) and most >= 1 for most in outbox)
        ):
            raise ValueError(
                f"Limits(outbox={outbox!r}): it is (frames, bytes), each at least 1, or None"
            )
        if not isinstance(self.overflow, Overflow):
            raise ValueError(f"Limits(overflow={self.overflow!r}): write one of Overflow")
        if self.compression not in (None, "deflate"):
            raise ValueError(f'Limits(compression={self.compression!r}): it is "deflate", or None')

    @property
    def message_size(self) -> int | None:
        """Bytes of one incoming message: ``max_size`` without the bound for fragments."""
        return self._sizes[0]

    @property
    def _sizes(self) -> tuple[int | None, ...]:
        size = self.max_size
        return size if isinstance(size, tuple) and len(size) == 2 else (size,)


def _check(name: str, value: Any, *, least: float, is_count: bool) -> None:
    """Raise `ValueError` for a value that is not a limit."""
    if not _is_limit(value, least):
        raise ValueError(f"Limits({name}={value!r}): it is a number, at least {least}, or None")
    if is_count and not _is_whole(value):
        raise ValueError(f"Limits({name}={value!r}): it is a whole number, or None")


def _is_limit(value: Any, least: float) -> bool:
    return value is None or (_is_number(value) and value >= least)


def _is_whole(value: Any) -> bool:
    return not isinstance(value, float) or value.is_integer()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


class OutboxBound(NamedTuple):
    """Frames and bytes that may wait to be sent to one connection: `Limits.outbox`."""

    frames: float
    bytes: float

    @classmethod
    def of(cls, limits: Limits) -> "OutboxBound":
        """Return the bound that limits set; infinite where they set none."""
        return cls(math.inf, math.inf) if limits.outbox is None else cls(*limits.outbox)


class OutboxCount:
    """Frames that wait to be sent to one connection, and their bytes, held to `Limits.outbox`.

    Whatever queues frames for a peer counts them here, and learns here of too many.
    """

    __slots__ = ("_bound", "_bytes", "_frames")

    def __init__(self, bound: OutboxBound) -> None:
        self._bound = bound
        self._frames = 0
        self._bytes = 0

    def add(self, size: int, *, sender_waits: bool = False) -> bool:
        """Count one more frame, of ``size`` bytes. Return whether all that wait may do so.

        The first frame of senders that wait may be of any size: a sender that waits for each of its
        frames has no more than one waiting.
        """
        self._frames += 1
        self._bytes += size
        return self._is_within or (sender_waits and self._frames == 1)

    def remove(self, size: int) -> bool:
        """Count one frame less. Return whether all that still wait may do so."""
        self._frames -= 1
        self._bytes -= size
        return self._is_within

    def can_hold(self, size: int) -> bool:
        """Tell whether a frame of ``size`` bytes may wait, if no other does."""
        return size <= self._bound.bytes

    @property
    def _is_within(self) -> bool:
        return self._frames <= self._bound.frames and self._bytes <= self._bound.bytes


def limit_text(name: str, value: object) -> str:
    """Return the name and the value of a field of `Limits`, for a line in the log where it acts."""
    return f"Limits.{name} is {value}"


def seconds(limit: float | None) -> float:
    """Return the limit in seconds; infinity without a limit."""
    return math.inf if limit is None else limit
