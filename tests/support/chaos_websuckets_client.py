"""Clients of the chaos run by `websuckets.client`, for the same oracle as those by hand.

The oracle gets what the program gets: one stream of events for each subscription, over all of its
connections, until its state is loaded anew. So an event that the client loses, repeats or puts out
of order between two connections is a violation, and not only one that a server does.
"""

import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from chaos_client import (
    AGAIN,
    ANSWER,
    CONNECTING,
    DOOMED_TRIES,
    ITEMS,
    MOST_WAITING,
    Command,
    Screen,
)
from chaos_history import Acknowledged, At, Left, Record, Seen, Subscribed, Value

from websuckets.client import Backoff, Client, ClientClosed, CommandError, ConnectionLost
from websuckets.client.reconnecting import ConnectionEnd

HEARTBEAT: Final = 3.0


class ChaosWebsucketsClient:
    """A client, for as long as its user works: through kills, and over many connections.

    The arguments are those of `ChaosClient`, and the ``tasks`` in which the client runs.
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
        tasks: TaskGroup,
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
        self.faults: list[str] = []
        """Errors for which a server without faults has no reason."""
        self._tasks = tasks
        self._scope = anyio.CancelScope()
        self._has_ended = anyio.Event()
        self._client: Client | None = None

    def start(self) -> None:
        """Begin with an empty screen, and with the commands that were kept."""
        self.screens = {board: Screen() for board in self._boards}
        self._scope, self._has_ended = anyio.CancelScope(), anyio.Event()
        self._tasks.start_soon(self._run)

    async def kill(self) -> None:
        """End at once, without a word to the server."""
        session = None if self._client is None else self._client._running._session
        if session is not None:
            session.lose(ConnectionEnd(), is_dead=True)
        self._scope.cancel()
        await self._has_ended.wait()
        self._report(Left())

    @property
    def positions(self) -> dict[str, At | None]:
        """Positions of all boards; ``None`` for one that is not watched at this moment."""
        return {
            board: screen.at if screen.is_watched else None
            for board, screen in self.screens.items()
        }

    async def _run(self) -> None:
        self._client = client = Client(
            lambda: f"ws://127.0.0.1:{self._random.choice(self._ports)}",
            token=self._token,
            authenticate=self._enter,
            timeout=ANSWER,
            heartbeat=HEARTBEAT,
            backoff=Backoff(first=0.1, most=2, later=1, random=self._random.random),
            open_timeout=CONNECTING,
            close_timeout=1,
            compression=None,
            proxy=None,
        )
        client.on_state(self._note_state)
        try:
            with self._scope:
                async with client, anyio.create_task_group() as tasks:
                    for board in self._boards:
                        tasks.start_soon(self._watch, client, board)
                    for command in list(self.commands.values()):
                        tasks.start_soon(self._change, client, command)
                    await self._work(client, tasks)
        except ExceptionGroup as group:
            self.faults += [f"{self.name}: {error!r}" for error in group.exceptions]
        finally:
            self._has_ended.set()

    async def _enter(self, client: Client) -> None:
        await client.call("enter", {"name": self.name, "token": self._token})

    def _note_state(self, state: str) -> None:
        if state == "open":
            self._counts["connections"] += 1

    # Boards

    async def _watch(self, client: Client, board: str) -> None:
        """Show a board, for as long as the client lives."""
        screen = self.screens[board]

        def load(reply: Any) -> None:
            self._counts["reloaded"] += 1
            self._load(board, reply, At(*subscription.positions[board]), recovered=False)

        while True:
            subscription = client.subscribe("watch", board, on_reload=load)
            try:
                async with subscription:
                    self._load(board, subscription.reply, At(*subscription.positions[board]))
                    async for event in subscription:
                        self._show(screen, event)
            except (CommandError, TimeoutError) as error:
                screen.is_watched = False
                if isinstance(error, CommandError) and error.error not in AGAIN:
                    raise
                self._counts[f"watch: {error}"] += 1
                await anyio.sleep(0.3 * self._random.uniform(0.7, 1.3))

    def _load(self, board: str, reply: Any, at: At, recovered: bool | None = None) -> None:
        screen = self.screens[board]
        since = None if recovered is None else screen.at
        self._report(Subscribed(board, at, recovered, since))
        screen.load({item: Value(*value) for item, value in reply.items()}, at)
        screen.is_watched = True

    def _show(self, screen: Screen, event: Any) -> None:
        payload = event.payload
        self._counts["events"] += 1
        seen = Seen(event.channel, event.offset, payload["effect"], payload["command"])
        self._report(seen)
        value = Value(payload["value"], payload["version"])
        screen.change(event.offset, payload["item"], value)

    # Commands

    async def _work(self, client: Client, tasks: TaskGroup) -> None:
        """Make a command after each pause to think, as long as few wait for their replies."""
        while True:
            await anyio.sleep(self._random.uniform(0.4, 1.4))
            if self.works and len(self.commands) < MOST_WAITING:
                tasks.start_soon(self._change, client, self._new_command())

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

    async def _change(self, client: Client, command: Command) -> None:
        """Call a command until it is answered for good; sometimes twice at once, or once more."""
        name, doom = command.payload["command"], command.payload["doom"]
        while True:
            self._counts["called again"] += bool(command.sent)
            command.sent += 1
            try:
                if self._random.random() < 0.03:
                    self._counts["twins"] += 1
                    await self._call_twice(client, command)
                else:
                    await self._call(client, command)
            except (CommandError, TimeoutError, ConnectionLost) as error:
                if isinstance(error, ClientClosed):
                    raise
                refused = error.error if isinstance(error, CommandError) else type(error).__name__
                if refused == "doomed" or (doom and command.sent >= DOOMED_TRIES):
                    self._end(name, "rolled back")
                    return
                if isinstance(error, CommandError) and refused not in AGAIN:
                    raise RuntimeError(f"{name}: {refused}") from None
                self._counts[f"change: {refused}"] += 1
                await anyio.sleep(0.3 * self._random.uniform(0.7, 1.3))
                continue
            self._end(name, "acknowledged")
            return

    async def _call_twice(self, client: Client, command: Command) -> None:
        """Call a command twice at once. Raises an error of either call, once both have ended."""
        errors: list[Exception] = []

        async def call() -> None:
            try:
                await self._call(client, command)
            except (CommandError, TimeoutError, ConnectionLost) as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(call)
        if errors:
            raise errors[0]

    async def _call(self, client: Client, command: Command) -> None:
        reply = await client.call("change", command.payload, key=command.key)
        name = command.payload["command"]
        self._report(Acknowledged(name, reply["effect"]))

    def _end(self, name: str, how: str) -> None:
        if self.commands.pop(name, None) is not None:
            self._counts[how] += 1
