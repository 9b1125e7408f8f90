"""Clients that subscribe to channels with a history, and get what they have missed."""

from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import anyio
import pytest
import tickets
from harness import Client, Gate, dial
from peers import SMALL, command, opened
from serving import Serving
from tickets import NAME, commented
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import Limits

pytestmark = pytest.mark.anyio


async def watch(client: Client, since: Any = None, *names: str) -> dict[str, Any]:
    """Subscribe, and return the positions of the reply."""
    fields = {} if since is None else {"since": since}
    reply = await client.call("watch", payload=list(names or [NAME]), id="watch", **fields)
    assert (reply["event"], reply["payload"], reply["id"]) == ("watch", "state", "watch")
    subscribed: dict[str, Any] = reply["subscribed"]
    return subscribed


async def do(client: Client, event: str, payload: Any = None) -> None:
    """Call a command that returns nothing, of a client that gets no events."""
    reply = await client.call(event, payload=payload, id="do")
    assert reply == {"event": event, "payload": None, "id": "do"}


async def test_the_reply_tells_the_position_and_events_follow_it(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        await do(ann, "comment", "before")
        position = (await watch(bob))[NAME]
        assert position == {"epoch": position["epoch"], "offset": 1}
        await do(ann, "comment", "one")
        await do(ann, "comment on commit", "two")
        assert [await bob.receive() for _ in range(2)] == [commented("one", 2), commented("two", 3)]


async def test_events_are_published_by_name_and_each_channel_counts_for_itself(
    serving: Serving,
) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        await watch(bob, None, NAME, "short/1")
        await do(ann, "publish", 2)
        got = [await bob.receive() for _ in range(4)]
        assert got == [
            commented(0, 1),
            commented(0, 1, "short/1"),
            commented(1, 2),
            commented(1, 2, "short/1"),
        ]


@pytest.mark.parametrize("missed", [1, 99, 100, 101, 500])
async def test_who_was_away_gets_exactly_what_was_missed_and_then_what_is_new(
    serving: Serving, missed: int
) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann:
        async with dial(server) as bob:
            epoch = (await watch(bob))[NAME]["epoch"]
            await do(ann, "comment", "seen")
            assert await bob.receive() == commented("seen", 1)
        await do(ann, "publish", missed)
        async with dial(server) as bob:
            subscribed = await watch(bob, {NAME: [epoch, 1]})
            assert subscribed == {NAME: {"epoch": epoch, "offset": missed + 1, "recovered": True}}
            await do(ann, "comment", "new")
            got = [await bob.receive() for _ in range(missed + 1)]
            expected = [commented(number, number + 2) for number in range(missed)]
            assert got == [*expected, commented("new", missed + 2)]


async def test_who_missed_nothing_has_recovered(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann:
        async with dial(server) as bob:
            position = (await watch(bob))[NAME]
        async with dial(server) as bob:
            since = {NAME: [position["epoch"], position["offset"]]}
            assert (await watch(bob, since))[NAME] == position | {"recovered": True}
            await do(ann, "comment", "new")
            assert await bob.receive() == commented("new", 1)


async def since_of(server: Any, ann: Client) -> str:
    async with dial(server) as bob:
        epoch: str = (await watch(bob))[NAME]["epoch"]
    return epoch


@pytest.mark.parametrize(
    ("since", "recovered"),
    [
        ([None, 1000], True),  # the epoch of the log
        ([None, 2], True),
        ([None, 1], False),  # 1,001 events behind
        ([None, 0], False),
        ([None, 1003], False),  # from the future
        ([None, 2**53], False),
        (["another", 1000], False),
    ],
)
async def test_a_position_too_far_away_is_not_recovered(
    anyio_backend: str, serving: Serving, since: list[Any], recovered: bool
) -> None:
    app = tickets.app(limits=Limits(recovery=1000))
    async with serving(app) as server, dial(server) as ann, dial(server) as bob:
        epoch = await since_of(server, ann)
        await do(ann, "publish", 1002)
        position = (await watch(bob, {NAME: [since[0] or epoch, since[1]]}))[NAME]
        assert position == {"epoch": epoch, "offset": 1002, "recovered": recovered}
        for offset in range(since[1] + 1, 1003) if recovered else ():
            assert (await bob.receive())["offset"] == offset
        await do(ann, "comment", "new")
        assert await bob.receive() == commented("new", 1003)


async def test_a_trimmed_log_is_not_recovered(serving: Serving) -> None:
    name = "short/1"
    async with serving(tickets.app()) as server, dial(server) as ann:
        async with dial(server) as bob:
            epoch = (await watch(bob, None, name))[name]["epoch"]
        await do(ann, "publish", 10)
        for offset, recovered in (4, False), (5, True):
            async with dial(server) as bob:
                position = (await watch(bob, {name: [epoch, offset]}, name))[name]
                assert position == {"epoch": epoch, "offset": 10, "recovered": recovered}


async def test_a_position_in_another_channel_does_not_matter(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as bob:
        subscribed = await watch(bob, {"ticket/2": ["e", 5], "": ["e", 0]})
        assert subscribed.keys() == {NAME}
        assert subscribed[NAME].keys() == {"epoch", "offset"}


async def test_a_hundred_channels_catch_up_at_once(serving: Serving) -> None:
    names = [f"short/{number}" for number in range(99)] + [NAME]
    app = tickets.app()
    async with serving(app) as server, dial(server) as ann:
        async with dial(server) as bob:
            first = await watch(bob, None, *names)
        await do(ann, "comment", "one")
        async with dial(server) as bob:
            since = {name: [at["epoch"], at["offset"]] for name, at in first.items()}
            subscribed = await watch(bob, since, *names)
            assert all(at["recovered"] for at in subscribed.values())
            assert await bob.receive() == commented("one", 1)


@pytest.mark.parametrize(
    ("since", "location"),
    [
        ([], ["since"]),
        ("ticket/1", ["since"]),
        (5, ["since"]),
        (True, ["since"]),
        ({NAME: None}, ["since", NAME]),
        ({NAME: ["e"]}, ["since", NAME]),
        ({NAME: ["e", 1, 2]}, ["since", NAME]),
        ({NAME: [1, 1]}, ["since", NAME]),
        ({NAME: ["", 1]}, ["since", NAME]),
        ({NAME: ["e" * 129, 1]}, ["since", NAME]),
        ({NAME: ["e", -1]}, ["since", NAME]),
        ({NAME: ["e", 2**53 + 1]}, ["since", NAME]),
        ({NAME: ["e", 10**30]}, ["since", NAME]),
        ({NAME: ["e", 1.0]}, ["since", NAME]),
        ({NAME: ["e", True]}, ["since", NAME]),
        ({"short/1": ["e", 1], NAME: ["e", -1]}, ["since", NAME]),
    ],
)
async def test_a_since_that_is_no_position_is_refused(
    serving: Serving, since: Any, location: list[str]
) -> None:
    async with serving(tickets.app()) as server, dial(server) as bob:
        reply = await bob.call("watch", payload=[NAME], id=1, since=since)
        assert reply["error"] == "invalid message"
        assert reply["id"] == 1
        (problem,) = reply["details"]
        assert problem["loc"] == location
        assert (await watch(bob))[NAME]["offset"] == 0


async def test_a_since_of_null_is_none(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as bob:
        reply = await bob.call("watch", payload=[NAME], id=1, since=None)
        assert reply["subscribed"][NAME].keys() == {"epoch", "offset"}


async def test_without_an_id_the_positions_are_an_event(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        await do(ann, "comment", "before")
        await bob.send("watch quietly", payload=NAME)
        event = await bob.receive()
        epoch = event["payload"][NAME]["epoch"]
        assert event == {
            "event": "subscribed",
            "payload": {NAME: {"epoch": epoch, "offset": 1}},
        }
        await bob.send("watch", payload=[NAME], since={NAME: [epoch, 0]})
        assert await bob.receive() == {"event": "watch", "payload": "state"}
        position = {"epoch": epoch, "offset": 1, "recovered": True}
        assert await bob.receive() == {"event": "subscribed", "payload": {NAME: position}}
        assert await bob.receive() == commented("before", 1)


async def test_a_command_that_fails_takes_its_subscription_back(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        reply = await bob.call("watch and fail", payload=NAME, id=1)
        assert reply == {"error": "no", "details": None, "id": 1}
        await do(ann, "comment", "not for bob")
        assert (await watch(bob))[NAME]["offset"] == 2
        await do(ann, "comment", "for bob")
        assert await bob.receive() == commented("for bob", 3)


async def test_a_command_that_fails_leaves_an_earlier_subscription(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        epoch = (await watch(bob))[NAME]["epoch"]
        await do(ann, "comment", "one")
        assert await bob.receive() == commented("one", 1)
        await bob.send("watch and fail", payload=NAME, id=1, since={NAME: [epoch, 0]})
        got = [await bob.receive() for _ in range(2)]
        assert {"error": "no", "details": None, "id": 1} in got
        assert commented("while it fails", 2) in got
        await do(ann, "comment", "three")
        assert await bob.receive() == commented("three", 3)


async def test_subscribing_again_tells_the_present_position(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        first = (await watch(bob))[NAME]
        await do(ann, "comment", "one")
        assert await bob.receive() == commented("one", 1)
        assert (await watch(bob))[NAME] == first | {"offset": 1}
        await do(ann, "comment", "two")
        assert await bob.receive() == commented("two", 2)


async def test_events_that_come_while_a_subscriber_loads_anew_follow_the_reply(
    serving: Serving,
) -> None:
    gate = Gate()
    app = tickets.app(gate=gate)
    async with serving(app) as server, dial(server) as ann, dial(server) as bob:
        await watch(bob)
        await bob.send("watch slowly", payload=NAME, id="slow")
        await gate.reached.wait()
        await do(ann, "comment", "one")
        gate.opened.set()
        reply = await bob.receive()
        assert (reply["id"], reply["subscribed"][NAME]["offset"]) == ("slow", 0)
        assert await bob.receive() == commented("one", 1)


async def test_who_is_subscribed_may_go_back_to_an_earlier_position(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        epoch = (await watch(bob))[NAME]["epoch"]
        for text, offset in ("one", 1), ("two", 2):
            await do(ann, "comment", text)
            assert await bob.receive() == commented(text, offset)
        position = await watch(bob, {NAME: [epoch, 0]})
        assert position[NAME] == {"epoch": epoch, "offset": 2, "recovered": True}
        await do(ann, "comment", "three")
        texts = ["one", "two", "three"]
        got = [await bob.receive() for _ in texts]
        assert got == [commented(text, at) for at, text in enumerate(texts, 1)]


async def test_who_has_left_gets_nothing_more(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        epoch = (await watch(bob))[NAME]["epoch"]
        await do(bob, "leave", NAME)
        await do(ann, "comment", "one")
        assert (await watch(bob, {NAME: [epoch, 0]}))[NAME]["offset"] == 1
        assert await bob.receive() == commented("one", 1)


async def test_the_excluded_connection_gets_the_offset_alone(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        epoch = (await watch(ann))[NAME]["epoch"]
        await watch(bob)
        await ann.send("comment to others", payload="one", id="do")
        got = [await ann.receive() for _ in range(2)]
        assert {"channel": NAME, "offset": 1} in got
        assert await bob.receive() == commented("one", 1)
        async with dial(server) as ann:  # another connection, which is not excluded
            await watch(ann, {NAME: [epoch, 0]})
            assert await ann.receive() == commented("one", 1)


async def test_the_excluded_connection_gets_the_offset_alone_when_it_goes_back(
    serving: Serving,
) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann:
        epoch = (await watch(ann))[NAME]["epoch"]
        await ann.send("comment to others", payload="one", id="do")
        assert len([await ann.receive() for _ in range(2)]) == 2
        await watch(ann, {NAME: [epoch, 0]})
        assert await ann.receive() == {"channel": NAME, "offset": 1}


async def test_a_log_out_ends_the_subscription_of_the_user(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann, dial(server) as bob:
        await do(bob, "enter", "bob")
        epoch = (await watch(bob))[NAME]["epoch"]
        await do(bob, "enter", None)
        await do(ann, "comment", "one")
        assert (await watch(bob, {NAME: [epoch, 1]}))[NAME]["offset"] == 1
        await do(ann, "comment", "two")
        assert await bob.receive() == commented("two", 2)


async def test_the_app_counts_what_recovered(serving: Serving) -> None:
    app = tickets.app(limits=Limits(recovery=1))
    async with serving(app) as server, dial(server) as ann, dial(server) as bob:
        epoch = (await watch(bob))[NAME]["epoch"]
        await do(ann, "publish", 2)
        assert len([await bob.receive() for _ in range(2)]) == 2
        for offset in 0, 1, 2:
            await watch(bob, {NAME: [epoch, offset]})
            for at in range(offset + 1, 3) if offset else ():
                assert await bob.receive() == commented(at - 1, at)
        counts = app._channels.counts
        assert (counts.recovered, counts.reloaded, counts.healed) == (2, 1, 0)


@pytest.mark.slow
async def test_a_client_that_reads_slowly_catches_up_on_a_thousand_events(
    on_sockets: Serving,
) -> None:
    """Expect what was missed not to go through the outbox, which holds 256 events."""
    app = tickets.app(limits=Limits(rate=None, outbox=(20, 20_000), recovery=2000))
    async with on_sockets(app) as server, dial(server) as ann:
        async with dial(server) as bob:
            epoch = (await watch(bob))[NAME]["epoch"]
        for _ in range(10):
            await do(ann, "publish long", 100)
        async with dial(server, max_queue=1) as bob, dial(server, max_queue=1) as carol:
            for client in bob, carol:
                await client.send("watch", payload=[NAME], id=1, since={NAME: [epoch, 1]})
            await do(ann, "comment", "new")
            for client in bob, carol:
                assert (await client.receive())["subscribed"][NAME]["recovered"]
                for offset in range(2, 1002):
                    assert (await client.receive())["offset"] == offset


@pytest.mark.on_asyncio
async def test_who_does_not_read_for_a_while_gets_all_that_was_missed() -> None:
    """The server waits behind a page, for which the network has no room, until the client reads."""
    app = tickets.app()

    @app.on_connect
    async def keep_little_in_the_network(socket: ServerConnection) -> None:
        connection = socket.transport.get_extra_info("socket")
        connection.setsockopt(SOL_SOCKET, SO_SNDBUF, SMALL)

    async with app.serve("127.0.0.1", 0) as server, dial(server) as ann:
        epoch = await since_of(server, ann)
        for _ in range(10):
            await do(ann, "publish long", 100)
        assert server.port is not None
        async with opened(server.port, receive_buffer=SMALL) as bob:
            await bob.write(command("watch", payload=[NAME], id=1, since={NAME: [epoch, 0]}))
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(3 * TIMEOUT):
                assert (await bob.read_json())["subscribed"][NAME]["recovered"]
                for offset in range(1, 1001):
                    assert (await bob.read_json())["offset"] == offset


async def test_a_compressed_connection_catches_up(anyio_backend: str) -> None:
    app = tickets.app(limits=Limits(rate=None, compression="deflate"))
    async with app.serve("127.0.0.1", 0) as server, dial(server, compression=None) as ann:
        await do(ann, "publish", 150)
        async with dial(server, compression="deflate") as bob:
            assert bob.connection.protocol.extensions
            epoch = (await watch(bob))[NAME]["epoch"]
            await watch(bob, {NAME: [epoch, 0]})
            assert [(await bob.receive())["offset"] for _ in range(150)] == list(range(1, 151))


async def test_large_events_are_sent_one_by_one(serving: Serving) -> None:
    async with serving(tickets.app()) as server, dial(server) as ann:
        epoch = (await watch(ann))[NAME]["epoch"]
        await do(ann, "leave", NAME)
        for _ in range(8):
            await do(ann, "comment", "x" * 50_000)
        await watch(ann, {NAME: [epoch, 0]})
        assert [(await ann.receive())["offset"] for _ in range(8)] == list(range(1, 9))
