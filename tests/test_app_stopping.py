"""Tests of the stop of an app: of its handshakes, commands, scopes and closes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from echoing import echo_group
from harness import Client, Gate, app_with, dial, get
from timeouts import TIMEOUT
from websockets.asyncio.client import connect as connect_on_asyncio
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, Limits
from websuckets.app import Server
from websuckets.commands.dispatcher import Dispatcher
from websuckets.commands.hooks import Hooks
from websuckets.connections.admission import Admission
from websuckets.connections.readiness import Readiness, ReadinessLog
from websuckets.connections.registry import Connections
from websuckets.connections.setup import Setup
from websuckets.di.injectables import WebSucketsProvider
from websuckets.exc import ClientError
from websuckets.runtime.clock import Clock
from websuckets.runtime.request_scope import RequestScopes
from websuckets.runtime.scopes import OpenScope
from websuckets.runtime.tasks import Background
from websuckets.security import SecurityProvider
from websuckets.serving.container import build_container
from websuckets.session import Session

pytestmark = pytest.mark.anyio


async def until_refused(server: Server) -> None:
    """Wait until new clients are refused: the stop has begun."""
    with anyio.fail_after(TIMEOUT):
        while await get(server, "/health") != 503:
            pass


@pytest.mark.on_asyncio
async def test_a_client_that_does_not_answer_the_close_is_aborted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the server to stop within `drain_timeout`, whatever its clients do."""
    app = app_with(echo_group(), limits=Limits(drain_timeout=0.05))
    async with app.serve("127.0.0.1", 0, close_timeout=30) as server:
        connection = await connect_on_asyncio(server.urls[0], proxy=None)
        connection.transport.pause_reading()
        while not Session.online:
            await anyio.sleep(0)
    assert "aborting 1 connections" in caplog.text
    connection.transport.abort()
    await connection.wait_closed()


async def test_a_handshake_that_does_not_end_does_not_hold_up_the_stop() -> None:
    """Expect the stop to be quick before the request has come, and with half of the request."""
    app = app_with(echo_group(), limits=Limits(drain_timeout=0.05))
    with anyio.fail_after(5):
        async with app.serve("127.0.0.1", 0, open_timeout=30) as server:
            assert server.port is not None
            silent = await anyio.connect_tcp("127.0.0.1", server.port)
            slow = await anyio.connect_tcp("127.0.0.1", server.port)
            await slow.send(b"GET / HTTP/1.1\r\nHost: ")
            async with dial(server) as client:  # so that both clients have been accepted
                assert (await client.call("echo", id=1))["id"] == 1
    await silent.aclose()
    await slow.aclose()


class FakeTransport:
    """A transport for events that a real socket has only at moments that no test can choose."""

    id = uuid.uuid4()
    request = Request("/", Headers())
    remote_address = None
    request_path = "/"
    has_stopped_receiving = False
    has_exceeded_size = False
    closed_errors = (EOFError,)

    def __init__(self, receive: Any) -> None:
        self.receive = receive
        self.socket = self
        self.close_code: int | None = None
        self.sent: list[str] = []

    async def send(self, message: str) -> None:
        self.sent.append(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.close_code = code

    async def reply(self, text: str) -> None:
        await self.send(text)

    async def abort(self) -> None: ...

    def failed(self, error: BaseException) -> None: ...


@asynccontextmanager
async def connections_and_transport(receive: Any) -> AsyncIterator[tuple[Connections, Any]]:
    transport: Any = FakeTransport(receive)
    clock = Clock()
    async with Background(None) as background:
        setup = Setup(
            OpenScope(
                build_container([WebSucketsProvider(), SecurityProvider()], []), copy_context()
            ),
            connection_types=(),
            dispatcher=Dispatcher({}, clock, None),
            has_streams=False,
            hooks=Hooks(),
            identification=None,
            admission=Admission.of(None, (), (), None, None),
            session=Session(),
            limits=Limits(),
            clock=clock,
            time_to_verify=clock.timeout(None),
            request_scopes=RequestScopes(clock, None),
            background=background,
        )
        yield Connections(setup, Readiness(setup, ReadinessLog())), transport


async def test_a_handshake_that_comes_while_stopping_is_turned_away() -> None:
    """Expect 503."""

    async def never() -> str:
        raise AssertionError("it was read from")

    async with connections_and_transport(never) as (connections, transport):
        await connections.drain()
        connection = connections.accept(transport)
        refusal = await connection.opening()
        await connection.not_opened()
    assert refusal is not None
    assert refusal.status == 503


async def test_a_handshake_that_ends_while_stopping_is_closed_at_once() -> None:
    """Expect 1012 before any message is read."""

    async def never() -> str:
        raise AssertionError("it was read from")

    async with connections_and_transport(never) as (connections, transport):
        connection = connections.accept(transport)
        assert await connection.opening() is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connections.drain)
            await anyio.wait_all_tasks_blocked()
            await connection.serve()
    assert transport.socket.close_code == 1012


async def test_a_handshake_that_is_aborted_does_not_begin() -> None:
    """Expect nothing to begin if the timeout passes between the handshake and the first message."""

    async def never() -> str:
        raise AssertionError("it was read from")

    async with connections_and_transport(never) as (connections, transport):
        connection = connections.accept(transport)
        assert await connection.opening() is None
        connection.cancel()
        await connection.serve()
        assert not connections.are_left


async def test_a_command_that_comes_in_the_moment_of_stopping_is_not_begun() -> None:
    """Expect the command not to begin, because its reply could not be sent any more."""

    async def receive() -> str:
        tasks.start_soon(connections.drain)
        await anyio.wait_all_tasks_blocked()
        return '{"event": "too late"}'

    async with (
        connections_and_transport(receive) as (connections, transport),
        anyio.create_task_group() as tasks,
    ):
        await connections.accept(transport).serve()
    assert (transport.socket.close_code, transport.socket.sent) == (1012, [])


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.on_asyncio
async def test_a_stop_that_is_cancelled_itself_still_ends_in_order(times: int) -> None:
    """Expect handlers to be finalised first, then their scopes, the app's scope last."""
    journal: list[str] = []
    started = anyio.Event()

    class Pool: ...

    class Transaction: ...

    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        journal.append("pool")

    async def transaction(pool: Pool) -> AsyncIterator[Transaction]:
        yield Transaction()
        await anyio.sleep(0)
        journal.append("transaction")

    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: ServerConnection, *, transaction: Transaction) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("handler")

    provider = Provider()
    provider.provide(pool, scope=Scope.APP)
    provider.provide(transaction, scope=Scope.REQUEST)
    app = app_with(group, providers=[provider])

    async def serve() -> None:
        async with app.serve("127.0.0.1", 0) as server:
            servers.append(server)
            ready.set()
            await stop.wait()

    servers: list[Server] = []
    ready, stop = anyio.Event(), anyio.Event()
    task = asyncio.ensure_future(serve())
    await ready.wait()
    connection = await connect_on_asyncio(servers[0].urls[0], proxy=None)
    await Client(connection, servers[0]).send("wait")
    await started.wait()
    stop.set()
    await until_refused(servers[0])
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    await connection.wait_closed()
    assert task.cancelled()
    assert journal == ["handler", "transaction", "pool"]


async def test_while_commands_are_waited_for_nobody_is_accepted() -> None:
    """Expect 503 for new clients; the reply of the running command is still sent."""
    started, go_on = anyio.Event(), anyio.Event()
    group = CommandGroup()

    @group.command("wait")
    async def wait(socket: ServerConnection) -> str:
        started.set()
        await go_on.wait()
        return "done"

    async def talk_to_it(server: Server) -> None:
        async with dial(server) as client:
            await client.send("wait")
            await started.wait()
            stop.set()
            await until_refused(server)
            with pytest.raises(InvalidStatus) as refused:
                async with dial(server):
                    pass
            assert refused.value.response.status_code == 503
            go_on.set()
            assert (await client.receive())["payload"] == "done"
            assert (await client.closed())[0] == 1012

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with app_with(group).serve("127.0.0.1", 0) as server:
            tasks.start_soon(talk_to_it, server)
            await stop.wait()


@pytest.mark.parametrize("how", ["stopped", "refused"])
async def test_a_connection_whose_client_is_far_ahead_closes_at_once(how: str) -> None:
    """Expect the close not to wait for the client's answer behind commands that nobody reads."""
    gate = Gate()
    group = echo_group()

    @group.command("wait")
    async def wait(socket: ServerConnection) -> None:
        await gate()

    app = app_with(group, limits=Limits(drain_timeout=None))
    if how == "refused":

        @app.on_connect
        async def refuse() -> None:
            await gate()
            raise ClientError("no")

    async with AsyncExitStack() as later:
        async with app.serve("127.0.0.1", 0, close_timeout=None) as server:
            client = await later.enter_async_context(dial(server))
            await client.send("wait")
            for _ in range(100):
                await client.send("echo")
            await gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            if how == "refused":
                gate.opened.set()
                assert await client.closed() == (1008, "no")
            else:
                tasks = await later.enter_async_context(anyio.create_task_group())
                tasks.start_soon(open_when_stopping, gate, server)
        assert (await client.closed())[0] in (1008, 1012)


async def open_when_stopping(gate: Gate, server: Server) -> None:
    await until_refused(server)
    gate.opened.set()
