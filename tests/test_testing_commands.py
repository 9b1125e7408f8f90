"""`websuckets.testing`: commands, calls and streams of a test client in memory, and its events."""

import copy
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from harness import Gate, app_with, errors
from sample_app import Post, sample_app
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.testing import CommandError, TestClient
from websuckets.transports.memory import CAPACITY

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    return sample_app(journal, gate)


async def test_events_are_received_as_they_come(app: WebSuckets) -> None:
    """Events have the payload, and those of a reply its id."""
    async with TestClient(app, path="/welcome") as client:
        welcome = await client.receive()
        assert isinstance(welcome, ClientEvent) and welcome == ClientEvent("welcome", [1])
        assert (welcome.event, welcome.payload) == ("welcome", [1])
        assert (welcome.id, welcome.more) == (None, False)
        await client.send("echo", Post(title="Hello"), id=3)
        reply = await client.receive()
        assert (reply.event, reply.payload, reply.id) == ("echo", {"title": "Hello"}, 3)
        assert copy.copy(reply).id == 3


async def test_a_command_is_sent_with_what_is_given(app: WebSuckets) -> None:
    """A command has the given fields and no others."""
    async with TestClient(app) as client:
        await client.send("id")
        assert (await client.receive()).payload == [None, None]
        await client.send("id", token="secret", id="x")
        assert (await client.receive()).payload == ["x", "secret"]
        token = (await client.call("enter")).payload
        assert (await client.call("secret", token=token)).payload == "psst"


async def test_an_error_is_raised_in_the_task_that_receives_it(app: WebSuckets) -> None:
    """An error reply is raised in the task that receives it, with name, details and id."""
    async with TestClient(app) as client:
        await client.send("refuse", id=7)
        with pytest.raises(CommandError, match=r"^refused: {'because': 1}$") as refused:
            await client.receive()
        assert (refused.value.error, refused.value.details, refused.value.id) == (
            *("refused", {"because": 1}),
            7,
        )
        with pytest.raises(CommandError, match=r"^not authorized$"):
            await client.call("secret", token="wrong")
        with pytest.raises(CommandError, match="enough"):
            async for _ in client.stream("count and fail"):
                pass
        await client.send_frame(b"not json")
        with pytest.raises(CommandError, match=r"^invalid message: "):
            await client.receive()


async def test_a_handler_that_fails_is_answered_as_in_production(
    app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback, and the client goes on."""
    async with TestClient(app) as client:
        with pytest.raises(CommandError, match=r"internal error: {'incident'"):
            await client.call("bug")
        assert (await client.call("echo", {"title": "on"})).payload == {"title": "on"}
    assert len(errors(caplog)) == 1


async def test_frames_that_are_not_events_are_received_as_frames(app: WebSuckets) -> None:
    """Frames that are not events are received as frames; `receive` leaves them in the queue."""
    async with TestClient(app) as client:
        for text in ("ok", "[]", '{"event": 1}', "{}", '{"error": null}'):
            await client.send("say", text)
            with pytest.raises(ValueError, match="not an event"):
                await client.receive()
            assert await client.receive_frame() == text
        await client.send("say", '{"event": "said", "id": []}')
        assert (await client.receive()).id is None


async def test_a_call_keeps_other_events(app: WebSuckets) -> None:
    """Other events wait in their order until they are received."""
    async with TestClient(app) as client:
        await client.send("tell", 1, id=1)
        assert (await client.call("tell", 2)).payload == 2
        received = [await client.receive() for _ in range(3)]
        assert [(event.event, event.payload) for event in received] == [
            *(("told", 1), ("tell", 1), ("told", 2))
        ]


async def test_calls_from_many_tasks_get_their_own_replies(app: WebSuckets) -> None:
    """Concurrent calls get their own replies."""
    replies: dict[int, Any] = {}

    async def call(client: TestClient, number: int) -> None:
        replies[number] = (await client.call("tell", number)).payload

    async with TestClient(app) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(call, client, number)
        assert replies == {number: number for number in range(50)}
        told = [(await client.receive()).payload for _ in range(50)]
        assert sorted(told) == list(range(50))


async def test_a_call_gets_its_reply_beside_others_who_receive(app: WebSuckets) -> None:
    """A call gets its reply even if another task reads the frame."""
    async with TestClient(app) as client:
        received: list[Any] = []

        async def receive() -> None:
            while True:
                received.append((await client.receive(timeout=None)).payload)

        async with anyio.create_task_group() as receivers:
            for _ in range(5):
                receivers.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            for number in range(20):
                assert (await client.call("tell", number, timeout=1)).payload == number
            await anyio.wait_all_tasks_blocked()
            receivers.cancel_scope.cancel()
        assert received == list(range(20))


async def test_who_waits_takes_over_from_who_gave_up(app: WebSuckets, gate: Gate) -> None:
    """One task at a time reads for all, and another takes over when it stops."""
    async with TestClient(app) as client:
        got: list[Any] = []

        async def call() -> None:
            got.append((await client.call("wait")).payload)

        async with anyio.create_task_group() as tasks:
            with pytest.raises(TimeoutError):
                tasks.start_soon(call)
                await client.receive(timeout=0)
            await gate.reached.wait()
            with anyio.move_on_after(0.01):
                await client.receive(timeout=None)
            gate.opened.set()
        assert got == ["waited"]


async def test_a_late_reply_to_a_call_that_gave_up_is_nobodys(app: WebSuckets, gate: Gate) -> None:
    """A late reply is discarded, and not taken for another one."""
    async with TestClient(app) as client:
        with pytest.raises(TimeoutError, match=r"no reply to 'wait' within 0\.01 seconds"):
            await client.call("wait", timeout=0.01)
        gate.opened.set()
        await client.send("tell", 1)
        assert (await client.receive()).event == "told"


async def test_nothing_that_comes_is_a_timeout(app: WebSuckets) -> None:
    """The error of a timeout has the given number of seconds."""
    async with TestClient(app) as client:
        for receive, otherwise in (
            (client.receive, "no event"),
            (client.receive_frame, "no frame"),
            (client.wait_closed, "the connection was not closed"),
        ):
            with pytest.raises(TimeoutError, match=rf"^{otherwise} within 0\.001 seconds$"):
                await receive(timeout=0.001)


async def test_a_stream_is_read_to_its_end_or_closed_before(
    app: WebSuckets, journal: list[str]
) -> None:
    """A stream may be read to the end, or closed before, which cancels it on the server."""
    async with TestClient(app) as client:
        items = [item async for item in client.stream("count", 3)]
        assert [item.payload for item in items] == [0, 1, 2] and items[0].more
        assert [item async for item in client.stream("count", 0)] == []
        with pytest.raises(ValueError, match=r"'tell' is not a stream; call"):
            async for _ in client.stream("tell", 1):
                pytest.fail("there is no item")
        await client.receive()
        async with aclosing(client.stream("count for good")) as stream:
            async for item in stream:
                if item.payload == 5:
                    break
        assert (await client.call("tell", 1)).payload == 1
        assert (await client.receive()).event == "told"
        await until_counted(journal)
        assert (await client.call("count", 3)).payload is None  # the last reply


async def test_a_stream_is_sent_when_it_is_opened() -> None:
    """The command of a stream is sent when the stream is opened, before its items are read."""
    group, begun = CommandGroup(), []

    @group.command("live")
    async def live(socket: Socket) -> AsyncIterator[int]:
        begun.append("live")
        yield 1
        yield 2

    @group.command("begun")
    async def tell(socket: Socket) -> list[str]:
        return begun

    async with TestClient(app_with(group)) as client:
        stream = client.stream("live")
        assert (await client.call("begun")).payload == ["live"]
        assert [item.payload async for item in stream] == [1, 2]
        assert [item async for item in stream] == []
        await stream.aclose()


async def test_a_stream_that_has_ended_unread_is_not_cancelled() -> None:
    """Another call may read the last reply; then the server knows of no such stream."""
    group = CommandGroup()

    @group.command("two")
    async def two(socket: Socket) -> AsyncIterator[int]:
        yield 1
        yield 2

    @group.command("tell")
    async def tell(socket: Socket) -> None:
        await anyio.lowlevel.checkpoint()

    async with TestClient(app_with(group, limits=Limits(rate=None))) as client:
        stream = client.stream("two")
        while list(client._inbox.replies):
            await client.call("tell")
        sent: list[str] = []
        client._inbox.client.post = sent.append  # type: ignore[method-assign]  # to see it
        await stream.aclose()
        assert sent == []


@pytest.mark.parametrize("how", ["closed", "thrown away", "thrown into"])
async def test_a_stream_that_was_opened_and_not_read_ends_on_the_server(
    app: WebSuckets, journal: list[str], how: str
) -> None:
    """The items of a stream that is not read are not kept."""
    async with TestClient(app) as client:
        stream = client.stream("count for good")
        await client.call("tell", 1)
        assert (await client.receive()).event == "told"
        if how == "closed":
            async with aclosing(stream):
                pass
        elif how == "thrown into":
            with pytest.raises(ValueError, match="for a reason"):
                await stream.athrow(ValueError("for a reason"))
        del stream
        await until_counted(journal)
        await client.call("tell", 2)
        assert (await client.receive()).payload == 2
        inbox = client._inbox
        assert (inbox._frames, list(inbox.replies)) == ([], [])


def app_that_reads_nothing(gate: Gate, journal: list[str]) -> WebSuckets:
    """Return an app whose command ``wait`` keeps all that follow waiting until the gate opens."""
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: Socket, model: Payload[str]) -> None:
        await gate()

    @group.command("count")
    async def count(socket: Socket, to: Payload[int]) -> AsyncIterator[int]:
        number = 0
        try:
            for number in range(to):
                yield number
        finally:
            journal.append(f"counted to {number}")

    return app_with(group)


async def fill(client: TestClient, gate: Gate) -> None:
    await client.send("wait", "")
    await gate.reached.wait()
    for _ in range(CAPACITY // 60_000 + 1):
        await client.send("wait", "x" * 60_000)


async def test_commands_are_left_without_waiting_where_there_is_no_room(
    gate: Gate, journal: list[str]
) -> None:
    """Expect a timeout to hold, streams to be cancelled, and what was not sent not to be sent."""
    async with TestClient(app_that_reads_nothing(gate, journal)) as client:
        stream = client.stream("count", 10**9)
        await fill(client, gate)
        with pytest.raises(TimeoutError, match="no reply to 'count'"):
            await client.call("count", 1, timeout=0.01)
        unsent = client.stream("count", 2)
        await stream.aclose()
        await unsent.aclose()
        gate.opened.set()
        await until_counted(journal)
        assert (await client.call("count", 4)).payload is None
        assert (len(journal), journal[1]) == (2, "counted to 3")
        assert list(client._inbox.replies) == []


async def test_a_stream_waits_to_be_sent_where_there_is_no_room(
    gate: Gate, journal: list[str]
) -> None:
    """Without room on the transport, the command is sent when the first item is asked for."""
    async with TestClient(app_that_reads_nothing(gate, journal)) as client:
        await fill(client, gate)
        never_read = client.stream("count", 1)
        stream = client.stream("count", 1)
        gate.opened.set()
        assert [item.payload async for item in stream] == [0]
        del never_read


async def test_streams_that_outlive_their_connection_are_over(app: WebSuckets) -> None:
    """Closing a stream of a closed connection does nothing; opening one is an error."""
    async with TestClient(app) as client:
        closed, left, read = (client.stream("count for good") for _ in range(3))
        await client.close()
        await closed.aclose()
        with pytest.raises(ConnectionClosed):
            while True:  # what came before is still there
                await anext(read)
        del left
        with pytest.raises(ConnectionClosed):
            client.stream("count", 1)


async def until_counted(journal: list[str]) -> None:
    with anyio.fail_after(TIMEOUT):
        while not journal:
            await anyio.sleep(0.001)
    assert journal[0].startswith("counted to")


async def test_a_stream_that_was_called_ends_with_its_call(
    app: WebSuckets, journal: list[str]
) -> None:
    """A stream ends with its call, even if the call fails by a timeout."""
    async with TestClient(app) as client:
        with pytest.raises(TimeoutError, match="no reply to 'count for good'"):
            await client.call("count for good", timeout=0.05)
        assert (await client.call("tell", 1)).payload == 1
        await until_counted(journal)
        await client.close()
        with pytest.raises(ConnectionClosedOK):
            await client.call("tell", 1)


async def test_a_stream_that_nobody_reads_waits(app: WebSuckets, journal: list[str]) -> None:
    """A stream that is not read waits like that of a client over a network."""
    async with TestClient(app) as client:
        await client.send("count for good", id=1)
        assert (await client.receive()).payload == 0
        await anyio.wait_all_tasks_blocked()
    number = int(journal[0].removeprefix("counted to "))
    assert number < 10_000 and journal[1:] == ["disconnect 1000 "]


async def test_who_sends_more_than_the_server_takes_waits() -> None:
    """Sending waits as on a network, which holds a limited number of messages; none is lost."""
    gate = Gate()
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    @group.command("size")
    async def size(socket: Socket, text: Payload[str]) -> int:
        return len(text)

    count, length = 40, 50_000
    async with TestClient(app_with(group, limits=Limits(rate=None))) as client:
        await client.send("wait")
        sent: list[int] = []

        async def send_all() -> None:
            for number in range(count):
                await client.send("size", "x" * length, id=number)
                sent.append(number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_all)
            await gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            assert 0 < len(sent) < count
            gate.opened.set()
            for number in range(count):
                event = await client.receive()
                assert (event.id, event.payload) == (number, length)


async def test_a_default_token_is_sent_with_each_command_that_is_given_none() -> None:
    """Expect another token to win, an empty one, too; streams have the default as well."""
    group = CommandGroup()

    @group.command("token")
    async def token(socket: Socket, *, message: Message) -> str | None:
        return message.token

    @group.command("tokens")
    async def tokens(socket: Socket, *, message: Message) -> AsyncIterator[str | None]:
        yield message.token

    async with TestClient(app_with(group), token="default") as client:
        assert (await client.call("token")).payload == "default"
        assert (await client.call("token", token="another")).payload == "another"
        assert (await client.call("token", token="")).payload == ""
        assert [item.payload async for item in client.stream("tokens")] == ["default"]
        await client.send("token")
        assert (await client.receive()).payload == "default"
        client.token = "later"
        assert (await client.call("token")).payload == "later"
        async with client.connect() as other, client.connect(token="third") as third:
            assert (await other.call("token")).payload is None
            assert (await third.call("token")).payload == "third"
        client.token = None
        assert (await client.call("token")).payload is None
