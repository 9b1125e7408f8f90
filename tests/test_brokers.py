"""Tests of every broker: messages between nodes, and users on each node."""

import anyio
import anyio.lowlevel
import pytest
from brokers import Make, Node, linked
from timeouts import TIMEOUT

from websuckets.session import UserId

pytestmark = pytest.mark.anyio


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
