"""Catching up: connections that get from the log what they have missed, before live events.

What was missed does not go through the outbox of a connection, whose bound it would break: one task
for each connection reads page by page, and sends each page when the client has taken the last one.
When the task comes to the cursor of the node, the subscription gets live events; nothing can come
between, because both happen without waiting.
"""

from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import anyio
import anyio.lowlevel
from websockets.exceptions import ConnectionClosed

from websuckets.delivery.cursors import Cursor
from websuckets.delivery.outbox import TEXT, Start
from websuckets.delivery.pages import Page, Pages
from websuckets.delivery.subscriptions import Subscriptions, gap
from websuckets.exc import Unavailable
from websuckets.history import HistoryLost, Position
from websuckets.protocol.messages import encode_logged, encode_offset
from websuckets.runtime.jitter import uniform
from websuckets.socket import Socket

__all__ = ["CatchingUp"]

PAUSE: Final = 1.0
"""Seconds until a log that cannot be reached is asked again, and for which a node waits that has
not come as far as its client; drawn at random between the half and one and a half of it."""


MOST_JOINED: Final = 256 * 1024
"""Bytes of the events of a page that is sent in one step, at most."""


class _Connection:
    """A connection that catches up, with the position in each channel."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.positions: dict[str, Position] = {}
        self.has_new = True
        """True until earlier events of all these channels have been sent."""


class CatchingUp:
    """Tasks that catch up, of all connections of one node.

    ``cursors`` are the cursors of the node, and ``heal`` brings one of them up to the log.
    ``start`` starts a task.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        cursors: Mapping[str, Cursor],
        pages: Pages,
        heal: Callable[[Cursor], None],
        start: Start,
    ) -> None:
        self._subscriptions = subscriptions
        self._cursors = cursors
        self._pages = pages
        self._heal = heal
        self._start = start
        self._connections: dict[UUID, _Connection] = {}

    def begin(self, socket: Socket, channel: str, position: Position) -> None:
        """Send to a subscription what is behind a position, and then live events."""
        position = Position(*position)  # another object than where a page begins that is being sent
        self._subscriptions.hold(socket.id, channel)
        connection = self._connections.get(socket.id)
        if connection is not None:
            connection.positions[channel] = position
            connection.has_new = True
            return
        cursor = self._cursors[channel]
        if position == cursor.position:
            self._subscriptions.release(socket.id, channel)
            return
        connection = self._connections[socket.id] = _Connection(socket)
        connection.positions[channel] = position
        self._start(lambda: self._run(connection))

    def stop(self, connection: UUID, channel: str) -> Position | None:
        """Send no more to a subscription; return its position, if it was catching up."""
        catching_up = self._connections.get(connection)
        return None if catching_up is None else catching_up.positions.pop(channel, None)

    async def _run(self, connection: _Connection) -> None:
        try:
            while connection.positions:
                if connection.has_new:  # else the outbox would send earlier events after these
                    connection.has_new = False
                    await self._subscriptions.earlier_sent(connection.socket.id)
                    continue
                channel = next(iter(connection.positions))
                await self._step(connection, channel)
        except ConnectionClosed:
            pass
        except Exception:
            for channel in list(connection.positions):
                self._tell_gap(connection, channel)
            raise
        finally:
            del self._connections[connection.socket.id]

    async def _step(self, connection: _Connection, channel: str) -> None:
        """Send the next page of a channel, or end its catching up."""
        position, cursor = connection.positions[channel], self._cursors[channel]
        assert cursor.position is not None  # it was known when the subscription was made
        if position.epoch != cursor.position.epoch:
            self._tell_gap(connection, channel)
        elif position.offset == cursor.offset:
            del connection.positions[channel]
            self._subscriptions.release(connection.socket.id, channel)
        elif position.offset > cursor.offset:
            self._heal(cursor)
            await cursor.moved_or(_pause())
        else:
            try:
                page = await self._pages.read(channel, position)
            except HistoryLost:
                if connection.positions.get(channel) is position:
                    self._tell_gap(connection, channel)
            except Unavailable:
                await anyio.sleep(_pause())
            else:
                await self._send(connection, channel, position, cursor.tail, page)

    async def _send(
        self, connection: _Connection, channel: str, position: Position, tail: bytes, page: Page
    ) -> None:
        """Send a page that begins at ``position``, until the subscription ends or begins anew."""
        socket, own = connection.socket, str(connection.socket.id)
        send_texts = getattr(socket, "send_texts", None)
        if connection.positions.get(channel) is not position:
            return
        if not page.events:  # the log has less than the node has delivered
            await anyio.sleep(_pause())
        elif send_texts is not None and own not in page.excluded and page.size <= MOST_JOINED:
            # Before it is sent: what begins meanwhile, or is taken back, comes behind it.
            connection.positions[channel] = Position(position.epoch, page.events[-1].offset)
            await send_texts(page.texts(tail))
            await anyio.lowlevel.checkpoint()
        else:
            for event in page.events:
                if connection.positions.get(channel) is not position:
                    return
                position = connection.positions[channel] = Position(position.epoch, event.offset)
                if event.excluded == own:
                    frame = encode_offset(tail, event.offset)
                else:
                    frame = encode_logged(event.frame, tail, event.offset)
                await socket.send(frame, text=TEXT)

    def _tell_gap(self, connection: _Connection, channel: str) -> None:
        """Tell a client that events are lost for it; it gets live events from now on."""
        del connection.positions[channel]
        self._subscriptions.send(connection.socket.id, gap(channel), channel)
        self._subscriptions.release(connection.socket.id, channel)


def _pause() -> float:
    return uniform(PAUSE / 2, PAUSE * 3 / 2)
