"""Tests of context variables: in which scope each is set, and which code sees it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

import anyio
import pytest
from dishka import AsyncContainer, BaseScope, Provider, Scope, make_async_container
from harness import app_with, dial, errors, talk, until
from serving import Serving, uvicorn_running
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import AppTasks, CommandGroup, ConnectionTasks, Limits, Message, Socket
from websuckets.di import lock_factory, setup_dishka
from websuckets.middleware import CallNext
from websuckets.runtime.contexts import in_context
from websuckets.session import Session

pytestmark = pytest.mark.anyio

current: ContextVar[str] = ContextVar("current", default="nothing")

SCOPES = [Scope.APP, Scope.SESSION, Scope.REQUEST]


class Thing: ...


class Things:
    """Providers of a thing that sets a variable for as long as the thing lives."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    @contextmanager
    def _set(self) -> Iterator[Thing]:
        token = current.set("thing")
        yield Thing()
        self.journal.append(f"closed with {current.get()}")
        current.reset(token)  # ValueError in another context

    async def asynchronous(self) -> AsyncIterator[Thing]:
        with self._set() as thing:
            await anyio.sleep(0)
            yield thing
            await anyio.sleep(0)

    def synchronous(self) -> Iterator[Thing]:
        with self._set() as thing:
            yield thing

    def provider(self, scope: BaseScope, *, is_async: bool = True) -> Provider:
        provider = Provider(scope=scope)
        provider.provide(self.asynchronous if is_async else self.synchronous, provides=Thing)
        return provider


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("look")
    async def look(socket: ServerConnection) -> str:
        return current.get()

    @group.command("set")
    async def set_(socket: ServerConnection) -> None:
        current.set("a message's")
        await anyio.sleep(0)
        assert current.get() == "a message's"

    @group.command("set by a stream")
    async def set_by_a_stream(socket: ServerConnection) -> AsyncIterator[str]:
        yield current.get()
        current.set("a stream's")
        yield current.get()

    return group


@pytest.fixture
def using() -> CommandGroup:
    """Return commands that ask for a thing."""
    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, thing: Thing) -> str:
        await anyio.sleep(0)
        return current.get()

    return group


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_provider_may_reset_what_it_has_set(
    serving: Serving, using: CommandGroup, journal: list[str], scope: Scope, is_async: bool
) -> None:
    """Expect one context for building and finalising, whoever asks first and whoever closes."""
    things = Things(journal)
    app = app_with(using, providers=[things.provider(scope, is_async=is_async)])
    async with serving(app) as server, dial(server) as client, client.another() as another:
        seen = [(await each.call("use"))["payload"] for each in (client, another, client)]
        async with client.another() as late:
            seen.append((await late.call("use"))["payload"])
    # the variable is set for its scope and the scopes within
    assert seen == ["nothing" if scope is Scope.APP else "thing"] * 4
    assert journal == ["closed with thing"] * {Scope.APP: 1, Scope.SESSION: 3}.get(scope, 4)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_a_message_sets_is_not_there_for_the_next(
    serving: Serving, group: CommandGroup, concurrency: int
) -> None:
    """Expect a variable set by a command or a stream not to be set for the next message."""
    app = app_with(group, limits=Limits(concurrency=concurrency))
    async with serving(app) as server, dial(server) as client:
        await client.call("set", id=1)
        assert (await client.call("look"))["payload"] == "nothing"
        await client.send("set by a stream", id=2)
        items = [(await client.receive())["payload"] for _ in range(3)]
        assert items == ["nothing", "a stream's", None]
        assert (await client.call("look"))["payload"] == "nothing"


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("kind", ["handshake", "connect"])
async def test_what_a_hook_sets_is_there_for_the_connection(
    serving: Serving, group: CommandGroup, journal: list[str], kind: str, concurrency: int
) -> None:
    """Expect a hook's variable in its connection's messages, streams and last hooks only."""
    app = app_with(group, limits=Limits(concurrency=concurrency))
    number = iter(range(10))

    async def hook() -> None:
        current.set(f"connection {next(number)}")

    getattr(app, f"on_{kind}")(hook)

    @app.on_disconnect
    async def leave() -> None:
        journal.append(f"{current.get()} leaves")
        current.set("nobody's")

    @app.on_disconnect
    async def forget() -> None:
        journal.append(f"{current.get()} is gone")

    async with serving(app) as server, dial(server) as client:
        assert (await client.call("look"))["payload"] == "connection 0"
        async with client.another() as another:
            assert (await another.call("look"))["payload"] == "connection 1"
            await another.send("set by a stream")
            assert (await another.receive())["payload"] == "connection 1"
            assert (await another.receive())["payload"] == "a stream's"
        await until(journal, "connection 1 is gone")
        assert journal == ["connection 1 leaves", "connection 1 is gone"]
        assert (await client.call("look"))["payload"] == "connection 0"


async def test_a_hook_may_ask_for_what_belongs_to_its_connection(
    serving: Serving, group: CommandGroup, journal: list[str]
) -> None:
    """Expect the hook to run in the context in which objects of the connection are built."""
    app = app_with(group, providers=[Things(journal).provider(Scope.SESSION)])

    @app.on_connect
    async def hook(thing: Thing) -> None:
        journal.append(current.get())

    async with serving(app) as server, dial(server) as client:
        assert (await client.call("look"))["payload"] == "thing"
    assert journal == ["thing", "closed with thing"]


async def test_a_message_keeps_what_it_has_set_when_its_connection_gets_something(
    serving: Serving, journal: list[str]
) -> None:
    """Set a variable like the span of a message that asks for an object of its connection."""
    group = CommandGroup()

    @group.command("build")
    async def build(socket: ServerConnection, container: AsyncContainer) -> str:
        current.set("a message's")
        await container.get(Thing)
        return current.get()

    @group.command("look")
    async def look(socket: ServerConnection) -> str:
        return current.get()

    app = app_with(group, providers=[Things(journal).provider(Scope.SESSION)])
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("build"))["payload"] == "a message's"
        assert (await client.call("look"))["payload"] == "thing"


async def test_what_middleware_sets_is_there_for_its_message(
    serving: Serving, group: CommandGroup
) -> None:
    """Expect a variable of middleware in its message and finalisers, not in the next message."""

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        if message.event == "look":
            current.set(f"{current.get()} {message.event}")
        return await call_next()

    app = app_with(group, middleware=[middleware])
    async with serving(app) as server, dial(server) as client:
        for _ in range(2):
            assert (await client.call("look"))["payload"] == "nothing look"


async def test_tasks_see_what_was_set_where_they_were_started(
    serving: Serving, journal: list[str]
) -> None:
    """Test tasks of the connection and of the app; their own changes stay with them."""
    group = CommandGroup()

    async def task(name: str) -> None:
        await anyio.sleep(0)
        journal.append(f"{name}: {current.get()}")
        current.set("a task's")

    @group.command("start")
    async def start(socket: ServerConnection, *, own: ConnectionTasks, app: AppTasks) -> str:
        current.set("a message's")
        own.start_soon(task, "own")
        app.start_soon(task, "app")
        await until(journal, "app: a message's")
        await until(journal, "own: a message's")
        return current.get()

    async with serving(app_with(group)) as server, dial(server) as client:
        assert (await client.call("start"))["payload"] == "a message's"


async def test_objects_that_need_each_other_are_built_each_in_its_scope(
    serving: Serving, journal: list[str]
) -> None:
    """Each provider sees what its own scope has set."""
    group = CommandGroup()

    class Pool: ...

    class Connection: ...

    class Transaction: ...

    def pool() -> Iterator[Pool]:
        journal.append(f"pool: {current.get()}")
        token = current.set("app")
        yield Pool()
        current.reset(token)

    async def connection(pool: Pool) -> AsyncIterator[Connection]:
        journal.append(f"connection: {current.get()}")
        token = current.set("session")
        yield Connection()
        current.reset(token)

    async def transaction(connection: Connection, pool: Pool) -> AsyncIterator[Transaction]:
        journal.append(f"transaction: {current.get()}")
        token = current.set("request")
        yield Transaction()
        current.reset(token)

    @group.command("use")
    async def use(socket: ServerConnection, *, transaction: Transaction) -> str:
        return f"{current.get()}, {Session.online[socket.id].socket is socket}"

    providers = []
    for source, scope in (
        (pool, Scope.APP),
        (connection, Scope.SESSION),
        (transaction, Scope.REQUEST),
    ):
        provider = Provider(scope=scope)
        provider.provide(source)
        providers.append(provider)
    async with serving(app_with(group, providers=providers)) as server, dial(server) as client:
        for _ in range(2):
            assert (await client.call("use"))["payload"] == "request, True"
    assert journal == [
        "pool: nothing",
        "connection: nothing",
        "transaction: session",
        "transaction: session",
    ]


async def test_a_container_of_the_program_keeps_messages_apart_as_well(
    using: CommandGroup, journal: list[str]
) -> None:
    """Expect that variables set by its APP objects do not reach the message that asked first; the
    program closes the container, in a context of its own."""
    app = app_with(using)
    provider = Provider(scope=Scope.APP)

    async def thing() -> AsyncIterator[Thing]:
        current.set("thing")
        yield Thing()
        journal.append(f"closed with {current.get()}")

    provider.provide(thing)
    container = make_async_container(provider, *app.providers, lock_factory=lock_factory)
    setup_dishka(container, app)
    async with talk(app) as client:
        for _ in range(2):
            assert (await client.call("use"))["payload"] == "nothing"
    await container.close()
    assert journal == ["closed with nothing"]


@pytest.mark.on_asyncio
async def test_what_an_asgi_host_sets_is_there_for_the_connection(group: CommandGroup) -> None:
    """Set a variable in ASGI middleware, as tracing does."""
    app = app_with(group)

    async def host(scope: Any, receive: Any, send: Any) -> None:
        current.set("the host's")
        await app.asgi(scope, receive, send)

    async with app.lifespan(), uvicorn_running(host, lifespan="off") as server:
        async with dial(server) as client:
            assert (await client.call("look"))["payload"] == "the host's"


@pytest.mark.on_asyncio
async def test_what_runs_in_a_context_is_cancelled_as_ever(group: CommandGroup) -> None:
    """Expect cancellation to work by asyncio, by scopes, and by closing it before its end."""
    context = copy_context()
    journal: list[str] = []

    async def wait() -> str:
        current.set("inside")
        try:
            with anyio.move_on_after(0):
                await anyio.sleep_forever()
            async with asyncio.timeout(0):
                await asyncio.sleep(TIMEOUT)
        except TimeoutError:
            journal.append("timeout")
        try:
            await asyncio.sleep(TIMEOUT)
        finally:
            journal.append(current.get())
        return "never"

    async def main() -> None:
        await in_context(context.run, wait())

    task = asyncio.ensure_future(main())
    while not journal:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert journal == ["timeout", "inside"]
    assert (current.get(), context[current]) == ("nothing", "inside")


async def test_errors_and_results_come_out_of_a_context() -> None:
    """Expect results and errors after waiting, and without."""

    async def add(waits: bool, number: int) -> int:
        if waits:
            await anyio.sleep(0)
        if number < 0:
            raise ValueError
        return number + 1

    for waits in (False, True):
        context = copy_context()
        assert await in_context(context.run, add(waits, 1)) == 2
        with pytest.raises(ValueError):
            await in_context(context.run, add(waits, -1))


async def test_nothing_of_it_is_an_error(
    serving: Serving,
    using: CommandGroup,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an empty log when clients leave in the middle."""
    app = app_with(using, providers=[Things(journal).provider(Scope.SESSION)])
    async with serving(app) as server, dial(server) as client:
        async with client.another() as another:
            await another.call("use")
            await another.vanish()
        await until(journal, "closed with thing")
    assert not errors(caplog)
