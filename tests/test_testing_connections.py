"""`websuckets.testing`: connections of a test client, from the handshake to the close."""

from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, in_another_loop, until
from sample_app import Post, sample_app
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from websuckets import CommandGroup, ResponseHeaders, Socket, WebSuckets
from websuckets.commands.dispatcher import Dispatcher
from websuckets.exc import ConfigurationError, HandshakeRefused, MissingProvider
from websuckets.session import Session
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    return sample_app(journal, gate)


async def test_the_opening_handshake_is_as_it_was_asked_for(app: WebSuckets) -> None:
    """The path and the headers of the handshake may be given, such as cookies."""
    async with TestClient(app, "/chat?room=1", {"Cookie": "a=b"}) as client:
        path, headers, address = (await client.call("request")).payload
        assert (path, headers) == ("/chat?room=1", [["Cookie", "a=b"], ["Host", "localhost"]])
        assert address == ["127.0.0.1", 0]
        async with client.connect("/x", [("Host", "example.org"), ("A", "1"), ("A", "2")]) as other:
            path, headers, _ = (await other.call("request")).payload
            assert (path, headers) == ("/x", [["Host", "example.org"], ["A", "1"], ["A", "2"]])


async def test_the_headers_of_the_answer_are_seen(app: WebSuckets) -> None:
    @app.on_handshake
    async def name_the_node(headers: ResponseHeaders) -> None:
        headers["X-Node"] = "here"

    async with TestClient(app) as client:
        assert list(client.response_headers.raw_items()) == [("X-Node", "here")]


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


async def test_the_socket_is_the_object_that_handlers_get(app: WebSuckets) -> None:
    """The socket of a test client is the object that handlers get."""
    async with TestClient(app) as client, client.connect() as other:
        assert list(Session.online) == [client.socket.id, other.socket.id]
        assert Session.online[other.socket.id].socket is other.socket
        async with client.connect() as third:
            assert third.socket.id in Session.online
        assert third.socket.id not in Session.online
        assert (await client.call("ping")).payload == 0


async def test_a_socket_has_only_the_attributes_that_it_promises(app: WebSuckets) -> None:
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


async def test_a_client_closes_with_a_code_or_aborts(app: WebSuckets, journal: list[str]) -> None:
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


async def test_events_before_a_close_by_the_server_are_received(app: WebSuckets) -> None:
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


async def test_a_refused_handshake_raises_the_error_of_the_hook(
    app: WebSuckets, journal: list[str]
) -> None:
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


async def test_a_connection_whose_connect_hook_fails_is_closed(app: WebSuckets) -> None:
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


async def test_a_client_that_leaves_gives_a_running_handler_some_seconds(
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


async def test_overrides_of_an_app_hold_for_its_test_clients(app: WebSuckets) -> None:
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
