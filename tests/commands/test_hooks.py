"""Tests of hooks: when each runs, with which objects, and what becomes of its errors."""

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from dishka import Provider, Scope, provide
from harness import Client, app_with, connect, dial, errors, get, talk, until
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, ConnectionTasks, Limits, Message, Payload, Socket, WebSuckets
from websuckets.app import Server
from websuckets.exc import (
    ClientError,
    ConfigurationError,
    HandshakeRefused,
    InvalidHandlerSignature,
    MissingProvider,
    NotAuthorized,
)
from websuckets.security import CurrentUser
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio


class Visit: ...


class Work: ...


class Account: ...


class Journalling(Provider):
    """Providers that record when objects of a connection and of a message are opened and closed."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.SESSION)
    async def visit(self) -> AsyncIterator[Visit]:
        self.journal.append("open visit")
        yield Visit()
        await anyio.sleep(0)
        self.journal.append("close visit")

    @provide(scope=Scope.REQUEST)
    async def work(self) -> AsyncIterator[Work]:
        self.journal.append("open work")
        error = yield Work()
        await anyio.sleep(0)
        self.journal.append("close work" + (f" with {type(error).__name__}" if error else ""))

    @provide(scope=Scope.REQUEST)
    def account(self, user: CurrentUser) -> Account:
        return Account()


@pytest.fixture
def group(journal: list[str]) -> CommandGroup:
    group = CommandGroup()

    @group.command("who", protected=True)
    async def who(socket: ServerConnection, *, user: CurrentUser) -> Any:
        return user.id

    @group.command("run")
    async def run(socket: ServerConnection) -> None:
        journal.append("run")

    return group


@pytest.fixture
def app(journal: list[str], group: CommandGroup) -> WebSuckets:
    return app_with(group, providers=[Journalling(journal)])


def with_all_hooks(app: WebSuckets, journal: list[str]) -> WebSuckets:
    for n in (1, 2):

        @app.on_startup
        async def startup(session: Session, work: Work, n: int = n) -> None:
            assert Session.online is session.online
            journal.append(f"startup {n}")

        @app.on_handshake
        async def handshake(request: Request, user: User, visit: Visit, n: int = n) -> None:
            assert user.socket.id not in Session.online
            journal.append(f"handshake {n}")

        @app.on_connect
        async def connected(socket: Socket, user: User, visit: Visit, n: int = n) -> None:
            assert Session.online[socket.id] is user
            await socket.send(f"hello {n}")
            journal.append(f"connect {n}")

        @app.on_disconnect
        async def gone(socket: Socket, user: User, visit: Visit, n: int = n) -> None:
            assert Session.online[socket.id] is user
            assert socket.close_code is not None
            journal.append(f"disconnect {n}")

    return app


async def test_each_runs_once_in_order(app: WebSuckets, journal: list[str]) -> None:
    """Expect startup before the port opens, and one SESSION scope from handshake to disconnect."""
    async with with_all_hooks(app, journal).serve("127.0.0.1", 0) as server:
        startup = ["open work", "startup 1", "close work", "open work", "startup 2", "close work"]
        assert journal == startup
        for _ in range(2):
            journal.clear()
            async with dial(server) as client:
                assert [await client.receive_frame() for _ in "12"] == ["hello 1", "hello 2"]
                await client.call("run", id=1)
            await until(journal, "close visit")
            assert journal == [
                *("open visit", "handshake 1", "handshake 2", "connect 1", "connect 2"),
                *("run", "disconnect 1", "disconnect 2", "close visit"),
            ]


async def test_a_client_that_vanishes_is_disconnected_once(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect the hook after the last command, also when its reply cannot be sent any more."""
    running, go_on = anyio.Event(), anyio.Event()
    slow = CommandGroup()

    @slow.command("slow")
    async def wait(socket: ServerConnection) -> str:
        running.set()
        await go_on.wait()
        journal.append("slow")
        return "nobody hears it"

    app.include_command_group(slow)
    async with with_all_hooks(app, journal).serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.send("slow")
            await running.wait()
            await client.vanish()
        go_on.set()
        await until(journal, "close visit")
        assert journal[-4:] == ["slow", "disconnect 1", "disconnect 2", "close visit"]


async def test_when_the_server_stops_they_still_run(app: WebSuckets, journal: list[str]) -> None:
    """Expect hooks to run for clients that answer the close, and for cancelled handlers."""
    slow = CommandGroup()
    running = anyio.Event()

    @slow.command("slow")
    async def wait(socket: ServerConnection) -> None:
        running.set()
        await anyio.sleep_forever()

    app = app_with(slow, providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    async with with_all_hooks(app, journal).serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("slow")
        await running.wait()
        journal.clear()
    assert journal == ["disconnect 1", "disconnect 2", "close visit"]


# Refusing


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
    async def refuse(work: Work, visit: Visit) -> None:
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
    closed = f"close work with {type(error).__name__}"
    assert journal == ["open work", "open visit", closed, "close visit"]


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
def test_a_refusal_that_is_no_refusal(wrong: Any) -> None:
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
    async def hang(visit: Visit, work: Work) -> None:
        await anyio.sleep_forever()

    async with app.serve("127.0.0.1", 0, open_timeout=0.05) as server:
        with pytest.raises((EOFError, ConnectionClosed, OSError, Exception)):
            async with connect(server.urls[0]):
                raise AssertionError("it was let in")
        await until(journal, "close visit")
    assert errors(caplog) == []


async def test_a_handshake_that_is_nearly_done_when_the_server_stops(journal: list[str]) -> None:
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


async def test_a_handshake_in_the_moment_of_stopping(journal: list[str]) -> None:
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


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ClientError("no seat left", {"not": "told"}), 1008, "no seat left"),
        (ClientError("ж" * 100), 1008, "ж" * 61),
        (RuntimeError("canary"), 1011, r"incident [0-9a-f]{16}"),
        (ExceptionGroup("", [ClientError("alone")]), 1008, "alone"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_connection_may_be_refused(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: int,
    reason: str,
) -> None:
    """Expect a close code before any command; no disconnect hook runs."""
    sent = anyio.Event()

    @app.on_connect
    async def refuse(work: Work, visit: Visit) -> None:
        await sent.wait()
        raise error

    @app.on_connect
    async def never() -> None:
        journal.append("never")

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("run")
        sent.set()
        got = await client.closed()
        await until(journal, "close visit")
    assert got[0] == code and re.fullmatch(reason, got[1] or "")
    closed = f"close work with {type(error).__name__}"
    assert journal == ["open work", "open visit", closed, "close visit"]
    assert len(errors(caplog)) == (code == 1011)


async def test_a_client_that_leaves_while_it_is_greeted(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no incident; the client was never connected."""
    greeting, left = anyio.Event(), anyio.Event()

    @app.on_connect
    async def greet(socket: Socket, visit: Visit) -> None:
        greeting.set()
        await left.wait()
        with anyio.fail_after(TIMEOUT):
            while True:
                await socket.send("hello")
                await anyio.sleep(0.001)

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await greeting.wait()
            await client.vanish()
        left.set()
        await until(journal, "close visit")
    assert journal == ["open visit", "close visit"]
    assert errors(caplog) == []


async def test_who_is_greeted_while_the_server_stops_is_disconnected_too(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect the disconnect hook to end what the connect hook began."""
    greeting, go_on = anyio.Event(), anyio.Event()

    @app.on_connect
    async def greet(request: Request) -> None:
        if request.path == "/slow":
            greeting.set()
            await go_on.wait()
        journal.append("connect")

    @app.on_disconnect
    async def part() -> None:
        journal.append("disconnect")

    async def when_stopping(other: Client) -> None:
        await other.closed()
        go_on.set()

    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0) as server:
            other = await later.enter_async_context(dial(server))
            tasks = await later.enter_async_context(anyio.create_task_group())
            slow = await later.enter_async_context(connect(server.urls[0] + "/slow"))
            await greeting.wait()
            tasks.start_soon(when_stopping, other)
        await slow.wait_closed()
        assert slow.close_code == 1012
    assert sorted(journal) == ["connect"] * 2 + ["disconnect"] * 2


async def test_a_connect_hook_that_still_runs_when_the_server_stops(journal: list[str]) -> None:
    """Expect a cancellation at the deadline, and no disconnect hook, for want of a connection."""
    app = app_with(providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    running = anyio.Event()

    @app.on_connect
    async def hang(visit: Visit, work: Work) -> None:
        running.set()
        await anyio.sleep_forever()

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("never")

    async with app.serve("127.0.0.1", 0) as server, dial(server):
        await running.wait()
    assert journal[:2] == ["open visit", "open work"]
    assert journal[2].startswith("close work with Cancelled") and journal[3:] == ["close visit"]


async def test_a_disconnect_hook_that_fails_disturbs_nobody(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident in the log; the other hooks run, and the scope is closed."""

    @app.on_disconnect
    async def fail(visit: Visit) -> None:
        raise ClientError("nobody is there to be told")

    @app.on_disconnect
    async def second() -> None:
        journal.append("second")

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server):
            pass
        await until(journal, "close visit")
    assert journal == ["open visit", "second", "close visit"]
    (record,) = errors(caplog)
    assert re.search(r"on_disconnect .*fail failed, incident", record.getMessage())


async def test_a_disconnect_hook_that_hangs_is_cancelled(
    journal: list[str], group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the time of finalisers for the hook, so that no connection is kept for ever."""
    app = app_with(group, providers=[Journalling(journal)], limits=Limits(finalize_timeout=0.02))

    @app.on_disconnect
    async def hang(visit: Visit) -> None:
        await anyio.sleep_forever()

    @app.on_disconnect
    async def second() -> None:
        journal.append("second")

    async with talk(app):
        pass
    assert journal == ["open visit", "second", "close visit"]
    (record,) = errors(caplog)
    assert "took more than 0.02 seconds" in str(record.exc_info)


class Late: ...


def late(scope: Scope) -> Provider:
    async def late() -> AsyncIterator[Late]:
        yield Late()
        await anyio.sleep_forever()

    provider = Provider(scope=scope)
    provider.provide(late)
    return provider


async def come_and_go(server: Server, kind: str) -> None:
    """Let a client come as far as a failing hook of this kind allows."""
    if kind == "on_handshake":
        with pytest.raises(InvalidStatus, match="500"):
            async with connect(server.urls[0]):
                raise AssertionError("it was let in")
    else:
        async with dial(server) as client:
            if kind == "on_connect":
                assert (await client.closed())[0] == 1011


@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_finalisers_of_a_hook_are_bounded(
    kind: str, journal: list[str], group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the hook to fail past the bound; what follows is as usual."""
    app = app_with(group, providers=[late(Scope.REQUEST)], limits=Limits(finalize_timeout=0.02))

    @getattr(app, kind)
    async def slow(late: Late) -> None:
        journal.append("hook")

    @app.on_connect
    async def after() -> None:
        if kind == "on_connect":
            journal.append("never")

    async with app.serve("127.0.0.1", 0) as server:
        await come_and_go(server, kind)
    (record,) = errors(caplog)
    assert "finalisers took more than 0.02 seconds" in str(record.exc_info)
    assert journal == ["hook"]


@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_the_error_of_a_hook_wins_over_that_of_its_finalisers(
    kind: str, group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are logged; the client is told of the hook's."""

    class Failing: ...

    async def failing() -> AsyncIterator[Failing]:
        yield Failing()
        raise RuntimeError("of the finaliser")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(failing)
    app = app_with(group, providers=[provider])

    @getattr(app, kind)
    async def hook(failing: Failing) -> None:
        raise RuntimeError("of the hook")

    async with app.serve("127.0.0.1", 0) as server:
        await come_and_go(server, kind)
    first, second = [record.getMessage() for record in errors(caplog)]
    assert first.startswith("finalisers of")
    assert second.startswith(kind)


@pytest.mark.on_asyncio
@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_a_hook_that_waits_for_what_somebody_cancelled(
    kind: str, app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the hook to fail, without a cancellation of its connection."""

    @getattr(app, kind)
    async def wait() -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task

    async with app.serve("127.0.0.1", 0) as server:
        await come_and_go(server, kind)
    assert len(errors(caplog)) == 1


# Starting


async def test_a_startup_hook_that_fails_ends_the_start(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect no open port, and everything closed; the start may be repeated."""

    @app.on_startup
    async def fail(work: Work) -> None:
        raise RuntimeError("no database")

    for _ in range(2):
        journal.clear()
        with pytest.raises(RuntimeError, match="no database") as caught:
            async with app.serve("127.0.0.1", 0):
                raise AssertionError("it started")
        assert "on_startup" in caught.value.__notes__[0]
        assert journal == ["open work", "close work with RuntimeError"]


async def test_hooks_are_registered_before_the_start(app: WebSuckets) -> None:
    """Expect an error for later hooks, which would never run."""
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match="register on_connect hooks before"):

            @app.on_connect
            async def late() -> None: ...


class Missing: ...


def test_what_is_no_hook_is_refused_when_decorated() -> None:
    """Expect all mistakes of the function and its place in the error."""
    app = WebSuckets()
    with pytest.raises(InvalidHandlerSignature) as caught:

        @app.on_connect
        def sync(unannotated, *many) -> None: ...

    problems = "\n".join(caught.value.problems)
    assert "it is not an async function; declare it with `async def`" in problems
    assert "`unannotated` has no annotation" in problems
    assert "`*many`: nothing can fill it" in problems
    assert "test_hooks.py" in problems
    with pytest.raises(
        InvalidHandlerSignature, match="it yields; a hook is an `async def` without"
    ):

        @app.on_connect
        async def stream() -> AsyncIterator[int]:
            yield 1

    with pytest.raises(InvalidHandlerSignature, match="there is no payload"):

        @app.on_connect
        async def payload(model: Payload[int]) -> None: ...


async def not_started(app: WebSuckets) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    return caught.value


async def test_hooks_are_proved_at_start(app: WebSuckets) -> None:
    """Expect one report of dependencies that hooks and handlers miss."""
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: ServerConnection, *, missing: Missing) -> None: ...

    @app.on_connect
    async def greet(missing: Missing) -> None: ...

    app.include_command_group(group)
    error = await not_started(app)
    assert isinstance(error, MissingProvider)
    assert len(error.problems) == 2
    assert "greet` (" in error.problems[1]
    assert "parameter `missing: Missing` cannot be provided" in error.problems[1]
    assert "put it second" not in error.problems[1]


@pytest.mark.parametrize("kind", ["on_startup", "on_handshake", "on_connect", "on_disconnect"])
async def test_what_a_hook_cannot_have(app: WebSuckets, kind: str) -> None:
    """Expect an error for objects of a message, and at startup of a connection, at any depth."""

    async def hook(
        message: Message, user: CurrentUser, maybe: CurrentUser | None, account: Account
    ) -> None: ...

    getattr(app, kind)(hook)
    error = await not_started(app)
    assert type(error) is ConfigurationError
    told = [re.search(r"it asks for (.*): that belongs to a message", p) for p in error.problems]
    asked = [match[1] for match in told if match is not None]
    assert (asked[0], asked[1], asked[3]) == (
        "`Message`",
        "`CurrentUser`",
        "`Account` -> `CurrentUser`",
    )
    assert "CurrentUser" in asked[2] and len(asked) == 4


async def test_what_a_startup_hook_cannot_have() -> None:
    """Expect an error, because there is no connection yet."""
    app = WebSuckets()

    @app.on_startup
    async def hook(
        socket: Socket,
        connection: ServerConnection,
        request: Request,
        user: User,
        tasks: ConnectionTasks,
    ) -> None: ...

    error = await not_started(app)
    assert len(error.problems) == 5
    for problem in error.problems:
        assert "belongs to a connection, and at startup there is none" in problem


async def test_a_default_of_a_hook_that_asks_for_too_much(app: WebSuckets) -> None:
    """Expect an error, because with a message the parameter would be filled."""

    @app.on_connect
    async def hook(account: Account | None = None) -> None: ...

    error = await not_started(app)
    assert "it asks for `Account` -> `CurrentUser`: that belongs to a message" in str(error)


async def test_names_of_hooks_may_be_defined_later(app: WebSuckets, journal: list[str]) -> None:
    """Expect an error at the start, like a handler's, for a name that is still not defined."""

    @app.on_connect
    async def early(visit: "Defined") -> None:  # noqa: F821  # nor will it be
        journal.append(type(visit).__name__)

    @app.on_connect
    async def never(thing: "NeverDefined") -> None: ...  # noqa: F821  # on purpose

    error = await not_started(app)
    assert "name 'Defined' is not defined" in str(error)
    assert "name 'NeverDefined' is not defined" in str(error)


async def test_a_hook_read_late_may_be_wrong(app: WebSuckets) -> None:
    """Expect the start to raise the error."""

    @app.on_connect
    async def hook(model: "Defined") -> None: ...

    Defined = Payload[int]
    error = await not_started(app)
    assert "there is no payload" in str(error)


# What goes wrong around a handshake


class Fatal(BaseException): ...


@pytest.mark.parametrize("fatal", [Fatal(), BaseExceptionGroup("", [Fatal(), ValueError()])])
@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
async def test_even_what_is_no_exception_disturbs_nobody_else(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    fatal: BaseException,
) -> None:
    """Expect an incident, as for any failure of a hook."""

    @getattr(app, kind)
    async def die(request: Request, visit: Visit) -> None:
        if request.path == "/":
            raise fatal

    async with app.serve("127.0.0.1", 0) as server:
        async with connect(server.urls[0] + "/other") as other:
            await come_and_go(server, kind)
            await until(journal, "close visit")
            await other.send('{"event": "run", "id": 1}')
            assert await other.recv() == '{"event":"run","payload":null,"id":1}'
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("refusing", [False, True])
async def test_a_handshake_whose_time_passes_at_any_moment_is_finalised(
    app: WebSuckets,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    blocking: bool,
    refusing: bool,
) -> None:
    """Expect this while a hook runs, right before the answer, or while its tasks end."""

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


async def test_a_handshake_that_ends_after_the_stop(
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
async def test_a_user_that_is_revoked_in_its_handshake(app: WebSuckets, revoked: str) -> None:
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


async def test_disconnect_hooks_have_their_time_when_the_server_stops(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect time for each hook, also after a command that had to be cancelled."""
    group = CommandGroup()
    running = anyio.Event()

    @group.command("hang")
    async def hang(socket: ServerConnection) -> None:
        running.set()
        await anyio.sleep_forever()

    app = app_with(
        group,
        providers=[Journalling(journal)],
        limits=Limits(drain_timeout=0.01, finalize_timeout=0.3),
    )
    for n in range(8):

        @app.on_disconnect
        async def slow(visit: Visit, n: int = n) -> None:
            await anyio.sleep(0.15)
            journal.append(f"disconnect {n}")

    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await client.send("hang")
        await running.wait()
    assert journal == ["open visit", *(f"disconnect {n}" for n in range(8)), "close visit"]
    assert errors(caplog) == []


@pytest.mark.parametrize("kind", ["on_handshake", "on_connect", "on_disconnect"])
def test_a_hook_may_end_the_program(group: CommandGroup, kind: str) -> None:
    """Expect the program to end, on asyncio as by any task."""
    app = app_with(group)

    @getattr(app, kind)
    async def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with app.serve("127.0.0.1", 0) as server:
            with suppress(OSError, InvalidHandshake, ConnectionClosed):
                async with dial(server) as client:
                    if kind != "on_disconnect":
                        await client.closed()
            await asyncio.sleep(TIMEOUT)

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(main())
    gc.collect()  # asyncio logs the unread error of the task now, not in another test
