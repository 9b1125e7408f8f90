"""Limits: how much of the server one peer, one message or one shutdown may take."""

import enum
import math
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Limits", "Overflow", "seconds"]


class Overflow(enum.Enum):
    """What becomes of a connection that reads too slowly what is published to it."""

    CLOSE = "close it with 1013"
    DROP_OLDEST = "throw away what has waited longest"
    DROP_NEWEST = "throw away what comes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that an app enforces for as long as it runs; ``None`` turns one off.

    They are given to `WebSuckets` and can be injected (APP scope) to be read. Times are in seconds;
    all but ``rate`` are measured coarsely: one may take up to a quarter longer. Close codes are
    those of RFC 6455, section 7.4, and from 4000 on this framework's.

    Raises `ValueError` for what is no limit, and for times under a millisecond.
    """

    max_size: int | tuple[int | None, int | None] | None = 64 * 1024
    """Bytes of one incoming message; past it the connection is closed with 1009. As for
    ``websockets``, it may be ``(message, fragment)``, with a bound for each frame of a message in
    fragments; other servers hand over whole messages, and bound frames by themselves."""

    concurrency: int | None = 1
    """Commands that one connection may have running; what comes meanwhile waits. With one they are
    answered in their order, with more in the order in which they are done."""

    streams: int | None = 8
    """Streams that one connection may have running; past it one more is an error, ``too many
    streams``."""

    rate: float | None = 200
    """Messages per second of one connection, on average; past it each is an error, ``rate
    limited``, whose details say when to go on (``retry_after``, seconds). Who goes on regardless,
    with 100 refused messages in ten seconds, is closed with 4429."""

    burst: int | None = 400
    """Messages that may come at once, before ``rate`` bounds them; without it, nothing does."""

    handler_timeout: float | None = 30
    """How long a command may take, from its guards to its result, and a stream for each next item;
    past it, it is cancelled, and the client gets an error, ``timeout``. A command may have its own:
    ``@group.command("report", timeout=300)``."""

    finalize_timeout: float | None = 5
    """How long the finalisers of one scope may take, and each ``on_disconnect`` hook; past it
    they are cancelled, in the order in which they would have run, and an error is logged. Tasks of
    `AppTasks` and `ConnectionTasks` that ignore their cancellation are left behind after it."""

    send_timeout: float | None = 10
    """How long a peer may leave what is sent to it unread, and whoever sends to it waits; past it
    the connection is aborted."""

    outbox: tuple[int, int] | None = (256, 1024 * 1024)
    """Frames, and bytes, that may wait for a peer while nobody waits for them to be sent. Past
    either, ``overflow`` says what becomes of what `Channels` sends; after
    ``websockets.broadcast`` the connection is aborted."""

    overflow: Overflow = Overflow.CLOSE
    """What is done when more waits for one connection than its ``outbox`` holds. What is thrown
    away is thrown away silently: that is for values of which only some matter, as of prices."""

    channel_name: int | None = 128
    """Bytes of UTF-8 in the name of a channel; past it subscribing and publishing raise
    `InvalidChannel`, to the client the error ``invalid channel``."""

    subscriptions: int | None = 100
    """Channels to which one connection may be subscribed; past it one more raises
    `TooManySubscriptions`, to the client the error ``too many subscriptions``."""

    revocation_lag: float | None = 30
    """How long a revoked user may stay on a node that cannot hear of it. Who was saved in a
    `SessionStore` is closed with 1013 when that has been away for so long; and so is, after as
    long, everybody who was verified when a broker lost what other nodes had announced."""

    unknown_tokens: int | None = 30
    """Tokens per minute, of one IPv4 address or one /64 network of IPv6, that a `SessionStore` does
    not know; past it each more is the error ``rate limited``, and those of that address are looked
    for one after the other. Known ones pass at any time."""

    auth_timeout: float | None = None
    """How long a client may be connected without being verified; past it the connection is closed
    with 4408."""

    auth_failures: int | None = 10
    """Protected commands of one connection that may be refused in a row; then it is closed with
    4401. Refusals of a user whose time has expired do not count."""

    unknown_streak: int | None = 100
    """Messages of one connection in a row that may be invalid or name an unknown command; then it
    is closed with 1008."""

    max_connections: int | None = None
    """Connections at once; past it the opening handshake is answered with HTTP 503."""

    max_connections_per_ip: int | None = None
    """Connections at once of one IPv4 address, or of one /64 network of IPv6; past it the opening
    handshake is answered with HTTP 429."""

    drain_timeout: float | None = 30
    """How long a stopping server waits for running commands and closing handshakes; past it they
    are cancelled, finalised, and their connections aborted."""

    compression: str | None = None
    """``"deflate"`` offers permessage-deflate. Off by default: it costs about 32 KiB of memory per
    connection and lets an attacker who controls a part of a message guess the rest (CRIME,
    BREACH)."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not _is_limit(value, least):
                raise ValueError(
                    f"Limits({name}={value!r}): it is a number, at least {least}, or None"
                )
            if name in _COUNTS and not _is_whole(value):
                raise ValueError(f"Limits({name}={value!r}): it is a whole number, or None")
        if not all(_is_limit(size, 0) and _is_whole(size) for size in self._sizes):
            raise ValueError(
                f"Limits(max_size={self.max_size!r}): it is a whole number, or None, or two "
                "of these: (message, fragment)"
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
        """Bytes of one incoming message: ``max_size`` without its bound for fragments."""
        return self._sizes[0]

    @property
    def _sizes(self) -> tuple[int | None, ...]:
        size = self.max_size
        return size if isinstance(size, tuple) and len(size) == 2 else (size,)


_LEAST: Final = {
    "concurrency": 1,
    "streams": 0,
    "rate": 0.001,
    "burst": 1,
    "handler_timeout": 0.001,
    "finalize_timeout": 0.001,
    "send_timeout": 0.001,
    "revocation_lag": 0.001,
    "unknown_tokens": 0,
    "channel_name": 1,
    "subscriptions": 0,
    "auth_timeout": 0.001,
    "auth_failures": 1,
    "unknown_streak": 1,
    "max_connections": 0,
    "max_connections_per_ip": 0,
    "drain_timeout": 0,
}


def _is_limit(value: Any, least: float) -> bool:
    return value is None or (_is_number(value) and value >= least)


_COUNTS: Final = {
    "concurrency",
    "streams",
    "unknown_tokens",
    "channel_name",
    "subscriptions",
    "auth_failures",
    "unknown_streak",
    "max_connections",
    "max_connections_per_ip",
}
"""Limits of which there are no halves."""


def _is_whole(value: Any) -> bool:
    return not isinstance(value, float) or value.is_integer()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def seconds(limit: float | None) -> float:
    """How long that is; without a limit, for ever."""
    return math.inf if limit is None else limit
