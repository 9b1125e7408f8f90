"""Clients of the chaos run, in a process of their own, of which there are several kinds.

A program of clients reads lines of JSON. The first one has their ``kind``, the ``seed``, the
``ports`` of the links to all nodes, and the ``name``, ``token`` and ``boards`` of each of its
``clients``. Each other line is an order: ``{"do": "start"}`` and ``{"do": "kill"}`` with names of
``clients``, ``{"do": "stop working"}``, and ``{"do": "tell"}``.

The program writes a line for each record, in the order in which its client made them:
``["client 7", "Seen", ...]``, with the fields of the class in ``chaos_history.py``. The order to
tell is answered with the ``counts``, the ``doomed`` commands, and the state of all ``clients``.
When its input ends, it writes nothing any more, ends all clients without a word to the server, and
exits with 0.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos_history import At, Histories, Items, Value, record_of
from chaos_servers import SUPPORT, until_ended_with_parent

KINDS: Final = ("python", "python-trio", "typescript", "by-hand")
"""Kinds of clients: those of `websuckets.client`, on asyncio and on trio, those of the npm package,
in Node, and those of ``chaos_client.py``, of which each frame that they get is judged."""

LONGEST_LINE: Final = 2**24
ANSWER: Final = 60.0
"""Seconds in which a program answers, or ends, on a busy machine."""


@dataclass
class ClientState:
    """State of a client, as its program tells it."""

    waiting: int
    """Commands that have not been answered for good."""
    positions: dict[str, At | None]
    """Positions of all boards; ``None`` for one that is not watched at this moment."""
    screens: dict[str, Items]
    faults: list[str]
    """Errors for which a server without faults has no reason."""


class Clients:
    """The clients of a run, by their program; what they report is written to ``histories``.

    ``package`` is the folder of the npm package, with its dependencies and built, which the kind
    ``"typescript"`` needs.
    """

    def __init__(
        self, kind: str, histories: Histories, counts: Counter[str], package: Path | None = None
    ) -> None:
        self.names: list[str] = []
        self.states: dict[str, ClientState] = {}
        """States of all clients as they were told last."""
        self._kind = kind
        self._histories = histories
        self._counts = counts
        self._package = package
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._told = asyncio.Event()

    async def start(self, seed: int, ports: Sequence[int], clients: list[dict[str, Any]]) -> None:
        """Start the program and all of its clients."""
        self.names = [client["name"] for client in clients]
        words, folder = self._command()
        self._process = await asyncio.create_subprocess_exec(
            *until_ended_with_parent("KILL"),
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            limit=LONGEST_LINE,
        )
        self._reading = asyncio.create_task(self._read())
        options = {"kind": self._kind, "seed": str(seed), "ports": ports, "clients": clients}
        await self._write(options)
        await self.begin(self.names)

    async def begin(self, names: Sequence[str]) -> None:
        """Let clients begin with an empty screen, and with the commands that they have kept."""
        await self._write({"do": "start", "clients": names})

    async def kill(self, names: Sequence[str]) -> None:
        """Let clients end at once, without a word to the server."""
        await self._write({"do": "kill", "clients": names})

    async def stop_working(self) -> None:
        """Let clients make no new commands."""
        await self._write({"do": "stop working"})

    async def tell(self) -> dict[str, ClientState]:
        """Return the states of all clients. Raises `RuntimeError` if their program has ended."""
        self._told.clear()
        await self._write({"do": "tell"})
        assert self._reading is not None
        told = asyncio.create_task(self._told.wait())
        await asyncio.wait(
            [told, self._reading], timeout=ANSWER, return_when=asyncio.FIRST_COMPLETED
        )
        if not told.done():
            told.cancel()
            raise RuntimeError("the program of the clients does not answer")
        return self.states

    async def end(self) -> None:
        """End the program, whose clients leave. Raises `RuntimeError` if it has failed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None and self._reading is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER):
                await self._reading
                status = await process.wait()
        except TimeoutError:
            process.kill()
            raise RuntimeError("the program of the clients does not end") from None
        if status != 0:
            raise RuntimeError(f"the program of the clients has the exit status {status}")

    def _command(self) -> tuple[list[str], Path | None]:
        """Return the words of the command that runs the program, and its folder."""
        if self._kind != "typescript":
            return [sys.executable, str(SUPPORT / "chaos_clients_python.py")], None
        if self._package is None:
            raise RuntimeError("clients in TypeScript need the folder of their package")
        node = str(self._package / "node_modules/node/bin/node")
        return [node, "test/support/chaos.ts"], self._package

    async def _write(self, line: object) -> None:
        if self._process is None or self._process.returncode is not None:
            raise RuntimeError("the program of the clients has ended")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            read = json.loads(line)
            if isinstance(read, dict):
                self._take(read)
            else:
                name, kind, *fields = read
                self._histories.records[name].append(record_of(kind, fields))

    def _take(self, told: dict[str, Any]) -> None:
        """Take the answer to the order to tell, which counts from the beginning."""
        for name, number in told["counts"].items():
            self._counts[name] = number
        self._histories.doomed.update(told["doomed"])
        self.states = {name: state_of(state) for name, state in told["clients"].items()}
        self._told.set()


def state_of(told: dict[str, Any]) -> ClientState:
    """Return the state of a client from its JSON."""
    positions = {board: at and At(*at) for board, at in told["positions"].items()}
    screens = {
        board: {item: Value(*value) for item, value in items.items()}
        for board, items in told["screens"].items()
    }
    return ClientState(told["waiting"], positions, screens, told["faults"])
