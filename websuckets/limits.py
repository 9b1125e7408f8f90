"""How much of the server one peer, one message or one shutdown may take."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that an app enforces for as long as it runs; ``None`` turns one off.

    They are given to `WebSuckets` and can be injected (APP scope) to be read.

    Raises `ValueError` for a negative number, and for a ``finalize_timeout`` under a millisecond.
    """

    max_size: int | None = 64 * 1024
    """Bytes of one incoming message; past it the connection is closed with 1009."""

    streams: int | None = 8
    """Streams that one connection may have running; past it one more is an error, ``too many
    streams``."""

    finalize_timeout: float | None = 5
    """Seconds that the finalisers of one scope may take, and each ``on_disconnect`` hook; past it
    they are cancelled, in the order in which they would have run, and an error is logged. Tasks of
    `AppTasks` and `ConnectionTasks` that ignore their cancellation are left behind after it."""

    drain_timeout: float | None = 30
    """Seconds that a stopping server waits for running commands and closing handshakes; past it
    they are cancelled, finalised, and their connections aborted."""

    compression: str | None = None
    """``"deflate"`` offers permessage-deflate. Off by default: it costs about 32 KiB of memory per
    connection and lets an attacker who controls a part of a message guess the rest (CRIME,
    BREACH)."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int | float) and value < least:
                raise ValueError(f"Limits({name}={value}): it is at least {least}, or None")


_LEAST = {"max_size": 0, "streams": 0, "finalize_timeout": 0.001, "drain_timeout": 0}
