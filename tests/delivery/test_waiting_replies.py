"""Replies with positions, which wait until earlier events have been sent to their client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import tickets
from harness import errors
from tickets import NAME
from websockets.exceptions import ConnectionClosed

from websuckets import ClientEvent, CommandGroup, Limits, Socket, WebSuckets
from websuckets.channels import Channels
from websuckets.limits import Overflow
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

NOISE = "noise"

LARGE = 2_000_000
"""Bytes; more than a connection in memory holds."""


async def make_noise(app: WebSuckets, number: int, size: int = 1) -> None:
    await app._channels.publish(NOISE, ClientEvent("noise", f"{number}".ljust(size)))


@asynccontextmanager
async def waiting(overflow: Overflow) -> AsyncIterator[tuple[WebSuckets, TestClient, TestClient]]:
    """Yield an app, a client, and one whose reply waits because the client does not read.

    The outbox of that client has room for two events.
    """
    limits = Limits(rate=None, outbox=(2, 10 * LARGE), overflow=overflow, send_timeout=None)
    app = tickets.app(limits=limits)
    group = CommandGroup()

    @group.command("hear")
    async def hear(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, NOISE)

    app.include_command_group(group)
    async with TestClient(app) as ann, ann.connect() as bob:
        await bob.call("hear")
        for number in range(2):
            await make_noise(app, number, LARGE)
        await bob.send("watch", [NAME], id=1)
        await anyio.wait_all_tasks_blocked()
        yield app, ann, bob


async def test_a_reply_is_sent_after_an_overflow_that_throws_away_the_oldest_events() -> None:
    async with waiting(Overflow.DROP_OLDEST) as (app, ann, bob):
        for number in range(2, 6):
            await make_noise(app, number)
        await ann.call("comment", "one")
        received = [await bob.receive() for _ in range(6)]
        noise = [frame.payload.rstrip() for frame in received if frame.event == "noise"]
        assert noise == ["0", "1", "4", "5"]
        (reply,) = [frame for frame in received if frame.id == 1]
        assert reply.subscribed[NAME]["offset"] == 0
        (comment,) = [frame for frame in received if frame.event == "commented"]
        assert received.index(comment) > received.index(reply)


async def test_a_client_that_is_lost_while_its_reply_waits_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with waiting(Overflow.CLOSE) as (app, ann, bob):
        await bob.abort()
        await anyio.wait_all_tasks_blocked()
        await ann.call("comment", "nobody gets this")
        assert app._channels._running._delivery.cursors == {}
        assert app._channels._running.subscriptions.channels == []
    assert errors(caplog) == []


async def test_a_client_that_is_closed_for_reading_too_slowly_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with waiting(Overflow.CLOSE) as (app, ann, bob):
        for number in range(2, 6):
            await make_noise(app, number)
        with pytest.raises(ConnectionClosed):
            while True:
                await bob.receive()
        assert bob.close_code == 1013
        await ann.call("comment", "nobody gets this")
        await anyio.wait_all_tasks_blocked()
        assert app._channels._running._delivery.cursors == {}
    assert errors(caplog) == []
