"""Connections of clients: by the client of ``websockets``, on asyncio and on trio."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, InvalidURI

from websuckets.client.reconnecting import ConnectionEnd, retry_after_seconds
from websuckets.runtime.event_loop import on_trio

__all__ = ["Link", "LinkClosed", "end_of_attempt", "open_link", "silent_logger"]

ABNORMAL: Final = 1006

MISTAKES: Final = (TypeError, ValueError, AttributeError, ImportError, InvalidURI, InvalidProxy)
"""Errors that come of the options of the program. All others may pass, as those of a network do."""


class LinkClosed(Exception):
    """The connection is closed; ``end`` says how."""

    def __init__(self, end: ConnectionEnd) -> None:
        super().__init__(end)
        self.end = end


class Link(Protocol):
    """A connection to a server that is open."""

    async def send(self, text: str) -> None:
        """Send a frame, and wait while the server is slow to read. Raises `LinkClosed`."""
        ...

    async def receive(self) -> str | bytes:
        """Return the next frame. Raises `LinkClosed` after the last one."""
        ...

    async def close(self) -> None:
        """Close the connection with 1000, and wait until it is closed."""
        ...

    def abort(self) -> None:
        """End the connection without a closing handshake, as far as that needs no waiting."""
        ...


@asynccontextmanager
async def open_link(url: str, options: dict[str, Any]) -> AsyncIterator[Link]:
    """Connect, and yield the connection, which is closed at the end of the context.

    ``options`` are keyword arguments of ``connect`` of ``websockets``, whose errors are raised.
    """
    connect: Any
    if on_trio():
        from websockets.trio.client import connect
    else:
        from websockets.asyncio.client import connect
    async with connect(url, **options) as connection:
        yield _WebSocket(connection)


class _WebSocket:
    """A connection of ``websockets``, on whichever event loop."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise LinkClosed(_end(error)) from None

    async def receive(self) -> str | bytes:
        try:
            frame: str | bytes = await self._connection.recv()
        except ConnectionClosed as error:
            raise LinkClosed(_end(error)) from None
        return frame

    async def close(self) -> None:
        await (self._connection.aclose() if on_trio() else self._connection.close())

    def abort(self) -> None:
        if not on_trio():  # there, leaving the context with a cancellation does it
            self._connection.transport.abort()


def _end(error: ConnectionClosed) -> ConnectionEnd:
    """Return the end that the server has told, or an abnormal one."""
    if error.rcvd is not None and error.rcvd_then_sent is not False:
        return ConnectionEnd(int(error.rcvd.code), error.rcvd.reason)
    if error.sent is not None:  # this side found a fault, as a message that is too long
        return ConnectionEnd(ABNORMAL, f"closed by this side: {error.sent.reason}".rstrip(": "))
    return ConnectionEnd(ABNORMAL)


def end_of_attempt(error: Exception) -> ConnectionEnd:
    """Return the end of an attempt to connect that has failed with an error of `open_link`.

    Raises the error if another attempt would fail in the same way, as for wrong options.
    """
    if isinstance(error, InvalidStatus):
        response = error.response
        wait = None
        with suppress(KeyError, LookupError):
            wait = retry_after_seconds(response.headers.get("Retry-After"))
        return ConnectionEnd(status=response.status_code, retry_after=wait)
    if isinstance(error, MISTAKES):
        raise error
    why = getattr(error, "strerror", None) or type(error).__name__
    return ConnectionEnd(ABNORMAL, str(why))


def silent_logger() -> logging.Logger:
    """Return a logger for ``websockets`` that writes neither frames nor headers, but at INFO.

    It leaves out that a connection has ended, which ``websockets`` calls an error on trio if the
    other side is dead: the client tells that itself.
    """
    transport = logging.getLogger("websuckets.client.transport")
    if transport.level == logging.NOTSET:
        transport.setLevel(logging.INFO)
    transport.addFilter(_is_no_end)  # which adds it once
    return transport


def _is_no_end(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], ConnectionClosed)
