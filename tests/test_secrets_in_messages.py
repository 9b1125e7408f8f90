"""Tests that tokens, passwords and payloads do not leak, whatever happens to a message."""

import json
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio
import peers
import pytest
from canaries import (
    CANARY,
    HEADERS,
    PASSWORD,
    TARGET,
    TOKEN,
    TYPES,
    VALUE,
    answers,
    app,
    commands,
    errors_among,
    frame,
    told,
)
from dishka import Provider, Scope
from harness import dial, talk
from peers import Gone, opened
from pydantic import TypeAdapter
from serving import Serving
from timeouts import TIMEOUT

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.exc import ClientError, HandshakeRefused, InvalidMessage, NotAuthorized
from websuckets.middleware import CallNext, Outcome
from websuckets.protocol.messages import Cancel
from websuckets.security import CurrentUser, Identity, Token
from websuckets.session import Session, User
from websuckets.testing import CommandError, TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("log_without_secrets")]

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


@pytest.mark.parametrize("what", SENT)
async def test_no_secret_shows_whatever_becomes_of_a_message(serving: Serving, what: str) -> None:
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
async def test_no_secret_shows_whatever_limit_is_exceeded(serving: Serving, limit: str) -> None:
    """Expect no secret in the error, the close reason and the log lines of each limit."""
    limits, frames = LIMITS[limit]
    async with serving(app(limits=Limits(**limits))) as server, dial(server) as client:
        said = await answers(client, frames)
        assert said
        assert CANARY not in "".join(errors_among(said))


@pytest.mark.slow
@pytest.mark.parametrize(
    "limits",
    [
        {"send_timeout": 0.1},
        {"outbox": (1, 1000), "concurrency": 20, "drain_timeout": 0.1},
        {"drain_timeout": 0.05, "send_timeout": None},
    ],
)
async def test_no_secret_shows_when_a_client_does_not_read(limits: dict[str, Any]) -> None:
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
async def test_frames_that_break_the_protocol_are_not_quoted(how: str) -> None:
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


async def test_no_secret_shows_in_middleware(serving: Serving) -> None:
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


async def test_no_secret_shows_in_a_test_client() -> None:
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


async def test_public_objects_show_no_secret() -> None:
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


async def test_errors_of_the_program_are_shown_in_tracebacks_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
    lines = [record.getMessage() for record in caplog.get_records("call")]
    assert CANARY not in "".join(lines)
    quoted = told(caplog)
    assert len(quoted) == 2
    assert TOKEN not in "".join(quoted)
    caplog.clear()


class Guarded:
    """An object that stands for the result of a guard of the program."""


async def test_details_of_an_error_of_a_guard_reach_the_client_and_not_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
