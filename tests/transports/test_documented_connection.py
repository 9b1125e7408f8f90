"""The documented connection of ``websockets``, compared with ours call by call.

Each `Case` runs once in a handler of a plain ``websockets`` server, and once in a command of an
app. What the call returned or raised, and all that the client saw of it, has to be equal; unless
the case says why ours differs, and what ours does instead. One more difference is not in the table,
as the framework has to receive for it: `test_a_stream_cannot_receive`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import pytest
from harness import app_with, connect, on_trio
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, ProtocolError

from websuckets import CommandGroup
from websuckets.transports import running_transport, websockets_asyncio, websockets_trio
from websuckets.transports.asyncio_connection import AsyncioConnection
from websuckets.transports.trio_connection import TrioConnection

pytestmark = pytest.mark.anyio

COMMAND: Final = '{"event": "call"}'
END: Final = "the call has ended"
"""Text that the server sends after each call, so that the client knows that nothing else comes."""

DOCUMENTED: Final = {
    *("__aiter__", "recv", "recv_streaming", "send", "wait_closed", "ping", "pong", "respond"),
    *("id", "logger", "local_address", "remote_address", "latency", "state"),
    *("request", "response", "subprotocol", "close_code", "close_reason"),
}
"""Names in the documentation of ``ServerConnection``, besides `close_name`."""


def close_name() -> str:
    return "aclose" if on_trio() else "close"


def close(connection: Any, *arguments: Any) -> Awaitable[None]:
    """Call the documented method that closes a connection on the running event loop."""
    closing: Awaitable[None] = getattr(connection, close_name())(*arguments)
    return closing


Call = Callable[[Any, Any], Awaitable[Any]]
"""Function that uses a connection, and knows the client; its result can be compared."""
Act = Callable[[Any], Awaitable[None]]
"""Function that the client runs after it has sent its first message."""


async def do_nothing(client: Any) -> None: ...


@dataclass(frozen=True)
class Case:
    """A documented use of a connection."""

    names: str
    """Documented names that it uses, separated by spaces."""
    about: str
    call: Call
    act: Act = do_nothing
    ours: Any = None
    """Outcome with ours, where that differs on purpose; else ``None``."""
    reason: str = ""
    """Reason for which ours differs."""
    differs_on_asyncio: bool = True


# Calls


def get(*names: str, of: Callable[[Any], Any] = lambda value: value) -> Call:
    """Return a call that reads attributes."""

    async def call(connection: Any, client: Any) -> Any:
        value = connection
        for name in names:
            value = getattr(value, name)
        return of(value)

    return call


async def addresses(connection: Any, client: Any) -> Any:
    return (
        connection.local_address == client.remote_address,
        connection.remote_address == client.local_address,
    )


async def latency(connection: Any, client: Any) -> Any:
    before = connection.latency
    await answered(await connection.ping())
    return before, connection.latency > 0


async def state_when_closed(connection: Any, client: Any) -> Any:
    await close(connection, 4000, "bye")
    return connection.state, connection.close_code, connection.close_reason


async def respond(connection: Any, client: Any) -> Any:
    response = connection.respond(404, "not here")
    return response.status_code, response.body, response.headers["Content-Length"]


def recv(*arguments: Any, times: int = 1) -> Call:
    async def call(connection: Any, client: Any) -> Any:
        return [await connection.recv(*arguments) for _ in range(times)]

    return call


async def recv_twice_at_once(connection: Any, client: Any) -> Any:
    raised = []

    async def receive() -> None:
        try:
            await connection.recv()
        except RuntimeError as error:
            raised.append(type(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    return raised


async def recv_after_cancellation(connection: Any, client: Any) -> Any:
    with anyio.move_on_after(0):
        await connection.recv()
    await client.send("late")
    return await connection.recv()


async def recv_streaming(connection: Any, client: Any) -> Any:
    return [part async for part in connection.recv_streaming()]


async def iterate(connection: Any, client: Any) -> Any:
    return [message async for message in connection]


def send(*messages: Any, **options: Any) -> Call:
    async def call(connection: Any, client: Any) -> Any:
        for message in messages:
            await connection.send(message() if callable(message) else message, **options)

    return call


async def send_to_who_has_closed(connection: Any, client: Any) -> Any:
    await connection.wait_closed()
    await connection.send("late")


async def parts() -> AsyncIterator[str]:
    yield "a"
    yield "b"


async def bytes_parts() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


async def mixed_parts() -> AsyncIterator[Any]:
    yield "a"
    yield b"b"


async def send_mixed_parts(connection: Any, client: Any) -> Any:
    async with aclosing(mixed_parts()) as mixed:
        await connection.send(mixed)


async def no_parts() -> AsyncIterator[str]:
    for part in ():
        yield part


async def answered(pong: Any) -> None:
    """Wait for the pong to a ping."""
    await (pong.wait() if on_trio() else pong)


def ping(*data: Any) -> Call:
    async def call(connection: Any, client: Any) -> Any:
        await answered(await connection.ping(*data))
        return connection.latency > 0

    return call


async def ping_twice(connection: Any, client: Any) -> Any:
    await connection.ping(b"x")
    await connection.ping(b"x")


def pong(*data: Any) -> Call:
    async def call(connection: Any, client: Any) -> Any:
        await connection.pong(*data)

    return call


def closes(*arguments: Any, times: int = 1) -> Call:
    async def call(connection: Any, client: Any) -> Any:
        for _ in range(times):
            await close(connection, *arguments)
        return connection.close_code, connection.close_reason

    return call


async def leave_context(connection: Any, client: Any) -> Any:
    async with connection:
        await connection.send("inside")
    return connection.close_code


async def fail_in_context(connection: Any, client: Any) -> Any:
    async with connection:
        raise LookupError("of the program")


async def wait_closed(connection: Any, client: Any) -> Any:
    await connection.wait_closed()
    return connection.close_code, connection.close_reason


# The client's part


def sends(*messages: Any, **options: Any) -> Act:
    async def act(client: Any) -> None:
        for message in messages:
            await client.send(message, **options)

    return act


def leaves(*arguments: Any, after: Act = do_nothing) -> Act:
    async def act(client: Any) -> None:
        await after(client)
        await close(client, *arguments)

    return act


SURROGATE: Final = "a lone \ud800"

CASES: Final = [
    Case("id", "type", get("id", of=type)),
    Case("logger", "type", get("logger", of=type)),
    Case("local_address remote_address", "seen by the client", addresses),
    Case("latency", "measured by a ping", latency),
    Case("state", "open", get("state")),
    Case("state close_code close_reason", "after closing", state_when_closed),
    Case("request", "path", get("request", "path")),
    Case("request", "headers", get("request", "headers", of=lambda headers: "Host" in headers)),
    Case("response", "status", get("response", "status_code")),
    Case("subprotocol", "chosen", get("subprotocol")),
    Case("close_code", "open", get("close_code")),
    Case("close_reason", "open", get("close_reason")),
    Case("respond", "response", respond),
    Case("recv", "text", recv(), sends("text ä")),
    Case("recv", "binary", recv(), sends(b"binary")),
    Case("recv", "text as bytes", recv(False), sends("text")),
    Case("recv", "binary as text", recv(True), sends(b"text")),
    Case("recv", "fragments", recv(), sends(["frag", "ments"])),
    Case("recv", "several", recv(times=3), sends("a", b"b", ["c", "d"])),
    Case("recv", "no UTF-8", recv(), sends(b"\xff", text=True)),
    Case("recv", "closed", recv(), leaves()),
    Case("recv", "closed with an error", recv(), leaves(4000, "bye")),
    Case("recv", "messages before the end", recv(times=3), leaves(after=sends("a", "b"))),
    Case("recv", "at once", recv_twice_at_once),
    Case("recv", "after a cancellation", recv_after_cancellation),
    Case("recv_streaming", "one frame", recv_streaming, sends("text")),
    Case(
        *("recv_streaming", "fragments", recv_streaming, sends(["a", "b"])),
        ours=("returned", ["ab"]),
        reason="a message that the framework may take back at any time is not received in parts",
    ),
    Case("recv_streaming", "closed", recv_streaming, leaves(4000)),
    Case("__aiter__", "closed", iterate, leaves(after=sends("a", b"b"))),
    Case("__aiter__", "closed with an error", iterate, leaves(4000, after=sends("a"))),
    Case("send", "str", send("text ä", "")),
    Case("send", "bytes", send(b"binary", b"")),
    Case("send", "bytes-like", send(bytearray(b"array"), memoryview(b"view"))),
    Case("send", "str as binary", send("text", ["a", "b"], text=False)),
    Case("send", "bytes as text", send(b"text", bytearray(b"array"), [b"a", b"b"], text=True)),
    Case("send", "as they are", send("text", text=True)),
    Case("send", "as they are, binary", send(b"binary", text=False)),
    Case("send", "iterable", send(["a", "b"], (b"a", b"b"), [])),
    Case("send", "asynchronous iterable", send(parts, bytes_parts, no_parts)),
    Case("send", "dict", send({"a": 1})),
    Case("send", "number", send(1)),
    Case("send", "mixed parts", send(["a", b"b"])),
    Case("send", "mixed asynchronous parts", send_mixed_parts),
    Case("send", "parts that are numbers", send([1])),
    Case("send wait_closed", "closed", send_to_who_has_closed, leaves()),
    Case("send wait_closed", "closed with an error", send_to_who_has_closed, leaves(4000)),
    Case(
        *("send", "no UTF-8", send(SURROGATE)),
        ours=("raised", UnicodeEncodeError),
        reason="an error of the program does not end the connection",
    ),
    Case("ping", "random", ping()),
    Case("ping", "str", ping("data")),
    Case("ping", "bytes", ping(b"data")),
    Case("ping", "number", ping(1)),
    Case("ping", "twice the same", ping_twice),
    Case("ping", "too long", ping("x" * 126)),
    Case("pong", "empty", pong()),
    Case("pong", "str", pong("data")),
    Case("pong", "number", pong(1)),
    Case("close", "default", closes()),
    Case("close", "code and reason", closes(4000, "bye")),
    Case("close", "twice", closes(4000, times=2)),
    Case(
        *("close", "impossible code", closes(1006)),
        ours=("raised", ProtocolError),
        reason="an error of the program does not end the connection",
        differs_on_asyncio=False,
    ),
    Case("close", "longest reason", closes(4000, "x" * 123)),
    Case(
        *("close", "too long a reason", closes(4000, "x" * 124)),
        ours=("raised", ValueError),
        reason="every transport raises the same error",
    ),
    Case(
        *("close", "no UTF-8", closes(4000, SURROGATE)),
        ours=("raised", UnicodeEncodeError),
        reason="an error of the program does not end the connection",
    ),
    Case("close", "context", leave_context),
    Case("close", "context with an error", fail_in_context),
    Case("wait_closed", "closed by the client", wait_closed, leaves(4000, "bye")),
]


# Comparison


async def outcome_of(call: Awaitable[Any]) -> tuple[str, Any, str]:
    """Return what a call returned or raised, and the text of the error."""
    try:
        return "returned", await call, ""
    except Exception as error:
        return "raised", type(error), str(error)


Serve = Callable[[Callable[[Any], Awaitable[None]]], Any]


@asynccontextmanager
async def plain(handler: Callable[[Any], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve with ``websockets`` alone; yield the URL."""

    async def handle(connection: Any) -> None:
        assert await connection.recv() == COMMAND
        await handler(connection)
        await connection.wait_closed()

    options: dict[str, Any] = {"compression": None, "subprotocols": ["chosen"]}
    if on_trio():
        from websockets.trio.server import serve as serve_on_trio

        async with anyio.create_task_group() as tasks:
            server: Any = await tasks.start(
                partial(serve_on_trio, handle, 0, host="127.0.0.1", **options)
            )
            yield f"ws://127.0.0.1:{server.listeners[0].socket.getsockname()[1]}"
            tasks.cancel_scope.cancel()
    else:
        from websockets.asyncio.server import serve

        async with serve(handle, "127.0.0.1", 0, **options) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def app(handler: Callable[[Any], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve an app; yield the URL."""
    group = CommandGroup()

    @group.command("call")
    async def call(socket: running_transport().ServerConnection) -> None:  # type: ignore[valid-type]  # known at run time
        await handler(socket)

    served = app_with(group)
    async with served.serve("127.0.0.1", 0, subprotocols=["chosen"]) as server:
        yield server.urls[0]


async def run(serve: Any, case: Case) -> tuple[Any, list[Any]]:
    """Return the outcome of the call, and what the client saw until the end of the call."""
    outcomes = []

    async def handler(connection: Any) -> None:
        outcomes.append(await outcome_of(case.call(connection, client)))
        ended.set()
        with suppress(ConnectionClosed):
            await connection.send(END)

    ended = anyio.Event()
    seen: list[Any] = []
    with anyio.fail_after(3 * TIMEOUT):
        async with serve(handler) as url:
            async with connect(url, subprotocols=["chosen"], compression=None) as client:
                await client.send(COMMAND)
                await case.act(client)
                try:
                    while (message := await client.recv()) != END:
                        seen.append(message)
                except ConnectionClosed as error:
                    seen.append(str(error))
                await ended.wait()
    return outcomes[0], seen


@pytest.fixture(params=["fast path", pytest.param("plain path", marks=pytest.mark.heavy)])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare connections with and without the fast path."""
    if request.param == "plain path":
        monkeypatch.setattr(websockets_asyncio, "CONNECTION", AsyncioConnection)
        monkeypatch.setattr(websockets_trio, "CONNECTION", TrioConnection)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.names}: {case.about}")
async def test_a_connection_does_what_the_documentation_of_websockets_says(case: Case) -> None:
    """Results, errors and frames are those of ``websockets``, or what the table says instead."""
    theirs = await run(plain, case)
    mine = await run(app, case)
    if case.ours is None:
        assert mine == theirs
    else:
        assert case.reason
        assert mine[0][:2] == case.ours
        if case.differs_on_asyncio or on_trio():
            assert theirs[0][:2] != case.ours


async def test_everything_that_is_documented_is_compared() -> None:
    """The table above has each documented name, and ours has them all."""
    used = {name for case in CASES for name in case.names.split()}
    assert used == DOCUMENTED | {"close"}
    transport: Any = running_transport()
    for name in DOCUMENTED - {"id", "logger", "request", "response", "latency"} | {close_name()}:
        assert hasattr(transport.ServerConnection, name), name
