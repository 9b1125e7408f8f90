"""The job that every subject does for a message, and its data.

The *protected* command carries a token, a payload and the name of the command. The server compares
the token in constant time, validates the payload into `Post`, opens a `Transaction` on the `Store`,
answers, and closes the transaction. The *plain* command validates and answers, and no more.
"""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

__all__ = ["CREATE", "HOST", "PREVIEW", "TOKEN", "Post", "Store", "Transaction", "preview"]

HOST: Final = "127.0.0.1"
CREATE: Final = "post create"
"""The protected command."""
PREVIEW: Final = "post preview"
"""The plain command."""
TOKEN: Final = "6f1d1c0e5b7a4d3f9a8e2c4b6d8f0a1c"
"""The token of every connection; each server keeps it for each of its connections."""


class Post(BaseModel):
    """The payload of both commands."""

    title: str
    text: str


class Store:
    """An object that lives as long as the server."""

    def __init__(self) -> None:
        self.open = 0
        """Number of transactions that are not closed yet."""


class Transaction:
    """An object that lives as long as one message."""

    __slots__ = ("store",)

    def __init__(self, store: Store) -> None:
        self.store = store
        store.open += 1

    def add(self, post: Post) -> dict[str, Any]:
        """Return the answer to the protected command; its last item shows if transactions stay
        open."""
        return {"title": post.title, "size": len(post.text), "open": self.store.open}

    def close(self) -> None:
        self.store.open -= 1


def preview(post: Post) -> dict[str, Any]:
    """Return the answer to the plain command."""
    return {"title": post.title, "size": len(post.text)}


@dataclass(frozen=True)
class Job:
    """A job: the messages of clients, and the number of messages and connections."""

    name: str
    event: str = CREATE
    text_size: int = 32
    depth: int = 1
    """Number of messages of one connection that are on their way at once."""
    connections: int = 32
    is_subscribed: bool = False
    """True if each connection subscribes to a channel before it sends anything else."""
    is_idle: bool = False
    """True if clients send nothing after their first message; the measure is then the
    server's processor time for a connection and a second."""

    @property
    def post(self) -> dict[str, str]:
        return {"title": "Hello", "text": "x" * self.text_size}

    @property
    def answer(self) -> dict[str, Any]:
        """Return the payload of the reply to a message if no other is being answered."""
        is_protected = self.event == CREATE
        seen = {"title": "Hello", "size": self.text_size}
        return {**seen, "open": 1} if is_protected else seen
