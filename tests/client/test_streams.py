"""Streams of the client: items, their end, and readers that are slower than the server."""

import gc
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest
from client_of import client_of, until
from harness import in_another_loop

from websuckets import ClientError, CommandGroup, Payload, Socket
from websuckets.client import CommandError, SlowReader, Stream, UnexpectedReply

pytestmark = pytest.mark.anyio

group = CommandGroup()
sent: list[int] = []
ended: list[int] = []


@group.command("count")
async def count(socket: Socket, last: Payload[int]) -> AsyncIterator[int]:
    try:
        for number in range(1, last + 1):
            sent.append(number)
            yield number
    finally:
        ended.append(last)


@group.command("fail")
async def fail(socket: Socket) -> AsyncIterator[int]:
    yield 1
    raise ClientError("no more")


@group.command("wait")
async def wait(socket: Socket) -> AsyncIterator[int]:
    await anyio.sleep_forever()
    yield 1


@group.command("blob")
async def blob(socket: Socket, last: Payload[int]) -> AsyncIterator[str]:
    for number in range(last):
        sent.append(number)
        yield "x" * 60_000


@group.command("echo")
async def echo(socket: Socket, number: Payload[int]) -> int:
    return number


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    sent.clear()
    ended.clear()


async def test_items_have_the_type_that_the_stream_asks_for() -> None:
    async with client_of(group) as client:
        assert [n async for n in client.stream("count", 3, item=int)] == [1, 2, 3]
        with pytest.raises(UnexpectedReply, match="does not fit its type"):
            async for _ in client.stream("count", 3, item=dict[str, str]):
                pass
        await until(lambda: len(ended) == 2)


async def test_an_error_comes_behind_the_items() -> None:
    async with client_of(group) as client:
        stream = client.stream("fail")
        assert await anext(stream) == 1
        with pytest.raises(CommandError, match="no more"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_command_that_is_not_a_stream_is_told() -> None:
    async with client_of(group) as client:
        with pytest.raises(UnexpectedReply, match=r"^'echo' is not a stream; call\(\) returns"):
            await anext(client.stream("echo", 5))


async def test_a_stream_is_read_in_the_event_loop_of_its_client() -> None:
    async with client_of(group) as client:
        stream = client.stream("count", 2)
        with pytest.raises(RuntimeError, match="in another event loop"):
            await in_another_loop(stream.__anext__)
        assert [number async for number in stream] == [1, 2]


async def test_an_item_may_take_only_so_long() -> None:
    async with client_of(group) as client:
        stream = client.stream("wait", timeout=0.05)
        with pytest.raises(TimeoutError, match=r"no item of 'wait' within 0\.05 seconds"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_is_cancelled_however_it_is_left() -> None:
    async with client_of(group, buffer=10) as client:
        async for _ in client.stream("count", 10**6):
            break
        await until(lambda: len(ended) == 1)
        async with aclosing(client.stream("count", 10**6)) as stream:
            await anext(stream)
        await until(lambda: len(ended) == 2)
        stream = client.stream("count", 10**6)
        await anext(stream)
        with pytest.raises(ZeroDivisionError):
            await stream.athrow(ZeroDivisionError())
        await until(lambda: len(ended) == 3)
        stream = client.stream("count", 10**6)
        await anext(stream)
        del stream
        gc.collect()
        await until(lambda: len(ended) == 4)
        assert await client.call("echo", 1) == 1


async def test_a_task_that_is_cancelled_cancels_its_stream() -> None:
    async with client_of(group) as client:
        with anyio.CancelScope() as scope:
            async for _ in client.stream("count", 10**6):
                scope.cancel()
        await until(lambda: len(ended) == 1)


async def test_a_slow_reader_makes_the_server_wait_and_loses_nothing() -> None:
    async with client_of(group, buffer=4) as client:
        stream = client.stream("blob", 1000)
        assert isinstance(stream, Stream)
        await anext(stream)
        before = -1
        while before != len(sent):  # until the server waits, as nothing is read any more
            before = len(sent)
            await anyio.sleep(0.05)
        assert len(sent) < 1000
        assert len(stream._call.items) <= 5
        assert sum([1 async for _ in stream]) == 999


async def test_a_reply_that_is_awaited_between_two_items_is_read() -> None:
    async with client_of(group, buffer=2) as client:
        found = []
        async for number in client.stream("count", 15):
            found.append(await client.call("echo", number))
        assert found == list(range(1, 16))


async def test_a_stream_that_floods_a_program_which_awaits_a_reply_is_cancelled() -> None:
    async with client_of(group, buffer=2) as client:
        stream = client.stream("count", 10**6)
        assert isinstance(stream, Stream)
        with client._running.gate.awaiting():  # as a call does, for as long as it takes
            await until(lambda: stream._call.is_done)
        found = []
        with pytest.raises(SlowReader, match="came faster than they were taken"):
            async for number in stream:
                found.append(number)
        assert found == list(range(1, 21))
        await until(lambda: bool(ended))
