"""What is of trio alone."""

from typing import Any

import pytest
import trio
from harness import connect
from websockets.exceptions import ConnectionClosedError

from websuckets import Limits
from websuckets.clock import Clock
from websuckets.transports.websockets_trio import _Running, listen

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def test_a_server_that_breaks_down_tells_who_ends_it() -> None:
    """It must not go unseen that nobody was served any more."""

    async def serve(task_status: Any) -> None:
        task_status.started("server")
        raise RuntimeError("broken")

    running = _Running()
    trio.lowlevel.spawn_system_task(running.run, serve)
    assert await running.wait_started() == "server"
    with pytest.raises(RuntimeError, match="broken"):
        await running.end(1)


async def test_an_error_of_the_framework_closes_only_that_connection() -> None:
    """With 1011, by `websockets`."""

    class Broken:
        async def opening(self) -> None: ...

        async def serve(self) -> None:
            raise RuntimeError("broken")

        async def discard(self) -> None: ...

        def disconnected(self) -> None: ...

    class Door:
        def subprotocol(self, offered: Any) -> None: ...

        def address_of(self, peer: Any, headers: Any) -> Any:
            return peer

        def accept(self, wire: Any) -> Broken:
            return Broken()

    async def stop(wait_closed: Any) -> None:
        await wait_closed()

    door: Any = Door()
    async with listen(door, stop, "127.0.0.1", 0, Limits(), Clock(), {}) as listener:
        for _ in range(2):
            async with connect(listener.urls[0]) as connection:
                with pytest.raises(ConnectionClosedError):
                    await connection.recv()
                assert connection.close_code == 1011
