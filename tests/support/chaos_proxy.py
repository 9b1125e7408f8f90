"""Links of the chaos run: a proxy for each, which cuts, delays or loses what it carries."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final

CHUNK: Final = 65536
RESET: Final = struct.pack("ii", 1, 0)
"""Option of a socket that is closed with RST."""


class Pair:
    """A connection through a link: that of the client, and that to the server."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.has_lost = False
        """True once data was lost: nothing passes any more, as the rest would be no protocol."""
        self.is_silent = False
        """True for a connection that has lost data and is not reset."""

    def reset(self) -> None:
        """End both sides with RST."""
        for writer in self.client, self.server:
            if writer is not None:
                reset(writer)


class Link:
    """A link to a port of loopback."""

    def __init__(self, name: str, to: int) -> None:
        self.name = name
        self.port = 0
        self._to = to
        self._pairs: set[Pair] = set()
        self._is_cut = False
        self._is_black_hole = False
        self._is_silent = False
        self._delay = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Accept no more connections, and end all."""
        assert self._server is not None
        self._server.close()
        for pair in list(self._pairs):
            pair.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Reset all connections, and each new one, until the link is restored."""
        self._is_cut = True
        for pair in list(self._pairs):
            pair.reset()

    def delay(self, seconds: float) -> None:
        """Carry each piece of data this much later from now on."""
        self._delay = seconds

    def lose(self, *, is_silent: bool) -> None:
        """Accept connections and data from now on, and lose all data.

        If the link ``is_silent``, connections that have lost data stay silent when it is restored;
        otherwise they are reset then.
        """
        self._is_black_hole = True
        self._is_silent = is_silent

    def restore(self) -> None:
        self._is_cut = self._is_black_hole = False
        self._delay = 0.0
        for pair in list(self._pairs):
            if pair.has_lost and not pair.is_silent:
                pair.reset()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        pair = Pair(client)
        self._pairs.add(pair)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self._is_cut:
                return
            if self._is_black_hole:
                self._lose_from(pair)
                await self._carry(pair, reader, client)
                return
            back, pair.server = await asyncio.open_connection("127.0.0.1", self._to, limit=CHUNK)
            await asyncio.gather(
                self._carry(pair, reader, pair.server), self._carry(pair, back, client)
            )
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            pair.reset()

    def _lose_from(self, pair: Pair) -> None:
        pair.has_lost = True
        pair.is_silent = pair.is_silent or self._is_silent

    async def _carry(
        self, pair: Pair, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        """Carry data in one direction until its source ends, or either side is reset."""
        with suppress(OSError):
            while data := await source.read(CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if self._is_black_hole:
                    self._lose_from(pair)
                if not pair.has_lost:
                    target.write(data)
                    await target.drain()
        if self._is_black_hole:
            self._lose_from(pair)
        if not pair.has_lost:  # otherwise the other side does not hear of the end
            target.transport.abort() if target.is_closing() else target.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
