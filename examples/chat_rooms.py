"""Rooms, who is in them, and private messages: in one process, or on as many nodes as you like.

Run it with ``python examples/chat_rooms.py``; or, with a Redis, on several ports at once::

    REDIS_URL=redis://localhost:6379 python examples/chat_rooms.py 9000
    REDIS_URL=redis://localhost:6379 python examples/chat_rooms.py 9001

Connect to each with ``python -m websockets ws://localhost:9000`` and type::

    {"event": "enter", "payload": {"nickname": "ann"}}
    {"event": "room join", "payload": "kitchen", "token": "<the token of the reply>"}
    {"event": "room say", "payload": {"room": "kitchen", "text": "tea?"}, "token": "<the token>"}
    {"event": "room who", "payload": "kitchen", "token": "<the token>"}
    {"event": "whisper", "payload": {"to": "bob", "text": "hi"}, "token": "<the token>"}

Who loses its connection goes on with its token, on either port.
"""

import os
import sys

from dishka import Provider
from pydantic import BaseModel, Field
from websockets.asyncio.server import ServerConnection

from websuckets import ClientEvent, CommandGroup, Payload, WebSuckets
from websuckets.channels import Channels
from websuckets.exc import ClientError
from websuckets.resuming import ResumeProvider
from websuckets.security import CurrentUser, Token
from websuckets.session import Session, User


class Nickname(BaseModel):
    nickname: str = Field(min_length=1, max_length=32)


class Line(BaseModel):
    room: str
    text: str = Field(max_length=1000)


class Whisper(BaseModel):
    to: str
    text: str = Field(max_length=1000)


lobby = CommandGroup()
rooms = CommandGroup("room", protected=True)
people = CommandGroup(protected=True)


@lobby.command("enter")
async def enter(
    socket: ServerConnection, model: Nickname, user: User, session: Session, channels: Channels
) -> ClientEvent:
    if model.nickname in await channels.online():
        raise ClientError("nickname taken")
    user.id = model.nickname
    user.token = Token.generate()
    await session.save(user)
    return ClientEvent("entered", {"token": user.token})


@rooms.command("join")
async def join(
    socket: ServerConnection, room: Payload[str], user: CurrentUser, channels: Channels
) -> None:
    await channels.subscribe(socket, room)
    joined = ClientEvent("joined", {"room": room, "who": user.id})
    await channels.publish(room, joined, exclude=socket)


@rooms.command("leave")
async def leave(
    socket: ServerConnection, room: Payload[str], user: CurrentUser, channels: Channels
) -> None:
    await channels.unsubscribe(socket, room)
    await channels.publish(room, ClientEvent("left", {"room": room, "who": user.id}))


@rooms.command("say")
async def say(socket: ServerConnection, model: Line, user: CurrentUser, channels: Channels) -> None:
    if user.id not in await channels.members(model.room):
        raise ClientError("not in this room")
    said = {"room": model.room, "from": user.id, "text": model.text}
    await channels.publish(model.room, ClientEvent("said", said))


@rooms.command("who")
async def who(socket: ServerConnection, room: Payload[str], channels: Channels) -> list[str]:
    return sorted(map(str, await channels.members(room)))


@people.command("whisper")
async def whisper(
    socket: ServerConnection, model: Whisper, user: CurrentUser, channels: Channels
) -> None:
    if model.to not in await channels.online():
        raise ClientError("not here")
    await channels.send_to(
        model.to, ClientEvent("whispered", {"from": user.id, "text": model.text})
    )


def make_app(redis_url: str | None = None) -> WebSuckets:
    """One node; all that use the same Redis are one chat."""
    provider: Provider = ResumeProvider()
    if redis_url is not None:
        from websuckets.redis import RedisProvider  # which alone needs the extra `redis`

        provider = RedisProvider(redis_url, resume=True)
    app = WebSuckets(providers=[provider])
    for group in (lobby, rooms, people):
        app.include_command_group(group)
    return app


app = make_app(os.environ.get("REDIS_URL"))

if __name__ == "__main__":
    app.run("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 9000)
