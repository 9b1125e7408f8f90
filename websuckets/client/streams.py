"""Streams of a client: the items that one command is answered with, as an async iterator."""

from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, NoReturn, TypeVar

from websuckets.client.buffers import Buffer, Signal
from websuckets.client.calls import Call, Caller
from websuckets.client.errors import ConnectionLost, SlowReader, UnexpectedReply
from websuckets.client.frames import Errors, Frame
from websuckets.client.timeouts import within

__all__ = ["Stream", "StreamCall"]

T = TypeVar("T")


class StreamCall(Call):
    """A command that is answered with items, as the tasks of the client see it.

    It does not know its `Stream`, so that the stream is deleted, and cancelled, as soon as no code
    of the program has it any more.
    """

    is_stream = True

    def __init__(self, *fields: Any, items: Buffer[Frame], changed: Signal | None = None) -> None:
        super().__init__(*fields, changed=changed)
        self.items: Buffer[Frame] = items

    def item(self, frame: Frame) -> None:
        if not self.is_done and not self.items.put(frame):
            self.fail(SlowReader(self.event))
        self.changed.set()

    def lose(self, error: ConnectionLost) -> bool:
        self.fail(error)
        return False

    def cancel(self) -> None:
        super().cancel()
        self.items.clear()

    async def next_frame(self) -> Frame:
        """Return the next item, or the final reply. Raises the error that ended the stream."""
        while not len(self.items) and not self.is_done:
            await self.changed.wait()
        return self.items.take() if len(self.items) else await self.wait()


class Stream(AsyncGenerator[T, None], Generic[T]):
    """Items of a stream, in their order, which `Client.stream` returns.

    Leaving the iteration cancels the stream on the server: at once where the stream is closed
    (``contextlib.aclosing``) or not referred to any more, as behind ``async for item in
    client.stream(...)``.
    """

    def __init__(
        self,
        call: StreamCall,
        caller: Caller,
        read: Callable[[Frame], T],
        timeout: float | None,
        errors: Errors | None = None,
    ) -> None:
        self._runs = False
        self._call = call
        self._caller = caller
        self._read = read
        self._timeout = timeout
        self._errors = errors
        caller.start(call)
        self._runs = True

    async def __anext__(self) -> T:
        """Return the next item.

        Raises `CommandError` for an error of the server, `ConnectionLost` when the connection was
        lost, after the items that came before, and `TimeoutError`.
        """
        return await self.asend(None)

    async def asend(self, value: None) -> T:
        """Return the next item, as `__anext__` does; ``value`` is always ``None``."""
        if not self._runs:
            raise StopAsyncIteration
        call = self._call
        self._caller.check_loop()
        try:
            with within(self._timeout, f"no item of {call.event!r}"):
                frame = await call.next_frame()
            if frame.more:
                return self._read(frame)
        except BaseException:
            self._leave()
            raise
        self._runs = False
        if frame.is_error:
            raise frame.error(self._errors)
        if frame.payload is not None:
            raise UnexpectedReply(call.event, "is not a stream; call() returns its reply")
        raise StopAsyncIteration

    async def athrow(self, type: Any, value: Any = None, traceback: Any = None) -> NoReturn:
        """Close the stream; raise ``value`` or else ``type``, and never return.

        ``traceback`` is ignored.
        """
        self._leave()
        raise type if value is None else value

    async def aclose(self) -> None:
        """Cancel the stream, unless it has ended."""
        self._leave()

    def _leave(self) -> None:
        if self._runs:
            self._runs = False
            self._caller.cancel(self._call)

    def __del__(self) -> None:
        if getattr(self, "_runs", False):
            self._leave()
