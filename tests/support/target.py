"""An app that is attacked, in a process of its own, so that only the app changes its memory.

As a program it prints its port, and serves until its standard input ends.
"""

import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
import websockets.asyncio.server
import websockets.trio.server
from harness import on_trio
from peers import Peer, command, opened
from serving import uvicorn_running
from websockets.exceptions import ConnectionClosed

from websuckets import AppTasks, CommandGroup, ConnectionTasks, Limits, Payload, Socket, WebSuckets
from websuckets.session import Session

SIZE: Final = 64 * 1024
EVERY: Final = 0.01
MIB: Final = 1024 * 1024
ADVISED: Final = {"max_size": 64 * 1024, "per_message_deflate": False}
"""Bounds of uvicorn itself, if they are set."""
CAN_BE_WATCHED: Final = Path("/proc/self/clear_refs").exists()

group = CommandGroup()


@group.command("ping")
async def ping(socket: Socket) -> str:
    return "pong"


@group.command("online")
async def online(socket: Socket, *, session: Session) -> int:
    return len(session.online)


@group.command("sleep")
async def sleep(socket: Socket, model: Payload[float]) -> None:
    await anyio.sleep(model)


@group.command("errors")
async def errors(socket: Socket) -> list[str]:
    """Return what was logged that an operator would be woken up for."""
    return Errors.seen


@group.command("chunks")
async def chunks(socket: Socket) -> AsyncIterator[str]:
    for _ in range(10):
        yield chunk()


@group.command("push by a stream")
async def by_a_stream(socket: Socket) -> AsyncIterator[str]:
    while True:
        yield chunk()
        await anyio.sleep(EVERY)


@group.command("push by the handler")
async def by_the_handler(socket: Socket) -> None:
    while True:
        await socket.send(chunk())
        await anyio.sleep(EVERY)


@group.command("push by a task of the connection")
async def by_a_task_of_the_connection(
    socket: Socket, *, tasks: ConnectionTasks, session: Session
) -> None:
    tasks.start_soon(push_to, session, socket)


async def push_to(session: Session, socket: Socket) -> None:
    while socket.id in session.online:
        await session.online[socket.id].socket.send(chunk())
        await anyio.sleep(EVERY)


@group.command("push by a task of the app")
async def by_a_task_of_the_app(socket: Socket, *, tasks: AppTasks, session: Session) -> None:
    tasks.start_soon(push_in_turn, session)


async def push_in_turn(session: Session) -> None:
    """Send to one listener after the other, waiting for each."""
    while sockets := listening(session):
        for socket in sockets:
            await send(socket, chunk())
        await anyio.sleep(EVERY)


@group.command("push by a task for each message")
async def by_a_task_for_each(socket: Socket, *, tasks: AppTasks, session: Session) -> None:
    tasks.start_soon(push_at_once, session, tasks)


async def push_at_once(session: Session, tasks: AppTasks) -> None:
    """Send to all listeners at the same time, waiting for none."""
    while sockets := listening(session):
        message = chunk()
        for socket in sockets:
            tasks.start_soon(send, socket, message)
        await anyio.sleep(EVERY)


@group.command("push by broadcast")
async def by_broadcast(socket: Socket, *, tasks: AppTasks, session: Session) -> None:
    tasks.start_soon(push_by_broadcast, session)


async def push_by_broadcast(session: Session) -> None:
    while sockets := listening(session):
        if on_trio():
            await websockets.trio.server.broadcast(sockets, chunk())
        else:
            websockets.asyncio.server.broadcast(sockets, chunk())
        await anyio.sleep(EVERY)


def chunk() -> str:
    """Return a text that takes memory of its own."""
    return "x" * SIZE


async def send(socket: Socket, message: str) -> None:
    with suppress(ConnectionClosed):
        await socket.send(message)


def listening(session: Session) -> list[Any]:
    """Return the connections that have asked for messages by their path."""
    sockets = [user.socket for user in session.online.values()]
    return [socket for socket in sockets if socket.request and socket.request.path == "/listen"]


class Errors(logging.Handler):
    """A handler that keeps what is logged at ERROR and above, by any logger."""

    seen: list[str] = []  # noqa: RUF012  # there is one instance, and its name is global anyhow

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.name}: {self.format(record)}")


def serving(
    app: WebSuckets, server: str, options: dict[str, Any]
) -> AbstractAsyncContextManager[Any]:
    if server.startswith("uvicorn"):
        options = {f"ws_{name}": value for name, value in (ADVISED | options).items()}
        return uvicorn_running(app.asgi, ws=server.removeprefix("uvicorn, "), **options)
    return app.serve("127.0.0.1", 0, **options)


async def main(server: str, limits: dict[str, Any], options: dict[str, Any]) -> None:
    logging.getLogger().addHandler(Errors())
    app = WebSuckets(limits=Limits(**limits))
    app.include_command_group(group)
    async with serving(app, server, options) as address:
        print(address.port, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        os._exit(0)  # the app is attacked: it may not be able to stop


class Target:
    """The process, as its attacker sees it."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._process = Path(f"/proc/{pid}")
        self._before = 0

    def watch(self) -> None:
        """Begin to measure the growth of its memory."""
        (self._process / "clear_refs").write_text("5")  # forgets the peak
        self._before = self._status("VmRSS")

    @property
    def growth(self) -> int:
        """Bytes by which its memory has grown, at the highest."""
        return self._status("VmHWM") - self._before

    @property
    def sockets(self) -> int:
        """Number of its open sockets, those that listen or wake its loop included."""
        count = 0
        for descriptor in (self._process / "fd").iterdir():
            with suppress(OSError):
                count += os.readlink(descriptor).startswith("socket:")
        return count

    def _status(self, name: str) -> int:
        for line in (self._process / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)


@asynccontextmanager
async def running_target(
    server: str, backend: str, limits: dict[str, Any], options: dict[str, Any]
) -> AsyncIterator[Target]:
    """Run the app under ``websockets``, or under ``uvicorn, `` and one of its implementations."""
    arguments = [server, backend, json.dumps(limits), json.dumps(options)]
    async with await anyio.open_process(
        [sys.executable, __file__, *arguments],
        stdin=PIPE,
        stdout=PIPE,
        stderr=None,
    ) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(20):
                port = int(await process.stdout.receive())
            target = Target(port, process.pid)
            await _warm_up(target)
            yield target
        finally:
            process.kill()


async def _warm_up(target: Target) -> None:
    """Make the process import and allocate once, so that this is not counted as growth."""
    async with opened(target.port, "/listen") as peer:
        await peer.call("ping")
        await peer.write(command("chunks"))
        for _ in range(10):
            await peer.read_json()
    await alone(target)


async def alone(target: Target) -> None:
    """Wait until the app has no other client."""
    async with opened(target.port) as observer:
        await until_online(observer, 1)


async def until_online(observer: Peer, count: int) -> None:
    while (await observer.call("online"))["payload"] != count:
        await anyio.sleep(0.02)


if __name__ == "__main__":
    server, backend, *settings = sys.argv[1:]
    limits, options = map(json.loads, settings)
    anyio.run(main, server, limits, options, backend=backend)
