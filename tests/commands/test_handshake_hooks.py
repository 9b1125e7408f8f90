"""Tests of hooks of the handshake: whom they admit, and how a refusal is answered."""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from harness import app_with, connect, dial, errors, get, talk, until
from hook_objects import Job, Journalling, Visit, hooked_commands
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, ConnectionTasks, Limits, Socket, WebSuckets
from websuckets.app import Server
from websuckets.exc import ClientError, HandshakeRefused, NotAuthorized
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio


@pytest.fixture
def group(journal: list[str]) -> CommandGroup:
    return hooked_commands(journal)


@pytest.fixture
def app(journal: list[str], group: CommandGroup) -> WebSuckets:
    return app_with(group, providers=[Journalling(journal)])


async def refused(app: WebSuckets) -> tuple[int, str, Any]:
    """Return the status, text and headers of the refusal."""
    async with app.serve("127.0.0.1", 0) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(server.urls[0]):
                raise AssertionError("it was let in")
    response = caught.value.response
    return response.status_code, response.body.decode(), response.headers


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            HandshakeRefused(401, "who are you?", {"WWW-Authenticate": "Bearer"}),
            401,
            "who are you?",
        ),
        (HandshakeRefused(), 403, ""),
        (ClientError("not you", {"not": "told"}), 403, "not you"),
        (NotAuthorized(), 403, "not authorized"),
        (ExceptionGroup("", [HandshakeRefused(429)]), 429, ""),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_handshake_may_be_refused(
    journal: list[str], app: WebSuckets, error: Exception, status: int, text: str
) -> None:
    """Expect an HTTP status, everything opened for the handshake closed, and nobody connected."""

    @app.on_handshake
    async def refuse(job: Job, visit: Visit) -> None:
        raise error

    @app.on_handshake
    async def never() -> None:
        journal.append("never")

    @app.on_connect
    async def connected() -> None:
        journal.append("never")

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    got = await refused(app)
    assert got[:2] == (status, text)
    if status == 401:
        assert got[2]["WWW-Authenticate"] == "Bearer"
    closed = f"close job with {type(error).__name__}"
    assert journal == ["open job", "open visit", closed, "close visit"]


async def test_a_handshake_hook_that_fails_is_an_incident(
    app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the number of the incident at the client, and the rest in the log."""

    @app.on_handshake
    async def fail() -> None:
        raise RuntimeError("canary")

    status, text, _ = await refused(app)
    incident = re.fullmatch(r"incident ([0-9a-f]{16})", text)
    assert status == 500 and incident is not None
    (record,) = errors(caplog)
    assert incident[1] in record.getMessage() and "on_handshake" in record.getMessage()
    assert "canary" in str(record.exc_info)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HandshakeRefused(200),
        lambda: HandshakeRefused("403"),
        lambda: HandshakeRefused(403, b"no"),
        lambda: HandshakeRefused(headers={"A": "b\r\nC: d"}),
        lambda: HandshakeRefused(headers={"A": "ж"}),
        lambda: HandshakeRefused(headers={"A B": "c"}),
        lambda: HandshakeRefused(headers={"Content-Length": "0"}),
    ],
)
def test_a_refusal_that_would_not_refuse_is_an_error(wrong: Any) -> None:
    """Expect an error: another status would not refuse; a header may not end its line."""
    with pytest.raises(ValueError, match="HandshakeRefused"):
        wrong()


async def test_who_is_authenticated_in_the_handshake_is_verified_from_the_start(
    app: WebSuckets,
) -> None:
    """Expect the record of the client to be there during the handshake."""

    @app.on_handshake
    async def authenticate(request: Request, user: User) -> None:
        user.id = request.headers["X-User"]
        user.token = "secret"

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server, additional_headers={"X-User": "ann"}) as client:
            reply = await client.call("who", token="secret")
            assert reply["payload"] == "ann"


async def test_hooks_see_only_what_websockets_finds_acceptable(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect no hook for a wrong origin, or where the program's process_response refuses."""

    @app.on_handshake
    async def hook() -> None:
        journal.append("hook")

    async def refuse(connection: Any, request: Request, response: Any) -> Any:
        refused = "/no" in request.path
        return connection.respond(418, "no") if refused else None

    options = {"origins": ["https://good.example"], "process_response": refuse}
    async with app.serve("127.0.0.1", 0, **options) as server:
        for origin, path, allowed in [
            ("https://bad.example", "/", False),
            ("https://good.example", "/no", False),
            ("https://good.example", "/", True),
        ]:
            try:
                async with connect(server.urls[0] + path, origin=origin):
                    assert allowed
            except InvalidStatus:
                assert not allowed
    assert journal == ["hook"]


async def test_a_handshake_that_takes_too_long_is_refused(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect everything to be closed after open_timeout of ``websockets``."""

    @app.on_handshake
    async def hang(visit: Visit, job: Job) -> None:
        await anyio.sleep_forever()

    async with app.serve("127.0.0.1", 0, open_timeout=0.05) as server:
        with anyio.fail_after(TIMEOUT):
            while "close visit" not in journal:  # a busy server may time out before the hook runs
                with suppress(EOFError, ConnectionClosed, OSError, InvalidHandshake):
                    async with connect(server.urls[0]):
                        journal.append("let in")
    assert "let in" not in journal
    assert errors(caplog) == []


async def test_a_handshake_that_is_nearly_done_when_the_server_stops_gets_503(
    journal: list[str],
) -> None:
    """Expect 503, and no further hooks."""
    app = WebSuckets()
    waiting, go_on = anyio.Event(), anyio.Event()

    @app.on_handshake
    async def wait() -> None:
        waiting.set()
        await go_on.wait()

    @app.on_handshake
    async def never() -> None:
        journal.append("never")

    async def knock(url: str) -> None:
        with pytest.raises(InvalidHandshake, match="HTTP 503"):
            async with connect(url):
                raise AssertionError("it was let in")

    async def finish(server: Server) -> None:
        with anyio.fail_after(TIMEOUT):
            while await get(server, "/health") == 200:
                pass
        go_on.set()

    async with anyio.create_task_group() as tasks:
        async with app.serve("127.0.0.1", 0) as server:
            tasks.start_soon(knock, server.urls[0])
            await waiting.wait()
            tasks.start_soon(finish, server)
    assert journal == []


async def test_a_handshake_that_hangs_when_the_server_stops_is_never_accepted(
    journal: list[str],
) -> None:
    """Expect the handshake to be waited for, cancelled at the deadline, and never accepted."""
    app = app_with(providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    waiting = anyio.Event()

    @app.on_handshake
    async def hang(visit: Visit) -> None:
        waiting.set()
        await anyio.sleep_forever()

    @app.on_connect
    async def never() -> None:
        journal.append("never")

    async def knock(url: str) -> None:
        with pytest.raises(InvalidHandshake, match=r"HTTP 503|valid HTTP response"):  # if any
            async with connect(url):
                raise AssertionError("it was let in")

    async with anyio.create_task_group() as tasks:
        async with app.serve("127.0.0.1", 0) as server:
            tasks.start_soon(knock, server.urls[0])
            await waiting.wait()
    assert journal == ["open visit", "close visit"]


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("refusing", [False, True])
async def test_a_handshake_whose_time_passes_at_any_moment_is_finalised(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    blocking: bool,
    refusing: bool,
) -> None:
    """Expect finalisation while a hook runs, right before the answer, or while its tasks end."""

    @app.on_handshake
    async def slow(visit: Visit, tasks: ConnectionTasks) -> None:
        async def end_slowly() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)

        tasks.start_soon(end_slowly)
        await anyio.lowlevel.checkpoint()
        if blocking:
            time.sleep(0.06)  # past the timeout, before anything can be cancelled
        if refusing:
            raise HandshakeRefused

    async with app.serve("127.0.0.1", 0, open_timeout=0.05) as server:
        try:
            async with connect(server.urls[0]):
                pass
        except (InvalidStatus, InvalidHandshake, ConnectionClosed, EOFError, OSError):
            pass
    assert journal in ([], ["open visit", "close visit"])
    assert errors(caplog) == []  # no handshake was left when the server stopped


async def half_a_handshake(server: Server) -> Any:
    """Return a TCP connection on which all but the end of a request has been sent."""
    stream = await anyio.connect_tcp("127.0.0.1", server.port or 0)
    await stream.send(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )
    return stream


async def test_a_handshake_that_ends_after_the_stop_runs_no_hook(
    group: CommandGroup, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no hook to run: nothing is opened any more."""
    app = app_with(group, providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))

    @app.on_handshake
    async def hook(visit: Visit) -> None:
        journal.append("never")

    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0) as server:
            stream = await half_a_handshake(server)
            await later.enter_async_context(stream)
            await anyio.sleep(0.01)
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            await stream.send(b"\r\n")
            with anyio.fail_after(TIMEOUT):
                assert b"503" in await stream.receive()
    assert journal == []
    assert errors(caplog) == []


async def test_who_is_refused_holds_nothing_open(app: WebSuckets, journal: list[str]) -> None:
    """Expect everything closed, even if the client keeps its end of the connection open."""

    @app.on_handshake
    async def refuse(visit: Visit) -> None:
        raise HandshakeRefused

    async with app.serve("127.0.0.1", 0) as server:
        async with await half_a_handshake(server) as stream:
            await stream.send(b"\r\n")
            with anyio.fail_after(TIMEOUT):
                assert b"403" in await stream.receive()
                await until(journal, "close visit")


@pytest.mark.parametrize(
    "send",
    [
        lambda socket: socket.send("text"),
        lambda socket: socket.send(b"text", text=True),
        lambda socket: socket.ping(),
        lambda socket: socket.close(),
    ],
)
async def test_nothing_can_be_sent_before_the_handshake_is_answered(
    app: WebSuckets, caplog: pytest.LogCaptureFixture, send: Callable[[Socket], Awaitable[Any]]
) -> None:
    """Expect an error that says where sending works, because sending here would never end."""

    @app.on_handshake
    async def hook(socket: Socket) -> None:
        await send(socket)

    assert (await refused(app))[0] == 500
    assert "send in an on_connect hook" in str(errors(caplog)[0].exc_info)


@pytest.mark.parametrize("revoked", ["ann", "bob", "abe"])
async def test_a_user_that_is_revoked_in_its_handshake_connects_unverified(
    app: WebSuckets, revoked: str
) -> None:
    """Expect the revoked user to connect unverified, and others to be verified."""

    @app.on_handshake
    async def authenticate(user: User) -> None:
        user.id, user.token = "ann", "secret"

    @app.on_handshake
    async def meanwhile(session: Session) -> None:
        await session.revoke("".join(revoked))  # equal, but another object

    async with talk(app) as client:
        reply = await client.call("who", token="secret")
        assert (reply.get("error") == "not authorized") == (revoked == "ann")
    assert app._session._connecting == set()


async def test_the_headers_of_a_refusal_replace_those_that_are_there(app: WebSuckets) -> None:
    """Expect one header of each kind, because two would contradict each other."""

    @app.on_handshake
    async def refuse() -> None:
        raise HandshakeRefused(404, "\ud800{}", {"Content-Type": "application/json", "X-A": "b"})

    status, text, headers = await refused(app)
    assert (status, text) == (404, "?{}")
    assert headers.get_all("Content-Type") == ["application/json"]
    assert headers["X-A"] == "b"
