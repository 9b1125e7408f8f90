"""Matching of replies: which frame answers which of the commands of one connection."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from websuckets.client.frames import Frame

__all__ = ["Replies"]

T = TypeVar("T")


class Replies(Generic[T]):
    """Receivers of replies, by the ids of the commands that wait for them."""

    def __init__(self) -> None:
        self._receivers: dict[str | int, T] = {}

    def __getitem__(self, id: str | int) -> T:
        return self._receivers[id]

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._receivers.values()))

    @property
    def ids(self) -> set[str | int]:
        """Ids of all commands that wait."""
        return set(self._receivers)

    def add(self, id: str | int, receiver: T) -> None:
        """Give replies to the command ``id`` to this receiver from now on."""
        self._receivers[id] = receiver

    def remove(self, id: str | int) -> None:
        """Give no more replies to the command ``id`` to anybody."""
        self._receivers.pop(id, None)

    def take_all(self) -> list[T]:
        """Remove and return all receivers."""
        receivers, self._receivers = list(self._receivers.values()), {}
        return receivers

    def receiver_of(self, frame: Frame) -> T | None:
        """Return the receiver of a frame; ``None`` for one that answers none of these commands."""
        if frame.id is None or not frame.is_reply:
            return None
        return self._receivers.get(frame.id)
