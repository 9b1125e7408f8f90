"""An app with commands, streams and hooks of each kind, for the tests of the test client."""

from collections.abc import AsyncIterator
from typing import Any

from harness import Gate, app_with
from pydantic import BaseModel
from websockets.http11 import Request

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.exc import ClientError, HandshakeRefused
from websuckets.security import Token
from websuckets.session import User


class Post(BaseModel):
    title: str


def sample_app(journal: list[str], gate: Gate) -> WebSuckets:
    """Return the app, which notes ends of streams and connections in the journal."""
    group = CommandGroup()

    @group.command("echo")
    async def echo(socket: Socket, model: Post) -> Post:
        return model

    @group.command("say")
    async def say(socket: Socket, text: Payload[str]) -> None:
        await socket.send(text)

    @group.command("tell")
    async def tell(socket: Socket, number: Payload[int]) -> int:
        await socket.send(ClientEvent("told", number))
        return number

    @group.command("secret", protected=True)
    async def secret(socket: Socket) -> str:
        return "psst"

    @group.command("enter")
    async def enter(socket: Socket, *, user: User) -> Token:
        user.id, user.token = "ann", Token.generate()
        return user.token

    @group.command("id")
    async def id(socket: Socket, *, message: Message) -> Any:
        return [message.id, message.token]

    @group.command("request")
    async def request(socket: Socket, *, request: Request) -> list[Any]:
        return [request.path, list(request.headers.raw_items()), socket.remote_address]

    @group.command("refuse")
    async def refuse(socket: Socket) -> None:
        raise ClientError("refused", {"because": 1})

    @group.command("bug")
    async def bug(socket: Socket) -> None:
        raise RuntimeError("canary")

    @group.command("close")
    async def close(socket: Socket, code: Payload[int] = 1000) -> None:
        await socket.close(code, "enough")

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "waited"

    @group.command("ping")
    async def ping(socket: Socket) -> float:
        return await (await socket.ping())

    @group.command("count")
    async def count(socket: Socket, to: Payload[int]) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @group.command("count for good")
    async def count_for_good(socket: Socket) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            journal.append(f"counted to {number}")

    @group.command("count and fail")
    async def count_and_fail(socket: Socket) -> AsyncIterator[int]:
        yield 0
        raise ClientError("enough")

    app = app_with(group, limits=Limits(max_size=(1000, None)))

    @app.on_handshake
    async def handshake(request: Request) -> None:
        if request.path == "/nowhere":
            raise HandshakeRefused(404, "nobody here", {"X-Why": "because"})
        if request.path == "/broken":
            raise RuntimeError("canary")

    @app.on_connect
    async def connect(request: Request, socket: Socket) -> None:
        if request.path == "/welcome":
            await socket.send(ClientEvent("welcome", [1]))
        if request.path == "/broken-later":
            raise RuntimeError("canary")

    @app.on_disconnect
    async def disconnect(socket: Socket) -> None:
        journal.append(f"disconnect {socket.close_code} {socket.close_reason}")

    return app
