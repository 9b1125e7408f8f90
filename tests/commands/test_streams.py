"""Streams: async generators as handlers, beside the queue of commands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from dishka import Provider, Scope, provide
from harness import Client, Gate, app_with, dial, errors, on_trio, talk, until
from pydantic import BaseModel
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import ClientEvent, CommandGroup, Limits, Payload, WebSuckets
from websuckets.exc import ClientError
from websuckets.session import User

pytestmark = pytest.mark.anyio


class Count(BaseModel):
    to: int


class Shared: ...


class Transaction: ...


class Journalling(Provider):
    """A provider that records when its objects are opened and closed, and with what error."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.SESSION)
    async def shared(self) -> AsyncIterator[Shared]:
        self.journal.append("open shared")
        await anyio.sleep(0.01)  # long enough for a second one to ask meanwhile
        yield Shared()
        self.journal.append("close shared")

    @provide(scope=Scope.REQUEST)
    async def transaction(self, shared: Shared) -> AsyncIterator[Transaction]:
        self.journal.append("open")
        error = yield Transaction()
        await anyio.sleep(0)
        self.journal.append("commit" if error is None else f"rollback {type(error).__name__}")


def streams(journal: list[str], gate: Gate) -> CommandGroup:
    group = CommandGroup()

    @group.command("count")
    async def count(
        socket: ServerConnection, model: Count, transaction: Transaction
    ) -> AsyncIterator[int]:
        for number in range(model.to):
            yield number

    @group.command("no scope")
    async def no_scope(socket: ServerConnection) -> AsyncIterator[Any]:
        yield None
        yield ClientEvent("other", [1])

    @group.command("fail")
    async def fail(
        socket: ServerConnection, model: Payload[str], transaction: Transaction
    ) -> AsyncIterator[int]:
        for number in range(3):
            yield number
        raise ClientError(model) if model != "bug" else RuntimeError("canary")

    @group.command("unserialisable")
    async def unserialisable(
        socket: ServerConnection, *, transaction: Transaction
    ) -> AsyncIterator[Any]:
        try:
            yield object()
        finally:
            journal.append("left")

    @group.command("never")
    async def never(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[int]:
        try:
            await gate()
            yield 1
        finally:
            journal.append("left")

    @group.command("endless")
    async def endless(
        socket: ServerConnection, size: Payload[int] = 1, *, transaction: Transaction
    ) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * size
                journal.append("item")
        finally:
            journal.append("left")

    @group.command("protected", protected=True)
    async def protected(socket: ServerConnection) -> AsyncIterator[int]:
        yield 1

    @group.command("enter")
    async def enter(socket: ServerConnection, *, user: User) -> None:
        user.id, user.token = "ann", "secret"

    @group.command("ping")
    async def ping(socket: ServerConnection, *, shared: Shared) -> str:
        return "pong"

    return group


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
async def test_what_is_refused_before_the_first_item(
    app: WebSuckets, sent: dict[str, Any], error: str
) -> None:
    """A stream is refused like a command, with one error and nothing else."""
    async with talk(app) as client:
        reply = await client.call(**sent, id=1)
        assert (reply["error"], reply["id"]) == (error, 1)
        assert (await client.call("ping"))["payload"] == "pong"


async def test_a_protected_stream(app: WebSuckets) -> None:
    """The guard is called when the stream starts."""
    async with talk(app) as client:
        await client.call("enter", id=0)
        assert (await client.call("protected", token="secret"))["payload"] == 1


@pytest.mark.parametrize(("payload", "error"), [("no more", "no more"), ("bug", "internal error")])
async def test_one_that_raises_after_its_third_item(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    payload: str,
    error: str,
) -> None:
    """The error is the last reply, and the scope of the stream is rolled back."""
    async with talk(app) as client:
        await client.send("fail", payload=payload, id=1)
        assert [(await client.receive())["payload"] for _ in range(3)] == [0, 1, 2]
        last = await client.receive()
        assert (last["error"], last["id"], "more" in last) == (error, 1, False)
        raised = "RuntimeError" if payload == "bug" else "ClientError"
        assert journal[-1] == f"rollback {raised}"
        assert (await client.call("ping"))["payload"] == "pong"
    assert len(errors(caplog)) == (payload == "bug")


async def test_an_item_that_cannot_be_encoded(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The generator is closed after the item, then its scope is rolled back."""
    async with talk(app) as client:
        assert (await client.call("unserialisable"))["error"] == "internal error"
        assert journal[-2:] == ["left", "rollback PydanticSerializationError"]
    (record,) = errors(caplog)
    assert "yielded" in record.exc_info[1].__notes__[0]


async def test_while_it_runs_other_commands_are_answered(
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


@pytest.mark.parametrize("name", ["never", "endless"])
async def test_the_client_may_cancel_it(
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """The stream is closed, rolled back and acknowledged, and its id is free again."""
    async with talk(app) as client:
        for _ in range(2):
            await client.send(name, id=7)
            if name == "never":
                await gate.reached.wait()
            else:
                await client.receive()
            await client.connection.send('{"cancel": 8}')  # the id of no stream
            await client.connection.send('{"cancel": "7"}')
            await client.connection.send('{"cancel": 7}')
            await client.connection.send('{"cancel": 7}')
            last = await client.receive()
            while "more" in last:
                last = await client.receive()
            assert last == {"event": name, "payload": None, "id": 7}
            assert journal[-2] == "left" and journal[-1].startswith("rollback Cancel")
            await client.connection.send('{"cancel": 7}')  # too late, but no error
        assert (await client.call("ping"))["payload"] == "pong"
    assert errors(caplog) == []


async def test_one_that_nobody_reads_waits(app: WebSuckets, journal: list[str]) -> None:
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


@pytest.mark.parametrize("name", ["never", "endless"])
async def test_one_whose_client_vanishes(
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """The stream ends at once, before the connection's scope is closed, and is not an incident."""
    async with app.serve("127.0.0.1", 0) as server, dial(server) as other:
        async with dial(server) as client:
            await client.send(name, id=1)
            if name == "never":
                await gate.reached.wait()
            else:
                await client.receive()
            await client.vanish()
        await until(journal, "close shared")
        assert journal[-3] == "left" and journal[-2].startswith("rollback")
        assert (await other.call("ping"))["payload"] == "pong"
    assert errors(caplog) == []


@pytest.mark.parametrize("name", ["never", "endless"])
async def test_one_that_runs_when_the_server_stops(
    app: WebSuckets, journal: list[str], gate: Gate, name: str
) -> None:
    """The stream ends without a last reply, which would say that it was complete; then 1012."""
    replies: list[Any] = []
    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0) as server:
            client = await later.enter_async_context(dial(server))
            tasks = await later.enter_async_context(anyio.create_task_group())
            await client.send(name, id=1)
            if name == "never":
                await gate.reached.wait()
            else:
                await client.receive()
            tasks.start_soon(read_to_the_end, client, replies)
        assert await client.closed() == (1012, "service restart")
    assert all("more" in reply for reply in replies)
    assert journal[-3] == "left" and journal[-1] == "close shared"


async def read_to_the_end(client: Client, replies: list[Any]) -> None:
    with suppress(ConnectionClosed):
        while True:
            replies.append(await client.receive())


async def test_one_that_is_stuck_when_the_server_stops(journal: list[str], gate: Gate) -> None:
    """A stream whose client does not read is aborted at the deadline, and finalised."""
    app = app_with(
        streams(journal, gate),
        providers=[Journalling(journal)],
        limits=Limits(drain_timeout=0.1),
    )
    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0) as server:
            client = await later.enter_async_context(dial(server, max_queue=1))
            await client.send("endless", payload=50_000, id=1)
            await until(journal, "item")
            await until_stuck(journal)
        await client.vanish()
    assert journal[-3] == "left" and journal[-1] == "close shared"


async def until_stuck(journal: list[str]) -> int:
    """Return how many items the stream yielded before it had to wait."""
    before = -1
    with anyio.fail_after(TIMEOUT):
        while journal.count("item") != before:
            before = journal.count("item")
            await anyio.sleep(0.05)
    return before


async def test_how_many_may_run_is_bounded(journal: list[str], gate: Gate) -> None:
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


async def test_the_bound_may_be_off(journal: list[str], gate: Gate) -> None:
    """Without a limit, a client may run any number of streams."""
    app = app_with(
        streams(journal, gate), providers=[Journalling(journal)], limits=Limits(streams=None)
    )
    async with talk(app) as client:
        for id in range(20):
            await client.send("never", id=id)
        assert (await client.call("ping", id="x"))["id"] == "x"


async def test_an_id_stands_for_one_stream(app: WebSuckets, gate: Gate) -> None:
    """A second stream with an id in use is refused, as a cancellation would be ambiguous."""
    async with talk(app) as client:
        await client.send("never", id=1)
        again = await client.call("never", id=1)
        assert again == {"error": "id in use", "details": None, "id": 1}
        for _ in range(2):  # without an id, there may be several
            await client.send("never")
        assert (await client.call("ping"))["payload"] == "pong"


async def test_what_the_connection_has_is_built_once(app: WebSuckets, journal: list[str]) -> None:
    """Streams and commands that ask for an object at the same moment share it."""
    async with talk(app) as client:
        for id in range(3):
            await client.send("count", payload={"to": 1}, id=id)
        await client.send("ping", id="ping")
        for _ in range(7):
            await client.receive()
        assert journal.count("open shared") == 1


async def test_finalisers_of_a_stream_are_bounded(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Past the timeout, the last reply is an error; the connection goes on."""

    class Late: ...

    async def late() -> AsyncIterator[Late]:
        yield Late()
        await anyio.sleep_forever()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(late)
    group = CommandGroup()

    @group.command("late")
    async def stream(socket: ServerConnection, *, late: Late) -> AsyncIterator[int]:
        yield 1

    app = app_with(group, providers=[provider], limits=Limits(finalize_timeout=0.02))
    async with talk(app) as client:
        for _ in range(2):
            assert (await client.call("late"))["payload"] == 1
            assert (await client.receive())["error"] == "internal error"
    assert len(errors(caplog)) == 2


async def test_its_last_reply_may_find_nobody(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    """A client that leaves while the scope is closed causes no incident."""
    closing, blocking, go_on = anyio.Event(), anyio.Event(), anyio.Event()

    class Slow: ...

    async def slow() -> AsyncIterator[Slow]:
        yield Slow()
        closing.set()
        await go_on.wait()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(slow)
    group = CommandGroup()

    @group.command("slow")
    async def stream(socket: ServerConnection, *, slow: Slow) -> AsyncIterator[int]:
        yield 1
        journal.append("end")

    @group.command("block")
    async def block(socket: ServerConnection) -> None:
        blocking.set()
        await socket.wait_closed()
        go_on.set()
        for _ in range(20):  # until then, the stream does not learn that the client has left
            await anyio.lowlevel.checkpoint()

    async with app_with(group, providers=[provider]).serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            assert (await client.call("slow", id=1))["payload"] == 1
            await closing.wait()
            await client.send("block")
            await blocking.wait()
            await client.vanish()
    assert errors(caplog) == []


@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_stream(app: WebSuckets, journal: list[str]) -> None:
    """The connection is closed with 1011, without a last reply, and the scope is closed."""

    group = CommandGroup()

    @group.command("suicide")
    async def suicide(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[int]:
        yield 1
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)

    app.include_command_group(group)
    async with talk(app) as client:
        await client.call("suicide", id=1)
        assert (await client.closed())[0] == 1011
        await until(journal, "close shared")
        assert journal[-2] == "rollback CancelledError"


class Fatal(BaseException): ...


async def test_one_that_ends_with_what_is_no_exception(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """An error that is not an `Exception` is an incident; its connection and other streams go
    on."""
    group = CommandGroup()

    @group.command("fatal")
    async def fatal(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[int]:
        yield 1
        raise Fatal

    app.include_command_group(group)
    async with talk(app) as client:
        await client.send("endless", id=1)
        async with client.another() as other:
            await other.call("fatal")
            assert (await other.receive())["error"] == "internal error"
            assert (await other.call("fatal"))["payload"] == 1
        await until(journal, "rollback Fatal")
        assert (await client.receive())["more"]
        await client.vanish()  # a close frame would wait behind unread frames
    assert "'fatal' failed, incident" in errors(caplog)[0].getMessage()


def test_a_stream_may_end_the_program() -> None:
    """On asyncio, a stream may end the program like any task."""
    group = CommandGroup()

    @group.command("exit")
    async def leave(socket: ServerConnection) -> AsyncIterator[int]:
        yield 1
        raise SystemExit(3)

    async def main() -> None:
        async with talk(app_with(group)) as client:
            await client.send("exit")
            await client.closed()

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(main())


class Holding:
    """A generator that holds a task group, or raises an error, around its `yield`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def child(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if self.kind == "child fails":
                raise ValueError("canary")

    async def __call__(self) -> AsyncIterator[int]:
        if self.kind == "fatal":
            try:
                while True:
                    yield 1
            finally:
                raise Fatal
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.child)
                while True:
                    yield 1
                    await anyio.sleep(0.001)


@pytest.mark.parametrize("how", ["cancel", "vanish"])
@pytest.mark.parametrize("kind", ["group", "busy group", "child fails", "fatal"])
async def test_one_that_makes_trouble_when_it_ends(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture, kind: str, how: str
) -> None:
    """The streams of other connections go on, however the generator ends."""
    group = CommandGroup()

    @group.command("hold")
    async def hold(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[int]:
        async with aclosing(Holding(kind)()) as items:
            async for item in items:
                yield item

    @group.command("hold directly")
    async def hold_directly(
        socket: ServerConnection, *, transaction: Transaction
    ) -> AsyncIterator[int]:
        if kind == "fatal":
            try:
                while True:
                    yield 1
            finally:
                raise Fatal
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Holding(kind).child)
            while True:
                yield 1
                if kind != "busy group":
                    await anyio.sleep(0.001)

    app.include_command_group(group)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as other:
        await other.send("never", id="other")
        for name in ("hold", "hold directly"):
            journal.clear()
            async with dial(server) as client:
                await client.send(name, id=1)
                await client.receive()
                if how == "vanish":
                    await client.vanish()
                else:
                    await client.connection.send('{"cancel": 1}')
                    with suppress(ConnectionClosed):
                        while "more" in (last := await client.receive()):
                            pass
                        assert ("payload" in last) == ("group" in kind) and last["id"] == 1
                        assert (await client.call("ping"))["payload"] == "pong"
            with anyio.fail_after(TIMEOUT):
                while not any(entry.startswith("rollback") for entry in journal):
                    await anyio.sleep(0.001)
        for _ in range(2):
            await other.send("never", id="another")
        assert (await other.receive())["error"] == "id in use"
        await other.connection.send('{"cancel": "other"}')
        assert await other.receive() == {"event": "never", "payload": None, "id": "other"}
    if "group" in kind:
        assert errors(caplog) == []


async def test_one_with_a_nursery_of_its_own_is_cancelled(app: WebSuckets) -> None:
    """A cancellation in a nursery, of which trio makes a group, is recognised."""
    group = CommandGroup()

    @group.command("nursery")
    async def nursery(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[int]:
        yield 1
        if on_trio():
            async with trio.open_nursery() as tasks:
                tasks.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
        await anyio.sleep_forever()

    app.include_command_group(group)
    async with talk(app) as client:
        await client.call("nursery", id=1)
        await client.connection.send('{"cancel": 1}')
        assert await client.receive() == {"event": "nursery", "payload": None, "id": 1}


async def test_a_timeout_around_its_items(app: WebSuckets, journal: list[str]) -> None:
    """A cancel scope around `yield` ends where the handler has it, wherever the timeout occurs."""
    group = CommandGroup()

    @group.command("for a while")
    async def for_a_while(
        socket: ServerConnection, *, transaction: Transaction
    ) -> AsyncIterator[int]:
        with anyio.move_on_after(0.03):
            while True:
                yield 1
                await anyio.sleep(0)
        journal.append("after")

    app.include_command_group(group)
    async with talk(app) as client:
        await client.send("for a while", id=1)
        while "more" in (last := await client.receive()):
            pass
        assert last == {"event": "for a while", "payload": None, "id": 1}
    assert journal[:-1] == ["open shared", "open", "after", "commit"]


async def test_what_it_does_first_comes_before_the_next_command(app: WebSuckets) -> None:
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


async def test_a_client_that_does_not_read_has_no_more_than_it_may(
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
