"""Errors that no client caused: each is an incident, whatever error is raised, and wherever."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, errors, on_trio
from serving import Serving
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import (
    AppTasks,
    CommandGroup,
    ConnectionTasks,
    Limits,
    Message,
    Socket,
    WebSuckets,
)
from websuckets.middleware import CallNext

pytestmark = pytest.mark.anyio


class Fatal(BaseException):
    """An error of a program, or of a library that the program uses, that is not an `Exception`."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "an exception": lambda: ValueError("canary"),
    "what is no exception": lambda: Fatal("canary"),
    "a group of it": lambda: BaseExceptionGroup("canary", [Fatal(), Fatal()]),
    "a group of both": lambda: BaseExceptionGroup("canary", [Fatal(), ValueError()]),
}
"""Makers of errors: an error that is raised again keeps the traceback of each time."""


class Thing: ...


class Finalised: ...


class Sync: ...


class Connection: ...


class Raising:
    """An app whose code raises an error in one place."""

    def __init__(self, place: str, error: Callable[[], BaseException]) -> None:
        self.place = place
        self.error = error

    def at(self, place: str) -> None:
        if place == self.place:
            raise self.error()

    async def thing(self) -> Thing:
        self.at("a dependency")
        return Thing()

    async def finalised(self) -> AsyncIterator[Finalised]:
        yield Finalised()
        self.at("a finaliser")

    def sync(self) -> Iterator[Sync]:
        try:
            yield Sync()
        finally:
            self.at("a finaliser in its finally")

    async def connection(self) -> Connection:
        self.at("a dependency of the connection")
        return Connection()

    async def middleware(self, socket: Socket, message: Message, call_next: CallNext) -> Any:
        if message.event == "fine":
            return await call_next()
        self.at("a middleware before")
        outcome = await call_next()
        self.at("a middleware after")
        return outcome

    def app(self) -> WebSuckets:
        request, session = Provider(scope=Scope.REQUEST), Provider(scope=Scope.SESSION)
        for source in (self.thing, self.finalised, self.sync):
            request.provide(source)
        session.provide(self.connection)
        return app_with(self.commands(), providers=[request, session], middleware=[self.middleware])

    def commands(self) -> CommandGroup:
        group = CommandGroup()

        @group.command("plain")
        async def plain(socket: ServerConnection) -> None:
            self.at("a handler without dependencies")

        @group.command("use")
        async def use(
            socket: ServerConnection,
            *,
            thing: Thing,
            finalised: Finalised,
            sync: Sync,
            connection: Connection,
        ) -> None:
            await anyio.sleep(0)
            self.at("a handler")

        @group.command("stream")
        async def stream(socket: ServerConnection, *, thing: Thing) -> AsyncIterator[int]:
            self.at("a stream before its first item")
            yield 1
            self.at("a stream")

        @group.command("fine")
        async def fine(socket: ServerConnection) -> str:
            return "fine"

        return group


PLACES = {
    "a handler without dependencies": "plain",
    "a handler": "use",
    "a dependency": "use",
    "a finaliser": "use",
    "a finaliser in its finally": "use",
    "a dependency of the connection": "use",
    "a middleware before": "use",
    "a middleware after": "plain",
    "a stream before its first item": "stream",
    "a stream": "stream",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", RAISED)
async def test_whatever_is_raised_while_a_message_is_answered_is_an_incident(
    place: str, what: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets an incident number, the log the traceback; the connection goes on."""
    raising = Raising(place, RAISED[what])
    async with serving(raising.app()) as server, dial(server) as client:
        for number in range(2):
            await client.send(PLACES[place], id=number)
            while "more" in (reply := await client.receive()):
                pass
            assert (reply["error"], reply["id"]) == ("internal error", number)
            assert reply["details"]["incident"] in errors(caplog)[-1].getMessage()
        assert (await client.call("fine"))["payload"] == "fine"
    assert "canary" in caplog.text


@pytest.mark.parametrize("kind", ["handshake", "connect", "disconnect"])
@pytest.mark.parametrize("what", RAISED)
async def test_whatever_a_hook_raises_concerns_its_own_connection(
    kind: str, what: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is refused, or closed, or the error is only logged; the server goes on."""
    app = Raising("", RAISED[what]).app()
    is_first = iter([True])

    async def hook() -> None:
        if next(is_first, False):
            raise RAISED[what]()

    getattr(app, f"on_{kind}")(hook)
    async with serving(app) as server:
        try:
            async with dial(server) as client:
                if kind == "connect":
                    assert (await client.closed())[0] == 1011
        except Exception:
            assert kind == "handshake"
        async with dial(server) as client:
            assert (await client.call("fine"))["payload"] == "fine"
    assert f"on_{kind}" in errors(caplog)[0].getMessage()
    assert "canary" in caplog.text


@pytest.mark.parametrize("what", RAISED)
async def test_whatever_a_task_raises_disturbs_nobody(
    what: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a task ends neither the connection of the task nor other tasks."""
    group = CommandGroup()

    async def fail() -> None:
        raise RAISED[what]()

    @group.command("start")
    async def start(socket: ServerConnection, *, own: ConnectionTasks, app: AppTasks) -> str:
        own.start_soon(fail)
        app.start_soon(fail)
        while len(errors(caplog)) < 2:
            await anyio.sleep(0.001)
        return "fine"

    async with serving(app_with(group)) as server, dial(server) as client:
        assert (await client.call("start"))["payload"] == "fine"
    assert all("incident" in record.getMessage() for record in errors(caplog))


class App: ...


def cancel() -> None:
    """Cancel the running task natively."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, Fatal, "cancelled", "scope"])
async def test_a_start_that_is_interrupted_finalises_the_app(how: Any, journal: list[str]) -> None:
    """End an `on_startup` hook by a signal, by the program, and by the task that has started it."""
    if how == "cancelled" and on_trio():
        pytest.skip("trio has no cancellation but that of scopes")

    async def thing() -> AsyncIterator[App]:
        yield App()
        await anyio.sleep(0)
        journal.append("finalised")

    provider = Provider(scope=Scope.APP)
    provider.provide(thing)
    app = WebSuckets(providers=[provider])
    scope = anyio.CancelScope()

    @app.on_startup
    async def hook(thing: App) -> None:
        journal.append("started")
        if how == "cancelled":
            cancel()
        elif how == "scope":
            scope.cancel()
        else:
            raise how
        await anyio.sleep_forever()

    interrupted = (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit, Fatal)
    with scope:
        try:
            async with app.lifespan():
                journal.append("never")
        except interrupted:
            if how == "scope":
                raise
    assert journal == ["started", "finalised"]


async def test_generator_exit_ends_the_connection_of_its_handler_alone(
    on_sockets: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is closed: a handler cannot answer what Python raises to end a generator."""
    group = CommandGroup()

    @group.command("exit")
    async def exit(socket: Socket) -> None:
        raise GeneratorExit

    @group.command("hello")
    async def hello(socket: Socket) -> str:
        return "hello"

    async with on_sockets(app_with(group)) as server, dial(server) as other:
        async with dial(server) as client:
            await client.send("exit")
            await client.closed()
        assert (await other.call("hello", id=1))["payload"] == "hello"
    [error] = errors(caplog)
    assert error.exc_info is not None and error.exc_info[0] is GeneratorExit


@pytest.mark.parametrize("where", ["stream", "concurrent command", "task of a connection"])
async def test_generator_exit_ends_no_task_of_others(
    where: str, on_sockets: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of one client is logged; streams of others go on, and so does the app."""
    group, gate = CommandGroup(), Gate()

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        yield 1
        raise GeneratorExit

    @group.command("concurrent command")
    async def command(socket: Socket) -> None:
        raise GeneratorExit

    @group.command("task of a connection")
    async def task(socket: Socket, *, tasks: ConnectionTasks) -> None:
        async def fail() -> None:
            raise GeneratorExit

        tasks.start_soon(fail)

    @group.command("good")
    async def good(socket: Socket) -> AsyncIterator[str]:
        yield "begun"
        await gate()
        yield "ended"

    app = app_with(group, limits=Limits(concurrency=2))
    async with on_sockets(app) as server, dial(server) as other:
        assert (await other.call("good", id=1))["payload"] == "begun"
        async with dial(server) as client:
            await client.send(where)
            with anyio.fail_after(TIMEOUT):
                while not errors(caplog):
                    await anyio.sleep(0.01)
        gate.opened.set()
        assert (await other.receive())["payload"] == "ended"
    [error] = errors(caplog)
    assert error.exc_info is not None and error.exc_info[0] is GeneratorExit
