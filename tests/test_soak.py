"""A server among clients with random faults, for a configurable time."""

import logging
import os
import random
import time
from typing import Final

import anyio
import pytest
import target
from census import census, until_as_before, without_tracebacks
from harness import app_with
from peers import SMALL, opened
from serving import SERVINGS, Serving
from timeouts import TIMEOUT
from visits import LONG_VISITS, VISITS, pay

from websuckets import Limits, WebSuckets

SECONDS: Final = float(os.environ.get("WEBSUCKETS_SOAK_SECONDS", "120"))
SEED: Final = int(os.environ.get("WEBSUCKETS_SOAK_SEED", "1"))
CLIENTS: Final = 20
ON_SOCKETS: Final = ["websockets", "uvicorn, websockets-sansio", "uvicorn, wsproto"]

pytestmark = [pytest.mark.anyio, pytest.mark.heavy, pytest.mark.timeout(SECONDS + 120)]


@pytest.mark.parametrize("name", ON_SOCKETS)
async def test_nothing_is_left_of_clients_with_random_faults(name: str, anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """A well-behaved client is served all the time, and no object is left of the others."""
    backends, serving = SERVINGS[name]
    if anyio_backend not in backends.split():
        pytest.skip(f"it does not run on {anyio_backend}")
    app = app_with(target.group, limits=Limits(send_timeout=1))
    with without_tracebacks("uvicorn.error"):
        await soak(app, serving, SECONDS if name == "websockets" else SECONDS / 4)
    seen = [record.name for record in caplog.records if record.levelno >= logging.ERROR]
    assert [name for name in seen if name != "uvicorn.error"] == []


async def soak(app: WebSuckets, serving: Serving, seconds: float) -> None:
    async with serving(app) as server:
        for visit in VISITS * 2 + LONG_VISITS:
            await pay(server.port, visit)
        await anyio.sleep(1)  # the last visitor may still be connected
        before = census()
        end = time.monotonic() + seconds
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(misbehave, server.port, random.Random(SEED + number), end)
            tasks.start_soon(behave, server.port, end)
        await until_as_before(before, 2 * TIMEOUT)


async def misbehave(port: int, chance: random.Random, end: float) -> None:
    while time.monotonic() < end:
        visits = chance.choice([VISITS, LONG_VISITS])
        buffer = chance.choice([None, SMALL])
        await pay(port, chance.choice(visits), receive_buffer=buffer)


async def behave(port: int, end: float) -> None:
    async with opened(port) as peer:
        count = 0
        while time.monotonic() < end:
            with anyio.fail_after(3 * TIMEOUT):
                reply = await peer.call("ping", id=count)
            assert reply == {"event": "ping", "payload": "pong", "id": count}
            count += 1
            await anyio.sleep(0.05)
