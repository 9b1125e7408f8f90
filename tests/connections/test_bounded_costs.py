"""Tests that a message of one client costs the others next to nothing."""

import json

import pytest
from harness import app_with, dial
from pydantic import BaseModel
from serving import Serving

from websuckets import CommandGroup, Payload, Socket

pytestmark = pytest.mark.anyio


class Item(BaseModel):
    sku: str
    title: str
    amount: int


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("order")
    async def order(socket: Socket, items: Payload[list[Item]]) -> int:
        return len(items)

    return group


async def test_the_reply_to_a_wrong_payload_is_short(serving: Serving, group: CommandGroup) -> None:
    """Expect a short reply, however much of the payload is wrong; the client can go on."""
    frame = json.dumps({"event": "order", "payload": [{}] * 10_000, "id": 1})
    async with serving(app_with(group)) as server, dial(server) as client:
        await client.connection.send(frame)
        text = await client.receive_frame()
        assert len(text) < 1000
        reply = json.loads(text)
        assert (reply["error"], reply["id"]) == ("validation error", 1)
        assert [problem["type"] for problem in reply["details"]] == [
            "missing",
            "missing",
            "missing",
            "more_problems",
        ]
        good = [{"sku": "s", "title": "t", "amount": 1}] * 1000
        assert (await client.call("order", payload=good))["payload"] == 1000


@pytest.mark.parametrize("payload", ['"great \\ud83d"', "[" * 300 + "]" * 300, "[NaN]"])
async def test_a_message_that_cannot_be_read_is_answered_with_its_id(
    serving: Serving, group: CommandGroup, payload: str
) -> None:
    """Expect the reply to have the id of the message, so that it reaches who waits for it."""
    async with serving(app_with(group)) as server, dial(server) as client:
        frame = f'{{"event": "order", "payload": {payload}, "id": 7}}'
        await client.connection.send(frame)
        reply = await client.receive()
        assert (reply["error"], reply["id"]) == ("invalid message", 7)
        assert (await client.call("order", payload=[]))["payload"] == 0
