"""Clients of the chaos run: they reconnect, send commands again, and catch up.

Each client does by hand what a client of websuckets has to do. It reports everything that it sees
to the oracle, and trusts nobody: it notices neither gaps nor duplicates by itself.
"""

import asyncio
import json
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos_history import Acknowledged, At, GapTold, Items, Left, Record, Seen, Subscribed, Value
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

CONNECTING: Final = 3.0
ANSWER: Final = 12.0
"""Seconds in which a command is answered: longer than its timeout on the server."""

AGAIN: Final = {"in progress", "rate limited", "unavailable", "timeout", "internal error"}
"""Errors after which a client may send the same command again, with its key."""

DOOMED_TRIES: Final = 3
"""Times that a command which always fails is sent."""

MOST_WAITING: Final = 3
"""Commands of one client that wait for a reply, at most."""

ITEMS: Final = 8


@dataclass
class Command:
    """Command that has not been acknowledged yet, as a client keeps it on its disk."""

    key: str
    payload: dict[str, Any]
    sent: int = 0
    is_in_flight: bool = False


@dataclass
class Screen:
    """State of one board, as a client shows it."""

    items: Items = field(default_factory=dict)
    at: At | None = None
    recent: list[tuple[int, str, Value]] = field(default_factory=list)
    """Offsets, items and values of events since the last gap on this connection."""
    is_watched: bool = False

    def load(self, items: Items, at: At) -> None:
        """Show a state, and what came after it was asked for."""
        self.items = dict(items)
        offset = at.offset
        for number, item, value in self.recent:
            self._show(item, value)
            offset = max(offset, number)
        self.at = At(at.epoch, offset)

    def change(self, offset: int, item: str, value: Value) -> None:
        self._show(item, value)
        if self.at is None or not self.is_watched:
            self.recent.append((offset, item, value))
        else:
            self.at = At(self.at.epoch, max(offset, self.at.offset))

    def _show(self, item: str, value: Value) -> None:
        shown = self.items.get(item)
        if shown is None or shown.version < value.version:
            self.items[item] = value


class ChaosClient:
    """A client, for as long as its user works: through kills, and over many connections.

    ``ports`` are those of the links to all nodes. ``report`` is called with each record for the
    oracle; ``counts`` are written for the summary, and ``doomed`` are the names of commands whose
    transactions are rolled back.
    """

    def __init__(
        self,
        name: str,
        token: str,
        ports: Sequence[int],
        boards: Sequence[str],
        seed: str,
        report: Callable[[Record], None],
        counts: Counter[str],
        doomed: set[str],
    ) -> None:
        self.name = name
        self._token = token
        self._ports = ports
        self._boards = boards
        self._random = random.Random(f"{seed}/{name}")
        self._report = report
        self._counts = counts
        self._doomed = doomed
        self._number = 0
        self.commands: dict[str, Command] = {}
        self.screens: dict[str, Screen] = {}
        self.works = True
        """True while the client makes new commands."""
        self._task: asyncio.Task[None] | None = None
        self._connection: ClientConnection | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._asked_since: dict[str, At] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._id = 0
        self.faults: list[str] = []
        """Errors for which a server without faults has no reason."""

    # Life

    def start(self) -> None:
        """Begin with an empty screen, and with the commands that were kept."""
        self.screens = {board: Screen() for board in self._boards}
        self._task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        """End at once, without a word to the server."""
        assert self._task is not None
        while not self._task.done():  # a cancellation may meet an error, and get lost
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)
        for command in self.commands.values():
            command.is_in_flight = False

    @property
    def positions(self) -> dict[str, At | None]:
        """Positions of all boards; ``None`` for one that is not watched at this moment."""
        return {
            board: screen.at if screen.is_watched else None
            for board, screen in self.screens.items()
        }

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CONNECTING):
                    connection = await connect(
                        f"ws://127.0.0.1:{self._random.choice(self._ports)}",
                        ping_interval=3,
                        ping_timeout=3,
                        close_timeout=1,
                        compression=None,
                        proxy=None,
                    )
            except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, EOFError):
                failures += 1
            else:
                self._counts["connections"] += 1
                if await self._use(connection):
                    failures = 0
                else:
                    failures += 1
            await asyncio.sleep(min(0.1 * 2**failures, 2) * self._random.uniform(0.5, 1))

    async def _use(self, connection: ClientConnection) -> bool:
        """Work on a connection until it ends; return whether it was of any use."""
        self._connection = connection
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(self._receive(connection))]
        try:
            login = {"name": self.name, "token": self._token}
            if "error" in await self._ask("enter", login):
                return False
            tasks += [asyncio.create_task(self._watch(board)) for board in self._boards]
            tasks += [asyncio.create_task(self._send_again()), asyncio.create_task(self._work())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                error = task.exception() if task.done() and not task.cancelled() else None
                if error is not None and not isinstance(error, ConnectionClosed | TimeoutError):
                    raise error
            return True
        except (ConnectionClosed, TimeoutError):
            return False
        finally:
            for each in [*tasks, *self._tasks]:
                each.cancel()
            connection.transport.abort()
            self._connection = None
            self._report(Left())
            for screen in self.screens.values():
                screen.is_watched = False
                screen.recent = []
            self._answers, self._asked_since = {}, {}
            for command in self.commands.values():
                command.is_in_flight = False

    # Frames

    async def _ask(self, event: str, payload: Any, **fields: Any) -> dict[str, Any]:
        """Send a command, and return its reply. Raises `TimeoutError`."""
        if self._connection is None:
            raise TimeoutError("the connection has ended")
        self._id += 1
        id = f"{event} {self._id}"
        for since in fields.get("since", {}).values():
            self._asked_since[id] = since
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[id] = answer
        frame = {"event": event, "payload": payload, "token": self._token, "id": id, **fields}
        await self._connection.send(json.dumps(frame))
        try:
            async with asyncio.timeout(ANSWER):  # wait_for loses cancellations, on Python 3.11
                await asyncio.wait([answer])
            return answer.result()
        finally:
            self._answers.pop(id, None)

    async def _receive(self, connection: ClientConnection) -> None:
        """Take frames in their order: what a reply means for a screen is done here, at once."""
        try:
            while True:
                self._take(json.loads(await connection.recv()))
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(TimeoutError("the connection ended before the reply"))
                    answer.exception()  # nobody may wait for it any more

    def _take(self, frame: dict[str, Any]) -> None:
        if "subscribed" in frame:
            self._subscribed(frame)
        answer = self._answers.get(frame.get("id", ""))
        if answer is not None:
            if not answer.done():
                answer.set_result(frame)
        elif "offset" in frame:
            self._changed(frame)
        elif frame.get("event") == "channel gap":
            self._gap(frame["payload"]["channel"])
        else:
            self._counts["other frames"] += 1

    def _changed(self, frame: dict[str, Any]) -> None:
        channel, offset, payload = frame["channel"], frame["offset"], frame["payload"]
        self._counts["events"] += 1
        self._report(Seen(channel, offset, payload["effect"], payload["command"]))
        value = Value(payload["value"], payload["version"])
        self.screens[channel].change(offset, payload["item"], value)

    def _gap(self, channel: str | None) -> None:
        if channel is None:  # it is about messages to the user alone, of which there are none
            self._counts["gaps told of messages to users"] += 1
            return
        self._counts["gaps told"] += 1
        self._report(GapTold(channel))
        screen = self.screens[channel]
        was_watched = screen.is_watched
        screen.at, screen.recent, screen.is_watched = None, [], False
        if was_watched:
            self._start(self._watch(channel))

    def _subscribed(self, frame: dict[str, Any]) -> None:
        ((channel, answer),) = frame["subscribed"].items()
        screen = self.screens[channel]
        at, recovered = At(answer["epoch"], answer["offset"]), answer.get("recovered")
        since = self._asked_since.pop(frame["id"], None)
        self._report(Subscribed(channel, at, recovered, since))
        if recovered and screen.at is None:  # a gap was told after the command was sent
            self._start(self._watch(channel))
            return
        if recovered:
            self._counts["recovered"] += 1
        else:
            if recovered is False:
                self._counts["reloaded"] += 1
            screen.load({item: Value(*value) for item, value in frame["payload"].items()}, at)
        screen.is_watched = True
        screen.recent = []

    # Commands

    def _start(self, coroutine: Any) -> None:
        """Run a coroutine beside others, which ends the connection if it fails."""
        connection = self._connection
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)

        def done(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and connection is not None:
                if not isinstance(error, ConnectionClosed | TimeoutError):
                    self.faults.append(f"{self.name}: {error!r}")
                connection.transport.abort()

        task.add_done_callback(done)

    async def _watch(self, board: str) -> None:
        """Watch a board, again until it succeeds."""
        while True:
            at = self.screens[board].at
            fields: dict[str, Any] = {} if at is None else {"since": {board: at}}
            frame = await self._ask("watch", board, **fields)
            if "error" not in frame:
                return
            self._counts[f"watch: {frame['error']}"] += 1
            await self._pause(frame)

    async def _work(self) -> None:
        """Make a command after each pause to think, as long as few wait for their replies."""
        while True:
            await asyncio.sleep(self._random.uniform(0.4, 1.4))
            if self.works and len(self.commands) < MOST_WAITING:
                self._start(self._change(self._new_command()))

    def _new_command(self) -> Command:
        self._number += 1
        name = f"{self.name}.{self._number}"
        doom = self._random.choices([None, "raise", "commit"], [90, 7, 3])[0]
        payload = {
            "command": name,
            "board": self._random.choice(self._boards),
            "item": f"item {self._random.randrange(ITEMS)}",
            "amount": self._random.randint(1, 9),
            "doom": doom,
        }
        if doom is not None:
            self._doomed.add(name)
        command = self.commands[name] = Command(secrets.token_hex(16), payload)
        self._counts["commands"] += 1
        return command

    async def _send_again(self) -> None:
        for command in list(self.commands.values()):
            if not command.is_in_flight:
                self._start(self._change(command))

    async def _change(self, command: Command) -> None:
        """Send a command until it is answered for good; sometimes twice at once, or once more."""
        name, doom = command.payload["command"], command.payload["doom"]
        command.is_in_flight = True
        while name in self.commands:
            chance = self._random.random()
            if command.sent:
                self._counts["resent"] += 1
            command.sent += 1
            if chance < 0.03:
                self._counts["twins"] += 1
                frame, twin = await asyncio.gather(self._send(command), self._send(command))
                self._note(name, twin)
            else:
                frame = await self._send(command)
            self._note(name, frame)
            error = frame.get("error")
            if error is None or error == "doomed" or (doom and command.sent >= DOOMED_TRIES):
                if self.commands.pop(name, None) is not None:
                    self._counts["acknowledged" if error is None else "rolled back"] += 1
            elif error in AGAIN:
                self._counts[f"change: {error}"] += 1
                await self._pause(frame)
            else:
                raise RuntimeError(f"{name}: {error}")
        if error is None and self._random.random() < 0.05:
            await asyncio.sleep(self._random.uniform(0, 5))
            self._counts["replayed"] += 1
            self._note(name, await self._send(command))

    async def _send(self, command: Command) -> dict[str, Any]:
        return await self._ask("change", command.payload, key=command.key)

    def _note(self, name: str, frame: dict[str, Any]) -> None:
        if "error" not in frame:
            self._report(Acknowledged(name, frame["payload"]["effect"]))

    async def _pause(self, frame: dict[str, Any]) -> None:
        details = frame["details"]
        seconds = details.get("retry_after", 0.3) if isinstance(details, dict) else 0.3
        await asyncio.sleep(seconds * self._random.uniform(0.7, 1.3))
