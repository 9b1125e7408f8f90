"""Tests of the ends of streams, by an error, a cancellation, the client or the server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from dishka import Provider, Scope
from harness import Client, Gate, app_with, dial, errors, on_trio, talk, until
from streams import Journalling, Transaction, streams, until_stuck
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, Limits, WebSuckets

pytestmark = pytest.mark.anyio


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    return app_with(streams(journal, gate), providers=[Journalling(journal)])


@pytest.mark.parametrize(("payload", "error"), [("no more", "no more"), ("bug", "internal error")])
async def test_a_stream_that_raises_ends_with_the_error_and_is_rolled_back(
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


async def test_an_item_that_cannot_be_encoded_ends_its_stream(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The generator is closed after the item, then its scope is rolled back."""
    async with talk(app) as client:
        assert (await client.call("unserialisable"))["error"] == "internal error"
        assert journal[-2:] == ["left", "rollback PydanticSerializationError"]
    (record,) = errors(caplog)
    assert "yielded" in record.exc_info[1].__notes__[0]


@pytest.mark.parametrize("name", ["never", "endless"])
async def test_the_client_may_cancel_a_stream(
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


@pytest.mark.parametrize("name", ["never", "endless"])
async def test_a_stream_whose_client_vanishes_ends_at_once(
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
async def test_a_stream_that_runs_when_the_server_stops_gets_no_last_reply(
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


async def test_a_stream_that_is_stuck_when_the_server_stops_is_aborted(
    journal: list[str], gate: Gate
) -> None:
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


async def test_a_client_that_leaves_before_the_last_reply_is_not_an_incident(
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
async def test_asyncios_own_cancellation_of_a_stream_closes_its_connection(
    app: WebSuckets, journal: list[str]
) -> None:
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


async def test_a_stream_that_ends_with_a_base_exception_disturbs_no_other(
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
async def test_a_stream_that_makes_trouble_when_it_ends_disturbs_no_other(
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


async def test_a_stream_with_a_nursery_of_its_own_can_be_cancelled(app: WebSuckets) -> None:
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


async def test_a_timeout_around_the_items_of_a_stream_ends_it_normally(
    app: WebSuckets, journal: list[str]
) -> None:
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
