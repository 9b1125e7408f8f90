"""Outbox of a connection: messages that wait to be sent, so that their sender does not have to."""

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import anyio
from websockets.exceptions import ConnectionClosed

from websuckets.limits import Limits, OutboxBound, OutboxCount, Overflow, limit_text
from websuckets.protocol.close_codes import SLOW
from websuckets.protocol.messages import ClientEvent
from websuckets.socket import Socket

__all__ = ["Outbox", "Outboxes", "gap"]

logger: logging.Logger = logging.getLogger("websuckets")

Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
"""Function that starts a task that is not a child of its caller."""

TEXT: Final = True
"""Argument ``text`` for frames, which are UTF-8 already, encoded once for all receivers."""


Waiting: TypeAlias = bytes | tuple[bytes, str] | anyio.Event
"""A frame that waits to be sent, maybe with the channel of whose gap the client is told if the
frame is lost; or an event to be set when the frames before it have been sent."""

NOTHING: Final[deque[Waiting]] = deque(maxlen=0)
"""Empty queue that outboxes share: one of its own would cost each connection 760 bytes."""


class Outboxes:
    """Shared part of the outboxes of a running app: their bounds, and the start of their tasks."""

    def __init__(self, limits: Limits, start: Start) -> None:
        self.start = start
        self.bound: OutboxBound = OutboxBound.of(limits)
        self.empty: OutboxCount = OutboxCount(self.bound)
        """Count that stays 0, of outboxes where nothing waits."""
        self.overflow: Overflow = limits.overflow
        self.limits_text: str = (
            f"{limit_text('outbox', limits.outbox)}, {limit_text('overflow', limits.overflow)}"
        )
        """Limits that act once too much waits, for the log."""
        self.writing: set[Outbox] = set()
        """Outboxes for whose connection anything waits."""


class Outbox:
    """A queue of frames that wait to be sent to one connection; lives as long as the connection.

    No frame waits while the connection takes frames at once. Otherwise a task sends the frames that
    wait, and ends when none is left: a connection to which nobody sends has no task.
    """

    __slots__ = (
        "_count",
        "_frames",
        "_gaps",
        "_has_overflowed",
        "_is_over",
        "_offer",
        "_shared",
        "_socket",
    )

    def __init__(self, socket: Socket, shared: Outboxes) -> None:
        self._socket = socket
        self._shared = shared
        self._offer: Callable[[bytes], bool] | None = getattr(socket, "offer", None)
        self._frames = NOTHING
        self._count = shared.empty
        self._gaps: dict[str, None] | None = None  # channels, in the order of their first losses
        self._has_overflowed = False
        self._is_over = False

    def put(self, frame: bytes, channel: str | None = None) -> None:
        """Send a text frame as soon as possible, without waiting.

        When too many frames wait, `Limits.overflow` says which frames are lost, or that the
        connection is closed. If a frame with a ``channel`` is lost, the client is told of a gap in
        that channel once nothing waits any more: no later event might show that one is missing.
        """
        if self._is_over:
            return
        if self not in self._shared.writing:
            if self._offer is not None and self._offer(frame):
                return
            self._shared.writing.add(self)
            self._shared.start(self._write)
            self._frames, self._count = deque(), OutboxCount(self._shared.bound)
            self._count.add(len(frame))  # of any size, as it is sent without waiting for others
        elif not self._count.add(len(frame)) and not self._make_room(frame):
            self._note_gap(channel)
            return
        self._frames.append(frame if channel is None else (frame, channel))

    async def earlier_sent(self) -> None:
        """Wait until the frames that wait now have been sent, or thrown away."""
        if self in self._shared.writing and not self._is_over:
            sent = anyio.Event()
            self._frames.append(sent)
            await sent.wait()

    def stop(self) -> None:
        """Discard the frames that wait, and all later frames."""
        self._is_over = True
        self._clear()

    def _clear(self) -> None:
        frames, self._frames, self._count = self._frames, NOTHING, self._shared.empty
        self._gaps = None
        for waiting in frames:
            if isinstance(waiting, anyio.Event):
                waiting.set()

    def _make_room(self, frame: bytes) -> bool:
        """Apply `Limits.overflow` to a frame that is too much; return whether it is to wait."""
        self._log_overflow()
        match self._shared.overflow:
            case Overflow.CLOSE:
                self.stop()
                self._shared.start(self._close)
                return False
            case Overflow.DROP_OLDEST if self._count.can_hold(len(frame)):
                while not self._remove_first():
                    pass
                return True
        self._count.remove(len(frame))
        return False

    def _remove_first(self) -> bool:
        """Throw away what has waited longest; return whether the rest is not too much."""
        first = self._frames.popleft()
        if isinstance(first, anyio.Event):
            first.set()
            return False
        if isinstance(first, tuple):
            first, channel = first
            self._note_gap(channel)
        return self._count.remove(len(first))

    def _note_gap(self, channel: str | None) -> None:
        if channel is not None and not self._is_over:
            if self._gaps is None:
                self._gaps = {}
            self._gaps[channel] = None

    def _log_overflow(self) -> None:
        if not self._has_overflowed:
            self._has_overflowed = True
            what, limits = self._shared.overflow.value, self._shared.limits_text
            logger.info(
                "%s reads too slowly what is published: %s (%s)", self._socket.id, what, limits
            )

    async def _write(self) -> None:
        try:
            while self._frames or self._gaps:
                if not self._frames:
                    await self._tell_gaps()
                    continue
                frame = self._frames.popleft()
                if isinstance(frame, anyio.Event):
                    frame.set()
                    continue
                if isinstance(frame, tuple):
                    frame = frame[0]
                self._count.remove(len(frame))
                await self._socket.send(frame, text=TEXT)
        except ConnectionClosed:
            self.stop()
        finally:
            self._shared.writing.discard(self)
            self._clear()

    async def _tell_gaps(self) -> None:
        gaps, self._gaps = self._gaps or {}, None
        for channel in gaps:
            await self._socket.send(gap(channel), text=TEXT)

    async def _close(self) -> None:
        await self._socket.close(*SLOW)


def gap(channel: str | None) -> bytes:
    """Return the frame that tells of a possible gap."""
    return ClientEvent("channel gap", {"channel": channel}).encode()
