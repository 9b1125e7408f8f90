"""Program of the clients of the chaos run that are written in Python; see ``chaos_clients.py``."""

import json
import sys
from collections import Counter
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup
from chaos_client import ChaosClient, Command, Screen
from chaos_history import At, Record
from chaos_websuckets_client import ChaosWebsucketsClient


class AnyClient(Protocol):
    """A client of either kind."""

    name: str
    works: bool
    commands: dict[str, Command]
    screens: dict[str, Screen]
    faults: list[str]

    @property
    def positions(self) -> dict[str, At | None]: ...

    def start(self) -> None: ...

    async def kill(self) -> None: ...


class Program:
    """All clients; ``options`` are the first line, and clients run in ``tasks``."""

    def __init__(self, options: dict[str, Any], tasks: TaskGroup) -> None:
        self._options = options
        self._tasks = tasks
        self._counts: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._is_over = False
        self._clients = {each["name"]: self._create(**each) for each in options["clients"]}

    def _create(self, name: str, token: str, boards: list[str]) -> AnyClient:
        def report(record: Record) -> None:
            self._write([name, type(record).__name__, *record])

        seed, ports = self._options["seed"], self._options["ports"]
        of_run = (report, self._counts, self._doomed)
        if self._options["kind"] == "by-hand":
            return ChaosClient(name, token, ports, boards, seed, *of_run)
        return ChaosWebsucketsClient(name, token, ports, boards, seed, *of_run, self._tasks)

    def _write(self, line: object) -> None:
        if not self._is_over:
            print(json.dumps(line), flush=True)

    async def run(self) -> None:
        """Take orders until the last one."""
        async for line in anyio.wrap_file(sys.stdin):
            await self._obey(json.loads(line))
        self._is_over = True  # ends of connections do not concern their streams any more
        await self._kill(list(self._clients))

    async def _obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "start":
                for name in order["clients"]:
                    self._clients[name].start()
            case "kill":
                await self._kill(order["clients"])
            case "stop working":
                for client in self._clients.values():
                    client.works = False
            case "tell":
                clients = {name: state(client) for name, client in self._clients.items()}
                doomed = sorted(self._doomed)
                self._write({"counts": self._counts, "doomed": doomed, "clients": clients})
            case unknown:
                raise ValueError(unknown)

    async def _kill(self, names: list[str]) -> None:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(self._clients[name].kill)


def state(client: AnyClient) -> dict[str, Any]:
    """Return the state of a client, as JSON has it."""
    return {
        "waiting": len(client.commands),
        "positions": client.positions,
        "screens": {board: screen.items for board, screen in client.screens.items()},
        "faults": client.faults,
    }


async def main(options: dict[str, Any]) -> None:
    async with anyio.create_task_group() as tasks:
        await Program(options, tasks).run()


if __name__ == "__main__":
    options = json.loads(sys.stdin.readline())
    anyio.run(main, options, backend="trio" if options["kind"] == "python-trio" else "asyncio")
