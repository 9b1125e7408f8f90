"""Session of a client on one connection: its reader, its writer and its heartbeat."""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from websuckets.client.buffers import ReadingGate, Signal
from websuckets.client.calls import UNKNOWN_USER, Awaited, Call
from websuckets.client.connection import Link, LinkClosed
from websuckets.client.errors import ClientClosed, ConnectionLost, UserChanged
from websuckets.client.frames import Frame, cancel_frame, ping_frame, read_frame
from websuckets.client.reconnecting import ConnectionEnd
from websuckets.client.replies import Replies

__all__ = ["Session"]

IN_PROGRESS: Final = "in progress"
"""Error after which a command with a key is sent again."""

LONGEST_PAUSE: Final = 60.0
"""Seconds that a client waits at most, whatever ``retry_after`` says."""


class Session:
    """One connection, from its opening handshake to its end.

    ``receive`` is called with each frame that answers no command of this session. ``heartbeat`` is
    in seconds: after so long without a frame a ping is sent, and after as long again the connection
    is lost, unless a command may keep the pong waiting.
    """

    def __init__(
        self,
        link: Link,
        gate: ReadingGate,
        receive: Callable[[Frame], None],
        token: Callable[[], str | None],
        heartbeat: float | None,
    ) -> None:
        self._link = link
        self._gate = gate
        self._receive = receive
        self._token = token
        self._heartbeat = heartbeat
        self._unsent: deque[str] = deque()
        self._has_unsent = Signal()
        self._awaited = Replies()
        self._tasks: TaskGroup | None = None
        self._has_heard = False
        self.end: ConnectionEnd = ConnectionEnd()
        self.failure: ClientClosed | None = None
        """Error after which the client does not connect any more."""
        self.opened_at: float | None = None
        """Time of the event loop at which the session was authenticated."""
        self.is_dead: bool = False
        """True for a connection with which no closing handshake is possible."""
        self.is_open: bool = True
        """False once nothing can be sent any more."""

    async def run(self, prepare: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Read frames until the connection ends; `end` then says how.

        ``prepare`` runs beside that, and is cancelled with the connection.
        """
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                tasks.start_soon(self._write)
                tasks.start_soon(self._beat)
                tasks.start_soon(prepare)
                await self._read()
            finally:
                self.is_open = False
                tasks.cancel_scope.cancel()

    def post(self, text: str) -> None:
        """Send a frame as soon as those before it are sent."""
        self._unsent.append(text)
        self._has_unsent.set()

    def send(self, command: Awaited) -> None:
        """Send a command, and give it the replies."""
        text = command.text(self._token())
        self._awaited.add(command)
        self.post(text)

    def soon(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after so many seconds, unless the connection ends before."""
        assert self._tasks is not None
        self._tasks.start_soon(self._later, min(seconds, LONGEST_PAUSE), function)

    def lose(self, end: ConnectionEnd, *, is_dead: bool = False) -> None:
        """End the session, as the connection is of no use any more, and perhaps dead."""
        self.end = end
        self.is_dead = is_dead
        self.is_open = False
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    def fail(self, failure: ClientClosed) -> None:
        """End the session with an error that closes the client."""
        self.failure = failure
        self.lose(ConnectionEnd(failure.code, failure.reason))

    def cancel(self, call: Call) -> None:
        """Cancel a call that has no reply yet on this connection, if it is a stream."""
        if self.is_open and call.id in self._awaited:
            self.post(cancel_frame(call.id))

    def drop_others(self, user: Any) -> None:
        """Fail the calls in flight that other users than this one have made."""
        for command in self._awaited:
            if isinstance(command, Call) and not command.is_bound:
                if command.user is not UNKNOWN_USER and command.user != user:
                    command.fail(UserChanged())

    async def close(self) -> None:
        """Close the connection with 1000; wait for the server to do so, too."""
        self.is_open = False
        await self._link.close()

    def take_lost(self, error: ConnectionLost) -> list[Call]:
        """Fail the commands that were in flight, and return those that are to be sent again."""
        lost = [command for command in self._awaited.take_all() if command.lose(error)]
        return [command for command in lost if isinstance(command, Call)]

    async def _read(self) -> None:
        try:
            while True:
                content = await self._link.receive()
                self._has_heard = True
                self._take(read_frame(content))
                await self._gate.pass_through()
        except LinkClosed as closed:
            self.end = closed.end

    def _take(self, frame: Frame) -> None:
        if frame.is_error and frame.name == IN_PROGRESS:
            again = self._awaited.command_of(frame)
            if again is not None and again.can_be_sent_again():
                self.soon(frame.retry_after or 1.0, lambda: self._send_again(again))
                return
        if not self._awaited.take(frame):
            self._receive(frame)

    def _send_again(self, command: Awaited) -> None:
        if command.can_be_sent_again():
            self.post(command.text(self._token()))
        else:  # nobody waits for it any more
            self._awaited.remove(command.id)

    async def _later(self, seconds: float, function: Callable[[], None]) -> None:
        await anyio.sleep(seconds)
        function()

    async def _write(self) -> None:
        try:
            while True:
                while self._unsent:
                    await self._link.send(self._unsent.popleft())
                await self._has_unsent.wait()
        except LinkClosed:
            pass  # the reader is told so, too

    async def _beat(self) -> None:
        if self._heartbeat is None:
            return
        number = 0
        has_pinged = False
        while True:
            self._has_heard = False
            await anyio.sleep(self._heartbeat)
            if self._has_heard or self._gate.is_shut:
                has_pinged = False
            elif has_pinged and all(command.is_stream for command in self._awaited):
                # A command may keep the pong waiting; then the pings of ``websockets`` decide.
                self.lose(ConnectionEnd(reason="no answer to pings"), is_dead=True)
            else:
                number += 1
                has_pinged = True
                self.post(ping_frame(number))
