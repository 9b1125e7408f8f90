"""Sessions of the client at their edges: late frames, closed connections, and the end of a loop."""

import json
import logging
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from client_of import client_at, client_of, until
from harness import app_with, on_trio
from ports import free_port
from raw_server import raw_server

from websuckets import CommandGroup, Message, Socket
from websuckets.client import Client, ConnectionLost, UserChanged

pytestmark = pytest.mark.anyio

group = CommandGroup()


@group.command("hello")
async def hello(socket: Socket, message: Message) -> str | None:
    return message.token


async def test_pongs_and_replies_that_nobody_awaits_are_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Any] = []

    async def serve(connection: Any) -> None:
        command = json.loads(await connection.recv())
        await connection.send('{"pong": 1}')
        await connection.send('{"event": "e", "payload": 4, "id": 999}')
        await connection.send('{"error": "e", "id": 999}')
        await connection.send(json.dumps({"event": "e", "payload": 5, "id": command["id"]}))
        await connection.wait_closed()

    async with raw_server(serve) as url, client_at(url) as client:
        client.on("e", heard.append)
        assert await client.call("e") == 5
    assert heard == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_command_on_a_connection_that_is_closed_already_is_lost() -> None:
    """The client reads no further, as a buffer is full, so it does not know of the close."""

    async def serve(connection: Any) -> None:
        command = json.loads(await connection.recv())
        item = {"event": "e", "payload": 1, "id": command["id"], "more": True}
        await connection.send(json.dumps(item))
        await (connection.aclose(1012) if on_trio() else connection.close(1012))

    async with raw_server(serve) as url, client_at(url, buffer=1) as client:
        first = client.stream("e")
        await until(lambda: client.state == "open" and client._running.gate.is_shut)
        session = client._running._session
        assert session is not None
        link: Any = session._link
        await until(lambda: link._connection.close_code == 1012)
        second = client.stream("e")
        await anyio.wait_all_tasks_blocked()  # the second one is sent
        assert await anext(first) == 1
        for stream in (first, second):
            with pytest.raises(ConnectionLost, match="1012"):
                await anext(stream)


async def test_another_user_leaves_the_commands_that_are_nobodys_or_his() -> None:
    commands: list[Any] = []

    async def serve(connection: Any) -> None:
        async for text in connection:
            if "cancel" not in (command := json.loads(text)):
                commands.append(command)
            if len(commands) == 5:
                for command in commands:
                    reply = {"event": "e", "payload": command["payload"], "id": command["id"]}
                    await connection.send(json.dumps(reply))

    replies: list[int] = []
    async with (
        raw_server(serve) as url,
        client_at(url) as client,
        anyio.create_task_group() as tasks,
    ):

        async def call(number: int) -> None:
            try:
                replies.append(await client.call("slow", number))
            except UserChanged:
                replies.append(-number)

        async def subscribe() -> None:
            async with client.subscribe("slow", 4) as watched:
                replies.append(watched.reply)

        for number, user in enumerate([None, "ann", "bob"], 1):
            if user is not None:
                client.user = user
            tasks.start_soon(call, number)
            await until(lambda number=number: len(commands) == number)
        tasks.start_soon(subscribe)
        await until(lambda: len(commands) == 4)
        client.user = "bob"
        await client.call("end", 5)
    assert sorted(replies) == [-2, 1, 3, 4]


async def test_a_command_in_progress_for_which_nobody_waits_is_not_sent_again() -> None:
    seen: list[str] = []
    asked = anyio.Event()

    async def serve(connection: Any) -> None:
        async for text in connection:
            if "cancel" in (command := json.loads(text)):
                continue
            seen.append(command["event"])
            reply = {"event": "e", "id": command["id"]}
            if command["event"] == "busy":
                details = {"retry_after": 0.05}
                reply = {"error": "in progress", "details": details, "id": command["id"]}
            await connection.send(json.dumps(reply))
            asked.set()

    async with raw_server(serve) as url, client_at(url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.call, "busy", once=True))
            await asked.wait()
            await client.call("other")  # so the error came before
            tasks.cancel_scope.cancel()
        session = client._running._session
        assert session is not None
        await until(lambda: not list(session._awaited))  # when the pause is over
        await client.call("other")
    assert seen == ["busy", "other", "other"]


async def test_a_token_without_a_json_form_ends_connections_until_it_is_mended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port, wrong = free_port(), object()
    replies: list[Any] = []
    async with client_at(f"ws://127.0.0.1:{port}", token="first") as client:

        async def call() -> None:
            replies.append(await client.call("hello", once=True))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until(lambda: client.state == "waiting")
            client.token = wrong  # type: ignore[assignment]  # that is the mistake
            async with app_with(group).serve("127.0.0.1", port):
                await until(lambda: "a connection was ended by an error" in caplog.text)
                client.token = "second"
                await until(lambda: bool(replies))
    assert replies == ["second"]


async def test_a_client_that_was_closed_tells_how() -> None:
    async with client_of(group) as client:
        await client.call("hello")
        await client.close()
        assert client.lost is not None and client.lost.code == 1000
        assert client.state == "closed"


async def test_a_client_that_is_closed_while_a_buffer_is_full_is_closed_at_once() -> None:
    async def serve(connection: Any) -> None:
        command = json.loads(await connection.recv())
        item = {"event": "e", "payload": 1, "id": command["id"], "more": True}
        await connection.send(json.dumps(item))
        await connection.wait_closed()

    async with raw_server(serve) as url:
        client = client_at(url, buffer=1, close_timeout=60)
        async with client:
            stream = client.stream("e")
            await until(lambda: client._running.gate.is_shut)
        assert client.lost is not None and client.lost.code == 1000
        assert await anext(stream) == 1


async def test_a_client_ends_with_its_event_loop() -> None:
    clients: list[Client] = []

    async def main() -> None:
        client = client_at("ws://127.0.0.1:1")
        clients.append(client)
        await client.__aenter__()
        await until(lambda: client.state == "waiting")

    backend = "trio" if on_trio() else "asyncio"
    await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=backend))
    assert [client.state for client in clients] == ["closed"]


async def test_a_server_that_answers_pings_keeps_the_connection() -> None:
    numbers: list[int] = []

    async def serve(connection: Any) -> None:
        async for text in connection:
            numbers.append(json.loads(text)["ping"])
            await connection.send(json.dumps({"pong": numbers[-1]}))

    async with raw_server(serve) as url, client_at(url, heartbeat=0.05) as client:
        await until(lambda: len(numbers) >= 3)
        assert client.state == "open"
    assert numbers[:3] == [1, 2, 3]
