"""A chaos run: servers, links and clients, a schedule of faults, and histories for the oracle."""

import asyncio
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import coredis
import psycopg
from chaos_app import BOARDS, BRIEF, BRIEFLY_KEPT, KEPT, RECOVERY, Base, token_of
from chaos_clients import Clients, ClientState
from chaos_faults import LINKS, NODES, Fault, schedule
from chaos_history import At, Effect, Histories, Items, Log, Value
from chaos_proxy import Link
from chaos_servers import Node, Postgres
from redis_server import RedisServer, find_binary
from sqlalchemy import create_engine

from websuckets.sql import metadata

CLIENTS: Final = 50
FINISHING: Final = 60.0
"""Seconds until all commands are answered and all clients have got everything, at the end."""

LEAVING: Final = 30.0
"""Seconds until the nodes have noticed that all clients have left."""

AOF: Final = ("--appendonly", "yes", "--appendfsync", "always")


class ChaosRun:
    """One run with a seed.

    ``log`` is ``"sql"`` or ``"redis"``, and ``tell`` is called with each line about what happens.
    ``client`` and ``package`` are those of `Clients`, and ``silent_databases`` that of `schedule`.
    """

    def __init__(
        self,
        seed: int,
        seconds: float,
        log: str,
        directory: Path,
        tell: Callable[[str], None],
        *,
        client: str = "python",
        package: Path | None = None,
        silent_databases: bool = False,
    ) -> None:
        self._seconds = seconds
        self._tell = tell
        self._seed = seed
        self.faults = schedule(seed, seconds, silent_databases=silent_databases)
        self.counts: Counter[str] = Counter()
        self.histories = Histories(log, recovery=RECOVERY)
        self.directory = directory
        self._began = 0.0
        self._links: dict[str, Link] = {}
        self._nodes: dict[str, Node] = {}
        self._clients = Clients(client, self.histories, self.counts, package)
        self._secret = secrets.token_hex(16)
        self._leaves: list[asyncio.Task[None]] = []

    @property
    def _is_in_redis(self) -> bool:
        return self.histories.log == "redis"

    async def run(self) -> None:
        """Run, and write the histories."""
        await self._start()
        try:
            self._began = time.monotonic()
            watching = asyncio.create_task(self._watch_nodes())
            async with asyncio.TaskGroup() as tasks:
                for fault in self.faults:
                    tasks.create_task(self._do(fault))
                tasks.create_task(asyncio.sleep(self._seconds))
            self._say("all faults are over")
            await self._finish()
            watching.cancel()
            await self._leave()
            await self._read_database()
        finally:
            await self._stop()

    def _say(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._began:7.2f}  {text}")

    # Start and stop

    async def _start(self) -> None:
        for name in "postgresql", "redis":
            (self.directory / name).mkdir()
        self.directory.chmod(0o711)  # PostgreSQL runs as another user
        self._postgres = Postgres(self.directory / "postgresql")
        await self._postgres.start()
        self._create_tables()
        binary = find_binary()
        if binary is None:
            raise RuntimeError("redis-server is not installed")
        options = AOF if self._is_in_redis else ()
        self._redis = RedisServer(binary, str(self.directory / "redis"), options)
        self._redis.start()
        for name in NODES:
            await self._start_node(name)
        await self._start_clients()

    async def _start_node(self, name: str) -> None:
        for end, port in ("postgresql", self._postgres.port), ("redis", self._redis.port):
            await self._add_link(f"{end} to {name}", port)
        options = {
            "secret": self._secret,
            "database": self._postgres.url(self._links[f"postgresql to {name}"].port),
            "redis": f"redis://127.0.0.1:{self._links[f'redis to {name}'].port}",
            "log": self.histories.log,
        }
        node = self._nodes[name] = Node(name, options, self.directory / f"{name}.log")
        await self._add_link(f"clients to {name}", node.port)
        node.start()

    async def _add_link(self, name: str, to: int) -> None:
        assert name in LINKS
        link = self._links[name] = Link(name, to)
        await link.start()

    async def _start_clients(self) -> None:
        ports = [self._links[f"clients to {name}"].port for name in NODES]
        choose = random.Random(f"boards {self._seed}")
        clients = []
        for number in range(CLIENTS):
            name = f"client {number}"
            boards = [*choose.sample(BOARDS, 2), *choose.sample(BRIEF, choose.choice([0, 1]))]
            token = token_of(self._secret, name)
            clients.append({"name": name, "token": token, "boards": boards})
        await self._clients.start(self._seed, ports, clients)

    def _create_tables(self) -> None:
        url = self._postgres.url().replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql('INSERT INTO doom ("only") VALUES (1)')
        engine.dispose()

    async def _stop(self) -> None:
        with suppress(RuntimeError):
            await self._clients.end()
        for node in self._nodes.values():
            await asyncio.to_thread(node.stop)
        for link in self._links.values():
            await link.stop()
        if hasattr(self, "_redis"):
            self._redis.kill()
        await self._postgres.kill()

    async def _watch_nodes(self) -> None:
        while True:
            for node in self._nodes.values():
                node.check()
            await asyncio.sleep(0.2)

    # Faults

    async def _do(self, fault: Fault) -> None:
        await asyncio.sleep(self._began + fault.at - time.monotonic())
        self._say(str(fault))
        self.counts[f"fault: {fault.kind}"] += 1
        if fault.kind == "kill clients":
            await self._kill_clients(fault)
        elif fault.target in self._links:
            await self._disturb(self._links[fault.target], fault)
        elif fault.kind == "kill":
            await self._kill(fault)
        else:
            await self._pause(fault)

    async def _kill_clients(self, fault: Fault) -> None:
        choose = random.Random(f"{self._seed}/{fault.at}")
        names = self._clients.names
        killed = choose.sample(names, round(fault.amount * len(names)))
        await self._clients.kill(killed)
        await asyncio.sleep(fault.seconds)
        await self._clients.begin(killed)

    async def _disturb(self, link: Link, fault: Fault) -> None:
        begin = time.time()
        match fault.kind:
            case "cut":
                link.cut()
            case "delay":
                link.delay(fault.amount)
            case _:
                link.lose(is_silent=fault.kind == "silence")
        await asyncio.sleep(fault.seconds)
        link.restore()
        server, _, node = fault.target.partition(" to ")
        if fault.kind != "delay":
            self._away(server, [node], begin)

    def _away(self, server: str, nodes: Sequence[str], begin: float) -> None:
        """Take note that nodes could not reach a server from a time until now."""
        causes = {"redis": "no redis", "postgresql": "no database"}
        if server in causes:
            for name in nodes:  # which have to connect again
                self._nodes[name].note(causes[server], begin, time.time() + 2)

    async def _kill(self, fault: Fault) -> None:
        begin = time.time()
        match fault.target:
            case "redis":
                self._redis.kill()
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(self._redis.start)
            case "postgresql":
                await self._postgres.kill()
                await asyncio.sleep(fault.seconds)
                await self._postgres.start()
            case name:
                self._nodes[name].kill()
                await asyncio.sleep(fault.seconds)
                self._nodes[name].start()
        self._away(fault.target, NODES, begin)

    async def _pause(self, fault: Fault) -> None:
        begin = time.time()
        targets = {"redis": self._redis, "postgresql": self._postgres, **self._nodes}
        target: Any = targets[fault.target]
        target.pause()
        await asyncio.sleep(fault.seconds)
        target.go_on()
        self._away(fault.target, NODES, begin)

    # The end

    async def _finish(self) -> None:
        """Let all clients finish their commands, and get everything."""
        await self._clients.stop_working()
        end = time.monotonic() + FINISHING
        late: list[str] = []
        while time.monotonic() < end:
            late = await self._late(await self._clients.tell())
            if not late:
                break
            await asyncio.sleep(0.5)
        self.histories.unfinished += late
        await asyncio.sleep(2)  # in which nothing may come any more
        self._say(f"finished, but {len(late)}" if late else "all clients have finished")
        for name, state in (await self._clients.tell()).items():
            self.histories.screens[name] = state.screens
            self.histories.unfinished += state.faults

    async def _late(self, states: dict[str, ClientState]) -> list[str]:
        """Return what clients still have to do."""
        late = [name for name, state in states.items() if state.waiting]
        if late:
            return late
        heads = await self._heads()
        return [
            f"{name} on {board} at {at} instead of {heads.get(board)}"
            for name, state in states.items()
            for board, at in state.positions.items()
            if at is None or (board in heads and at != heads[board])
        ]

    async def _leave(self) -> None:
        """Let all clients leave, and the nodes notice it."""
        await self._clients.end()
        end = time.monotonic() + LEAVING
        while time.monotonic() < end:
            found = {name: node.open_connections() for name, node in self._nodes.items()}
            if not any(found.values()):
                break
            await asyncio.sleep(0.5)
        self.histories.open_connections = found
        self._say(f"connections that are open: {sum(found.values())}")
        for node in self._nodes.values():
            self.histories.dead_nodes += node.ended_by_itself
            self.histories.disturbances += node.disturbances

    async def _heads(self) -> dict[str, At]:
        return {channel: At(log.epoch, log.head) for channel, log in (await self._logs()).items()}

    async def _logs(self, *, with_events: bool = False) -> dict[str, Log]:
        if self._is_in_redis:
            return await self._logs_in_redis(with_events)
        return await self._logs_in_sql(with_events)

    async def _logs_in_sql(self, with_events: bool) -> dict[str, Log]:
        async with await psycopg.AsyncConnection.connect(self._postgres.url()) as connection:
            found = await connection.execute("SELECT channel, epoch, head FROM websuckets_channels")
            logs = {name: Log(epoch, head) for name, epoch, head in await found.fetchall()}
            if with_events:
                found = await connection.execute(
                    'SELECT channel, "offset", frame FROM websuckets_events'
                )
                for channel, offset, frame in await found.fetchall():
                    payload = json.loads(frame)["payload"]
                    logs[channel].events[offset] = (payload["effect"], payload["command"])
        return logs

    async def _logs_in_redis(self, with_events: bool) -> dict[str, Log]:
        logs = {}
        client = coredis.Redis(port=self._redis.port)
        async with client:
            for channel in BOARDS + BRIEF:
                hash = await client.hgetall(f"{{0/websuckets}}:log:{channel}")
                if not hash:
                    continue
                log = logs[channel] = Log(hash[b"epoch"].decode(), int(hash[b"offset"]))
                if with_events:
                    for entry in await client.xrange(f"{{0/websuckets}}:events:{channel}"):
                        payload = json.loads(entry.field_values[b"frame"])["payload"]
                        identifier: Any = entry.identifier
                        offset = int(identifier.partition(b"-")[0])
                        log.events[offset] = (payload["effect"], payload["command"])
        return logs

    async def _read_database(self) -> None:
        histories = self.histories
        histories.size = dict.fromkeys(BOARDS, KEPT) | dict.fromkeys(BRIEF, BRIEFLY_KEPT)
        histories.logs = await self._logs(with_events=True)
        async with await psycopg.AsyncConnection.connect(self._postgres.url()) as connection:
            rows = await connection.execute(
                "SELECT id, command, board, item, amount, node, at FROM effects"
            )
            histories.effects = [Effect(*row) for row in await rows.fetchall()]
            rows = await connection.execute("SELECT board, id, value, version FROM items")
            boards: dict[str, Items] = histories.items
            for board, item, value, version in await rows.fetchall():
                boards[board][item] = Value(value, version)
            rows = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' "
                "AND state_change < clock_timestamp() - interval '2 seconds'"
            )
            ((histories.open_transactions,),) = await rows.fetchall()
