"""Tests of streams while they run: their items, their limits, and the commands beside them."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from harness import Gate, app_with, dial, talk, until
from streams import Journalling, Transaction, streams, until_stuck
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Limits, WebSuckets

pytestmark = pytest.mark.anyio


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    return app_with(streams(journal, gate), providers=[Journalling(journal)])


async def test_items_come_with_more_and_then_the_acknowledgement(
    app: WebSuckets, journal: list[str]
) -> None:
    """Each item is sent within the scope, and the last reply after the scope is closed."""
    async with talk(app) as client:
        await client.send("count", payload={"to": 3}, id="a")
        for number in range(3):
            item = {"event": "count", "payload": number, "id": "a", "more": True}
            assert await client.receive() == item
        assert await client.receive() == {"event": "count", "payload": None, "id": "a"}
        assert journal == ["open shared", "open", "commit"]


async def test_without_an_id_there_is_no_acknowledgement(app: WebSuckets) -> None:
    """Items have `more` without an id, too; events keep their own names."""
    async with talk(app) as client:
        await client.send("no scope")
        assert await client.receive() == {"event": "no scope", "payload": None, "more": True}
        assert await client.receive() == {"event": "other", "payload": [1], "more": True}
        await client.send("no scope", id=1)
        assert (await client.receive())["id"] == 1
        other = {"event": "other", "payload": [1], "id": 1, "more": True}
        assert await client.receive() == other
        assert await client.receive() == {"event": "no scope", "payload": None, "id": 1}


async def test_a_stream_without_items_is_acknowledged(app: WebSuckets) -> None:
    """A stream without items is acknowledged like any command."""
    async with talk(app) as client:
        reply = await client.call("count", payload={"to": 0}, id=1)
        assert reply == {"event": "count", "payload": None, "id": 1}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ({"event": "count"}, "payload required"),
        ({"event": "count", "payload": {"to": "x"}}, "validation error"),
        ({"event": "protected"}, "not authorized"),
    ],
)
async def test_a_stream_is_refused_before_its_first_item_with_one_error(
    app: WebSuckets, sent: dict[str, Any], error: str
) -> None:
    """A stream is refused like a command, with one error and nothing else."""
    async with talk(app) as client:
        reply = await client.call(**sent, id=1)
        assert (reply["error"], reply["id"]) == (error, 1)
        assert (await client.call("ping"))["payload"] == "pong"


async def test_a_protected_stream_is_open_to_a_verified_user(app: WebSuckets) -> None:
    """The guard is called when the stream starts."""
    async with talk(app) as client:
        await client.call("enter", id=0)
        assert (await client.call("protected", token="secret"))["payload"] == 1


async def test_other_commands_are_answered_while_a_stream_runs(
    app: WebSuckets, journal: list[str], gate: Gate
) -> None:
    """Commands are answered beside a stream that never waits, and one that never yields."""
    async with talk(app) as client:
        await client.send("never", id="never")
        await gate.reached.wait()
        await client.send("endless", id="endless")
        seen = set()
        await client.send("ping", id="ping")
        while "ping" not in seen:
            seen.add((await client.receive())["id"])
        assert "endless" in seen or (await client.receive())["id"] == "endless"


async def test_a_stream_that_nobody_reads_waits(app: WebSuckets, journal: list[str]) -> None:
    """A stream is ahead of its client by no more than the network buffers; then it can go on."""
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server, max_queue=1) as client:
            await client.send("endless", payload=50_000, id=1)
            await until(journal, "item")
            before = await until_stuck(journal)
            assert before * 50_000 < 2**24
            for _ in range(before + 10):
                await client.receive()
            assert journal.count("item") > before
            await client.vanish()
        await until(journal, "close shared")
    assert journal[-4] == "item" and journal[-3] == "left"
    assert journal[-2].startswith(("rollback ConnectionClosed", "rollback Cancel"))


async def test_a_stream_over_the_limit_is_refused_until_another_ends(
    journal: list[str], gate: Gate
) -> None:
    """A stream over the limit is an error until another stream has ended."""
    app = app_with(
        streams(journal, gate), providers=[Journalling(journal)], limits=Limits(streams=2)
    )
    async with talk(app) as client:
        for id in (1, 2):
            await client.send("never", id=id)
        refused = {"error": "too many streams", "details": None, "id": 3}
        assert await client.call("never", id=3) == refused
        await client.connection.send('{"cancel": 1}')
        assert (await client.receive())["id"] == 1
        assert (await client.call("count", payload={"to": 0}, id=3))["event"] == "count"
        async with client.another() as other:
            assert (await other.call("count", payload={"to": 0}, id=3))["event"] == "count"


async def test_the_limit_of_streams_may_be_off(journal: list[str], gate: Gate) -> None:
    """Without a limit, a client may run any number of streams."""
    app = app_with(
        streams(journal, gate), providers=[Journalling(journal)], limits=Limits(streams=None)
    )
    async with talk(app) as client:
        for id in range(20):
            await client.send("never", id=id)
        assert (await client.call("ping", id="x"))["id"] == "x"


async def test_a_second_stream_with_an_id_in_use_is_refused(app: WebSuckets, gate: Gate) -> None:
    """A second stream with an id in use is refused, as a cancellation would be ambiguous."""
    async with talk(app) as client:
        await client.send("never", id=1)
        again = await client.call("never", id=1)
        assert again == {"error": "id in use", "details": None, "id": 1}
        for _ in range(2):  # without an id, there may be several
            await client.send("never")
        assert (await client.call("ping"))["payload"] == "pong"


async def test_streams_and_commands_share_the_objects_of_their_connection(
    app: WebSuckets, journal: list[str]
) -> None:
    """Streams and commands that ask for an object at the same moment share it."""
    async with talk(app) as client:
        for id in range(3):
            await client.send("count", payload={"to": 1}, id=id)
        await client.send("ping", id="ping")
        for _ in range(7):
            await client.receive()
        assert journal.count("open shared") == 1


async def test_a_stream_runs_to_its_first_wait_before_the_next_command(app: WebSuckets) -> None:
    """A stream runs to its first wait before the next command, so that it misses no event."""
    watchers: list[anyio.Event] = []
    group = CommandGroup()

    @group.command("watch")
    async def watch(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[str]:
        said = anyio.Event()
        watchers.append(said)
        await said.wait()
        yield "heard"

    @group.command("say")
    async def say(socket: ServerConnection) -> int:
        for event in watchers:
            event.set()
        count = len(watchers)
        watchers.clear()
        return count

    app.include_command_group(group)
    async with talk(app) as client:
        for id in range(20):
            await client.send("watch", id=id)
            await client.send("say")
            replies = [await client.receive() for _ in range(3)]
            assert [reply["payload"] for reply in replies if reply["event"] == "say"] == [1]


async def test_streams_whose_last_reply_is_not_read_count_for_the_limit(
    journal: list[str], gate: Gate
) -> None:
    """Streams whose last reply is not read yet count for the limit, too."""
    app = app_with(
        streams(journal, gate), providers=[Journalling(journal)], limits=Limits(streams=3)
    )
    async with app.serve("127.0.0.1", 0) as server, dial(server, max_queue=1) as client:
        await client.send("endless", payload=50_000, id="endless")
        await until(journal, "item")
        await until_stuck(journal)
        journal.clear()
        for id in range(30):
            await client.send("count", payload={"to": 0}, id=id)
        await anyio.sleep(0.05)
        assert journal.count("open") <= 2
        await client.vanish()
