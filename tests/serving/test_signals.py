"""Tests of the signals of a program: before, while and after its app runs, and in its forks."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from queue import Queue
from typing import Any

import anyio
import pytest
from dishka import Scope
from harness import app_with, dial
from programs import BOTH, hello_group, terminate
from repository import SUPPORT
from stubborn import STARTS
from timeouts import TIMEOUT

from websuckets import WebSuckets
from websuckets.app import Server
from websuckets.di import provide_context
from websuckets.serving import signals


class Thing: ...


def handlers() -> list[Any]:
    """Return the signal handlers of this process."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return [*map(signal.getsignal, BOTH), descriptor]


def test_a_late_thread_writes_to_no_descriptor_that_others_have_opened_since() -> None:
    """The number of a descriptor that was closed is that of the next one that is opened."""

    class Receiver:
        def stop(self) -> None: ...

        def time_to_stop(self) -> float:
            return float("inf")

        def time_is_over(self) -> None: ...

    receiver = Receiver()
    with ExitStack() as stack:
        (loops, loop_wakes), (others, other_wakes) = socket.socketpair(), socket.socketpair()
        for each in (loops, loop_wakes, others, other_wakes):
            stack.enter_context(each)
        for each in (loop_wakes, other_wakes):
            each.setblocking(False)
        before = signal.set_wakeup_fd(loop_wakes.fileno())
        stack.callback(signal.set_wakeup_fd, before)
        assert signals.listen(receiver)
        stack.callback(signals.stop_listening, receiver)
        os.dup2(other_wakes.fileno(), loop_wakes.fileno())  # closed, and opened by others
        signal.raise_signal(signal.SIGTERM)
        loops.settimeout(TIMEOUT)
        assert loops.recv(8) == bytes([signal.SIGTERM])
        others.setblocking(False)
        with pytest.raises(BlockingIOError):
            others.recv(8)


def test_a_signal_that_handler_and_thread_notice_stops_the_app_once() -> None:
    """Either may notice a signal first; the app is stopped by the first of them alone."""
    stops: list[str] = []

    class Receiver:
        def stop(self) -> None:
            stops.append("stop")

        def time_to_stop(self) -> float:
            return float("inf")

        def time_is_over(self) -> None: ...

    receiver = Receiver()
    assert signals.listen(receiver)
    try:
        assert signals._handler is not None
        signals._handler.notify_all()  # the thread calls this
        signals._handler._handle(signal.SIGTERM, None)
        assert stops == ["stop"]
    finally:
        signals.stop_listening(receiver)


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_afterwards_signals_do_what_they_did_before(
    start: Callable[[WebSuckets], None],
    number: signal.Signals,
    listening: "Queue[str]",
    meanwhile: Any,
) -> None:
    """A program that goes on after its app has its own signal handlers again."""
    before = handlers()

    def stop() -> None:
        listening.get(timeout=TIMEOUT)
        os.kill(os.getpid(), number)

    meanwhile(stop)
    start(app_with(hello_group()))
    assert handlers() == before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_ends_every_app_of_the_program(
    backend: Any, listening: "Queue[str]", meanwhile: Any
) -> None:
    """One signal stops all apps of an event loop, such as a public and an administrator's app."""

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(app_with(hello_group()), "127.0.0.1", 0)

    def stop() -> None:
        for _ in range(2):
            listening.get(timeout=TIMEOUT)
        terminate()

    meanwhile(stop)
    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_app_that_comes_after_the_signal_does_not_start(
    backend: Any, listening: "Queue[str]", meanwhile: Any
) -> None:
    """An app that is started after the signal does not start, as no second signal may follow."""
    stopping, go_on = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Thing]:
        yield Thing()
        stopping.set()
        await go_on.wait()

    first = app_with(hello_group(), providers=[provide_context(slow, scope=Scope.APP)])

    @first.on_startup
    async def startup(thing: Thing) -> None: ...

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first, "127.0.0.1", 0)
            await stopping.wait()
            await app_with(hello_group())("127.0.0.1", 0)
            go_on.set()

    def stop() -> None:
        listening.get(timeout=TIMEOUT)
        terminate()

    meanwhile(stop)
    anyio.run(main, backend=backend)
    assert listening.empty()


def test_a_program_may_have_other_signals(listening: "Queue[str]", meanwhile: Any) -> None:
    """asyncio can set a wake-up descriptor of its own for other signals of the program."""
    app = app_with(hello_group())
    got = []

    @app.on_startup
    async def startup() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.append, "it")
        os.kill(os.getpid(), signal.SIGUSR1)

    def stop() -> None:
        listening.get(timeout=TIMEOUT)
        terminate()

    meanwhile(stop)
    asyncio.run(app("127.0.0.1", 0))
    assert got == ["it"]


def test_a_program_may_have_had_other_signals(listening: "Queue[str]", meanwhile: Any) -> None:
    """Earlier signals of the program are passed on to the wake-up descriptor of asyncio."""
    app = app_with(hello_group())
    got = anyio.Event()

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, "127.0.0.1", 0)
            await got.wait()
            terminate()

    def stop() -> None:
        listening.get(timeout=TIMEOUT)
        os.kill(os.getpid(), signal.SIGUSR1)

    meanwhile(stop)
    asyncio.run(main())


def test_a_handler_that_the_program_sets_stays(listening: "Queue[str]", meanwhile: Any) -> None:
    """A handler that the program sets replaces the app's, and is kept when the app ends."""
    app = app_with(hello_group())
    got: list[Any] = []
    before = signal.getsignal(signal.SIGTERM)

    @app.on_startup
    async def startup() -> None:
        signal.signal(signal.SIGTERM, lambda *_: got.append(signal.getsignal(signal.SIGINT)))

    def stop() -> None:
        listening.get(timeout=TIMEOUT)
        terminate()

    meanwhile(stop)
    try:
        asyncio.run(app("127.0.0.1", 0))
        assert got
        assert signal.getsignal(signal.SIGTERM) is not before
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_that_comes_during_the_start_ends_it(
    backend: Any, number: signal.Signals, journal: list[str], listening: "Queue[str]"
) -> None:
    """Expect started objects to be finalised, and no port to be open."""

    @asynccontextmanager
    async def thing() -> AsyncIterator[Thing]:
        yield Thing()
        journal.append("finalised")

    app = app_with(hello_group(), providers=[provide_context(thing, scope=Scope.APP)])

    @app.on_startup
    async def startup(thing: Thing) -> None:
        os.kill(os.getpid(), number)
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("hook ended")

    app.run("127.0.0.1", 0, backend=backend)
    assert journal == ["hook ended", "finalised"]
    assert listening.empty()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_forked_has_its_own_signals(
    backend: Any, listening: "Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the hooks of a fork in this process, in place of a child."""
    # A child has no thread that reads from the socket while the hooks close it.
    monkeypatch.setattr(signals._SignalHandler, "_run", lambda handler: None)
    seen: list[Any] = []
    app = app_with(hello_group())

    @app.on_startup
    async def startup() -> None:
        seen.append(handlers())
        signals._forget()
        seen.append(handlers())

    async def main() -> None:
        seen.append(handlers())
        with anyio.CancelScope() as program:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(app, "127.0.0.1", 0)
                while listening.empty():
                    await anyio.sleep(0.001)
                program.cancel()

    anyio.run(main, backend=backend)
    signals._forget()  # as if no app were the program
    before, meanwhile, afterwards = seen
    assert meanwhile[:2] != before[:2]
    assert afterwards == [*before[:2], -1]


FORKING = """
import multiprocessing, sys, time
import anyio
from stubborn import STARTS
from websuckets import CommandGroup, Socket, WebSuckets

group = CommandGroup()


@group.command("fork")
async def fork(socket: Socket) -> int:
    ready = multiprocessing.get_context("fork").Event()
    child = multiprocessing.get_context("fork").Process(target=live, args=(ready,))
    child.start()
    ready.wait()
    child.terminate()
    await anyio.to_thread.run_sync(child.join)
    return child.exitcode


@group.command("hello")
async def hello(socket: Socket) -> str:
    return "hello"


def live(ready):
    ready.set()
    time.sleep(1000)


app = WebSuckets()
app.include_command_group(group)
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(app("127.0.0.1", 0))
else:
    STARTS[sys.argv[1]](app)
"""


@asynccontextmanager
async def running(program: str, *arguments: str) -> AsyncIterator[tuple[Any, Server]]:
    """Run a program, and yield its process and its server once the program listens."""
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", program, *arguments]
    async with await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            log = b""
            with anyio.fail_after(3 * TIMEOUT):
                while not re.search(rb"listening on .*\n", log):
                    log += await process.stderr.receive()
            url = log.decode().split("listening on ")[1].split(",")[0]
            yield process, Server(int(url.rpartition(":")[2]), (url,))
        finally:
            if process.returncode is None:
                process.kill()


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.on_asyncio
@pytest.mark.parametrize("start", ["asyncio.run", "trio.run", "uvloop"])
async def test_a_signal_for_a_forked_process_is_its_own(start: str) -> None:
    """The child ends by its signal, and the server goes on until it gets a signal itself."""
    if start == "uvloop":
        pytest.importorskip("uvloop")
    async with running(FORKING, start) as (process, server):
        async with dial(server) as client:
            assert (await client.call("fork", id=1))["payload"] == -signal.SIGTERM
            assert (await client.call("hello", id=2))["payload"] == "hello"
            process.send_signal(signal.SIGTERM)
            assert await client.closed() == (1012, "service restart")
        with anyio.fail_after(TIMEOUT):
            assert await process.wait() == 0
