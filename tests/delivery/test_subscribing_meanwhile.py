"""Subscriptions to channels with a history that end, or are made again, while they are made."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import tickets
from faulty_nodes import FaultyBroker, HeldAnswer, SharedLog, comments, frame_of, nodes
from harness import Gate
from tickets import NAME, ticket

from websuckets import (
    ClientEvent,
    CommandGroup,
    ConnectionTasks,
    Limits,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channels
from websuckets.exc import ClientError, Unavailable
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

MANY = Limits(rate=None, concurrency=8, outbox=None, send_timeout=None)
"""Limits with which commands of one connection run side by side."""


def app(**arguments: Any) -> WebSuckets:
    """Return an app with commands that subscribe and do something else besides."""
    group = CommandGroup()

    @group.command("watch and leave", subscribes=[ticket])
    async def watch_and_leave(socket: Socket, fails: Payload[bool], *, channels: Channels) -> str:
        await channels.subscribe(socket, NAME)
        await channels.unsubscribe(socket, NAME)
        if fails:
            raise ClientError("no")
        return "done"

    @group.command("watch anew", subscribes=[ticket])
    async def watch_anew(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, NAME)
        await channels.unsubscribe(socket, NAME)
        await channels.subscribe(socket, NAME)

    @group.command("follow", subscribes=[ticket])
    async def follow(socket: Socket, *, channels: Channels) -> AsyncIterator[str]:
        await channels.subscribe(socket, NAME)
        yield "subscribed"

    @group.command("watch in a task", subscribes=[ticket])
    async def watch_in_a_task(
        socket: Socket, fails: Payload[bool], *, channels: Channels, tasks: ConnectionTasks
    ) -> None:
        async def subscribe() -> None:
            await channels.subscribe(socket, NAME)

        tasks.start_soon(subscribe)
        await anyio.wait_all_tasks_blocked()
        if fails:
            raise ClientError("no")

    @group.command("hear")
    async def hear(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.subscribe(socket, name)

    arguments.setdefault("limits", MANY)
    app = tickets.app(**arguments)
    app.include_command_group(group)
    return app


@asynccontextmanager
async def two_clients(**arguments: Any) -> AsyncIterator[tuple[WebSuckets, TestClient, TestClient]]:
    running = app(**arguments)
    async with TestClient(running) as ann, ann.connect() as bob:
        yield running, ann, bob


async def reply(client: TestClient, id: int) -> Any:
    """Return the next frame, which is the reply to a command."""
    received = await client.receive()
    assert received.id == id
    return received


async def got(client: TestClient, count: int) -> list[Any]:
    return [await frame_of(client) for _ in range(count)]


def log_of(running: WebSuckets) -> Any:
    return running._channels._running._log


def nothing_is_left(running: WebSuckets) -> bool:
    node = running._channels._running
    return node._delivery.cursors == {} and node._logged._holds == {}


# Subscriptions that end while the log is asked


async def test_who_leaves_while_the_log_is_asked_is_not_subscribed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two_clients() as (running, ann, bob):
        position = HeldAnswer(monkeypatch, log_of(running), "position")
        await bob.send("watch", [NAME], id=1)
        await position.asked()
        await ann.call("comment", "before bob has a position")
        await bob.send("leave", NAME, id=2)
        await reply(bob, 2)
        position.come()
        assert (await reply(bob, 1)).subscribed == {}
        await ann.call("comment", "not for bob")
        assert nothing_is_left(running)
        assert (await bob.call("watch", [NAME])).subscribed[NAME]["offset"] == 2
        await ann.call("comment", "for bob")
        assert await got(bob, 1) == comments(["for bob"])


@pytest.mark.parametrize("first", [1, 3])
async def test_who_leaves_and_comes_back_while_the_log_is_asked_gets_each_event_once(
    monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """The log answers the two commands in either order."""
    async with two_clients() as (running, ann, bob):
        log = log_of(running)
        answers = {1: HeldAnswer(monkeypatch, log, "position")}
        await bob.send("watch", [NAME], id=1)
        await answers[1].asked()
        await bob.send("leave", NAME, id=2)
        await reply(bob, 2)
        answers[3] = HeldAnswer(monkeypatch, log, "position")
        await bob.send("watch", [NAME], id=3)
        await answers[3].asked()
        await ann.call("comment", "one")
        answers[first].come()
        received = [await bob.receive()]
        assert received[0].id == first
        answers[4 - first].come()
        received += [await bob.receive() for _ in range(2)]
        by_id = {frame.id: frame for frame in received}
        assert by_id[1].subscribed == {}
        assert by_id[3].subscribed[NAME]["offset"] == 0
        assert (by_id[None].payload, by_id[None].offset) == ({"text": "one"}, 1)
        await ann.call("comment", "two")
        assert await got(bob, 1) == comments(["two"])
        await bob.call("leave", NAME)
        assert nothing_is_left(running)


async def test_a_log_that_is_away_leaves_nothing_of_a_subscription(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two_clients() as (running, ann, bob):

        async def be_away(channel: str) -> None:
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(log_of(running), "position", be_away)
            with pytest.raises(CommandError, match="unavailable"):
                await bob.call("watch", [NAME])
        assert nothing_is_left(running)
        await ann.call("comment", "not for bob")
        assert (await bob.call("watch", [NAME])).subscribed[NAME]["offset"] == 1
        await ann.call("comment", "for bob")
        assert await got(bob, 1) == comments(["for bob"])


async def test_who_left_while_a_log_was_asked_that_is_away_stays_subscribed_anew() -> None:
    """The command that fails takes back a subscription of its own, not one of a later command."""
    log, gate = SharedLog(), Gate()
    ask, is_first = log.position, True

    async def fail_late(channel: str) -> Any:
        nonlocal is_first
        if not is_first:
            return await ask(channel)
        is_first = False
        await gate()
        raise Unavailable

    log.position = fail_late  # type: ignore[method-assign]  # for this log alone
    async with nodes(FaultyBroker(), log, limits=MANY) as both:
        await both.bob.send("watch", [NAME], id=1)
        await gate.reached.wait()
        await both.bob.call("leave", NAME)
        assert (await both.bob.call("watch", [NAME])).subscribed[NAME]["offset"] == 0
        gate.opened.set()
        with pytest.raises(CommandError, match="unavailable"):
            await reply(both.bob, 1)
        await both.ann.call("comment", "one")
        assert await both.got(1) == comments(["one"])


# Subscriptions that end before the reply is sent


async def test_a_command_that_subscribes_and_leaves_tells_no_position() -> None:
    async with two_clients() as (running, ann, bob):
        answer = await bob.call("watch and leave", False)
        assert (answer.payload, answer.subscribed) == ("done", {})
        assert nothing_is_left(running)
        await ann.call("comment", "not for bob")
        await bob.send("watch and leave", False)  # without an id, the position would be an event
        assert (await bob.receive()).event == "watch and leave"
        await bob.call("watch", [NAME])
        await ann.call("comment", "for bob")
        assert await got(bob, 1) == comments(["for bob"])


async def test_a_command_that_subscribes_leaves_and_subscribes_is_subscribed_once() -> None:
    async with two_clients() as (running, ann, bob):
        assert (await bob.call("watch anew")).subscribed[NAME]["offset"] == 0
        for text in "one", "two":
            await ann.call("comment", text)
        assert await got(bob, 2) == comments(["one", "two"])
        await bob.call("leave", NAME)
        assert nothing_is_left(running)


async def test_a_command_that_subscribes_leaves_and_fails_leaves_nothing() -> None:
    async with two_clients() as (running, _, bob):
        with pytest.raises(CommandError, match="no"):
            await bob.call("watch and leave", True)
        assert nothing_is_left(running)


async def test_a_command_that_fails_leaves_the_subscriptions_of_other_connections() -> None:
    async with two_clients() as (_, ann, bob):
        await ann.call("watch", [NAME])
        with pytest.raises(CommandError, match="no"):
            await bob.call("watch and fail", NAME)
        await ann.call("comment", "two")
        assert await got(ann, 2) == comments(["while it fails", "two"])
        await bob.call("watch", [NAME])
        await ann.call("comment", "three")
        assert await got(bob, 1) == comments(["three"])


async def test_who_is_unsubscribed_by_a_middleware_gets_no_events() -> None:
    found: list[Channels] = []

    async def unsubscribe(socket: Socket, message: Any, call_next: Any) -> Any:
        outcome = await call_next()
        if message.event == "watch":
            await found[0].unsubscribe(socket, NAME)
        return outcome

    async with two_clients(middleware=[unsubscribe]) as (running, ann, bob):
        found.append(running._channels)
        await bob.call("watch", [NAME])
        await ann.call("comment", "not for bob")
        assert nothing_is_left(running)
        assert (await bob.call("publish", 0)).event == "publish"


async def test_events_begin_behind_the_last_of_several_replies_that_wait_for_the_client() -> None:
    async with two_clients() as (running, ann, bob):
        await bob.call("hear", "noise")
        for _ in range(2):  # more than a connection in memory holds
            await running._channels.publish("noise", ClientEvent("noise", "x" * 2_000_000))
        for id in 1, 2:
            await bob.send("watch", [NAME], id=id)
        await anyio.wait_all_tasks_blocked()
        await ann.call("comment", "one")
        received = [await bob.receive() for _ in range(5)]
        assert [frame.event for frame in received[:2]] == ["noise", "noise"]
        assert {frame.id for frame in received[2:4]} == {1, 2}
        assert all(frame.subscribed[NAME]["offset"] == 0 for frame in received[2:4])
        assert received[4].payload == {"text": "one"}
        await ann.call("comment", "two")
        assert await got(bob, 1) == comments(["two"])


# Subscriptions of streams and tasks beside those of commands


async def test_a_stream_that_subscribes_beside_a_command_sends_no_event_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reply of the command begins the events; the stream is answered by the log later."""
    async with two_clients() as (running, ann, bob):
        position = HeldAnswer(monkeypatch, log_of(running), "position")
        await bob.send("follow", id=1)
        await position.asked()
        await bob.send("watch", [NAME], id=2)
        assert (await reply(bob, 2)).subscribed[NAME]["offset"] == 0
        await ann.call("comment", "one")
        assert await got(bob, 1) == comments(["one"])
        position.come()
        events = [(await bob.receive()).event for _ in range(3)]
        assert sorted(events) == ["follow", "follow", "subscribed"]
        await ann.call("comment", "two")
        assert await got(bob, 1) == comments(["two"])


@pytest.mark.parametrize("fails", [False, True])
async def test_a_task_that_is_subscribing_when_its_command_ends_gets_events(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Nobody waits for the reply any more: the position is an event, as of any task."""
    async with two_clients() as (running, ann, bob):
        position = HeldAnswer(monkeypatch, log_of(running), "position")
        await bob.send("watch in a task", fails, id=1)
        await position.asked()
        if fails:
            with pytest.raises(CommandError, match="no"):
                await bob.receive()
        else:
            assert (await reply(bob, 1)).subscribed == {}
        position.come()
        told = await bob.receive()
        assert (told.event, told.payload[NAME]["offset"]) == ("subscribed", 0)
        await ann.call("comment", "one")
        assert await got(bob, 1) == comments(["one"])
