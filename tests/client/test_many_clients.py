"""A thousand clients whose server goes away at once, and comes back."""

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from client_servers import ServerProcess

from websuckets.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.heavy, pytest.mark.timeout(300)]

CLIENTS: Final = 1000
AWAY: Final = 10
"""Seconds without a server, in which the limit of the pauses grows to 8 seconds."""

LIMIT: Final = 200
"""Seconds after which the test is given up."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Yield a server that runs, and that has as many file descriptors as there are clients."""
    if sys.platform != "linux":
        pytest.skip("thousands of file descriptors are needed")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * CLIENTS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the system lets a process open {hard} files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    found = ServerProcess(tmp_path / "effects.db")
    try:
        found.start()
        yield found
    finally:
        found.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Clients with the options that they have by default, and how many of them are connected."""

    def __init__(self, url: str) -> None:
        self.clients = [Client(url, proxy=None) for _ in range(CLIENTS)]
        self._changed = anyio.Event()
        for client in self.clients:
            client.on_state(lambda state: self._changed.set())

    async def until_all(self, *, are_open: bool) -> None:
        """Wait until all are connected, or none is."""
        while not all((client.state == "open") is are_open for client in self.clients):
            self._changed = anyio.Event()
            await self._changed.wait()


async def test_a_thousand_clients_do_not_come_back_in_the_same_second(
    server: ServerProcess,
) -> None:
    crowd = Crowd(f"ws://127.0.0.1:{server.port}")
    with anyio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            for client in crowd.clients:
                await stack.enter_async_context(client)
            await crowd.until_all(are_open=True)
            await anyio.to_thread.run_sync(server.kill)
            await crowd.until_all(are_open=False)
            await anyio.sleep(AWAY)
            await anyio.to_thread.run_sync(server.start)
            await crowd.until_all(are_open=True)
            arrivals: list[Any] = await anyio.to_thread.run_sync(server.control, "arrivals")
    assert len(arrivals) >= CLIENTS
    in_each_second = Counter(math.floor(arrival - arrivals[0]) for arrival in arrivals)
    assert max(in_each_second.values()) < CLIENTS / 2  # about 150 are expected
    assert len(in_each_second) >= 4  # the last ones come after 8 seconds and more
