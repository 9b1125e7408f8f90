"""A program that does not want to stop, in a process of its own.

The arguments of the program are how it is started, one of `STARTS`, and its `Limits` as JSON. Its
commands wait for a line, or the end, of its standard input, and write to its standard output.
"""

import asyncio
import ctypes
import hashlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from subprocess import PIPE
from typing import Any, Final, NewType

import anyio
import trio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from dishka import Provider, Scope, provide
from timeouts import TIMEOUT

from websuckets import AppTasks, CommandGroup, ConnectionTasks, Limits, Payload, Socket, WebSuckets
from websuckets.app import Server
from websuckets.session import User

FOR_EVER: Final = 1000

STARTS: Final[dict[str, Callable[[WebSuckets], None]]] = {
    "asyncio.run": lambda app: asyncio.run(app("127.0.0.1", 0)),
    "app.run on asyncio": lambda app: app.run("127.0.0.1", 0),
    "trio.run": lambda app: trio.run(app, "127.0.0.1", 0),
    "app.run on trio": lambda app: app.run("127.0.0.1", 0, backend="trio"),
}
"""Ways to start a program, as in the documentation."""


async def ignore() -> None:
    while True:
        try:
            await anyio.sleep_forever()
        except BaseException:
            pass


async def shield() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep_forever()


async def thread() -> None:
    await anyio.to_thread.run_sync(time.sleep, FOR_EVER)


async def block() -> None:
    time.sleep(FOR_EVER)


async def executor() -> None:
    """Block a thread of asyncio's."""
    await asyncio.to_thread(time.sleep, FOR_EVER)


async def pool() -> None:
    """Block a thread of the program's own."""
    threads = ThreadPoolExecutor()
    await asyncio.get_running_loop().run_in_executor(threads, time.sleep, FOR_EVER)


async def compute() -> None:
    """Compute while Python runs no handler of signals."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)


async def match() -> None:
    """Match while no thread of Python runs."""
    re.match("(a+)+$", "a" * 50 + "b")


async def wait_in_c() -> None:
    """Wait while Python runs no handler of signals, as in `compute`, but idly.

    Signals do not end waiting for a mutex that this thread itself holds.
    """
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_init(mutex, None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


async def wait_with_the_gil() -> None:
    """Wait while no other thread of Python runs, as in `match`, but idly."""
    sys.setswitchinterval(FOR_EVER)
    sleep = ctypes.PyDLL(None).usleep
    while True:
        sleep(10_000)


WAYS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "ignore": ignore,
    "shield": shield,
    "thread": thread,
    "block": block,
    "executor": executor,
    "pool": pool,
    "compute": compute,
    "match": match,
    "wait in C": wait_in_c,
    "wait with the GIL": wait_with_the_gil,
}
"""Ways not to stop when told to."""

OfMessage = NewType("OfMessage", object)
OfConnection = NewType("OfConnection", object)
OfApp = NewType("OfApp", object)


class Late(Provider):
    """Finalisers of every scope that do not stop, for commands that depend on them."""

    @provide(scope=Scope.REQUEST)
    async def of_message(self) -> AsyncIterator[OfMessage]:
        yield OfMessage(None)
        await WAYS["ignore"]()

    @provide(scope=Scope.SESSION)
    async def of_connection(self) -> AsyncIterator[OfConnection]:
        yield OfConnection(None)
        await WAYS["ignore"]()

    @provide(scope=Scope.APP)
    async def of_app(self) -> AsyncIterator[OfApp]:
        yield OfApp(None)
        await WAYS["ignore"]()


group = CommandGroup()
go_on = anyio.Event()


@group.command("wait")
async def wait(socket: Socket) -> str:
    """Wait until the command may go on."""
    await socket.send("begun")
    await go_on.wait()
    return "done"


@group.command("note")
async def note(socket: Socket) -> None:
    """Write two lines, with a checkpoint in between."""
    say("begin")
    await anyio.sleep(0)
    say("end")


@group.command("stay")
async def stay(socket: Socket, way: Payload[str]) -> None:
    await socket.send("begun")
    await WAYS[way]()


@group.command("stay later")
async def stay_later(socket: Socket, way: Payload[str]) -> None:
    await socket.send("begun")
    await go_on.wait()
    await WAYS[way]()


@group.command("stay in a stream")
async def stay_in_a_stream(socket: Socket, way: Payload[str]) -> AsyncIterator[None]:
    await socket.send("begun")
    await WAYS[way]()
    yield


@group.command("stay in a task of the app")
async def stay_in_a_task_of_the_app(socket: Socket, way: Payload[str], *, tasks: AppTasks) -> None:
    tasks.start_soon(begin, socket, way)


@group.command("stay in a task of the connection")
async def stay_in_a_task_of_the_connection(
    socket: Socket, way: Payload[str], *, tasks: ConnectionTasks
) -> None:
    tasks.start_soon(begin, socket, way)


@group.command("stay in on_disconnect")
async def stay_in_on_disconnect(socket: Socket, way: Payload[str], *, user: User) -> None:
    user.way = way
    await socket.send("begun")


@group.command("stay in a finaliser of the message")
async def stay_in_a_finaliser_of_the_message(
    socket: Socket, way: Payload[str], *, late: OfMessage
) -> None:
    await socket.send("begun")


@group.command("stay in a finaliser of the connection")
async def stay_in_a_finaliser_of_the_connection(
    socket: Socket, way: Payload[str], *, late: OfConnection
) -> None:
    await socket.send("begun")


@group.command("stay in a finaliser of the app")
async def stay_in_a_finaliser_of_the_app(socket: Socket, way: Payload[str], *, late: OfApp) -> None:
    await socket.send("begun")


async def begin(socket: Socket, way: str) -> None:
    await socket.send("begun")
    await WAYS[way]()


def say(what: str) -> None:
    print(what, flush=True)


def app_of(limits: dict[str, Any]) -> WebSuckets:
    app = WebSuckets(providers=[Late()], limits=Limits(**limits))
    app.include_command_group(group)

    @app.on_startup
    async def listen_to_stdin(tasks: AppTasks) -> None:
        tasks.start_soon(let_go_on)

    @app.on_disconnect
    async def disconnect(user: User) -> None:
        if hasattr(user, "way"):
            await WAYS[user.way]()

    return app


async def let_go_on() -> None:
    await anyio.wait_readable(sys.stdin.fileno())
    go_on.set()


@dataclass
class Program:
    """This program, as its parent sees it."""

    process: Process
    log: list[str] = field(default_factory=list)
    """Lines of its log that were read so far."""
    output: str = ""
    """Output of the program, once `ended` has returned."""

    def __post_init__(self) -> None:
        assert self.process.stderr is not None
        self._lines = BufferedByteReceiveStream(self.process.stderr)
        self.server = Server(None, ())

    async def logs(self, text: str) -> str:
        """Return the next line with this text. Raises `anyio.IncompleteRead` if there is none."""
        while True:
            line = (await self._lines.receive_until(b"\n", 1 << 16)).decode()
            self.log.append(f"{line}\n")
            if text in line:
                return line

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def go_on(self) -> None:
        """Let waiting commands go on."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def ended(self, within: float = TIMEOUT) -> int:
        """Return the exit code of the program, once it ends."""
        assert self.process.stdout is not None
        with anyio.fail_after(within):
            try:
                await self.logs("\0")
            except anyio.IncompleteRead:
                self.log += self._lines.buffer.decode().splitlines()
            async for chunk in self.process.stdout:
                self.output += chunk.decode()
            return await self.process.wait()

    def errors(self, level: str = "ERROR") -> list[str]:
        """Return lines of this level of our log."""
        return [line for line in self.log if f" {level} websuckets" in line]


@asynccontextmanager
async def started(start: str, **limits: Any) -> AsyncIterator[Program]:
    """Run the program, and yield it once it listens."""
    command = [sys.executable, __file__, start, json.dumps(limits)]
    async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        program = Program(process)
        try:
            with anyio.fail_after(TIMEOUT):
                line = await program.logs("listening on ws://")
            url = line.split("listening on ")[1].split(",")[0]
            program.server = Server(int(url.rpartition(":")[2]), (url,))
            yield program
        finally:
            with suppress(ProcessLookupError):
                process.kill()


if __name__ == "__main__":
    STARTS[sys.argv[1]](app_of(json.loads(sys.argv[2])))
