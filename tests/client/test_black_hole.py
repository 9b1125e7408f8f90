"""A link that loses all data for a whole minute, without an end of its connections."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from client_servers import LinkThread, ServerProcess

from websuckets.client import Client

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

MINUTE: Final = 60
LIMIT: Final = 300
"""Seconds after which a run is given up: the minute, and an attempt to connect with its pause."""

BACKENDS: Final = ("asyncio", "trio")


class Run:
    """A client on one event loop with its server and its link, as their defaults are."""

    def __init__(self, server: ServerProcess, link: LinkThread) -> None:
        self._server = server
        self._link = link
        self._client = Client(f"ws://127.0.0.1:{link.port}", proxy=None)
        self._changed = anyio.Event()
        self._reloads: list[Any] = []
        self._replies: dict[int, Any] = {}

    async def pass_through(self) -> None:
        """Take the whole course. Raises `AssertionError` where it is another one."""
        self._client.on_state(lambda state: self._wake())
        with anyio.fail_after(LIMIT):
            async with self._client, anyio.create_task_group() as tasks:
                watching = self._client.subscribe("watch", 1, on_reload=self._reloads.append)
                async with watching as watched:
                    await self._say(1, 2)
                    assert await numbers(watched, 2) == [1, 2]
                    tasks.start_soon(self._deposit, 10)
                    await self._control("await", {"name": "deposit"})
                    began = time.monotonic()
                    await self._call_link(self._link.lose_all_data)
                    await self._lose_what_is_on_its_way(tasks)
                    await self._until(lambda: self._client.state != "open")
                    await anyio.sleep(began + MINUTE - time.monotonic())
                    await self._nothing_has_passed(watched)
                    await self._call_link(self._link.restore)
                    await self._until(lambda: len(self._replies) == 2)
                    await self._say(6)
                    assert await numbers(watched, 4) == [3, 4, 5, 6]
        assert self._replies == {10: {"deposited": 10}, 20: {"deposited": 20}}
        assert await self._control("effects") == [10, 20]
        assert self._reloads == []

    async def _lose_what_is_on_its_way(self, tasks: Any) -> None:
        """Lose the reply to a command that has run, a command that is sent, and some events."""
        await self._control("release")
        await self._control("await", {"name": "deposited"})
        tasks.start_soon(self._deposit, 20)
        await self._say(3, 4, 5)

    async def _nothing_has_passed(self, watched: Any) -> None:
        assert self._client.state != "open" and self._replies == {}
        assert await self._control("effects") == [10]
        assert watched.positions["room/1"][1] == 2

    async def _deposit(self, amount: int) -> None:
        payload = {"amount": amount, "hold": "release"}
        reply = await self._client.call("deposit", payload, once=True, timeout=None)
        assert amount not in self._replies
        self._replies[amount] = reply
        self._wake()

    async def _say(self, *spoken: int) -> None:
        await self._control("say", {"room": 1, "numbers": spoken})

    async def _control(self, command: str, payload: Any = None) -> Any:
        return await anyio.to_thread.run_sync(self._server.control, command, payload)

    async def _call_link(self, function: Any) -> None:
        await anyio.to_thread.run_sync(function)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _until(self, condition: Any) -> None:
        while not condition():
            await self._changed.wait()


async def numbers(subscription: Any, count: int) -> list[int]:
    return [(await anext(subscription)).payload["number"] for _ in range(count)]


def pass_through_on(backend: str, directory: Path) -> None:
    directory.mkdir()
    with ExitStack() as stack:
        server = ServerProcess(directory / "effects.db")
        stack.callback(server.kill)
        server.start()
        link = LinkThread(server.port)
        link.start()
        stack.callback(link.stop)

        async def main() -> None:
            await Run(server, link).pass_through()

        anyio.run(main, backend=backend)


def test_a_minute_without_a_link_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Expect each effect once, each reply, and each event, on both event loops at once."""
    with ThreadPoolExecutor(len(BACKENDS)) as threads:
        runs = [threads.submit(pass_through_on, name, tmp_path / name) for name in BACKENDS]
    for name, run in zip(BACKENDS, runs, strict=True):
        try:
            run.result()
        except BaseException as error:
            error.add_note(f"on {name}")
            raise
