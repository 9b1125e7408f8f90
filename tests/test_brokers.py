"""Tests of every broker: messages between nodes, and users on each node."""

import json

import anyio
import anyio.lowlevel
import pytest
from brokers import Make, Node, linked
from timeouts import TIMEOUT

from websuckets.broker import PRESENCE, PresenceRules
from websuckets.session import UserId

pytestmark = pytest.mark.anyio

AT_ONCE = PresenceRules(0, lambda group: group.startswith("told"))
SOON = PresenceRules(1, AT_ONCE.tells)
"""Rules with a grace that is longer than a busy machine needs to enter a user."""

ODD = 'told/ \n\0"[{комната}:*'
"""A name of a group with what might mean something to somebody."""


async def members(node: Node, group: str, expected: set[UserId]) -> None:
    """Wait until this node knows these users of other nodes in the group: it may learn later."""
    with anyio.fail_after(TIMEOUT):
        while await node.link.members(group) != expected:
            await anyio.sleep(0.01)


async def test_messages_reach_subscribed_nodes_in_order(make: Make) -> None:
    """Expect every other node to get all that is published after it has subscribed."""
    async with linked(make()) as one, linked(make()) as two, linked(make()) as three:
        for node in (one, two):
            await node.link.subscribe("a")
        await three.link.subscribe("b")
        for number in range(500):
            one.link.publish("a", b"[%d]" % number)
        one.link.publish("b", b'"b"')
        await two.until(lambda: len(two.got) == 500)
        await three.until(lambda: bool(three.got))
    assert two.got == [("a", b"[%d]" % number) for number in range(500)]
    assert three.got == [("b", b'"b"')]
    assert one.got == one.gaps == two.gaps == three.gaps == []


async def test_who_unsubscribes_gets_no_more(make: Make) -> None:
    """Expect no messages until the node subscribes again."""
    async with linked(make()) as one, linked(make()) as two:
        for name in ("a", "b"):
            await two.link.subscribe(name)
        two.link.unsubscribe("a")
        two.link.unsubscribe("never")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(two.link.subscribe, "d")
            await anyio.lowlevel.checkpoint()
            two.link.unsubscribe("d")
            tasks.start_soon(two.link.subscribe, "d")
        await two.link.subscribe("d")  # again, which changes nothing
        await two.link.subscribe("c")  # once this is confirmed, so is what came before
        one.link.publish("a", b"1")
        one.link.publish("b", b"2")
        await two.until(lambda: ("b", b"2") in two.got)
        await two.link.subscribe("a")
        one.link.publish("a", b"3")
        await two.until(lambda: ("a", b"3") in two.got)
    assert two.got == [("b", b"2"), ("a", b"3")]


async def test_a_message_is_any_text(make: Make) -> None:
    """Expect long messages, and messages in any script, to arrive unchanged."""
    text = '{"event": "новости", "payload": "' + "я" * 100_000 + '"}'
    async with linked(make()) as one, linked(make()) as two:
        await two.link.subscribe("канал/ \n\0")
        one.link.publish("канал/ \n\0", text.encode())
        await two.until(lambda: bool(two.got))
    assert two.got == [("канал/ \n\0", text.encode())]


async def test_everybody_knows_who_is_on_other_nodes(make: Make) -> None:
    """Expect users by group; an id that is a number differs from the same id as text."""
    async with linked(make()) as one, linked(make()) as two:
        async with linked(make()) as three:
            two.link.enter("", "ann")
            two.link.enter("", 7)
            three.link.enter("", "7")
            three.link.enter("", "ann")
            three.link.enter("a", "ann")
            one.link.enter("", "myself")
            await members(one, "", {"ann", 7, "7"})
            await members(one, "a", {"ann"})
            await members(two, "", {"ann", "7", "myself"})
            two.link.leave("", "ann")
            await members(three, "", {7, "myself"})
            await members(one, "", {"ann", 7, "7"})
        await members(one, "", {7})
        await members(one, "a", set())


async def test_announcements_reach_every_other_node_in_order(make: Make) -> None:
    """Expect each announcement once, without subscriptions."""
    expected = [b"%d" % number for number in range(100)]
    async with linked(make()) as one, linked(make()) as two, linked(make()) as three:
        losses = [node.losses for node in (one, two, three)]
        for announcement in expected:
            await one.link.announce(announcement)
        for node in (two, three):
            await node.until(lambda node=node: len(node.announcements) == 100)  # type: ignore[misc]
        await two.link.announce(b"last\nof all")
        for node in (one, three):
            await node.until(lambda node=node: node.announcements[-1:] == [b"last\nof all"])  # type: ignore[misc]
        assert two.announcements == expected
        assert three.announcements == [*expected, b"last\nof all"]
        assert one.announcements == [b"last\nof all"]
        assert losses == [node.losses for node in (one, two, three)]


# Users who come and leave -------------------------------------------------------------------------


def told(node: Node, group: str = "told") -> list[tuple[str, UserId]]:
    """Return of whom a node was told, one by one, in order."""
    found: list[tuple[str, UserId]] = []
    for topic, message in node.got:
        content = json.loads(message)
        assert content.keys() == {"joined", "left"}
        if topic == PRESENCE + group:
            found += [("joined", user) for user in content["joined"]]
            found += [("left", user) for user in content["left"]]
    return found


async def watch(*nodes: Node, group: str = "told") -> None:
    for node in nodes:
        await node.link.subscribe(PRESENCE + group)


async def until_told(node: Node, *expected: tuple[str, UserId], group: str = "told") -> None:
    """Wait until a node was told of so many users; expect that it was of these, in this order."""
    await node.until(lambda: len(told(node, group)) >= len(expected))
    assert told(node, group) == list(expected)


@pytest.mark.parametrize("group", ["told", ODD])
async def test_nodes_are_told_once_of_who_comes_and_leaves(make: Make, group: str) -> None:
    """Expect every node that subscribed to be told, and the node of the user, too."""
    async with linked(make(), AT_ONCE) as one, linked(make(), AT_ONCE) as two:
        await watch(one, two, group=group)
        joined: list[tuple[str, UserId]] = []
        for user in ("ann", 7, "7", ODD):
            joined.append(("joined", user))
            one.link.enter(group, user)
            await until_told(two, *joined, group=group)
        joined.append(("joined", "end"))
        two.link.enter(group, "ann")
        two.link.enter(group, "end")
        for node in (one, two):
            await until_told(node, *joined, group=group)
            assert await node.link.present(group) == {user for _, user in joined}
        one.link.leave(group, "ann")
        one.link.leave(group, 7)
        await until_told(two, *joined, ("left", 7), group=group)
        two.link.leave(group, "ann")
        for node in (one, two):
            await until_told(node, *joined, ("left", 7), ("left", "ann"), group=group)
            assert await node.link.present(group) == {"7", ODD, "end"}


async def test_nobody_is_told_of_other_groups(make: Make) -> None:
    """Expect groups of which the rules do not tell to be kept as ever, and no messages of them."""
    async with linked(make(), AT_ONCE) as one, linked(make(), AT_ONCE) as two:
        await watch(two)
        await watch(two, group="silent")
        one.link.enter("silent", "ann")
        one.link.enter("told", "ann")
        await until_told(two, ("joined", "ann"))
        await members(two, "silent", {"ann"})
        assert await two.link.present("silent") == set()
        assert told(two, "silent") == []
        one.link.leave("silent", "ann")
        await members(two, "silent", set())


@pytest.mark.slow
async def test_who_is_back_within_the_grace_never_left(make: Make) -> None:
    """Expect nothing of who is back on any node; later departures are told all the same."""
    async with linked(make(), SOON) as one, linked(make(), SOON) as two:
        await watch(one)
        for user in ("ann", "bob", "eve"):
            one.link.enter("told", user)
        joined = [("joined", user) for user in ("ann", "bob", "eve")]
        await until_told(one, *joined)
        for user in ("ann", "bob"):
            one.link.leave("told", user)
        one.link.enter("told", "ann")
        two.link.enter("told", "bob")
        await members(one, "told", {"bob"})
        assert await one.link.present("told") == {"ann", "bob", "eve"}
        one.link.leave("told", "eve")
        await until_told(one, *joined, ("left", "eve"))
        assert await one.link.present("told") == {"ann", "bob"}
        two.link.leave("told", "bob")
        await until_told(one, *joined, ("left", "eve"), ("left", "bob"))


@pytest.mark.slow
async def test_who_goes_again_has_another_grace(make: Make) -> None:
    """Expect one departure of a user who was back meanwhile."""
    async with linked(make(), SOON) as one, linked(make(), SOON) as two:
        await watch(one)
        two.link.enter("told", "ann")
        for _ in range(3):
            two.link.leave("told", "ann")
            two.link.enter("told", "ann")
        two.link.leave("told", "ann")
        two.link.enter("told", "end")
        with anyio.fail_after(TIMEOUT):
            while await one.link.present("told") != {"end"}:
                await anyio.sleep(0.01)
        two.link.leave("told", "end")
        await one.until(lambda: ("left", "end") in told(one))
        assert [change for change in told(one) if change[1] == "ann"] in (
            [("joined", "ann"), ("left", "ann")],
            [],  # a node that sends both at once has nothing to tell
        )


@pytest.mark.slow
async def test_users_of_a_node_that_ends_leave_after_the_grace(make: Make) -> None:
    """Expect the other nodes to be told, but not of who has come to one of them."""
    async with linked(make(), SOON) as one:
        await watch(one)
        async with linked(make(), SOON) as two:
            for user in ("ann", "bob"):
                two.link.enter("told", user)
            await until_told(one, ("joined", "ann"), ("joined", "bob"))
        one.link.enter("told", "ann")
        await until_told(one, ("joined", "ann"), ("joined", "bob"), ("left", "bob"))
        assert await one.link.present("told") == {"ann"}


@pytest.mark.slow
async def test_many_users_come_and_leave(make: Make) -> None:
    """Expect each of more users than go into one message to be told of once."""
    users = list(range(1200))
    async with linked(make(), AT_ONCE) as one:
        await watch(one)
        async with linked(make(), AT_ONCE) as two:
            for user in users:
                two.link.enter("told", user)
            await until_told(one, *(("joined", user) for user in users))
        await one.until(lambda: len(told(one)) >= 2 * len(users))
        assert sorted(user for change, user in told(one) if change == "left") == users
