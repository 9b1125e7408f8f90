"""Items of a stream, each sent as its handler yields it.

Streams are started, cancelled and waited for in `websuckets.commands.streams_and_concurrency`.
"""

import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel

from websuckets.commands.groups import Command
from websuckets.commands.peer import Peer
from websuckets.commands.results import note_for_result
from websuckets.protocol.messages import Message, encode_event
from websuckets.runtime.clock import Timeout
from websuckets.runtime.request_scope import RequestScope

__all__ = ["Stream"]


@dataclass(slots=True)
class Stream:
    """A stream that runs in a request scope of its own."""

    command: Command
    message: Message
    peer: Peer
    request_scope: RequestScope
    timeout: Timeout
    """Time that the handler may take for each item, not counting the time to send it."""

    async def send(self, items: AsyncGenerator[Any, None]) -> str | None:
        """Send each item; return the last reply, or ``None`` where the command has no id.

        Raises the errors of the handler, after its generator was closed.
        """
        try:
            async for item in items:
                self.request_scope.due = math.inf
                await self._send(item)
                self.request_scope.limit(self.timeout)
        except BaseException:
            await _close(items)
            raise
        message = self.message
        return None if message.id is None else encode_event(message.event, None, message.id)

    async def _send(self, item: Any) -> None:
        try:
            frame = self.command.encode.item(item, self.message.id)
        except Exception as error:
            error.add_note(note_for_result(self.command.plan.where, "yielded", item))
            raise
        # A frame is sent whole or not at all; and a timeout that the handler holds around its
        # `yield` must not cancel the sending: such a timeout takes effect inside of the handler.
        with anyio.CancelScope(shield=True):
            await self.peer.transport.reply(frame)
            # Let other tasks run, even if neither the handler nor the connection ever waits.
            await anyio.lowlevel.checkpoint()
        if self.request_scope.is_cancelled:
            await anyio.lowlevel.checkpoint()


async def _close(items: AsyncGenerator[Any, None]) -> None:
    """Close the generator of a stream where it stands; raise the errors of its clean-up."""
    try:
        await items.aclose()
    except BaseExceptionGroup as group:
        failures = group.split(GeneratorExit)[1]  # a task group puts a `GeneratorExit` into a group
        if failures is not None:
            raise failures from None
