"""Commands for measuring channels: clients subscribe to the news, and one client publishes it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio.lowlevel
from pydantic import BaseModel

__all__ = ["NEWS", "PUBLISH", "SUBSCRIBE", "Edition", "news", "publish_all"]

NEWS: Final = "news"
"""The name of the channel, and of the event."""
SUBSCRIBE: Final = "news subscribe"
"""The command by which a client subscribes; payload and answer are the name of the channel."""
PUBLISH: Final = "news publish"
"""The command that lets the server publish an `Edition`, and is answered after that."""


class Edition(BaseModel):
    """A range of numbered messages, which are published one after the other."""

    first: int
    count: int


def news(number: int) -> dict[str, Any]:
    """Return the payload of one message, which takes some 100 bytes with its frame and event."""
    return {"number": number, "text": "x" * 48}


async def publish_all(
    edition: Edition, publish: Callable[[dict[str, Any]], Awaitable[None]]
) -> int:
    """Publish the messages one by one, and let the event loop run in between.

    Returns the answer to the command: the number of messages.
    """
    for number in range(edition.first, edition.first + edition.count):
        await publish(news(number))
        await anyio.lowlevel.checkpoint()
    return edition.count
