"""An app for hostile peers, and checks that the server and other clients do not suffer."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from harness import Gate, app_with
from peers import opened
from target import CAN_BE_WATCHED, MIB
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets

heavy = pytest.mark.heavy

can_be_watched = pytest.mark.skipif(
    not CAN_BE_WATCHED, reason="memory is watched where Linux shows it"
)


def watched(test: Any) -> Any:
    """Mark a test that measures what a server in a process of its own takes."""
    return heavy(can_be_watched(test))


UNDER_ASGI = ["uvicorn, websockets-sansio", "uvicorn, wsproto"]
"""ASGI servers, without hypercorn 0.18: tests of hostile peers end its whole server on trio."""

ON_SOCKETS = ["websockets", *UNDER_ASGI]

MOST = 5 * MIB
"""Bytes of memory that one peer may cost."""


def make_app(journal: list[str], gate: Gate, **limits: Any) -> WebSuckets:
    """Return an app that notes connections in the journal; ``limits`` are those of `Limits`."""
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("echo")
    async def echo(socket: Socket, model: Payload[Any]) -> Any:
        return model

    @group.command("sleep")
    async def sleep(socket: Socket, model: Payload[float]) -> None:
        await anyio.sleep(model)
        journal.append("slept")

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "at last"

    @group.command("wait and send")
    async def wait_and_send(socket: Socket) -> None:
        await gate()
        while True:
            await socket.send("at last")

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        gate.reached.set()
        while True:
            yield 1
            await anyio.sleep(0.001)

    app = app_with(group, limits=Limits(**limits))

    @app.on_connect
    async def connect() -> None:
        journal.append("connect")

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnect")

    return app


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what an operator would be woken up for, whichever logger wrote it."""
    return [
        f"{record.name}: {record.getMessage()}"
        for record in caplog.records
        if record.levelno >= logging.ERROR
    ]


async def assert_serves(port: int) -> None:
    """Check that the next client finds a working server."""
    with anyio.fail_after(TIMEOUT):
        async with opened(port) as peer:
            assert (await peer.call("ping", id=1))["payload"] == "pong"
