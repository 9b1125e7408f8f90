"""Tests that tokens, passwords and payloads do not leak, whatever happens to a message."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Any, Literal
from uuid import UUID, uuid4

import anyio
import httpx2
import peers
import pytest
from dishka import Provider, Scope
from harness import Client, dial, talk
from peers import Gone, opened, tcp
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, Json, SecretStr, TypeAdapter
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.app import Server
from websuckets.commands.groups import CommandGroup as Group
from websuckets.exc import (
    ClientError,
    HandshakeRefused,
    InvalidMessage,
    NotAuthorized,
)
from websuckets.middleware import CallNext, Outcome
from websuckets.protocol.messages import Cancel
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity, Token
from websuckets.session import Session, User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

CANARY = "canary-"
TOKEN = "canary-token-4711"
PASSWORD = "canary-password-4711"
VALUE = "canary-value-4711"

OURS = ("websuckets", "websockets.server")
"""Loggers that must not show secrets; others are the client's, the program's, its ASGI server's."""


@pytest.fixture(autouse=True)
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """Yield all that is logged, at any level; expect no secret in the log of our loggers."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()  # type: ignore[attr-defined]  # patching skips it
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert told(caplog) == []


def told(log: pytest.LogCaptureFixture) -> list[str]:
    """Return the log records of our loggers that hold a secret."""
    formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    records = [r for r in log.get_records("call") if r.name.startswith(OURS)]
    return [line for line in map(formatter.format, records) if CANARY in line]


class Kind(Enum):
    ONE = "one"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    password: SecretStr = Field(min_length=1000)
    age: int


TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "Decimal": Decimal,
    "UUID": UUID,
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "AnyUrl": AnyUrl,
    "IPv4Address": IPv4Address,
    "Enum": Kind,
    "Literal": Literal["a", "b"],
    "union": int | date | None,
    "list": list[int],
    "dict": dict[str, int],
    "tuple": tuple[int, str],
    "JSON": Json[int],
    "model": Login,
    "models": Cat | Dog,
    "tagged": dict[str, list[Login]],
}
"""Types to none of which a secret can be converted."""


def commands() -> CommandGroup:
    group = CommandGroup()

    @group.command("log in")
    async def log_in(socket: Socket, login: Payload[dict[str, str]], user: User) -> None:
        user.id, user.token, user.password = "ann", login["token"], login["password"]

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("echo")
    async def echo(socket: Socket, model: Payload[Any]) -> Any:
        return model

    @group.command("protected", protected=True)
    async def protected(socket: Socket, model: Payload[Any] = None) -> Any:
        return model

    @group.command("raise")
    async def raise_(socket: Socket, model: Payload[Any]) -> None:
        raise RuntimeError("a bug")

    @group.command("refuse")
    async def refuse(socket: Socket, model: Payload[Any]) -> None:
        try:
            raise ValueError(model)
        except ValueError as error:
            raise ClientError("no") from error

    @group.command("sleep", timeout=0.01)
    async def sleep(socket: Socket, model: Payload[Any]) -> None:
        await anyio.sleep_forever()

    @group.command("unserialisable")
    async def unserialisable(socket: Socket, model: Payload[Any]) -> Any:
        return {"secret": model, "other": object()}

    @group.command("not as declared")
    async def not_as_declared(socket: Socket, model: Payload[Any]) -> Any:
        return Login.model_construct(password=model, age=model)

    @group.command("stream")
    async def stream(socket: Socket, model: Payload[Any]) -> AsyncIterator[Any]:
        yield "an item"
        raise RuntimeError("a bug")

    @group.command("endless")
    async def endless(socket: Socket, model: Payload[Any]) -> AsyncIterator[Any]:
        yield "an item"
        await anyio.sleep_forever()

    @group.command("close")
    async def close(socket: Socket, model: Payload[Any]) -> None:
        await socket.close()
        await socket.send(str(model))

    for name, kind in TYPES.items():
        add_typed(group, name, kind)
    return group


def add_typed(group: Group, name: str, kind: Any) -> None:
    @group.command(f"takes {name}")
    async def takes(socket: Socket, model: Payload[kind]) -> None: ...


def app(**arguments: Any) -> WebSuckets:
    app = WebSuckets(**arguments)
    app.include_command_group(commands())
    return app


def frame(event: Any, payload: Any = VALUE, **fields: Any) -> str:
    return json.dumps({"event": event, "payload": payload, **fields})


FULL = frame("echo", {"password": PASSWORD, "more": [VALUE]}, token=TOKEN, id=1)

SENT: dict[str, list[str | bytes]] = {
    "valid": [frame("raise", token=TOKEN), frame("protected", token=TOKEN, id=1)],
    "text that is no JSON": [VALUE, VALUE.encode(), f'"{VALUE}"', f"[{VALUE!r}]", f'"{VALUE}'],
    "bytes that are no UTF-8": [b"\xff" + VALUE.encode(), FULL.encode("utf-16")],
    "invalid JSON, cut off": [FULL[:length] for length in range(len(FULL))],
    "invalid JSON, with a character too many": [
        FULL[:at] + char + FULL[at:] for at in range(0, len(FULL), 3) for char in '"\\{\x00'
    ],
    "wrong types": [
        frame([VALUE]),
        frame({VALUE: VALUE}),
        frame(5, token=[TOKEN], id=[VALUE]),
        frame("echo", token={"token": TOKEN}),
        frame("echo", id=VALUE * 100),
        json.dumps({"cancel": [VALUE]}),
        json.dumps({"cancel": VALUE * 100}),
        json.dumps([VALUE]),
        json.dumps({"payload": VALUE, "token": TOKEN}),
        FULL.replace('"id": 1', '"id": 1e999'),
    ],
    "unknown commands": [frame("no such command", token=TOKEN)],
    "no right to": [frame("protected", token=f"another {TOKEN}"), frame("protected")],
    "validation": [
        frame(f"takes {name}", payload)
        for name in TYPES
        for payload in (VALUE, [VALUE], {"kind": VALUE}, {"password": PASSWORD, "age": VALUE})
    ],
    "a bug": [frame("raise", token=TOKEN, id=1), frame("stream", token=TOKEN, id=2)],
    "a refusal": [frame("refuse", token=TOKEN, id=1)],
    "a timeout": [frame("sleep", token=TOKEN, id=1)],
    "no JSON form": [frame("unserialisable", token=TOKEN, id=1)],
    "a result that is not as declared": [frame("not as declared", token=TOKEN, id=1)],
    "streams": [frame("endless", token=TOKEN, id=n) for n in range(5)]
    + [frame("endless", id=0), json.dumps({"cancel": 0})],
    "to who has left": [frame("close", token=TOKEN, id=1)],
}


async def answers(client: Client, frames: list[str | bytes]) -> list[str]:
    """Return the answers to frames; if the connection is closed, its close code and reason, too."""
    received: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_all, client, [*frames, frame("ping", id="last")])
        with suppress(ConnectionClosed):
            while '"last"' not in (received or [""])[-1]:
                received.append(str(await client.receive_frame()))
            return received
    return [*received, str(await client.closed())]


async def send_all(client: Client, frames: list[str | bytes]) -> None:
    with suppress(ConnectionClosed):
        for sent in frames:
            await client.connection.send(sent)


def errors_among(answers: list[str]) -> list[str]:
    """Return errors and closes; events are answers of the program, and may hold secrets."""
    return [answer for answer in answers if '"event"' not in answer]


@pytest.mark.parametrize("what", SENT)
async def test_whatever_becomes_of_a_message(serving: Serving, what: str) -> None:
    """Expect no secret in the log or in an error, on every transport."""
    limits = Limits(streams=3, auth_failures=2, unknown_streak=2000, rate=None, burst=None)
    async with serving(app(limits=limits)) as server, dial(server) as client:
        await client.call("log in", payload={"token": TOKEN, "password": PASSWORD}, id=1)
        said = await answers(client, SENT[what])
        assert said
        assert CANARY not in "".join(errors_among(said))


LIMITS: dict[str, tuple[dict[str, Any], list[str | bytes]]] = {
    "max_size": ({"max_size": 100}, [frame("echo", VALUE * 100)]),
    "streams": ({"streams": 0}, [frame("endless", id=1)]),
    "rate": ({"rate": 0.01, "burst": 2}, [frame("echo")] * 10),
    "rate, until it is too much": ({"rate": 0.01, "burst": 2}, [FULL] * 200),
    "handler_timeout": ({"handler_timeout": 0.01}, [frame("sleep", id=1)]),
    "auth_failures": ({"auth_failures": 2}, [frame("protected", token=f"no {TOKEN}")] * 3),
    "unknown_streak": ({"unknown_streak": 2}, [frame("what"), VALUE, f"{{{VALUE}"]),
    "concurrency": ({"concurrency": 2}, [frame("sleep", token=TOKEN, id=n) for n in range(5)]),
    "auth_timeout": ({"auth_timeout": 0.01}, [frame("sleep", token=TOKEN, id=n) for n in range(9)]),
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_whatever_limit_is_exceeded(serving: Serving, limit: str) -> None:
    """Expect no secret in the error, the close reason and the log lines of each limit."""
    limits, frames = LIMITS[limit]
    async with serving(app(limits=Limits(**limits))) as server, dial(server) as client:
        said = await answers(client, frames)
        assert said
        assert CANARY not in "".join(errors_among(said))


@pytest.mark.parametrize(
    "limits",
    [
        {"send_timeout": 0.1},
        {"outbox": (1, 1000), "concurrency": 20, "drain_timeout": 0.1},
        {"drain_timeout": 0.05, "send_timeout": None},
    ],
)
async def test_a_client_that_does_not_read(limits: dict[str, Any]) -> None:
    """Expect no secret in the log when a client does not read what it should get."""
    served = app(limits=Limits(rate=None, max_size=None, **limits))
    async with AsyncExitStack() as stack:
        async with served.serve("127.0.0.1", 0) as server:
            assert server.port is not None
            peer = await stack.enter_async_context(opened(server.port, receive_buffer=peers.SMALL))
            with anyio.move_on_after(1), suppress(Gone):
                for _ in range(20):
                    await peer.write(peers.command("echo", payload=VALUE * 50000, token=TOKEN))


BROKEN: dict[str, bytes] = {
    "text that is no UTF-8": peers.text(VALUE.encode() + b"\xff"),
    "a reserved bit": peers.text(VALUE, rsv=4),
    "not masked": peers.text(VALUE, masked=False),
    "an unknown opcode": peers.frame(0x3, VALUE.encode()),
    "too long a ping": peers.frame(peers.PING, VALUE.encode() * 20),
    "a ping": peers.frame(peers.PING, VALUE.encode()),
    "a pong": peers.frame(peers.PONG, VALUE.encode()),
    "a continuation of nothing": peers.frame(peers.CONTINUATION, VALUE.encode()),
    "half a close code": peers.frame(peers.CLOSE, VALUE.encode()[:1]),
    "a close reason": peers.close(4000, VALUE.encode()),
    "a close reason that is no UTF-8": peers.close(4000, VALUE.encode() + b"\xff"),
    "no close code": peers.close(999, VALUE.encode()),
    "too long a message": peers.text(VALUE, length=1 << 62),
    "a message within a message": peers.text(VALUE, fin=False) + peers.text(VALUE),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_frames_that_break_the_protocol(how: str) -> None:
    """Expect no quote of the frames in the log or the close reason."""
    async with app().serve("127.0.0.1", 0) as server:
        assert server.port is not None
        async with opened(server.port) as peer:
            await peer.write(peers.command("echo", payload=VALUE, token=TOKEN) + BROKEN[how])
            peer.finish()
            with anyio.fail_after(TIMEOUT):
                said = await peer.read_close()
            if said is not None and how != "a close reason":  # echoed, as RFC 6455 asks
                assert CANARY.encode() not in said.data


HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "Cookie": f"session={TOKEN}; password={PASSWORD}",
    "X-Forwarded-For": VALUE,
    "Sec-WebSocket-Protocol": TOKEN,
}
TARGET = f"/{VALUE}?token={TOKEN}&password={PASSWORD}"


async def by_hook(request: Request) -> None:
    raise HandshakeRefused(401, "no")


async def by_name(request: Request) -> None:
    raise ClientError("no", VALUE)


async def by_bug(request: Request) -> None:
    raise RuntimeError("a bug")


async def not_at_all(request: Request) -> None: ...


@pytest.mark.parametrize("hook", [by_hook, by_name, by_bug, not_at_all])
@pytest.mark.parametrize("when", ["handshake", "connect", "disconnect"])
async def test_a_handshake_with_secrets(
    on_sockets: Serving, when: str, hook: Callable[[Request], Any]
) -> None:
    """Expect no secret of headers, cookies and query: accepted, refused, or failed."""
    served = app(trusted_proxies=["127.0.0.1"], subprotocols=[TOKEN])
    getattr(served, f"on_{when}")(hook)
    async with on_sockets(served) as server:
        assert CANARY not in await connected_to(server, TARGET, HEADERS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "/elsewhere"},
        {"origins": ["https://example.org"]},
        {"limits": Limits(max_connections=0)},
        {"limits": Limits(max_connections_per_ip=0)},
    ],
)
async def test_a_handshake_that_is_refused(on_sockets: Serving, arguments: dict[str, Any]) -> None:
    """Expect no secret when a handshake is refused for its path, its origin or a full server."""
    async with on_sockets(app(**arguments)) as server:
        headers = {**HEADERS, "Origin": f"https://{VALUE}.example.org"}
        assert CANARY not in await connected_to(server, TARGET, headers)


async def connected_to(server: Server, target: str, headers: dict[str, str]) -> str:
    """Return what a client is told that connects with these arguments, without its subprotocol."""
    assert server.port is not None
    async with tcp(server.port) as peer:
        with anyio.fail_after(TIMEOUT):
            try:
                head = await peer.open(target, headers)
                if " 101 " in head.splitlines()[0]:
                    await peer.write(peers.command("ping"))
                    peer.finish()
                    said = await peer.read_close()
                    return "" if said is None else said.data.decode(errors="replace")
                peer.finish()
                while True:
                    head += (await peer.read()).decode()
            except Gone:
                return head + peer._buffer.decode()


@pytest.mark.parametrize("target", ["/health", "/", f"/{VALUE}"])
async def test_a_request_that_is_no_handshake(on_sockets: Serving, target: str) -> None:
    """Expect no secret of the query, the cookies and the body."""
    async with on_sockets(app()) as server, httpx2.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{server.port}{target}"
        response = await http.get(url, params={"token": TOKEN}, headers=HEADERS)
        assert CANARY not in response.text + str(response.headers)


@pytest.mark.parametrize(
    "request_",
    [
        f"GET {TARGET} HTTP/1.1\r\nCookie {TOKEN}\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\x01\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nX {TOKEN}: 1\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {VALUE}\r\n\r\n",
        f"GET {TARGET} HTTP/9.9\r\n\r\n",
        f"GET {TARGET}\r\n\r\n",
        f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\ntoken={TOKEN}",
        f"{TOKEN}\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nCookie: {TOKEN * 10000}\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nCookie: {TOKEN}",
    ],
    ids=[
        "a header without a colon",
        "a control character in a header",
        "a space in the name of a header",
        "a wrong length",
        "a wrong version",
        "no version",
        "POST",
        "no HTTP",
        "too long a header",
        "cut off",
    ],
)
async def test_a_request_that_is_no_http(request_: str) -> None:
    """Expect no quote of the request, neither to the client nor in the log."""
    async with app().serve("127.0.0.1", 0) as server:
        assert server.port is not None
        async with tcp(server.port) as peer:
            said = b""
            with anyio.fail_after(TIMEOUT), suppress(Gone):
                await peer.write(request_.encode())
                peer.finish()
                while True:
                    said += await peer.read()
            assert CANARY not in said.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Key": TOKEN},
        {"Sec-WebSocket-Version": TOKEN},
        {"Upgrade": f"websocket, {TOKEN}"},
        {"Connection": TOKEN},
        {"Sec-WebSocket-Extensions": f"{TOKEN} ;;"},
        {"Sec-WebSocket-Protocol": f"{TOKEN} ;;"},
        {"Origin": TOKEN},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_a_handshake_that_is_wrong(headers: dict[str, str]) -> None:
    """Expect no quote of the handshake in the log; the client, which wrote it, may be told."""
    async with app().serve("127.0.0.1", 0) as server:
        await connected_to(server, TARGET, headers)


async def authenticate(request: Request) -> Identity | None:
    match request.headers["X-How"]:
        case "known":
            return Identity(request.headers["Cookie"])
        case "unknown":
            raise NotAuthorized("no", request.headers["Cookie"])
        case "bug":
            raise RuntimeError("a bug")
    return None


@pytest.mark.parametrize("how", ["known", "unknown", "bug", "nobody"])
async def test_users_who_are_verified_at_their_handshake(on_sockets: Serving, how: str) -> None:
    """Expect no secret by which a user is verified at its handshake."""
    served = app(providers=[HandshakeSecurityProvider(authenticate)], origins=[None])
    async with on_sockets(served) as server:
        headers = {**HEADERS, "X-How": how}
        assert CANARY not in await connected_to(server, TARGET, headers)
        with suppress(InvalidHandshake):
            async with dial(server, additional_headers=headers) as client:
                said = await answers(client, [frame("protected", token=TOKEN, id=1)])
                assert CANARY not in "".join(errors_among(said))


async def test_middleware(serving: Serving) -> None:
    """Expect no secret, also where middleware fails, refuses, or shows its arguments."""
    shown: list[str] = []

    async def show(socket: Socket, message: Message, call_next: CallNext) -> Any:
        shown.append(repr(message))
        outcome = await call_next()
        shown.extend((repr(outcome), str(outcome)))
        return outcome

    async def fail(socket: Socket, message: Message, call_next: CallNext) -> Any:
        match message.id:
            case "fail":
                raise RuntimeError("a bug")
            case "refuse":
                raise ClientError("no", "details")
            case "replace":
                await call_next()
                return object()
        return await call_next()

    frames: list[str | bytes] = [
        frame(event, token=TOKEN, id=id)
        for event in ("echo", "raise", "refuse", "what", "takes int", "stream")
        for id in ("fail", "refuse", "replace", "go on")
    ]
    async with serving(app(middleware=[show, fail])) as server, dial(server) as client:
        said = await answers(client, [*frames, VALUE])
        assert CANARY not in "".join(errors_among(said))
    assert shown
    assert CANARY not in "".join(shown)


async def test_a_test_client() -> None:
    """Expect no secret in its log and repr; its errors hold what the server sent."""
    async with TestClient(app(), TARGET, HEADERS) as client:
        await client.call("log in", {"token": TOKEN, "password": PASSWORD}, TOKEN)
        event = await client.call("echo", VALUE, TOKEN)
        for command in ("raise", "takes int", "takes model", "protected", "what"):
            with pytest.raises(CommandError) as caught:
                await client.call(command, VALUE, f"another {TOKEN}")
            assert CANARY not in repr(caught.value) + str(caught.value)
        with pytest.raises(TimeoutError) as late:
            await client.call("endless", VALUE, TOKEN, timeout=0.01)
        shown = [client, client.socket, event, late.value]
        assert CANARY not in "".join(map(repr, shown)) + str(late.value)


async def test_what_is_shown_of_public_objects() -> None:
    """Expect no secret in `repr` and `str` of public objects, which logs and tracebacks show."""
    shown: list[object] = [
        Message("echo", TOKEN, 1),
        Cancel(1),
        ClientEvent("created", {"password": PASSWORD}),
        Token(TOKEN),
        Identity("ann", 5.0),
        Outcome(frame("echo"), "error", RuntimeError(VALUE)),
        ClientError("no", VALUE),
        NotAuthorized("no", VALUE),
        InvalidMessage([], 1),
        HandshakeRefused(401, "no", {"Set-Cookie": TOKEN}),
        User(FakeSocket()),  # type: ignore[arg-type]
        Limits(),
        app(),
        commands(),
    ]
    assert CANARY not in "".join(map(repr, shown))

    served = WebSuckets()
    group = CommandGroup()

    @group.command("look")
    async def look(
        socket: Socket, *, user: User, session: Session, message: Message, app: WebSuckets
    ) -> None:
        user.id, user.token, user.password = "ann", TOKEN, PASSWORD
        things = (socket, user, session, message, app, session.online, session.verified)
        shown.extend(map(repr, things))

    served.include_command_group(group)
    async with talk(served) as client:
        await client.call("look", token=TOKEN, payload=VALUE, id=1)
    async with TestClient(served) as memory:
        await memory.call("look", VALUE, TOKEN)
    assert len(shown) == 28
    assert CANARY not in "".join(map(str, shown[14:]))


@dataclass
class FakeSocket:
    """A socket with no more than a `repr` needs."""

    id = uuid4()


async def test_what_the_program_raises_is_its_own(log: pytest.LogCaptureFixture) -> None:
    """Expect the program's and pydantic's errors in tracebacks; the client gets an incident."""
    group = CommandGroup()

    @group.command("quote")
    async def quote(socket: Socket, model: Payload[str]) -> None:
        raise RuntimeError(model)

    @group.command("validate")
    async def validate(socket: Socket, model: Payload[str]) -> None:
        TypeAdapter(int).validate_python(model)

    served = WebSuckets()
    served.include_command_group(group)
    async with talk(served) as client:
        for event in ("quote", "validate"):
            reply = await client.call(event, payload=VALUE, token=TOKEN, id=1)
            assert reply["error"] == "internal error"
            assert CANARY not in json.dumps(reply)
    lines = [record.getMessage() for record in log.get_records("call")]
    assert CANARY not in "".join(lines)
    quoted = told(log)
    assert len(quoted) == 2
    assert TOKEN not in "".join(quoted)
    log.clear()


class Guarded:
    """An object that stands for the result of a guard of the program."""


async def test_a_guard_of_the_program(log: pytest.LogCaptureFixture) -> None:
    """Expect the details of an error of a guard at the client, and not in the log."""

    async def guarded(user: CurrentUser, message: Message) -> Guarded:
        raise NotAuthorized("no", "details")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(guarded)
    group = CommandGroup()

    @group.command("go", protected=Guarded)
    async def go(socket: Socket) -> None: ...

    served = WebSuckets(providers=[provider])
    served.include_command_group(group)
    served.include_command_group(commands())
    async with talk(served) as client:
        await client.call("log in", payload={"token": TOKEN, "password": PASSWORD}, id=1)
        reply = await client.call("go", token=TOKEN, payload=VALUE, id=1)
        assert reply == {"error": "no", "details": "details", "id": 1}
