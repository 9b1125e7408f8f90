"""Tests of errors that end a program, and of mistakes in starting it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from queue import Queue
from typing import Any

import anyio
import pytest
import trio
from dishka import Scope
from harness import Client, app_with, connect
from programs import hello_group
from timeouts import TIMEOUT

from websuckets import AppTasks, CommandGroup, Limits, Socket, WebSuckets
from websuckets.di import provide_context
from websuckets.exc import ConfigurationError
from websuckets.runtime.event_loop import exit_scope


class Thing: ...


# Errors that end the program


@pytest.mark.parametrize("place", ["handler", "stream", "task of the app", "group", "handshake"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_ends_it_from_anywhere_on_trio(
    kind: type[BaseException],
    place: str,
    journal: list[str],
    listening: "Queue[str]",
    meanwhile: Any,
) -> None:
    """Everything is finalised, and other clients are disconnected; asyncio stops its event loop."""
    group = hello_group()

    @group.command("handler")
    async def handler(socket: Socket) -> None:
        raise kind(3)

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        yield 1
        raise kind(3)

    @group.command("task of the app")
    async def start_task(socket: Socket, *, tasks: AppTasks) -> None:
        tasks.start_soon(fail)

    @group.command("group")
    async def start_group(socket: Socket, *, tasks: AppTasks) -> None:
        tasks.start_soon(fail_in_a_group)

    async def fail() -> None:
        raise kind(3)

    async def fail_in_a_group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    @asynccontextmanager
    async def thing() -> AsyncIterator[Thing]:
        yield Thing()
        journal.append("finalised")

    app = app_with(group, providers=[provide_context(thing, scope=Scope.APP)])

    @app.on_startup
    async def startup(thing: Thing) -> None: ...

    handshakes: list[Any] = []

    @app.on_handshake
    async def handshake() -> None:
        handshakes.append(None)
        if place == "handshake" and len(handshakes) > 1:
            raise kind(3)

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnected")

    async def talk_to_it() -> None:
        url = listening.get(timeout=TIMEOUT)
        async with connect(url) as other:
            client = Client(other, None)
            assert (await client.call("hello", id=1))["payload"] == "hello"
            try:
                async with connect(url) as connection:
                    await Client(connection, None).send(place)
                    await connection.wait_closed()
            except Exception:
                assert place == "handshake"
            code, _ = await client.closed()
            assert code == 1012

    meanwhile(lambda: asyncio.run(talk_to_it()))
    with pytest.raises(kind) as caught:
        app.run("127.0.0.1", 0, backend="trio")
    assert caught.value.args == (3,)
    assert journal[-1] == "finalised"
    assert journal.count("disconnected") == (1 if place == "handshake" else 2)


@pytest.mark.parametrize("place", ["handler", "task"])
def test_beside_other_tasks_an_error_that_ends_the_program_ends_them_all_on_trio(
    place: str, listening: "Queue[str]", meanwhile: Any, journal: list[str]
) -> None:
    """trio reports the error as the cause of an error of its own."""
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: Socket) -> None:
        sys.exit(3)

    @group.command("task")
    async def start_task(socket: Socket, *, tasks: AppTasks) -> None:
        tasks.start_soon(handler, socket)

    app = app_with(group, limits=Limits(drain_timeout=0.5))

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnected")

    async def main() -> None:
        async with app.serve("127.0.0.1", 0):
            await anyio.sleep_forever()

    async def talk_to_it() -> None:
        url = listening.get(timeout=TIMEOUT)
        async with connect(url) as other, connect(url) as connection:
            await Client(connection, None).send(place)
            await connection.wait_closed()
            await other.wait_closed()

    meanwhile(lambda: asyncio.run(talk_to_it()))
    with pytest.raises(trio.TrioInternalError) as caught:
        trio.run(main)
    cause = caught.value.__cause__
    assert isinstance(cause, BaseExceptionGroup)
    assert cause.split(SystemExit)[1] is None
    assert journal == ["disconnected"] * 2


def test_only_what_ends_the_program_ends_the_scope_of_its_tasks() -> None:
    """An error that does not end the program is raised where it happened."""

    async def main() -> None:
        with exit_scope() as propagate:
            with pytest.raises(RuntimeError, match="canary"):
                propagate(RuntimeError("canary"))
            propagate(BaseExceptionGroup("", [ValueError(), SystemExit(3)]))
            await anyio.sleep_forever()

    with pytest.raises(SystemExit, match="3"):
        trio.run(main)


# Mistakes


@pytest.mark.anyio
async def test_serving_nowhere_in_particular_is_refused() -> None:
    """The error says what to write."""
    app = WebSuckets()
    with pytest.raises(TypeError, match=r'app\("localhost", 9000\)'):
        app()
    with pytest.raises(ConfigurationError, match=r'app\("localhost", 9000\)'):
        async with app.serve("localhost"):
            pytest.fail("it started")


@pytest.mark.anyio
async def test_awaiting_the_result_of_serve_is_refused() -> None:
    """Expect an error that says that the result of `serve` is a context."""
    app: Any = WebSuckets()
    with pytest.raises(ConfigurationError, match=r"async with app\.serve"):
        await app.serve("127.0.0.1", 0)


@pytest.mark.anyio
async def test_running_where_an_event_loop_runs_is_refused() -> None:
    """Run as in a notebook, and expect an error that says what works there."""
    with pytest.raises(ConfigurationError, match=r"await app\("):
        WebSuckets().run("127.0.0.1", 0)
