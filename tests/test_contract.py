"""Tests that hold on every transport and event loop, over real sockets wherever there are any.

They use only attributes of a connection that `websuckets.Socket` has.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from dishka import Provider, Scope, provide
from harness import Client, Gate, app_with, dial, errors, until
from peers import Gone, close, command, opened
from pydantic import BaseModel
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed

from websuckets import (
    ClientEvent,
    CommandGroup,
    ConnectionTasks,
    Limits,
    Payload,
    ResponseHeaders,
    Socket,
    WebSuckets,
)
from websuckets.exc import ClientError
from websuckets.security import CurrentUser, Token
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio


class Post(BaseModel):
    title: str


class Visit: ...


class Transaction: ...


class Journalling(Provider):
    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.SESSION)
    async def visit(self) -> AsyncIterator[Visit]:
        self.journal.append("open visit")
        error = yield Visit()
        await anyio.lowlevel.checkpoint()
        self.journal.append("close visit" if error is None else "close visit after an error")

    @provide(scope=Scope.REQUEST)
    async def transaction(self, visit: Visit) -> AsyncIterator[Transaction]:
        self.journal.append("begin")
        error = yield Transaction()
        await anyio.lowlevel.checkpoint()
        self.journal.append("commit" if error is None else "rollback")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    return make_app(journal, gate)


def make_app(journal: list[str], gate: Gate, **arguments: Any) -> WebSuckets:
    group = CommandGroup()

    @group.command("echo")
    async def echo(socket: Socket, model: Post, transaction: Transaction) -> Post:
        await anyio.lowlevel.checkpoint()
        return model

    @group.command("nothing")
    async def nothing(socket: Socket) -> None: ...

    @group.command("event")
    async def event(socket: Socket) -> ClientEvent:
        await socket.send(ClientEvent("first", 1))
        await socket.send(b"\x00\x01")
        await socket.send(b"as text", text=True)
        return ClientEvent("last", [2])

    @group.command("refuse")
    async def refuse(socket: Socket, *, transaction: Transaction) -> None:
        raise ClientError("refused", {"because": 1})

    @group.command("bug")
    async def bug(socket: Socket, *, transaction: Transaction) -> None:
        raise RuntimeError("canary")

    @group.command("enter")
    async def enter(socket: Socket, *, user: User) -> Token:
        user.id, user.token = "ann", Token("secret")
        return user.token

    @group.command("who", protected=True)
    async def who(socket: Socket, *, user: CurrentUser, session: Session) -> list[Any]:
        return [user.id, session.verified[user.id] == user, user.socket is socket]

    @group.command("close")
    async def close(socket: Socket, *, transaction: Transaction) -> None:
        await socket.close(4000, "enough")

    @group.command("send after closing")
    async def send_after(socket: Socket, *, transaction: Transaction) -> None:
        await socket.close(4000, "enough")
        journal.append(f"{socket.close_code} {socket.close_reason}")
        await socket.send("into the void")

    @group.command("wait")
    async def wait(socket: Socket, *, transaction: Transaction) -> str:
        await gate()
        journal.append("went on")
        return "waited"

    @group.command("wait and send")
    async def wait_and_send(socket: Socket, *, transaction: Transaction) -> None:
        await gate()
        with anyio.fail_after(TIMEOUT):
            while True:
                await socket.send("anybody there?")
                await anyio.lowlevel.checkpoint()

    @group.command("count")
    async def count(socket: Socket, *, transaction: Transaction) -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @group.command("count for good")
    async def count_for_good(socket: Socket, *, transaction: Transaction) -> AsyncIterator[int]:
        yield 0
        await gate()
        yield 1

    app = app_with(group, providers=[Journalling(journal)], **arguments)

    @app.on_startup
    async def startup() -> None:
        journal.append("startup")

    @app.on_handshake
    async def handshake(user: User) -> None:
        journal.append("handshake")

    @app.on_connect
    async def connect(socket: Socket, tasks: ConnectionTasks) -> None:
        journal.append("connect")

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        assert socket.id in Session.online and socket.close_code is not None
        journal.append("disconnect")

    return app


async def test_commands_are_answered_in_order(serving: Serving, app: WebSuckets) -> None:
    """Expect one last reply for each command, text or binary, however many come at once."""
    async with serving(app) as server, dial(server) as client:
        for number in range(100):
            if number % 3 == 0:
                await client.send("nothing", id=number)
            elif number % 3 == 1:
                await client.connection.send(b'{"event":"nobody","id":%d}' % number)
            else:
                await client.send("echo", payload={"title": str(number)}, id=number)
        for number in range(100):
            reply = await client.receive()
            assert reply["id"] == number
            if number % 3 == 0:
                assert reply == {"event": "nothing", "payload": None, "id": number}
            elif number % 3 == 1:
                assert reply == {"error": "unknown command", "details": None, "id": number}
            else:
                assert reply["payload"] == {"title": str(number)}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ("not json", "invalid message"),
        ("[]", "invalid message"),
        ('{"event": 1}', "invalid message"),
        ('{"event": "nobody"}', "unknown command"),
        ('{"event": "echo"}', "payload required"),
        ('{"event": "echo", "payload": {}}', "validation error"),
        ('{"event": "refuse"}', "refused"),
        ('{"event": "bug"}', "internal error"),
        ('{"event": "who"}', "not authorized"),
        ('{"event": "who", "token": "wrong"}', "not authorized"),
    ],
)
async def test_what_goes_wrong_is_an_error_and_the_connection_goes_on(
    serving: Serving, app: WebSuckets, journal: list[str], sent: str, error: str
) -> None:
    """Expect an error, with the command rolled back."""
    async with serving(app) as server, dial(server) as client:
        await client.connection.send(sent)
        reply = await client.receive()
        assert reply["error"] == error and "details" in reply
        if "begin" in journal:
            assert journal[-1] == "rollback"
        await client.send("echo", payload={"title": "on"})
        assert (await client.receive())["payload"] == {"title": "on"}
        assert journal[-1] == "commit"


async def test_what_a_handler_sends_comes_before_its_reply(
    serving: Serving, app: WebSuckets
) -> None:
    """Expect the frames that the handler chose, before its reply."""
    async with serving(app) as server, dial(server) as client:
        await client.send("event", id=1)
        assert await client.receive() == {"event": "first", "payload": 1}
        assert await client.receive_frame() == b"\x00\x01"
        assert await client.receive_frame() == "as text"
        assert await client.receive() == {"event": "last", "payload": [2], "id": 1}


async def test_who_is_verified(serving: Serving, app: WebSuckets) -> None:
    """Expect verification by the token that the handler set, on this connection only."""
    async with serving(app) as server, dial(server) as client, dial(server) as other:
        token = (await client.call("enter"))["payload"]
        assert (await client.call("who", token=token))["payload"] == ["ann", True, True]
        assert (await other.call("who", token=token))["error"] == "not authorized"


async def test_hooks_run_in_order_and_once(
    serving: Serving, app: WebSuckets, journal: list[str]
) -> None:
    """Expect hooks to run around the commands of each client."""
    async with serving(app) as server:
        assert journal == ["startup"]
        for _ in range(2):
            journal.clear()
            async with dial(server) as client:
                await client.call("echo", payload={"title": ""})
            await until(journal, "close visit")
            assert journal == [
                *("handshake", "connect", "open visit", "begin", "commit"),
                *("disconnect", "close visit"),
            ]


async def test_closing_by_the_client(
    serving: Serving, app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect any code of the client to be answered with the same code."""
    async with serving(app) as server:
        for code in (1000, 1001, 4321):
            async with dial(server) as client:
                await client.call("nothing", id=1)
                await client.close(code, "bye")
                assert await client.closed() == (code, "bye")
    assert journal.count("disconnect") == 3
    assert errors(caplog) == []


async def test_closing_by_a_handler(
    serving: Serving, app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the handler's code at the client, and the command to be kept."""
    async with serving(app) as server, dial(server) as client:
        await client.send("close", id=1)
        assert await client.closed() == (4000, "enough")
        await until(journal, "close visit")
    assert journal[-3:] == ["commit", "disconnect", "close visit"]
    assert errors(caplog) == []


def kicking_app(journal: list[str], gate: Gate, **limits: Any) -> WebSuckets:
    """Return an app in which connections are closed in several ways while commands wait."""
    group = CommandGroup()

    @group.command("enter")
    async def enter(socket: Socket, name: Payload[str], *, user: User) -> Token:
        user.id, user.token = name, Token(name)
        return user.token

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()
        journal.append("waited")

    @group.command("close own")
    async def close_own(socket: Socket) -> None:
        await gate()
        await socket.close(4000, "enough")

    @group.command("close ann")
    async def close_ann(socket: Socket, session: Session) -> None:
        await session.verified["ann"].socket.close(4000, "enough")

    @group.command("revoke ann")
    async def revoke_ann(socket: Socket, session: Session) -> None:
        await session.revoke("ann")

    @group.command("note")
    async def note(socket: Socket) -> None:
        journal.append("note")

    @group.command("protected note", protected=True)
    async def protected_note(socket: Socket) -> None:
        journal.append("protected note")

    app = app_with(group, limits=Limits(rate=None, **limits))

    @app.on_disconnect
    async def disconnect(user: User) -> None:
        journal.append(f"disconnect {user.socket.close_code}")

    return app


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("how", ["close own", "close ann", "revoke ann"])
async def test_commands_that_wait_while_the_connection_is_closed_do_not_run(
    serving: Serving, journal: list[str], gate: Gate, how: str, concurrency: int
) -> None:
    """Expect the running command to go on, and none that waits to run, whoever closes."""
    app = kicking_app(journal, gate, concurrency=concurrency)
    async with serving(app) as server, dial(server) as other, dial(server) as client:
        await client.call("enter", payload="ann", id=1)
        for _ in range(concurrency):
            await client.send("close own" if how == "close own" else "wait")
        await gate.reached.wait()
        for _ in range(30):
            await client.send("note")
            await client.send("protected note", token="ann")
        if how == "close own":
            gate.opened.set()
        else:
            await other.call(how, id=1)
            gate.opened.set()
        code, _ = await client.closed()
        await until(journal, f"disconnect {code}")
        assert code == (4401 if how == "revoke ann" else 4000)
        assert "note" not in journal and "protected note" not in journal
        assert journal.count("waited") == (0 if how == "close own" else concurrency)


@pytest.mark.parametrize("how", ["close ann", "revoke ann"])
async def test_commands_that_come_after_the_close_frame_do_not_run(
    on_sockets: Serving, journal: list[str], gate: Gate, how: str
) -> None:
    """Expect the client's own close frame behind these commands still to end the connection."""
    app = kicking_app(journal, gate)
    async with on_sockets(app) as server, dial(server) as other:
        async with opened(server.port) as client:
            await client.call("enter", payload="ann", id=1)
            await other.send(how, id=1)
            received = await client.read_close()
            assert received is not None
            with suppress(Gone):  # the server may abort the connection instead
                for _ in range(30):
                    await client.write(command("note") + command("protected note", token="ann"))
                await client.write(close(received.close_code))
            await client.read_to_end()
        await until(journal, f"disconnect {received.close_code}")
        assert journal == [f"disconnect {received.close_code}"]


async def test_sending_on_a_closed_connection(
    serving: Serving, app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the command to be rolled back, without an incident and without a reply."""
    async with serving(app) as server, dial(server) as client:
        await client.send("send after closing", id=1)
        assert await client.closed() == (4000, "enough")
        await until(journal, "close visit")
    assert journal[-4:] == ["4000 enough", "rollback", "disconnect", "close visit"]
    assert errors(caplog) == []


async def test_a_hook_adds_headers_to_the_answer_of_the_handshake(
    serving: Serving, app: WebSuckets, journal: list[str]
) -> None:
    """Repeat a name as often as it is set; refuse headers once the answer is sent."""

    @app.on_handshake
    async def set_cookies(headers: ResponseHeaders) -> None:
        headers["X-Wrong"] = "value"
        headers.clear()
        headers["Set-Cookie"] = "a=1; HttpOnly"
        headers["Set-Cookie"] = "b=2"
        headers.update({"X-Node": "here", "X-Wrong": "value"})
        del headers["x-wrong"]

    @app.on_connect
    async def too_late(headers: ResponseHeaders) -> None:
        assert headers["x-node"] == "here"
        for change in (
            lambda: headers.update({"X-Node": "there"}),
            lambda: headers.pop("X-Node"),
            headers.clear,
        ):
            with pytest.raises(RuntimeError, match="has been answered"):
                change()
        journal.append("too late")

    async with serving(app) as server, dial(server) as client:
        headers = client.response_headers
        assert headers.get_all("Set-Cookie") == ["a=1; HttpOnly", "b=2"]
        assert (headers["X-Node"], "X-Wrong" in headers) == ("here", False)
        await until(journal, "too late")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", "close"),
        ("Sec-WebSocket-Accept", "x"),
        ("no name", "x"),
        ("X-Split", "a\r\nSet-Cookie: b=1"),
        ("X-Umlaut", "ä"),
    ],
)
async def test_what_cannot_be_a_header_of_the_answer_is_refused(
    serving: Serving, app: WebSuckets, journal: list[str], name: str, value: str
) -> None:
    """Expect an error where the header is set; the handshake goes on."""

    @app.on_handshake
    async def handshake(headers: ResponseHeaders) -> None:
        with pytest.raises(ValueError, match="ResponseHeaders"):
            headers[name] = value
        journal.append("refused")

    async with serving(app) as server, dial(server) as client:
        assert "refused" in journal
        assert value not in client.response_headers.get_all(name)


async def test_headers_that_nobody_has_added_before_cannot_be_added(
    serving: Serving, gate: Gate
) -> None:
    """Expect an error in a command, too."""
    group = CommandGroup()

    @group.command("add")
    async def add(socket: Socket, *, headers: ResponseHeaders) -> None:
        with pytest.raises(RuntimeError, match="has been answered"):
            headers["X-Late"] = "x"

    async with serving(app_with(group)) as server, dial(server) as client:
        assert (await client.call("add", id=1))["payload"] is None


async def test_closing_by_the_server(
    serving: Serving, app: WebSuckets, journal: list[str], gate: Gate
) -> None:
    """Expect the running command to finish, its reply to arrive, and then 1012."""
    async with AsyncExitStack() as later:
        async with serving(app) as server:
            busy = await later.enter_async_context(dial(server))
            idle = await later.enter_async_context(dial(server))
            tasks = await later.enter_async_context(anyio.create_task_group())
            await busy.send("wait", id=1)
            await busy.send("nothing", id="too late")
            await gate.reached.wait()
            tasks.start_soon(open_when_closed, gate, idle)
        assert (await busy.receive())["payload"] == "waited"
        assert await busy.closed() == (1012, "service restart")
        with pytest.raises(ConnectionClosed):
            await busy.receive()
    assert journal.count("disconnect") == 2 and journal[-1] == "close visit"


async def open_when_closed(gate: Gate, client: Client) -> None:
    """Open the gate once the client is closed, so that the server is already stopping."""
    assert await client.closed() == (1012, "service restart")
    gate.opened.set()


async def test_a_command_is_cancelled_at_the_deadline(
    serving: Serving, journal: list[str], gate: Gate
) -> None:
    """Expect the command of a stopping server to be rolled back; its hooks still run."""
    app = make_app(journal, gate, limits=Limits(drain_timeout=0.05))
    async with AsyncExitStack() as later:
        async with serving(app) as server:
            client = await later.enter_async_context(dial(server))
            await client.send("wait", id=1)
            await gate.reached.wait()
        await client.closed()
    assert journal[-3:] == ["rollback", "disconnect", "close visit after an error"]
    assert "went on" not in journal


async def test_a_client_that_vanishes_while_a_handler_runs(
    serving: Serving,
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the handler to go on, others to be served, and every scope to be closed."""
    async with serving(app) as server, dial(server) as other:
        async with dial(server) as client:
            await client.send("wait")
            await gate.reached.wait()
            await client.vanish()
        await other.call("nothing", id=1)
        gate.opened.set()
        await until(journal, "close visit")
    assert journal.count("went on") == 1
    assert journal.index("went on") < journal.index("commit") < journal.index("disconnect")
    assert errors(caplog) == []


async def test_a_client_that_vanishes_while_a_handler_sends(
    serving: Serving,
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an error from `send`, and the command to be rolled back."""
    async with serving(app) as server:
        async with dial(server) as client:
            await client.send("wait and send")
            await gate.reached.wait()
            await client.vanish()
            gate.opened.set()
        await until(journal, "close visit")
    assert journal[-3:] == ["rollback", "disconnect", "close visit"]
    assert errors(caplog) == []


async def test_streams_end_are_cancelled_or_left(serving: Serving, app: WebSuckets, journal: list[str], gate: Gate) -> None:
    """Test streams that end, are cancelled, or are left by their client."""
    async with serving(app) as server:
        async with dial(server) as client:
            await client.send("count", id="c")
            for number in range(3):
                item = {"event": "count", "payload": number, "id": "c", "more": True}
                assert await client.receive() == item
            assert await client.receive() == {"event": "count", "payload": None, "id": "c"}
            assert journal[-1] == "commit"
            for id in ("a", "b"):
                await client.call("count for good", id=id)
            await gate.reached.wait()
            await client.connection.send('{"cancel": "a"}')
            last = {"event": "count for good", "payload": None, "id": "a"}
            assert await client.receive() == last
            assert journal[-1] == "rollback"
            assert (await client.call("nothing", id=1))["id"] == 1
        await until(journal, "close visit")
    assert journal[-3:] == ["rollback", "disconnect", "close visit"]
