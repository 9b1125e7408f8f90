"""Tests of the end of a process whose app does not stop in time.

`os._exit`, which ends a process, is replaced here, so that the tests can see the exit code; in
`test_shutdown`, processes do end.
"""

import asyncio
import hashlib
import re
import signal
import threading
from queue import Queue
from typing import Any

import anyio
import pytest
from harness import Client, app_with, connect
from programs import BOTH, hello_group, terminate
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Socket
from websuckets.serving import signals

SOON = Limits(drain_timeout=0.05, finalize_timeout=0.01)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> "Queue[int]":
    """Return the queue of exit codes with which this process would have ended."""
    codes: Queue[int] = Queue()
    monkeypatch.setattr("os._exit", codes.put)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *a, **k: None)
    return codes


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
