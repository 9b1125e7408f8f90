"""What channels are measured with: clients subscribe to the news, and one has them published."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio.lowlevel
from pydantic import BaseModel

__all__ = ["NEWS", "PUBLISH", "SUBSCRIBE", "Edition", "news", "publish_all"]

NEWS: Final = "news"
"""The name of the channel, and of the event."""
SUBSCRIBE: Final = "news subscribe"
"""The command of a client that is to get the news; its payload is the name of the channel,
and so is the answer's."""
PUBLISH: Final = "news publish"
"""The command after which the server publishes an `Edition`; it is answered when that is done."""


class Edition(BaseModel):
    """Numbered messages, one after the other."""

    first: int
    count: int


def news(number: int) -> dict[str, Any]:
    """The payload of one message: some 100 bytes with all that is around it."""
    return {"number": number, "text": "x" * 48}


async def publish_all(
    edition: Edition, publish: Callable[[dict[str, Any]], Awaitable[None]]
) -> int:
    """Publish each message when the last one is, and let the event loop go on in between.

    Gives what the command is answered with: how many there were.
    """
    for number in range(edition.first, edition.first + edition.count):
        await publish(news(number))
        await anyio.lowlevel.checkpoint()
    return edition.count
