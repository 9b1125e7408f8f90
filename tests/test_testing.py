"""`websuckets.testing`: a test client in memory."""

import copy
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, errors, in_another_loop, until
from pydantic import BaseModel
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.http11 import Request

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.commands.dispatcher import Dispatcher
from websuckets.exc import ClientError, ConfigurationError, HandshakeRefused, MissingProvider
from websuckets.security import Token
from websuckets.session import Session, User
from websuckets.testing import CommandError, TestClient
from websuckets.transports.memory import CAPACITY

pytestmark = pytest.mark.anyio


class Post(BaseModel):
    title: str


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    group = CommandGroup()

    @group.command("echo")
    async def echo(socket: Socket, model: Post) -> Post:
        return model

    @group.command("say")
    async def say(socket: Socket, text: Payload[str]) -> None:
        await socket.send(text)

    @group.command("tell")
    async def tell(socket: Socket, number: Payload[int]) -> int:
        await socket.send(ClientEvent("told", number))
        return number

    @group.command("secret", protected=True)
    async def secret(socket: Socket) -> str:
        return "psst"

    @group.command("enter")
    async def enter(socket: Socket, *, user: User) -> Token:
        user.id, user.token = "ann", Token.generate()
        return user.token

    @group.command("id")
    async def id(socket: Socket, *, message: Message) -> Any:
        return [message.id, message.token]

    @group.command("request")
    async def request(socket: Socket, *, request: Request) -> list[Any]:
        return [request.path, list(request.headers.raw_items()), socket.remote_address]

    @group.command("refuse")
    async def refuse(socket: Socket) -> None:
        raise ClientError("refused", {"because": 1})

    @group.command("bug")
    async def bug(socket: Socket) -> None:
        raise RuntimeError("canary")

    @group.command("close")
    async def close(socket: Socket, code: Payload[int] = 1000) -> None:
        await socket.close(code, "enough")

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "waited"

    @group.command("ping")
    async def ping(socket: Socket) -> float:
        return await (await socket.ping())

    @group.command("count")
    async def count(socket: Socket, to: Payload[int]) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @group.command("count for good")
    async def count_for_good(socket: Socket) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            journal.append(f"counted to {number}")

    @group.command("count and fail")
    async def count_and_fail(socket: Socket) -> AsyncIterator[int]:
        yield 0
        raise ClientError("enough")

    app = app_with(group, limits=Limits(max_size=(1000, None)))

    @app.on_handshake
    async def handshake(request: Request) -> None:
        if request.path == "/nowhere":
            raise HandshakeRefused(404, "nobody here", {"X-Why": "because"})
        if request.path == "/broken":
            raise RuntimeError("canary")

    @app.on_connect
    async def connect(request: Request, socket: Socket) -> None:
        if request.path == "/welcome":
            await socket.send(ClientEvent("welcome", [1]))
        if request.path == "/broken-later":
            raise RuntimeError("canary")

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        journal.append(f"disconnect {socket.close_code} {socket.close_reason}")

    return app


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


async def test_the_opening_handshake_is_as_it_was_asked_for(app: WebSuckets) -> None:
    """The path and the headers of the handshake may be given, such as cookies."""
    async with TestClient(app, "/chat?room=1", {"Cookie": "a=b"}) as client:
        path, headers, address = (await client.call("request")).payload
        assert (path, headers) == ("/chat?room=1", [["Cookie", "a=b"], ["Host", "localhost"]])
        assert address == ["127.0.0.1", 0]
        async with client.connect("/x", [("Host", "example.org"), ("A", "1"), ("A", "2")]) as other:
            path, headers, _ = (await other.call("request")).payload
            assert (path, headers) == ("/x", [["Host", "example.org"], ["A", "1"], ["A", "2"]])


async def test_an_error_is_raised(app: WebSuckets) -> None:
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


async def test_frames_that_are_no_events(app: WebSuckets) -> None:
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


async def test_calls_from_many_tasks(app: WebSuckets) -> None:
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


async def test_a_call_beside_others_who_receive(app: WebSuckets) -> None:
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


async def test_streams(app: WebSuckets, journal: list[str]) -> None:
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
        assert (inbox._frames, inbox._claimed) == ([], set())


async def test_a_stream_waits_to_be_sent_where_there_is_no_room(gate: Gate) -> None:
    """Without room on the transport, the command is sent when the first item is asked for."""
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: Socket, model: Payload[str]) -> None:
        await gate()

    @group.command("count")
    async def count(socket: Socket, to: Payload[int]) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async with TestClient(app_with(group)) as client:
        await client.send("wait", "")
        await gate.reached.wait()
        for _ in range(CAPACITY // 60_000 + 1):
            await client.send("wait", "x" * 60_000)
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


async def test_a_client_works_in_the_loop_that_has_entered_it(app: WebSuckets) -> None:
    """Every method raises an error in another event loop, rather than wait for ever."""
    async with TestClient(app) as client:
        stream = client.stream("count", 1)
        for attempt in (
            partial(client.call, "tell", 1),
            partial(client.send, "tell", 1),
            partial(client.send_frame, "{}"),
            client.receive,
            client.receive_frame,
            partial(client.stream, "count", 1),
            stream.__anext__,
            client.wait_closed,
            client.close,
            client.abort,
            client.connect().__aenter__,
            partial(client.__aexit__, None, None, None),
        ):
            with pytest.raises(RuntimeError, match="in another event loop"):
                await in_another_loop(attempt)
        assert await in_another_loop(lambda: client.close_code) is None
        with pytest.raises(RuntimeError, match="in another event loop"):
            await anyio.to_thread.run_sync(client.stream, "count", 1)  # in no event loop
        assert [item.payload async for item in stream] == [0]
        lost = [client.stream("count for good")]
        await in_another_loop(lost.clear)  # nothing can be cancelled from there


async def until_counted(journal: list[str]) -> None:
    with anyio.fail_after(TIMEOUT):
        while not journal:
            await anyio.sleep(0.001)
    assert journal[0].startswith("counted to")


async def test_a_stream_that_was_called(app: WebSuckets, journal: list[str]) -> None:
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


async def test_the_servers_side(app: WebSuckets) -> None:
    """The socket of a test client is the object that handlers get."""
    async with TestClient(app) as client, client.connect() as other:
        assert list(Session.online) == [client.socket.id, other.socket.id]
        assert Session.online[other.socket.id].socket is other.socket
        async with client.connect() as third:
            assert third.socket.id in Session.online
        assert third.socket.id not in Session.online
        assert (await client.call("ping")).payload == 0


async def test_only_what_a_socket_promises(app: WebSuckets) -> None:
    """Other attributes than those of `Socket` raise an error that names the transport."""
    async with TestClient(app) as client:
        with pytest.raises(AttributeError, match="by memory has no 'transport_options'"):
            client.socket.transport_options  # noqa: B018  # it raises
        assert repr(client.socket) == f"<connection {client.socket.id} by memory>"
        with pytest.raises(TypeError, match="str or bytes, not int"):
            await client.socket.send(1)
        with pytest.raises(ValueError, match="123 bytes"):
            await client.socket.close(1000, "ä" * 62)
        with pytest.raises(Exception, match="invalid status code"):
            await client.socket.close(999)
        assert client.close_code is None
        for sent, text in (("a", False), (b"a", True), (bytearray(b"a"), None)):
            await client.socket.send(sent, text=text)
        assert [await client.receive_frame() for _ in range(3)] == [b"a", "a", b"a"]


async def test_closing_by_the_client(app: WebSuckets, journal: list[str]) -> None:
    """A client may close with 1000 or another code, or abort the connection."""
    async with TestClient(app) as client:
        assert (client.close_code, client.close_reason) == (None, None)
        async with client.connect() as other:
            await other.close(4321, "bye")
            with pytest.raises(ConnectionClosedError):
                await other.call("tell", 1)
        assert (other.close_code, other.close_reason) == (4321, "bye")
        async with client.connect() as other:
            await other.abort()
        assert other.close_code == 1006
        await until(journal, "disconnect 1006 ")
        async with client.connect() as other:
            pass
        with pytest.raises(ConnectionClosedOK):
            await other.send("tell", 1)
    assert client.close_code == 1000
    assert journal == [
        *("disconnect 4321 bye", "disconnect 1006 "),
        *("disconnect 1000 ", "disconnect 1000 "),
    ]


async def test_closing_by_the_server(app: WebSuckets) -> None:
    """Events that came before the close can still be received."""
    async with TestClient(app) as client:
        await client.send("tell", 1)
        await client.send("close", 4000)
        await client.wait_closed()
        assert [(await client.receive()).event for _ in range(2)] == ["told", "tell"]
        with pytest.raises(ConnectionClosed):
            await client.receive()
        async with client.connect() as other:
            with pytest.raises(ConnectionClosedOK):
                await other.call("close")
        async with client.connect() as other:
            await other.send_frame("x" * 1001)
            await other.wait_closed()
        assert (other.close_code, other.close_reason) == (1009, "over 1000 bytes")
        async with client.connect() as other:
            await other.send_frame("ä" * 501)
            await other.wait_closed()
        assert other.close_code == 1009
    assert (client.close_code, client.close_reason) == (4000, "enough")


async def test_a_handshake_that_is_refused(app: WebSuckets, journal: list[str]) -> None:
    """`connect` raises the error of the hook, without a connection; the app goes on or stops."""
    with pytest.raises(HandshakeRefused, match=r"^HTTP 404: nobody here$") as refused:
        async with TestClient(app, "/nowhere"):
            pytest.fail("it is not there")
    assert (refused.value.status, refused.value.text) == (404, "nobody here")
    async with TestClient(app) as client:
        with pytest.raises(HandshakeRefused) as refused:
            await client.connect("/broken").__aenter__()
        assert refused.value.status == 500
        assert list(Session.online) == [client.socket.id]
    assert journal == ["disconnect 1000 "]


async def test_a_connection_that_a_hook_refuses(app: WebSuckets) -> None:
    """A connection whose connect hook fails is closed by the server."""
    async with TestClient(app, "/broken-later") as client:
        with pytest.raises(ConnectionClosedError, match=r"1011 .* incident"):
            await client.receive()


async def test_what_fails_inside_the_framework_reaches_the_test(
    app: WebSuckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal error is raised in a waiting call, or at the end unless the test itself
    failed."""

    async def answer(*arguments: Any) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(Dispatcher, "answer", answer)
    for wait in (lambda client: client.call("tell", 1), lambda client: client.receive(None)):
        with pytest.raises(ZeroDivisionError, match="inside"):
            async with TestClient(app) as client:
                await client.send("tell", 1)
                await wait(client)
    with pytest.raises(ZeroDivisionError, match="inside"):
        async with TestClient(app) as client:
            await client.send("tell", 1)
            await client.wait_closed()
            assert client.close_code == 1011
    with pytest.raises(LookupError):
        async with TestClient(app) as client:
            await client.send("tell", 1)
            await client.wait_closed()
            raise LookupError
    async with TestClient(app) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.connect() as other:
                await other.send("tell", 1)
                await other.wait_closed()


async def test_a_failure_during_the_handshake_reaches_the_test(
    app: WebSuckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal error during the handshake is raised, like a later one."""

    async def opening(*arguments: Any) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("websuckets.connections.connection.Connection.opening", opening)
    with pytest.raises(ZeroDivisionError, match="inside"):
        async with TestClient(app):
            pytest.fail("it is not open")


async def test_leaving_while_a_handler_runs(
    app: WebSuckets, gate: Gate, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running handler has some seconds to finish before it is cancelled."""
    monkeypatch.setattr("websuckets.testing.TIMEOUT", 0.02)
    async with TestClient(app) as client:
        await client.send("wait")
        await gate.reached.wait()
    assert journal == ["disconnect 1000 "]
    assert not gate.opened.is_set()


async def test_the_app_stops_with_its_first_client(app: WebSuckets) -> None:
    """Other clients are closed with 1012, as when a server stops."""
    async with TestClient(app) as client:
        other = client.connect()
        await other.__aenter__()
    assert (other.close_code, other.close_reason) == (1012, "service restart")
    await other.__aexit__(None, None, None)


async def test_a_fixture_may_be_left_by_another_task(app: WebSuckets, journal: list[str]) -> None:
    """A client may be closed in another task than the one that opened it, as some plugins do."""
    client = TestClient(app)

    async def enter() -> None:
        await client.__aenter__()

    async def leave() -> None:
        await client.__aexit__(None, None, None)

    for step in (enter, leave):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
    assert journal == ["disconnect 1000 "]


async def test_what_is_wrong_with_the_app_is_told_at_once(app: WebSuckets) -> None:
    """Wrong uses of a client are refused at once, and leave nothing open."""
    group = CommandGroup()

    @group.command("x")
    async def x(socket: Socket, *, post: Post) -> None: ...

    with pytest.raises(MissingProvider):
        async with TestClient(app_with(group)):
            pytest.fail("it has not started")
    async with TestClient(app):
        with pytest.raises(ConfigurationError, match="runs already"):
            async with TestClient(app):
                pytest.fail("it has not started")
    client = TestClient(app)
    with pytest.raises(RuntimeError, match="not connected yet"):
        await client.send("tell", 1)
    with pytest.raises(RuntimeError, match="not connected yet"):
        client.connect()
    async with client:
        with pytest.raises(TypeError, match="str or bytes, not dict"):
            await client.send_frame({"event": "tell"})
    with pytest.raises(RuntimeError, match="entered once"):
        async with client:
            pytest.fail("it has been entered again")
    with pytest.raises(TypeError, match="takes the WebSuckets, not a AsgiApplication"):
        TestClient(app.asgi)


async def test_overridden(app: WebSuckets) -> None:
    """Overrides of an app hold for its test clients."""
    group = CommandGroup()

    @group.command("x")
    async def x(socket: Socket, *, post: Post) -> str:
        return post.title

    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: Post(title="real"), provides=Post)
    app = app_with(group, providers=[provider])
    with app.override(values={Post: Post(title="fake")}):
        async with TestClient(app) as client:
            assert (await client.call("x")).payload == "fake"
    async with TestClient(app) as client:
        assert (await client.call("x")).payload == "real"


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
