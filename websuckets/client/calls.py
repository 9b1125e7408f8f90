"""Calls: commands from the moment when a program makes them to their final replies."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from websuckets.client.buffers import Signal
from websuckets.client.errors import ConnectionLost, QueueFull, UserChanged
from websuckets.client.frames import Frame, command_frame
from websuckets.client.timeouts import within

__all__ = ["UNKNOWN_USER", "Awaited", "Call", "Caller", "Queue"]

UNKNOWN_USER: Final = object()
"""User of a call that was made before any user was known."""


class Awaited(Protocol):
    """Command whose replies are awaited on one connection."""

    @property
    def id(self) -> str | int:
        """Id that the replies have, too."""
        ...

    is_stream: bool

    def item(self, frame: Frame) -> None:
        """Take an item of a stream."""
        ...

    def reply(self, frame: Frame) -> None:
        """Take the final reply."""
        ...

    def can_be_sent_again(self) -> bool:
        """Tell whether the command may be sent again, after an error ``in progress``."""
        ...

    def lose(self, error: ConnectionLost) -> bool:
        """Take note that the connection was lost; return true to be sent on the next one."""
        ...

    def text(self, token: str | None) -> str:
        """Return the frame of the command, with this token unless it has its own."""
        ...


class Caller(Protocol):
    """Client that sends calls, and that is told when nobody waits for one any more."""

    def check_loop(self) -> None:
        """Raise `RuntimeError` in another event loop than that of the client."""
        ...

    def start(self, call: "Call") -> None:
        """Send a call, now or later, and give it its replies. Raises errors of the client."""
        ...

    def cancel(self, call: "Call") -> None:
        """End a call for which nobody waits any more; cancel it if it is a stream."""
        ...


class Call:
    """A command, whose final reply ends it.

    ``payload`` is JSON, made once, so that a command that is sent again is the same one. A call
    ``is_bound`` to a connection if that of ``authenticate``, which makes it again on the next one.
    ``changed`` is set for each frame, and awaited for the next one.
    """

    is_stream = False

    def __init__(
        self,
        id: str | int,
        event: str,
        payload: bytes | None,
        token: str | None = None,
        key: str | None = None,
        since: Mapping[str, tuple[str, int]] | None = None,
        user: Any = UNKNOWN_USER,
        *,
        changed: Signal | None = None,
    ) -> None:
        self.id = id
        self.event = event
        self.user = user
        self.key = key
        self.is_bound = False
        self.is_done: bool = False
        self.changed: Signal = Signal() if changed is None else changed
        self._payload = payload
        self._token = token
        self._since = since
        self._frame: Frame | None = None
        self._failure: Exception | None = None

    async def run(self, caller: Caller, timeout: float | None) -> Frame:
        """Let the caller send the command, and return the final reply.

        Raises the error with which the call failed, and `TimeoutError` after ``timeout`` seconds.
        """
        caller.start(self)
        try:
            with within(timeout, f"no reply to {self.event!r}"):
                return await self.wait()
        except BaseException:
            caller.cancel(self)
            raise

    def text(self, token: str | None) -> str:
        token = token if self._token is None else self._token
        return command_frame(self.event, self._payload, token, self.id, self.key, self._since)

    def item(self, frame: Frame) -> None:
        """Ignore an item: a call of a stream returns the last reply."""

    def reply(self, frame: Frame) -> None:
        if not self.is_done:
            self._frame = frame
            self._end()

    def can_be_sent_again(self) -> bool:
        return self.key is not None and not self.is_bound and not self.is_done

    def lose(self, error: ConnectionLost) -> bool:
        if self.is_done:
            return False
        # A message that was too large would be so again, and it may have been this one.
        if self.key is not None and not self.is_bound and error.code != 1009:
            return True
        self.fail(error)
        return False

    def fail(self, error: Exception) -> None:
        """End the call with an error, unless it has ended."""
        if not self.is_done:
            self._failure = error
            self._end()

    def cancel(self) -> None:
        """End the call for which nobody waits any more."""
        self._end()

    async def wait(self) -> Frame:
        """Return the final reply. Raises the error with which the call failed."""
        while not self.is_done:
            await self.changed.wait()
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # other calls may raise it, too
        assert self._frame is not None
        return self._frame

    def _end(self) -> None:
        self.is_done = True
        self.changed.set()


class Queue:
    """Calls that wait for a connection, in their order, at most ``size`` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._calls: dict[str | int, Call] = {}

    def put(self, call: Call) -> None:
        """Append a call. Raises `QueueFull`."""
        if len(self._calls) >= self._size:
            raise QueueFull(self._size)
        self._calls[call.id] = call

    def put_back(self, calls: Iterable[Call]) -> None:
        """Add calls that were sent before, however many wait; they come first."""
        self._calls = {call.id: call for call in [*calls, *self._calls.values()]}

    def in_order(self) -> list[Call]:
        """Return all calls, those that were made first at the beginning."""
        return list(self._calls.values())

    def remove(self, call: Call) -> None:
        """Remove a call, if it waits."""
        self._calls.pop(call.id, None)

    def drop_others(self, user: Any) -> None:
        """Fail the calls that other users than this one have made."""
        for call in list(self._calls.values()):
            if call.user is not UNKNOWN_USER and call.user != user:
                self.remove(call)
                call.fail(UserChanged())

    def fail_all(self, error: Exception) -> None:
        """Remove all calls, which fail with this error."""
        for call in self.in_order():
            self.remove(call)
            call.fail(error)
