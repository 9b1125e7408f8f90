"""Subscriptions of the client on servers that answer late, with errors, or not as they should."""

import json
from typing import Any

import anyio
import pytest
from client_of import client_at, until
from harness import on_trio
from raw_server import raw_server
from timeouts import TIMEOUT

import websuckets.client.subscriptions
from websuckets.client import CommandError

pytestmark = pytest.mark.anyio


class Server:
    """Server of one test, which answers commands by its function, and keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.connections: list[Any] = []

    async def __call__(self, connection: Any) -> None:
        self.connections.append(connection)
        async for text in connection:
            command = json.loads(text)
            self.seen.append(command["event"])
            for frame in self.answer(command, self.seen.count(command["event"])):
                await connection.send(json.dumps(frame))

    def answer(self, command: Any, number: int) -> list[Any]:
        """Return the frames that answer the command, the ``number``-th of its name."""
        return [begun(command)]


def begun(command: Any, offset: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the reply of a command that has subscribed to the channel of its own name."""
    position = {"epoch": "e", "offset": offset, **fields}
    subscribed = {command["event"]: position}
    return {"event": "reply", "id": command["id"], "payload": offset, "subscribed": subscribed}


def said(channel: str, offset: int) -> dict[str, Any]:
    return {"event": "said", "payload": offset, "channel": channel, "offset": offset}


async def close(connection: Any) -> None:
    await (connection.aclose(1012) if on_trio() else connection.close(1012))


async def take(subscription: Any, number: int) -> list[Any]:
    with anyio.fail_after(TIMEOUT):
        return [(await anext(subscription)).payload for _ in range(number)]


async def test_each_subscription_gets_the_events_of_its_own_channel() -> None:
    class Both(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            if command["event"] == "b":
                return [begun(command), said("a", 2), said("b", 2), said("a", 3)]
            return [begun(command)]

    async with raw_server(Both()) as url, client_at(url) as client:
        async with client.subscribe("a") as a, client.subscribe("b") as b:
            assert await take(a, 2) == [2, 3]
            assert await take(b, 1) == [2]


async def test_an_event_without_a_channel_goes_to_those_who_have_named_it() -> None:
    class Both(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            reply = {"event": "reply", "id": command["id"]}
            if command["event"] == "b":
                return [reply, {"event": "rain", "payload": 1}, {"event": "sun", "payload": 2}]
            return [reply]

    heard: list[Any] = []
    async with raw_server(Both()) as url, client_at(url) as client:
        client.on("sun", heard.append)
        async with client.subscribe("a", events={"rain": None}) as a:
            async with client.subscribe("b", events={"rain": None}) as b:
                assert await take(a, 1) == await take(b, 1) == [1]
                await until(lambda: heard == [2])


async def test_an_event_without_a_channel_that_comes_before_the_reply_is_in_the_reply() -> None:
    class Late(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            rain = [{"event": "rain", "payload": payload} for payload in (1, 2)]
            return [rain[0], {"event": "reply", "id": command["id"]}, rain[1]]

    async with raw_server(Late()) as url, client_at(url) as client:
        async with client.subscribe("a", events={"rain": None}) as a:
            assert await take(a, 1) == [2]


async def test_two_tasks_may_take_the_events_of_one_subscription() -> None:
    taken: list[Any] = []
    server = Server()
    async with raw_server(server) as url, client_at(url) as client:
        async with client.subscribe("a") as a, anyio.create_task_group() as tasks:

            async def take_one() -> None:
                taken.extend(await take(a, 1))

            tasks.start_soon(take_one)
            tasks.start_soon(take_one)
            await anyio.wait_all_tasks_blocked()
            await server.connections[0].send(json.dumps(said("a", 2)))
            await until(lambda: taken == [2])
            await server.connections[0].send(json.dumps(said("a", 3)))
        assert taken == [2, 3]


async def test_a_position_that_is_not_one_is_ignored() -> None:
    class Odd(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            reply = begun(command)
            reply["subscribed"]["b"] = {"epoch": "e"}
            return [reply, said("a", 2)]

    async with raw_server(Odd()) as url, client_at(url) as client:
        async with client.subscribe("a") as a:
            assert await take(a, 1) == [2]
            assert a.positions == {"a": ("e", 2)}


async def test_a_command_in_progress_is_sent_again_after_a_pause_of_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[float] = []

    def shortest(least: float, most: float) -> float:
        limits.append(most)
        return least

    monkeypatch.setattr(websuckets.client.subscriptions, "uniform", shortest)

    class Busy(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            if number < 4:
                return [{"error": "in progress", "id": command["id"]}]
            return [begun(command)]

    async with raw_server(Busy()) as url, client_at(url) as client:
        async with client.subscribe("a") as a:
            assert a.reply == 1
    assert limits == [1, 2, 4]


async def test_a_subscription_whose_connection_is_lost_before_the_reply_is_made_on_the_next() -> (
    None
):
    class Lost(Server):
        async def __call__(self, connection: Any) -> None:
            if not self.connections:
                self.connections.append(connection)
                await connection.recv()
                await close(connection)
            else:
                await super().__call__(connection)

    server = Lost()
    async with raw_server(server) as url, client_at(url) as client:
        async with client.subscribe("a") as a:
            assert a.reply == 1
    assert len(server.connections) == 2


async def test_a_subscription_that_was_refused_is_not_made_again() -> None:
    class Refusing(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            if command["event"] == "a" and number == 2:
                return [{"error": "forbidden", "id": command["id"]}]
            return [begun(command)]

    server = Refusing()
    async with raw_server(server) as url, client_at(url) as client:
        async with client.subscribe("a") as a:
            await close(server.connections[0])
            with pytest.raises(CommandError, match="forbidden"), anyio.fail_after(TIMEOUT):
                await anext(a)
            await close(server.connections[1])
            await until(lambda: len(server.connections) == 3)
            assert await client.call("b") == 1
    assert server.seen == ["a", "a", "b"]


async def test_fields_of_a_command_without_a_json_form_are_an_error_of_the_caller() -> None:
    wrong: Any = {"a": object()}
    server = Server()
    async with raw_server(server) as url, client_at(url) as client:
        assert await client.call("b") == 1
        with pytest.raises(Exception, match="Unable to serialize"):
            async with client.subscribe("a", since=wrong):
                pass
        with pytest.raises(Exception, match="Unable to serialize"):
            await client.call("a", token=wrong["a"], once=True)
        await close(server.connections[0])
        assert await client.call("b", once=True) == 1
    async with client_at("ws://127.0.0.1:1") as client:
        with pytest.raises(Exception, match="Unable to serialize"):
            await client.call("a", token=wrong["a"], once=True)
        client.token = wrong["a"]
        with pytest.raises(Exception, match="Unable to serialize"):
            await client.call("a", once=True)


async def test_a_token_without_a_json_form_is_an_error_of_the_subscriber() -> None:
    wrong: Any = object()
    server = Server()
    async with raw_server(server) as url, client_at(url) as client:
        assert await client.call("b") == 1
        client.token = wrong
        with pytest.raises(Exception, match="Unable to serialize"):
            async with client.subscribe("a"):
                pass
        client.token = "t"
        await close(server.connections[0])
        await until(lambda: len(server.connections) == 2)
        assert await client.call("b") == 1
    assert server.seen == ["b", "b"]


async def test_events_that_did_not_fit_into_the_buffer_are_asked_for_again() -> None:
    class Fast(Server):
        def answer(self, command: Any, number: int) -> list[Any]:
            if number == 1:
                return [begun(command), said("a", 2), said("a", 3)]
            return [begun(command, recovered=True), said("a", 3)]

    server = Fast()
    async with raw_server(server) as url, client_at(url, buffer=1) as client:
        async with client.subscribe("a") as a:
            await until(lambda: a._watch._overflowed)
            assert await take(a, 2) == [2, 3]
    assert server.seen == ["a", "a"]
