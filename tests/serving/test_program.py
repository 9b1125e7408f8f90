"""An app as the program: its start, its signals, and the end of the process.

The functions that end a process run here with `os._exit` replaced, so that the tests can see the
exit code; in `test_shutdown` and in part of this file, processes do end.
"""

import asyncio
import hashlib
import logging
import os
import re
import signal
import socket as sockets
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import anyio
import pytest
import trio
from dishka import Scope
from harness import Client, app_with, connect, dial, on_trio, talk, unix_client
from ports import free_port
from repository import SUPPORT
from stubborn import STARTS
from timeouts import TIMEOUT

from websuckets import AppTasks, CommandGroup, Limits, Socket, WebSuckets
from websuckets.app import Server
from websuckets.di import provide_context
from websuckets.exc import ConfigurationError
from websuckets.runtime.event_loop import exit_scope
from websuckets.serving import signals

SOON = Limits(drain_timeout=0.05, finalize_timeout=0.01)
BOTH = (signal.SIGINT, signal.SIGTERM)


class Thing: ...


def hello_group() -> CommandGroup:
    group = CommandGroup()

    @group.command("hello")
    async def hello(socket: Socket) -> str:
        return "hello"

    return group


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> "Queue[int]":
    """Return the queue of exit codes with which this process would have ended."""
    codes: Queue[int] = Queue()
    monkeypatch.setattr("os._exit", codes.put)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *a, **k: None)
    return codes


@pytest.fixture
def listening() -> Iterator["Queue[str]"]:
    """Yield the queue of the URLs of apps that pick a port themselves, read from their log."""
    urls: Queue[str] = Queue()

    def note(record: logging.LogRecord) -> bool:
        if record.msg.startswith("listening on"):
            urls.put(record.getMessage().split()[2].rstrip(","))
        return True

    logger = logging.getLogger("websuckets")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(note)
    try:
        yield urls
    finally:
        logger.removeFilter(note)
        logger.setLevel(level)


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Yield a function that runs another in a thread; an error of that function fails the test."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(function: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)
                os.kill(os.getpid(), signal.SIGTERM)  # so that the program ends

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(TIMEOUT)
    assert not errors


def call(url: str, event: str) -> Any:
    """Send a command, return the next frame, and abort the connection."""

    async def talk_to_it() -> Any:
        async with connect(url) as connection:
            client = Client(connection, None)
            try:
                return await client.call(event, id=1)
            finally:
                await client.vanish()

    return asyncio.run(talk_to_it())


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# The forced exit ----------------------------------------------------------------------------------


def ignoring(enough: threading.Event) -> CommandGroup:
    """Make commands that ignore a cancellation, each in another way, until `enough` is set."""
    group = CommandGroup()

    @group.command("ignore")
    async def ignore(socket: Socket) -> None:
        await socket.send('"begun"')
        while not enough.is_set():
            try:
                await anyio.sleep(0.001)
            except BaseException:
                pass

    @group.command("block")
    async def block(socket: Socket) -> None:
        await socket.send('"begun"')
        enough.wait(TIMEOUT)

    @group.command("thread")
    async def thread(socket: Socket) -> None:
        await socket.send('"begun"')
        await asyncio.to_thread(enough.wait, TIMEOUT)

    return group


@pytest.mark.parametrize("way", ["ignore", "block", "thread"])
def test_a_program_that_cannot_stop_is_ended(
    way: str,
    exits: "Queue[int]",
    listening: "Queue[str]",
    meanwhile: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process exits with code 1, and the log names what does not end."""
    enough = threading.Event()
    codes: list[int] = []

    def end() -> None:
        assert call(listening.get(timeout=TIMEOUT), way) == "begun"
        terminate()
        try:
            codes.append(exits.get(timeout=TIMEOUT))
        finally:
            enough.set()

    meanwhile(end)
    asyncio.run(app_with(ignoring(enough), limits=SOON)("127.0.0.1", 0))
    assert codes == [1]
    critical = [r.getMessage() for r in caplog.records if r.levelname == "CRITICAL"]
    # Other tests of this process may have left threads of libraries.
    running = r"threads that run: .*\basyncio_0\b" if way == "thread" else rf"{way!r} \(1\)"
    assert re.search(running, critical[0])


def test_a_program_that_goes_on_is_not_ended(
    exits: "Queue[int]", listening: "Queue[str]", meanwhile: Any
) -> None:
    """A process whose app stopped in time is not ended, though it runs on."""
    app = app_with(hello_group(), limits=SOON)
    is_over = threading.Event()

    class Watched(signals._SignalHandler):
        def _exit_what_is_late(self) -> None:
            super()._exit_what_is_late()
            is_over.set()

    def stop() -> None:
        listening.get(timeout=TIMEOUT)
        terminate()

    async def main() -> None:
        await app("127.0.0.1", 0)
        assert await asyncio.to_thread(is_over.wait, TIMEOUT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "_SignalHandler", Watched)
        meanwhile(stop)
        asyncio.run(main())
    assert exits.empty()


def test_a_program_may_have_all_the_time_there_is(
    exits: "Queue[int]", listening: "Queue[str]", meanwhile: Any
) -> None:
    """Without `drain_timeout`, a process may take any time to stop."""
    enough = threading.Event()

    def stop() -> None:
        assert call(listening.get(timeout=TIMEOUT), "thread") == "begun"
        terminate()
        enough.set()

    meanwhile(stop)
    asyncio.run(app_with(ignoring(enough), limits=Limits(drain_timeout=None))("127.0.0.1", 0))
    assert exits.empty()


def test_a_second_signal_ends_what_holds_up_the_main_thread(
    exits: "Queue[int]", listening: "Queue[str]", meanwhile: Any
) -> None:
    """The second signal ends the process even if C code keeps Python from running its handlers."""
    group = CommandGroup()

    @group.command("compute")
    async def compute(socket: Socket) -> None:
        await socket.send('"begun"')
        while exits.empty():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000)

    def stop() -> None:
        assert call(listening.get(timeout=TIMEOUT), "compute") == "begun"
        for number in BOTH:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals.signal, "SIG_DFL", lambda *_: None)  # it would end this process
        meanwhile(stop)
        asyncio.run(app_with(group)("127.0.0.1", 0))
    assert exits.get() in [128 + number for number in BOTH]


# Signals ------------------------------------------------------------------------------------------


def handlers() -> list[Any]:
    """Return the signal handlers of this process."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return [*map(signal.getsignal, BOTH), descriptor]


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
        signals._handler._notify_all()  # the thread calls this
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


# Errors that end the program ----------------------------------------------------------------------


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
def test_beside_other_things_it_ends_them_all_on_trio(
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


# Addresses ----------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("host", [None, "", ["127.0.0.1", "::1"], ["localhost", "::1"]])
async def test_port_0_is_one_port_on_every_address(host: Any) -> None:
    """Port 0 is one port on all addresses, so that `server.port` holds for each."""
    async with app_with(hello_group()).serve(host, 0) as server:
        assert len(server.urls) == 2
        assert {url.rpartition(":")[2] for url in server.urls} == {str(server.port)}
        for address in ("127.0.0.1", "[::1]"):
            async with connect(f"ws://{address}:{server.port}") as connection:
                assert (await Client(connection, server).call("hello"))["payload"] == "hello"


@pytest.mark.anyio
async def test_port_0_is_chosen_again_if_it_is_taken_on_another_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refuse the port at first, as if it were taken on the second address."""
    from websuckets.transports import listener

    tries: list[int] = []
    bind = listener._bind

    def taken_at_first(addresses: Any, port: int, options: Any) -> int:
        tries.append(port)
        if len(tries) < listener.TRIES:
            raise OSError("taken")
        return bind(addresses, port, options)

    monkeypatch.setattr(listener, "_bind", taken_at_first)
    async with app_with(hello_group()).serve(["127.0.0.1", "::1"], 0) as server:
        assert server.port
    assert len(tries) == listener.TRIES


@pytest.mark.anyio
async def test_a_port_that_is_taken_is_told_before_anything_starts(journal: list[str]) -> None:
    """The error is raised before hooks run, so there is nothing to undo."""
    app = app_with(hello_group())

    @app.on_startup
    async def startup() -> None:
        journal.append("started")

    with sockets.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            async with app.serve("127.0.0.1", other.getsockname()[1]):
                pytest.fail("it started")
    assert journal == []


@pytest.mark.anyio
async def test_a_port_that_is_taken_meanwhile_is_told_when_it_is_opened() -> None:
    """An app whose port a hook takes has not started, and may be served again."""
    app = app_with(hello_group())
    others: list[Any] = []

    @app.on_startup
    async def startup() -> None:
        if not others:
            others.append(sockets.create_server(("127.0.0.1", port)))

    port = free_port()
    with pytest.raises(OSError, match=r"(?i)address already in use"):
        async with app.serve("127.0.0.1", port):
            pytest.fail("it started")
    others[0].close()
    async with talk(app) as client:
        assert (await client.call("hello"))["payload"] == "hello"


@pytest.mark.anyio
async def test_several_may_share_a_port_that_ask_for_it() -> None:
    """`reuse_port` is an option of asyncio."""
    if on_trio():
        pytest.skip("trio has no such option")
    one, two = app_with(hello_group()), app_with(hello_group())
    options = {"reuse_port": True, "reuse_address": False}
    async with one.serve("127.0.0.1", 0, **options) as server:
        async with two.serve("127.0.0.1", server.port, **options) as same:
            assert same.port == server.port


@pytest.mark.anyio
async def test_an_address_that_this_machine_does_not_have_is_told_by_who_listens() -> None:
    """A port of a foreign address is neither free nor taken, so listening raises the error."""
    # asyncio of Python 3.13 has a text of its own.
    with pytest.raises(OSError, match=r"(?i)assign requested address|could not bind on any"):
        async with app_with(hello_group()).serve("192.0.2.1", 9000):
            pytest.fail("it started")


@pytest.mark.anyio
async def test_a_trio_server_takes_listeners() -> None:
    """`listeners` is an option of `websockets`, instead of host and port."""
    if not on_trio():
        pytest.skip("it is an option on trio")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    app = app_with(hello_group())
    with pytest.raises(ValueError, match="incompatible with listeners"):
        async with app.serve("127.0.0.1", 0, listeners=listeners):
            pytest.fail("it started")
    async with app.serve(listeners=listeners) as server, dial(server) as client:
        assert (await client.call("hello"))["payload"] == "hello"


@pytest.mark.anyio
@pytest.mark.on_asyncio
async def test_an_asyncio_server_may_begin_to_serve_later() -> None:
    """`start_serving` is an option of asyncio."""
    with sockets.socket() as own:
        own.bind(("127.0.0.1", 0))
        async with app_with(hello_group()).serve(sock=own, start_serving=False) as server:
            with pytest.raises(ConnectionRefusedError):
                async with dial(server):
                    pytest.fail("it is open")


@pytest.mark.anyio
async def test_a_unix_socket_that_a_server_left_is_taken_over(tmp_path: Path) -> None:
    """The socket of a stopped or killed server is replaced; a file that is not a socket is kept."""
    path = tmp_path / "s"
    with sockets.socket(sockets.AF_UNIX) as killed:
        killed.bind(str(path))
    app = app_with(hello_group())
    for _ in range(2):
        async with app.serve(path=path) as server:
            async with await unix_client(str(path)) as connection:
                assert (await Client(connection, server).call("hello"))["payload"] == "hello"
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match=r"(?i)already in use"):
        async with app.serve(path=file, backlog=5):
            pytest.fail("it started")
    assert file.read_text() == "precious"


@pytest.mark.anyio
async def test_a_start_that_is_cancelled_leaves_no_port_open() -> None:
    """No port stays open, whenever the start is cancelled."""
    app = app_with(hello_group())
    port = free_port()
    for checkpoints in range(30):
        async with anyio.create_task_group() as tasks:
            start = anyio.CancelScope()

            async def cancel(start: anyio.CancelScope = start, n: int = checkpoints) -> None:
                for _ in range(n):
                    await anyio.lowlevel.checkpoint()
                start.cancel()

            tasks.start_soon(cancel)
            with start:
                async with app.serve(["127.0.0.1", "::1"], port):
                    await anyio.sleep_forever()
        for host in ("127.0.0.1", "::1"):
            family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
            sockets.create_server((host, port), family=family).close()
    async with talk(app) as client:
        assert (await client.call("hello"))["payload"] == "hello"


# Mistakes ----------------------------------------------------------------------------------------


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
async def test_a_server_is_no_awaitable() -> None:
    """Expect an error that says that the result of `serve` is a context."""
    app: Any = WebSuckets()
    with pytest.raises(ConfigurationError, match=r"async with app\.serve"):
        await app.serve("127.0.0.1", 0)


@pytest.mark.anyio
async def test_running_where_an_event_loop_runs_is_refused() -> None:
    """Run as in a notebook, and expect an error that says what works there."""
    with pytest.raises(ConfigurationError, match=r"await app\("):
        WebSuckets().run("127.0.0.1", 0)


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
