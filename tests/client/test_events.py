"""Events that the client receives: by functions, and by subscriptions that go on."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from client_of import client_at, until
from harness import app_with
from pydantic import BaseModel
from raw_server import raw_server
from timeouts import TIMEOUT

from websuckets import (
    Channels,
    ClientError,
    ClientEvent,
    CommandGroup,
    Event,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channel, History
from websuckets.client import (
    Client,
    ClientClosed,
    CommandError,
    ConnectionLost,
    EventsMissed,
    SlowReader,
    UnexpectedReply,
)

pytestmark = pytest.mark.anyio


class Said(Event):
    number: int


class Heard(BaseModel):
    number: int


room = Channel("room/{id}", events=[Said], history=History())
group = CommandGroup()


@group.command("watch", subscribes=[room])
async def watch(socket: Socket, id: Payload[int], channels: Channels) -> list[int]:
    await channels.subscribe(socket, room(id=id))
    return [id]


@group.command("say")
async def say(socket: Socket, numbers: Payload[list[int]], channels: Channels) -> None:
    for number in numbers:
        await channels.publish(room(id=1), Said(number=number))


@group.command("greet")
async def greet(socket: Socket, numbers: Payload[list[int]]) -> None:
    for number in numbers:
        await socket.send(ClientEvent("greeting", {"number": number}))


@group.command("refused")
async def refused(socket: Socket) -> None:
    raise ClientError("forbidden")


@group.command("lose")
async def lose(socket: Socket) -> None:
    await socket.close(1012, "lost")


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    app = WebSuckets(channels=[room])
    app.include_command_group(group)
    async with app.serve("127.0.0.1", 0) as server:
        async with client_at(server.urls[0], **options) as found:
            yield found


async def take(subscription: Any, number: int) -> list[Any]:
    with anyio.fail_after(TIMEOUT):
        return [(await anext(subscription)).payload for _ in range(number)]


async def test_functions_are_called_in_the_order_of_events_with_their_types() -> None:
    heard: list[Any] = []

    async def slowly(event: Heard) -> None:
        await anyio.sleep(0.001)
        heard.append(event)

    async with client() as found:
        found.on("greeting", slowly, payload=Heard)
        remove = found.on("greeting", lambda event: heard.append(event["number"]))
        await found.call("greet", [1, 2])
        await until(lambda: len(heard) == 4)
        assert heard == [Heard(number=1), 1, Heard(number=2), 2]
        remove()
        remove()
        await found.call("greet", [3])
        await until(lambda: len(heard) == 5)
        assert heard[4] == Heard(number=3)


async def test_a_function_that_fails_is_logged_and_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Any] = []

    def fail(event: Any) -> None:
        heard.append(event)
        raise ZeroDivisionError

    async with client() as found:
        found.on("greeting", fail)
        found.on("greeting", heard.append, payload=list[str])
        await found.call("greet", [1, 2])
        await until(lambda: len(heard) == 2)
        await until(lambda: caplog.text.count("a function for the event 'greeting' failed") == 4)


async def test_a_function_may_call_commands_and_close_the_client() -> None:
    replies: list[Any] = []

    async def ask(event: Any) -> None:
        replies.append(await found.call("watch", 1))
        await found.close()

    async with client(buffer=1) as found:
        found.on("greeting", ask)
        await found.call("greet", [1, 2, 3])
        await until(lambda: found.state == "closed")
    assert replies == [[1]]


async def test_events_that_come_faster_than_their_functions_are_lost_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client(buffer=1) as found:
        found.on("greeting", lambda event: anyio.sleep_forever())
        with found._running.gate.awaiting():
            await found.call("greet", list(range(30)))
    assert caplog.text.count("events are lost") == 1


async def test_a_subscription_has_typed_replies_and_events() -> None:
    async with client() as found:
        subscription = found.subscribe("watch", 1, result=list[int], events={"said": Heard})
        with pytest.raises(RuntimeError, match="not entered yet"):
            _ = subscription.reply
        with pytest.raises(RuntimeError, match="not entered yet"):
            await anext(subscription)
        async with subscription:
            assert subscription.reply == [1]
            await found.call("say", [1])
            event = await anext(subscription)
            assert (event.event, event.payload, event.channel) == (
                "said",
                Heard(number=1),
                "room/1",
            )
            with pytest.raises(RuntimeError, match="entered once"):
                await subscription.__aenter__()


async def test_a_subscription_begins_where_another_one_has_ended() -> None:
    async with client() as found:
        async with found.subscribe("watch", 1) as first:
            await found.call("say", [1, 2, 3])
            assert await take(first, 2) == [{"number": 1}, {"number": 2}]
            positions = first.positions
            assert positions["room/1"][1] == 2
        async with found.subscribe("watch", 1, since=positions) as second:
            assert second.positions == positions
            assert await take(second, 1) == [{"number": 3}]


async def test_a_subscription_since_a_position_that_is_lost_says_so() -> None:
    reloads: list[Any] = []
    async with client() as found:
        lost = {"room/1": ("another epoch", 5)}
        async with found.subscribe("watch", 1, since=lost, on_reload=reloads.append) as watched:
            await found.call("say", [1])
            assert await take(watched, 1) == [{"number": 1}]
            assert reloads == [[1]]
        async with found.subscribe("watch", 1, since=lost) as watched:
            with pytest.raises(EventsMissed, match="load its state anew") as caught:
                await anext(watched)
            assert caught.value.reply == [1]
            await found.call("say", [2])
            assert await take(watched, 1) == [{"number": 2}]


async def test_on_reload_may_be_async_and_ends_before_the_events_behind_it() -> None:
    order: list[Any] = []

    async def load(reply: Any) -> None:
        await anyio.sleep(0.001)
        order.append("loaded")

    async with client() as found:
        lost = {"room/1": ("another epoch", 5)}
        async with found.subscribe("watch", 1, since=lost, on_reload=load) as watched:
            await found.call("say", [1])
            order += await take(watched, 1)
    assert order == ["loaded", {"number": 1}]


async def test_two_subscriptions_of_one_channel_get_each_event_once() -> None:
    async with client() as found:
        async with found.subscribe("watch", 1) as first:
            await found.call("say", [1, 2])
            async with found.subscribe("watch", 1) as second:
                await found.call("say", [3])
                with pytest.raises(CommandError):
                    await found.call("refused")
                assert await take(second, 1) == [{"number": 3}]
            await found.call("say", [4])
            assert [event["number"] for event in await take(first, 4)] == [1, 2, 3, 4]


async def test_events_of_a_subscription_that_was_left_go_to_nobody() -> None:
    heard: list[Any] = []
    async with client() as found:
        found.on("said", heard.append)
        found.on("greeting", heard.append)
        async with found.subscribe("watch", 1):
            pass
        await found.call("say", [1])
        await found.call("greet", [2])
        await until(lambda: bool(heard))
    assert heard == [{"number": 2}]


async def test_a_subscription_that_is_refused_raises_the_error() -> None:
    async with client() as found:
        with pytest.raises(CommandError, match="forbidden"):
            async with found.subscribe("refused"):
                pass


async def test_a_subscription_has_as_long_as_a_call() -> None:
    async with client_at("ws://127.0.0.1:1") as found:
        with pytest.raises(TimeoutError, match=r"no reply to 'watch' within 0\.05 seconds"):
            async with found.subscribe("watch", 1, timeout=0.05):
                pass


async def test_a_subscription_with_a_reply_of_another_type_ends() -> None:
    async with client() as found:
        with pytest.raises(UnexpectedReply):
            async with found.subscribe("watch", 1, result=dict[str, str]):
                pass


async def test_a_subscription_that_a_later_connection_refuses_raises_behind_its_events() -> None:
    refuses = [False]
    fickle = CommandGroup("fickle")

    @fickle.command("watch", subscribes=[room])
    async def watch_if_allowed(socket: Socket, channels: Channels) -> None:
        if refuses[0]:
            raise ClientError("forbidden")
        await channels.subscribe(socket, room(id=1))

    app = app_with(group, fickle, channels=[room])
    async with app.serve("127.0.0.1", 0) as server, client_at(server.urls[0]) as found:
        async with found.subscribe("fickle watch") as watched:
            await found.call("say", [1])
            refuses[0] = True
            with pytest.raises(Exception, match="lost"):
                await found.call("lose")
            assert await take(watched, 1) == [{"number": 1}]
            with pytest.raises(CommandError, match="forbidden"), anyio.fail_after(TIMEOUT):
                await anext(watched)


@pytest.mark.parametrize("error", ["unavailable", "internal error", "timeout"])
async def test_a_renewal_is_tried_again_after_errors_that_pass(error: str) -> None:
    """By a server of its own, which refuses the second and the third ``watch``."""
    seen: list[Any] = []

    async def serve(connection: Any) -> None:
        async for text in connection:
            command = json.loads(text)
            seen.append(command.get("since"))
            reply = {"event": "watch", "payload": len(seen), "id": command["id"]}
            reply["subscribed"] = {"c": {"epoch": "e", "offset": 5}}
            if len(seen) in (2, 3):
                reply = {"error": error, "details": {"retry_after": 0.001}, "id": command["id"]}
            elif command.get("since"):
                reply["subscribed"]["c"]["recovered"] = True
            await connection.send(json.dumps(reply))
            if len(seen) == 1:
                await connection.send('{"event": "channel gap", "payload": {"channel": "c"}}')
            elif len(seen) == 4:
                event = {"event": "said", "payload": 6, "channel": "c", "offset": 6}
                await connection.send(json.dumps(event))
                await connection.send(json.dumps(event))
                await connection.send(json.dumps({"channel": "c", "offset": 7}))
                await connection.send(json.dumps({**event, "offset": 8, "payload": 8}))

    async with raw_server(serve) as url, client_at(url) as found:
        async with found.subscribe("watch") as watched:
            assert watched.reply == 1
            assert await take(watched, 2) == [6, 8]
    assert seen == [None, *[{"c": ["e", 5]}] * 3]


async def test_an_offset_that_is_not_the_next_one_is_asked_for_again() -> None:
    seen: list[Any] = []

    async def serve(connection: Any) -> None:
        async for text in connection:
            command = json.loads(text)
            seen.append(command.get("since"))
            position = {"epoch": "e", "offset": 1, "recovered": len(seen) > 1}
            reply = {"event": "watch", "id": command["id"], "subscribed": {"c": position}}
            await connection.send(json.dumps(reply))
            for offset in [2, 4] if len(seen) == 1 else [3, 4, 5]:
                event = {"event": "said", "payload": offset, "channel": "c", "offset": offset}
                await connection.send(json.dumps(event))

    async with raw_server(serve) as url, client_at(url) as found:
        async with found.subscribe("watch") as watched:
            assert await take(watched, 4) == [2, 3, 4, 5]
    assert seen == [None, {"c": ["e", 2]}]


@group.command("count")
async def count(socket: Socket, last: Payload[int]) -> AsyncIterator[int]:
    for number in range(last):
        yield number


async def test_a_subscription_by_a_stream_has_its_items_and_ends() -> None:
    async with client(buffer=3) as found:
        async with found.subscribe("count", 3) as stream:
            assert stream.is_stream
            assert [event.payload async for event in stream] == [0, 1, 2]
        async with found.subscribe("count", 10**6) as stream:
            pass  # it is cancelled
        async with found.subscribe("count", 1000) as stream:
            await until(lambda: stream._watch.failure is not None)
            assert await take(stream, 3) == [0, 1, 2]
            with pytest.raises(SlowReader):
                await anext(stream)


async def test_a_subscription_by_a_stream_ends_with_its_connection() -> None:
    async def serve(connection: Any) -> None:
        command = json.loads(await connection.recv())
        item = {"event": "e", "payload": 1, "id": command["id"], "more": True}
        await connection.send(json.dumps(item))
        await connection.close(1012)

    async with raw_server(serve) as url, client_at(url) as found:
        async with found.subscribe("e") as stream:
            assert await take(stream, 1) == [1]
            with pytest.raises(ConnectionLost):
                await anext(stream)


async def test_an_error_of_a_class_for_errors_reaches_the_subscriber() -> None:
    class Wrong(CommandError):
        def __init__(self, *fields: Any) -> None:
            raise ZeroDivisionError

    async with client(errors={"forbidden": Wrong}) as found:
        with pytest.raises(ZeroDivisionError):
            async with found.subscribe("refused"):
                pass
        with pytest.raises(ZeroDivisionError):
            await found.call("refused")
        assert await found.call("say", []) is None


async def test_a_channel_that_a_renewal_does_not_name_any_more_is_left() -> None:
    seen: list[Any] = []

    async def serve(connection: Any) -> None:
        async for text in connection:
            command = json.loads(text)
            seen.append(command.get("since"))
            names = ["a", "b"] if len(seen) == 1 else ["a"]
            subscribed = {name: {"epoch": "e", "offset": 1} for name in names}
            reply = {"event": "watch", "id": command["id"], "payload": len(seen)}
            await connection.send(json.dumps({**reply, "subscribed": subscribed}))
            for channel in ["other", "a"] if len(seen) == 1 else []:
                gap = {"event": "channel gap", "payload": {"channel": channel}}
                await connection.send(json.dumps(gap))
            event = {"event": "said", "payload": 2, "channel": "a", "offset": 2}
            await connection.send(json.dumps(event))

    async with raw_server(serve) as url, client_at(url) as found:
        reloads: list[Any] = []
        async with found.subscribe("watch", on_reload=reloads.append) as watched:
            assert await take(watched, 1) == [2]
            assert reloads == [2]
            assert watched.positions == {"a": ("e", 2)}
    assert seen == [None, {"a": ["e", 1], "b": ["e", 1]}]


async def test_a_client_that_is_closed_ends_its_subscriptions() -> None:
    async with client() as found:
        async with found.subscribe("watch", 1) as watched:
            await found.call("say", [1])
            await found.close()
            assert await take(watched, 1) == [{"number": 1}]
            with pytest.raises(ClientClosed):
                await anext(watched)


async def test_a_function_that_ends_the_program_ends_it(anyio_backend_name: str) -> None:
    """On trio a task without a parent can do so by a ``TrioInternalError`` alone."""
    ending: list[BaseException | None] = []

    def end(event: Any) -> None:
        raise SystemExit(3)

    def run() -> None:
        async def greet(connection: Any) -> None:
            await connection.send('{"event": "greeting", "payload": 1}')
            await connection.wait_closed()

        async def main() -> None:
            async with raw_server(greet) as url:
                found = client_at(url)
                found.on("greeting", end)
                async with found:
                    await anyio.sleep_forever()

        try:
            anyio.run(main, backend=anyio_backend_name)
        except SystemExit as error:
            ending.append(error)
        except trio.TrioInternalError as error:
            ending.append(error.__cause__)

    await anyio.to_thread.run_sync(run)
    (error,) = ending
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, SystemExit) and error.code == 3
