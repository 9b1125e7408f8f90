"""Channels with a history under attack: whatever a client does, it knows which events it has."""

from typing import Any

import pytest
from harness import Client, Gate, app_with, dial
from serving import Serving, by_websockets
from tickets import NAME, Commented, commented, ticket

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets
from websuckets.channels import Channels
from websuckets.exc import ClientError
from websuckets.limits import Overflow
from websuckets.middleware import Outcome

pytestmark = pytest.mark.anyio


def app(gates: dict[str, Gate], **arguments: Any) -> WebSuckets:
    """Return an app whose commands wait at the gates that they name, and may fail then."""
    group = CommandGroup()

    @group.command("watch", subscribes=[ticket])
    async def watch(socket: Socket, gate: Payload[str], *, channels: Channels) -> str:
        await channels.subscribe(socket, NAME)
        await gates[gate]()
        return gate

    @group.command("fail", subscribes=[ticket])
    async def fail(socket: Socket, gate: Payload[str], *, channels: Channels) -> None:
        await channels.subscribe(socket, NAME)
        await gates[gate]()
        raise ClientError("no")

    @group.command("publish")
    async def publish(socket: Socket, texts: Payload[list[Any]], *, channels: Channels) -> None:
        for text in texts:
            await channels.publish(NAME, Commented(text=text))

    arguments.setdefault("limits", Limits(rate=None, concurrency=8))
    return app_with(group, channels=[ticket], **arguments)


async def position(client: Client) -> dict[str, Any]:
    """Return the position that a reply tells."""
    reply = await client.receive()
    assert "subscribed" in reply, reply
    at: dict[str, Any] = reply["subscribed"][NAME]
    return at


async def publish(client: Client, *texts: Any) -> None:
    reply = await client.call("publish", payload=texts, id="publish")
    assert reply == {"event": "publish", "payload": None, "id": "publish"}


def open_gate() -> Gate:
    gate = Gate()
    gate.opened.set()
    return gate


async def test_a_command_that_fails_leaves_the_subscription_that_another_made_meanwhile(
    serving: Serving,
) -> None:
    gates = {"slow": Gate(), "fast": open_gate()}
    async with serving(app(gates)) as server, dial(server) as ann, dial(server) as bob:
        await bob.send("fail", payload="slow", id=1)
        await gates["slow"].reached.wait()
        await bob.send("watch", payload="fast", id=2)
        assert (await position(bob))["offset"] == 0
        gates["slow"].opened.set()
        assert (await bob.receive())["error"] == "no"
        await publish(ann, "one")
        assert await bob.receive() == commented("one", 1)


async def test_a_command_that_fails_leaves_the_subscription_that_another_is_making(
    serving: Serving,
) -> None:
    gates = {"first": Gate(), "second": Gate()}
    async with serving(app(gates)) as server, dial(server) as ann, dial(server) as bob:
        await bob.send("fail", payload="first", id=1)
        await gates["first"].reached.wait()
        await bob.send("watch", payload="second", id=2)
        await gates["second"].reached.wait()
        gates["first"].opened.set()
        assert (await bob.receive())["error"] == "no"
        await publish(ann, "one")
        gates["second"].opened.set()
        assert (await position(bob))["offset"] == 0
        assert await bob.receive() == commented("one", 1)


async def test_two_commands_that_fail_leave_the_earlier_subscription_where_it_was(
    serving: Serving,
) -> None:
    for order in ("first", "second"), ("second", "first"):
        gates = {"first": Gate(), "second": Gate(), "open": open_gate()}
        async with serving(app(gates)) as server, dial(server) as ann, dial(server) as bob:
            await bob.send("watch", payload="open", id=0)
            await position(bob)
            await bob.send("fail", payload="first", id=1)
            await gates["first"].reached.wait()
            await publish(ann, "one")
            await bob.send("fail", payload="second", id=2)
            await gates["second"].reached.wait()
            await publish(ann, "two")
            got = []
            for name in order:
                gates[name].opened.set()
                while True:
                    frame = await bob.receive()
                    if "error" in frame:
                        break
                    got.append(frame)
            await publish(ann, "three")
            while len(got) < 3:
                got.append(await bob.receive())
            texts = ["one", "two", "three"]
            assert got == [commented(text, at) for at, text in enumerate(texts, 1)]


async def test_the_last_reply_decides_where_the_events_of_a_channel_begin(
    serving: Serving,
) -> None:
    gates = {"first": Gate(), "second": Gate(), "open": open_gate()}
    async with serving(app(gates)) as server, dial(server) as ann, dial(server) as bob:
        await publish(ann, *range(500))
        await bob.send("watch", payload="first", id=1)
        await gates["first"].reached.wait()
        async with dial(server) as other:
            await other.send("watch", payload="open", id=1)
            epoch = (await position(other))["epoch"]
        await bob.send("watch", payload="second", id=2, since={NAME: [epoch, 0]})
        await gates["second"].reached.wait()
        gates["first"].opened.set()
        assert (await position(bob))["offset"] == 500
        await ann.send("publish", payload=list(range(500, 600)), id="publish")
        gates["second"].opened.set()
        while "id" not in (await bob.receive()):
            pass
        got = [(await bob.receive())["offset"] for _ in range(600)]
        assert got == list(range(1, 601))
        assert (await ann.receive())["id"] == "publish"
        await publish(ann, "last")
        assert await bob.receive() == commented("last", 601)


async def test_a_middleware_with_an_answer_of_its_own_does_not_hide_the_position(
    serving: Serving,
) -> None:
    async def replace(socket: Socket, message: Any, call_next: Any) -> Any:
        outcome = await call_next()
        return "instead" if message.event == "watch" else outcome

    gates = {"open": open_gate()}
    server_app = app(gates, middleware=[replace])
    async with serving(server_app) as server, dial(server) as ann, dial(server) as bob:
        await bob.send("watch", payload="open", id=1)
        reply = await bob.receive()
        assert (reply["id"], reply["payload"]) == (1, "instead")
        assert reply["subscribed"][NAME]["offset"] == 0
        await publish(ann, "one")
        assert await bob.receive() == commented("one", 1)


async def test_a_middleware_that_swallows_the_answer_does_not_hide_the_position(
    serving: Serving,
) -> None:
    async def swallow(socket: Socket, message: Any, call_next: Any) -> Any:
        outcome = await call_next()
        return Outcome(None) if message.event == "watch" else outcome

    gates = {"open": open_gate()}
    server_app = app(gates, middleware=[swallow])
    async with serving(server_app) as server, dial(server) as ann, dial(server) as bob:
        await bob.send("watch", payload="open", id=1)
        told = await bob.receive()
        assert (told["event"], told["payload"][NAME]["offset"]) == ("subscribed", 0)
        await publish(ann, "one")
        assert await bob.receive() == commented("one", 1)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_middleware_that_runs_a_command_again_leaves_no_subscription_of_the_first_run(
    serving: Serving, concurrency: int
) -> None:
    runs: list[int] = []

    async def twice(socket: Socket, message: Any, call_next: Any) -> Any:
        if message.event == "watch once":
            await call_next()
        return await call_next()

    group = CommandGroup()

    @group.command("watch once", subscribes=[ticket])
    async def watch_once(socket: Socket, *, channels: Channels) -> None:
        runs.append(1)
        if len(runs) > 1:
            raise ClientError("no")
        await channels.subscribe(socket, NAME)

    limits = Limits(rate=None, concurrency=concurrency)
    server_app = app({"open": open_gate()}, middleware=[twice], limits=limits)
    server_app.include_command_group(group)
    async with serving(server_app) as server, dial(server) as ann, dial(server) as bob:
        assert (await bob.call("watch once", id=1))["error"] == "no"
        await publish(ann, "not for bob")
        assert not server_app._channels._running._delivery.cursors


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_slow_reader_is_told_of_events_that_were_dropped_before_a_silence(
    overflow: Overflow,
) -> None:
    limits = Limits(rate=None, max_size=None, outbox=(5, 2**30), overflow=overflow)
    server_app = app({"open": open_gate()}, limits=limits)
    async with by_websockets(server_app) as server, dial(server) as ann:
        async with dial(server, max_size=None, max_queue=1) as bob:
            await bob.send("watch", payload="open", id=1)
            last = (await position(bob))["offset"]
            for _ in range(30):  # more than the network keeps
                await publish(ann, "x" * 1_000_000)
            while last < 30:
                frame = await bob.receive()
                if frame.get("event") == "channel gap" or frame["offset"] != last + 1:
                    break
                last = frame["offset"]
            assert last < 30
            if overflow is Overflow.DROP_NEWEST:
                assert frame == {"event": "channel gap", "payload": {"channel": NAME}}
            await bob.vanish()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_slow_reader_is_told_of_a_new_epoch(overflow: Overflow) -> None:
    limits = Limits(rate=None, max_size=None, outbox=(5, 2**30), overflow=overflow)
    server_app = app({"open": open_gate()}, limits=limits)
    async with by_websockets(server_app) as server, dial(server) as ann:
        async with dial(server, max_size=None, max_queue=1) as bob:
            await bob.send("watch", payload="open", id=1)
            await position(bob)
            for _ in range(30):
                await publish(ann, "x" * 1_000_000)
            await server_app._channels._running._log.new_epoch()
            for _ in range(30):
                await publish(ann, "x")
            frames = []
            while not frames or frames[-1].get("event") != "channel gap":
                frames.append(await bob.receive())
            await bob.vanish()
