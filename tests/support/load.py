"""Clients that keep a server busy while it is replaced or stopped, and count their replies."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from harness import connect
from run_command import LONG, RunningProgram
from websockets.exceptions import ConnectionClosed, InvalidHandshake


class Load:
    """Clients that send commands, one after the other, and connect again when they are told to.

    A command that ran must have been answered. A command that the server did not begin, because
    its message came after the close frame of the server, is not sent again, so that the two can be
    told apart. ``options`` are those of the client of `websockets`.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.options = options
        self.answered: set[int] = set()
        self.refused: list[str] = []
        self.codes: Counter[int] = Counter()
        self.connections = 0
        self.stops = False
        self._numbers: Iterator[int] = itertools.count()

    async def talk(self) -> None:
        """Be a client that stays connected."""
        while not self.stops:
            await self._connection(None)

    async def visit(self) -> None:
        """Be clients that come one after the other, and send one command each."""
        while not self.stops:
            await self._connection(1)

    async def _connection(self, commands: int | None) -> None:
        try:
            async with connect(self.url, open_timeout=LONG, **self.options) as connection:
                self.connections += 1
                try:
                    while commands != 0 and not self.stops:
                        commands = None if commands is None else commands - 1
                        number = next(self._numbers)
                        frame = {"event": "record", "payload": number, "id": number}
                        await connection.send(json.dumps(frame))
                        reply = json.loads(await connection.recv())
                        assert reply["id"] == number, reply
                        self.answered.add(number)
                except ConnectionClosed as closed:
                    self.codes[0 if closed.rcvd is None else closed.rcvd.code] += 1
        except (OSError, InvalidHandshake, TimeoutError, EOFError) as error:
            if not self.stops:
                self.refused.append(repr(error))


def ran(program: RunningProgram) -> list[int]:
    """Return the numbers of the commands that a program has run."""
    return [int(line) for line in (program.directory / "ran").read_text().split()]
