"""`TestClient` and channels with a history: positions, offsets, and what was missed."""

import pytest
import tickets
from tickets import NAME

from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


async def test_a_reply_has_the_positions_and_events_their_offsets() -> None:
    async with TestClient(tickets.app()) as ann, ann.connect() as bob:
        reply = await bob.call("watch", [NAME])
        position = reply.subscribed[NAME]
        assert position == {"epoch": position["epoch"], "offset": 0}
        assert (reply.channel, reply.offset) == (None, None)
        await ann.call("comment", "one")
        event = await bob.receive()
        assert (event.event, event.channel, event.offset) == ("commented", NAME, 1)
        assert event.subscribed == {}
        reply = await bob.call("watch", [NAME], since={NAME: (position["epoch"], 0)})
        assert reply.subscribed[NAME]["recovered"] is True
        assert (await bob.receive()).offset == 1


async def test_the_offset_of_an_event_for_others_is_left_out() -> None:
    async with TestClient(tickets.app()) as ann:
        await ann.call("watch", [NAME])
        await ann.call("comment to others", "one")
        await ann.call("comment", "two")
        assert (await ann.receive()).offset == 2


async def test_the_positions_of_a_command_without_an_id_are_an_event() -> None:
    async with TestClient(tickets.app()) as ann:
        await ann.send("watch quietly", NAME, since={NAME: ("another", 5)})
        event = await ann.receive()
        assert event.event == "subscribed"
        assert event.payload[NAME]["recovered"] is False
