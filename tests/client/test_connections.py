"""Connections of the client: handshakes, authentication, states, and the heartbeat."""

import json
import logging
from typing import Any

import anyio
import pytest
from client_of import SHORT, client_at, client_of, until
from client_servers import LinkThread
from harness import Gate, app_with
from raw_server import raw_server
from timeouts import TIMEOUT
from websockets.http11 import Request

from websuckets import ClientError, CommandGroup, Message, Socket, WebSuckets
from websuckets.client import (
    Client,
    ClientClosed,
    CommandError,
    ConnectionLost,
    Credentials,
    Retry,
    UserChanged,
)
from websuckets.exc import HandshakeRefused

pytestmark = pytest.mark.anyio

group = CommandGroup()


@group.command("hello")
async def hello(socket: Socket, message: Message) -> str | None:
    return message.token


@group.command("close with")
async def close_with(socket: Socket, message: Message) -> None:
    await socket.close(int(message.token or 1000), "told to")


def refusing(*statuses: int, headers: dict[str, str] | None = None) -> tuple[WebSuckets, list[int]]:
    """Return an app that refuses handshakes with these statuses, and then no more."""
    app, left = app_with(group), list(statuses)

    @app.on_handshake
    async def refuse(request: Request) -> None:
        if left:
            raise HandshakeRefused(left.pop(0), headers=headers or {})

    return app, left


async def test_a_refused_handshake_closes_the_client_with_its_status() -> None:
    app, _ = refusing(403)
    async with app.serve("127.0.0.1", 0) as server, client_at(server.urls[0]) as client:
        with pytest.raises(ClientClosed, match="HTTP status 403") as caught:
            await client.call("hello")
        assert caught.value.status == 403
        assert client.state == "closed"


@pytest.mark.parametrize("status", [408, 429, 503])
async def test_a_handshake_that_is_refused_for_now_is_tried_again(status: int) -> None:
    app, left = refusing(status, status, headers={"Retry-After": "0"})
    async with app.serve("127.0.0.1", 0) as server, client_at(server.urls[0]) as client:
        await client.call("hello")
    assert left == []


async def test_headers_are_made_for_each_attempt() -> None:
    app = app_with(group)
    seen: list[str | None] = []

    @app.on_handshake
    async def note(request: Request) -> None:
        seen.append(request.headers.get("Authorization"))
        if len(seen) < 3:
            raise HandshakeRefused(503)

    tokens = iter(["a", "b", "c"])

    async def headers() -> dict[str, str]:
        return {"Authorization": next(tokens)}

    async with app.serve("127.0.0.1", 0) as server:
        async with client_at(server.urls[0], headers=headers) as client:
            await client.call("hello")
        async with client_at(server.urls[0], headers={"Authorization": "d"}) as client:
            await client.call("hello")
    assert seen == ["a", "b", "c", "d"]


async def test_each_attempt_may_go_to_another_server(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(group)
    caplog.set_level(logging.INFO, "websuckets.client")
    async with app.serve("127.0.0.1", 0) as server:
        urls = [server.urls[0], "ws://127.0.0.1:1/?secret"]
        async with Client(urls.pop, backoff=SHORT, proxy=None) as client:
            await client.call("hello")
            assert repr(client) == f"<Client {server.urls[0]} open>"
    assert "ws://127.0.0.1:1/: not connected" in caplog.text
    async with Client(lambda: "http://127.0.0.1", backoff=SHORT) as client:
        with pytest.raises(ClientClosed) as caught:
            await client.call("hello")
        assert isinstance(caught.value.__cause__, ValueError)


async def test_authenticate_runs_before_all_other_commands() -> None:
    events: list[str] = []
    noting = CommandGroup()

    @noting.command("note")
    async def note(socket: Socket, message: Message) -> None:
        events.append(str(message.token))

    async def authenticate(client: Client) -> str:
        await anyio.wait_all_tasks_blocked()  # so that the other command waits
        await client.call("note", token="first")
        await client.call("note", token="second")
        return "token"

    async with client_of(noting, authenticate=authenticate) as client:
        await client.call("note")
        assert client.token == "token"
    assert events == ["first", "second", "token"]


async def test_authenticate_may_be_any_function_and_return_nothing() -> None:
    seen: list[Client] = []
    async with client_of(group, token="t", authenticate=seen.append) as client:
        assert await client.call("hello") == "t"
        assert seen == [client]
        await client.renew()
        assert seen == [client, client]


async def test_credentials_name_the_user_and_hide_the_token() -> None:
    found = Credentials("t", user="ann")
    assert "'t'" not in repr(found)
    async with client_of(group, authenticate=lambda client: found) as client:
        assert client.user is None
        assert await client.call("hello") == "t"
        assert client.user == "ann"


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(), CommandError("rate limited")])
async def test_authenticate_is_tried_again_after_an_error_that_may_pass(error: Exception) -> None:
    left = [error]

    def authenticate(client: Client) -> str:
        if left:
            raise left.pop()
        return "token"

    async with client_of(group, authenticate=authenticate) as client:
        assert await client.call("hello") == "token"


async def test_an_error_of_authenticate_that_the_server_sent_closes_the_client() -> None:
    refusing = CommandGroup()

    @refusing.command("enter")
    async def enter(socket: Socket) -> None:
        raise ClientError("wrong password")

    async def authenticate(client: Client) -> None:
        await client.call("enter")

    async with client_of(refusing, authenticate=authenticate) as client:
        with pytest.raises(ClientClosed, match="authenticate was refused") as caught:
            await client.call("enter")
        assert isinstance(caught.value.__cause__, CommandError)
        assert caught.value.__cause__.error == "wrong password"


async def test_authenticate_may_close_the_client() -> None:
    def authenticate(client: Client) -> None:
        raise ClientClosed(4401, "signed out")

    async with client_of(group, authenticate=authenticate) as client:
        with pytest.raises(ClientClosed, match="signed out"):
            await client.call("hello")
        assert client.state == "closed"
        assert client.lost is None


async def test_a_lost_connection_of_authenticate_itself_is_tried_again() -> None:
    """Raise the error that the function of a program has got from a client of its own."""
    left: list[Exception] = [ConnectionLost(1006)]

    def authenticate(client: Client) -> str:
        if left:
            raise left.pop()
        return "token"

    async with client_of(group, authenticate=authenticate) as client:
        assert await client.call("hello") == "token"
        assert str(client.lost) == "the connection was lost (1006, authenticate: ConnectionLost)"


async def test_another_user_makes_the_commands_in_flight_fail(gate: Gate) -> None:
    users = ["bob", "ann"]
    slow = CommandGroup()

    @slow.command("slow")
    async def slowly(socket: Socket) -> None:
        await gate()

    app = app_with(slow)
    async with app.serve("127.0.0.1", 0) as server:

        def login(client: Client) -> Credentials:
            return Credentials("t", user=users.pop())

        async with client_at(server.urls[0], authenticate=login) as client:
            async with anyio.create_task_group() as tasks:

                async def call() -> None:
                    with pytest.raises(UserChanged):
                        await client.call("slow", once=True)

                tasks.start_soon(call)
                await gate.reached.wait()
                await client.renew()
        gate.opened.set()


async def test_authenticate_that_returns_something_else_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    results: list[Any] = [5, "token"]
    async with client_of(group, authenticate=lambda client: results.pop(0)) as client:
        assert await client.call("hello") == "token"
    assert "authenticate returns a token, Credentials or None, not a int" in caplog.text


async def test_renewing_without_a_connection_does_nothing() -> None:
    def authenticate(client: Client) -> None:
        raise AssertionError

    async with client_at("ws://127.0.0.1:1", authenticate=authenticate) as client:
        await client.renew()


async def test_another_user_makes_the_commands_of_the_one_before_fail() -> None:
    client = client_at("ws://127.0.0.1:1")
    client.user = "ann"
    async with client, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ConnectionLost, match="another user"):
                await client.call("hello", once=True)

        tasks.start_soon(call)
        await until(lambda: client.state == "waiting")
        client.user = "ann"
        client.user = "bob"


async def test_states_are_told_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    states: list[str] = []

    def fail(state: str) -> None:
        raise ZeroDivisionError

    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server:
        client = client_at(server.urls[0], token="1012")
        client.on_state(fail)
        remove = client.on_state(states.append)
        assert client.state == "closed"
        async with client:
            with pytest.raises(ConnectionLost):
                await client.call("close with")
            await until(lambda: states.count("open") == 2)
        assert states == ["connecting", "open", "waiting", "connecting", "open", "closed"]
        remove()
        remove()
    assert "a function for the state failed" in caplog.text


async def test_a_close_code_may_be_given_another_meaning() -> None:
    codes = {1000: Retry.AT_ONCE, 4000: Retry.NEVER}
    async with client_of(group, close_codes=codes, token="1000") as client:
        with pytest.raises(ConnectionLost, match=r"1000, told to"):
            await client.call("close with")
        assert await client.call("hello") == "1000"
        client.token = "4000"
        with pytest.raises(ConnectionLost):
            await client.call("close with")
        with pytest.raises(ClientClosed, match=r"the client is closed \(4000, told to\)"):
            await client.call("hello")


async def test_a_server_that_answers_pings_of_the_protocol_alone_is_noticed() -> None:
    """A proxy may answer those, while the program behind it is gone."""
    pings: list[Any] = []

    async def swallow(connection: Any) -> None:
        async for text in connection:
            pings.append(json.loads(text))

    async with raw_server(swallow) as url:
        client = client_at(url, heartbeat=0.02)
        states: list[str] = []
        client.on_state(states.append)
        async with client:
            await until(lambda: states.count("open") == 2)
    assert pings[0] == {"ping": 1}


@pytest.mark.parametrize("frame", ["hello", "[]", b"\xff", '{"event": 5}', '{"id": 1}'])
async def test_a_frame_that_is_none_of_the_protocol_is_told_once(
    frame: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(connection: Any) -> None:
        await connection.send(frame)
        await connection.send(frame)
        command = json.loads(await connection.recv())
        await connection.send(json.dumps({"event": "e", "payload": 5, "id": command["id"]}))
        await connection.wait_closed()

    async with raw_server(serve) as url, client_at(url) as client:
        assert await client.call("e") == 5
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "ignored a frame" in record.getMessage()


async def test_an_error_that_answers_no_command_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def serve(connection: Any) -> None:
        await connection.send('{"error": "rate limited", "details": {"secret": 1}}')
        await connection.wait_closed()

    async with raw_server(serve) as url, client_at(url):
        await until(lambda: "rate limited" in caplog.text)
    assert "secret" not in caplog.text


async def test_a_message_that_is_too_long_for_the_client_ends_one_connection() -> None:
    sizes = [2000, 10]

    async def serve(connection: Any) -> None:
        command = json.loads(await connection.recv())
        payload = "x" * sizes.pop(0)
        await connection.send(json.dumps({"event": "e", "payload": payload, "id": command["id"]}))
        await connection.wait_closed()

    async with raw_server(serve) as url, client_at(url, max_size=1000) as client:
        with pytest.raises(ConnectionLost, match="closed by this side"):
            await client.call("e")
        assert await client.call("e") == "x" * 10


async def test_closing_does_not_wait_for_a_server_that_is_silent() -> None:
    opened: list[int] = []

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def accept(stream: anyio.abc.SocketStream) -> None:
            opened.append(1)
            async with stream:
                async for _ in stream:
                    pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, accept)
            with anyio.fail_after(TIMEOUT):
                async with client_at(f"ws://127.0.0.1:{port}") as client:
                    await until(lambda: bool(opened))
                assert client.state == "closed"
            tasks.cancel_scope.cancel()


async def test_a_connection_that_falls_silent_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def serve(connection: Any) -> None:
        async for _ in connection:
            link.lose_all_data()

    async with raw_server(serve) as url:
        link = LinkThread(int(url.rpartition(":")[2]))
        link.start()
        try:
            options: dict[str, Any] = {"heartbeat": 0.1, "close_timeout": 0.1}
            async with client_at(f"ws://127.0.0.1:{link.port}", **options) as client:
                with pytest.raises(ConnectionLost):
                    await client.call("e")
        finally:
            await anyio.to_thread.run_sync(link.stop)
    ours = [each for each in caplog.records if each.name.startswith("websuckets.")]
    assert [each for each in ours if each.levelno >= logging.WARNING] == []
