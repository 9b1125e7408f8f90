"""Tests that the programs of the documented API run as they always did, started as programs.

The programs use what the first documentation taught: the deprecated `WebSocketServerProtocol`, a
second `app`, `InternalError`, and `Session` as a class.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from harness import Client, connect
from timeouts import TIMEOUT

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

EMPTY = """
import asyncio
from websuckets import WebSuckets

app = WebSuckets()

if __name__ == '__main__':
    asyncio.run(app("localhost", PORT))
"""

GREETING = """
import asyncio
from websockets import WebSocketServerProtocol
from websuckets import WebSuckets, CommandGroup

app = WebSuckets()
group = CommandGroup(PREFIX)


@group.command("greet", protected=False)
async def greet(socket: WebSocketServerProtocol):
    await socket.send("hello")


app.include_command_group(group)

app = WebSuckets()
if __name__ == '__main__':
    asyncio.run(app("localhost", PORT))
"""

MODEL = """
import asyncio
from pydantic import BaseModel
from websockets import WebSocketServerProtocol
from websuckets import WebSuckets, CommandGroup

app = WebSuckets()
group = CommandGroup("book")


class Book(BaseModel):
    title: str
    year: int


@group.command("add")
async def add(socket: WebSocketServerProtocol, model: Book):
    await socket.send(model.model_dump_json())


app.include_command_group(group)

app = WebSuckets()
if __name__ == '__main__':
    asyncio.run(app("localhost", PORT))
"""

MESSAGES = """
import asyncio
from uuid import UUID
from pydantic import BaseModel
from websockets import WebSocketServerProtocol
from websuckets import WebSuckets, CommandGroup, ClientEvent
from websuckets.exc import InternalError
from websuckets.session import Session

app = WebSuckets()
group = CommandGroup()


class Note(BaseModel):
    to: UUID
    text: str


@group.command("my address", protected=False)
async def my_address(socket: WebSocketServerProtocol):
    await socket.send(ClientEvent("address", str(socket.id)))


@group.command("pass on", protected=False)
async def pass_on(socket: WebSocketServerProtocol, model: Note):
    if model.to not in Session.online:
        raise InternalError("nobody there")
    receiver = Session.online[model.to].socket
    note = ClientEvent(event="note", payload=dict(author=str(socket.id), text=model.text))
    await socket.send(ClientEvent(event="passed on"))
    await receiver.send(note)


app.include_command_group(group)

app = WebSuckets()
if __name__ == '__main__':
    asyncio.run(app("localhost", PORT))
"""

MEMBERS = """
import asyncio
import uuid
from pydantic import BaseModel
from websockets import WebSocketServerProtocol
from websuckets import WebSuckets, CommandGroup, ClientEvent
from websuckets.exc import InternalError
from websuckets.security import Token
from websuckets.session import Session

app = WebSuckets()
group = CommandGroup()
members = {}


class Credentials(BaseModel):
    login: str
    password: str


class NoSuchMember(InternalError):
    def __init__(self):
        super().__init__("no such member")


@group.command("join")
async def join(socket: WebSocketServerProtocol, model: Credentials):
    if model.login in members:
        raise InternalError("taken", "choose another login")
    members[model.login] = model.model_dump() | {"id": str(uuid.uuid4())}
    await socket.send(ClientEvent("joined"))


@group.command("enter")
async def enter(socket: WebSocketServerProtocol, model: Credentials):
    member = members.get(model.login)
    if member is None or member["password"] != model.password:
        raise NoSuchMember
    token = Token.generate()
    user = Session.online[socket.id]
    user.id = member["id"]
    user.token = token
    user.login = member["login"]
    await socket.send(ClientEvent("new token", token))
    return


@group.command("list", protected=True)
async def list_members(socket: WebSocketServerProtocol):
    assert Session.verified[Session.online[socket.id].id].login == "ann"
    await socket.send(ClientEvent("members", sorted(members)))


app.include_command_group(group)

app = WebSuckets()
if __name__ == '__main__':
    asyncio.run(app("localhost", PORT))
"""


class RunningApp:
    def __init__(self, url: str, process: "subprocess.Popen[str]") -> None:
        self.url = url
        self.process = process

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with connect(self.url) as connection:
            yield Client(connection, None)


@asynccontextmanager
async def running(program: str, path: Path, **names: str) -> AsyncIterator[RunningApp]:
    """Run the program in a process of its own, until SIGTERM ends it."""
    for name, value in {**names, "PORT": "0"}.items():
        program = program.replace(name, value)
    (path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "program.py"], cwd=path, stderr=subprocess.PIPE, text=True
    )
    try:
        url = await line_with(process.stderr, "listening on")
        yield RunningApp(url.split("listening on ")[1].split(",")[0], process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0


async def line_with(stream: Any, text: str) -> str:
    """Return the next line of a process that holds ``text``, or all lines if the process ends."""
    seen = ""
    with anyio.fail_after(TIMEOUT):
        while line := await anyio.to_thread.run_sync(stream.readline, abandon_on_cancel=True):
            if text in line:
                return str(line).strip()
            seen += line
    raise AssertionError(seen)


async def test_no_command_at_all(tmp_path: Path) -> None:
    """Expect an error for every message."""
    async with running(EMPTY, tmp_path) as program, program.client() as client:
        assert (await client.call("greet"))["error"] == "unknown command"
        await client.connection.send("greet")
        assert (await client.receive())["error"] == "invalid message"


@pytest.mark.parametrize(("prefix", "event"), [("", "greet"), ('"polite"', "polite greet")])
async def test_a_command_with_and_without_a_prefix(tmp_path: Path, prefix: str, event: str) -> None:
    """Expect a group that was included in an app that is not the one that runs to be served."""
    async with running(GREETING, tmp_path, PREFIX=prefix) as program, program.client() as client:
        await client.send(event)
        assert await client.receive_frame() == "hello"


async def test_a_command_with_a_model(tmp_path: Path) -> None:
    """Expect the payload as the handler sent it."""
    book = {"title": "Solaris", "year": 1961}
    async with running(MODEL, tmp_path) as program, program.client() as client:
        assert await client.call("book add", payload=book) == book
        assert (await client.call("book add"))["error"] == "payload required"


async def test_messages_between_clients(tmp_path: Path) -> None:
    """Expect a message to reach the client with this connection id."""
    async with (
        running(MESSAGES, tmp_path) as program,
        program.client() as ann,
        program.client() as bob,
    ):
        addresses = [(await client.call("my address"))["payload"] for client in (ann, bob)]
        note = {"to": addresses[1], "text": "hi"}
        assert await ann.call("pass on", payload=note) == {"event": "passed on", "payload": None}
        assert await bob.receive() == {
            "event": "note",
            "payload": {"author": addresses[0], "text": "hi"},
        }
        nobody = {"to": "00000000-0000-0000-0000-000000000000", "text": "hi"}
        refused = await ann.call("pass on", payload=nobody)
        assert refused == {"error": "nobody there", "details": None}


async def test_registration_authentication_and_a_protected_list(tmp_path: Path) -> None:
    """Expect the token of the reply to give access to the list."""
    ann = {"login": "ann", "password": "secret"}
    async with running(MEMBERS, tmp_path) as program, program.client() as client:
        assert (await client.call("enter", payload=ann))["error"] == "no such member"
        assert await client.call("join", payload=ann) == {"event": "joined", "payload": None}
        taken = await client.call("join", payload=ann)
        assert taken == {"error": "taken", "details": "choose another login"}
        assert (await client.call("list"))["error"] == "not authorized"
        token = (await client.call("enter", payload=ann))["payload"]
        listed = await client.call("list", token=token)
        assert listed == {"event": "members", "payload": ["ann"]}


async def test_the_command_line_client(tmp_path: Path) -> None:
    """Expect `python -m websockets`, which the documentation recommends, to work."""
    async with running(GREETING, tmp_path, PREFIX="") as program:
        client = subprocess.Popen(
            [sys.executable, "-m", "websockets", program.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_PROXY": "*"},
        )
        try:
            assert client.stdin is not None
            client.stdin.write(json.dumps({"event": "greet"}) + "\n")
            client.stdin.flush()
            assert await line_with(client.stdout, "< hello")
        finally:
            client.kill()
            client.communicate()
