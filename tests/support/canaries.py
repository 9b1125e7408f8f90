"""An app whose messages hold secrets, and the search for these secrets in replies and the log."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Any, Literal
from uuid import UUID

import anyio
import pytest
from harness import Client
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, Json, SecretStr
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.commands.groups import CommandGroup as Group
from websuckets.exc import ClientError
from websuckets.session import User

CANARY = "canary-"
TOKEN = "canary-token-4711"
PASSWORD = "canary-password-4711"
VALUE = "canary-value-4711"

OURS = ("websuckets", "websockets.server")
"""Loggers that must not show secrets; others are the client's, the program's, its ASGI server's."""


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


HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "Cookie": f"session={TOKEN}; password={PASSWORD}",
    "X-Forwarded-For": VALUE,
    "Sec-WebSocket-Protocol": TOKEN,
}

TARGET = f"/{VALUE}?token={TOKEN}&password={PASSWORD}"


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
