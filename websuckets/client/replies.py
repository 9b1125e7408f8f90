"""Matching of replies: which frame answers which of the commands of one connection."""

from collections.abc import Iterator

from websuckets.client.calls import Awaited
from websuckets.client.frames import Frame

__all__ = ["Replies"]


class Replies:
    """Commands of one connection that wait for replies, by their ids."""

    def __init__(self) -> None:
        self._commands: dict[str | int, Awaited] = {}

    def __contains__(self, id: str | int) -> bool:
        return id in self._commands

    def __iter__(self) -> Iterator[Awaited]:
        return iter(list(self._commands.values()))

    def add(self, command: Awaited) -> None:
        """Give replies to this command from now on."""
        self._commands[command.id] = command

    def remove(self, id: str | int) -> None:
        """Give no more replies to the command ``id``."""
        self._commands.pop(id, None)

    def take_all(self) -> list[Awaited]:
        """Remove and return all commands."""
        commands, self._commands = list(self._commands.values()), {}
        return commands

    def command_of(self, frame: Frame) -> Awaited | None:
        """Return the command that a frame answers; ``None`` if it answers none of these."""
        if frame.id is None or not frame.is_reply:
            return None
        return self._commands.get(frame.id)

    def take(self, frame: Frame) -> bool:
        """Give a frame to the command that it answers; return false if it answers none of these.

        The final reply removes its command.
        """
        command = self.command_of(frame)
        if command is None:
            return False
        if frame.more:
            command.item(frame)
        else:
            self.remove(command.id)
            command.reply(frame)
        return True
