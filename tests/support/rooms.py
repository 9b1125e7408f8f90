"""An app with channels, for the tests of delivery to many."""

from typing import Any

from harness import app_with
from pydantic import BaseModel

from websuckets import ClientEvent, CommandGroup, Payload, Socket, WebSuckets
from websuckets.channels import Channel, Channels
from websuckets.security import CurrentUser
from websuckets.session import Session, User

group = CommandGroup()

hall = Channel("hall/{id}", presence=True)
"""Channels with presence, of apps that include them."""


class News(BaseModel):
    channel: str
    what: Any = None
    but_me: bool = False


@group.command("enter")
async def enter(socket: Socket, name: Payload[str | int | None], user: User) -> None:
    user.id = name
    user.token = None if name is None else f"secret of {name}"


@group.command("keep")
async def keep(socket: Socket, data: Payload[dict[str, Any]], user: User, session: Session) -> None:
    await session.save(user, **data)


@group.command("forget")
async def forget(socket: Socket, *, user: User, session: Session) -> None:
    await session.forget(user)


@group.command("join")
async def join(socket: Socket, name: Payload[Any], *, channels: Channels) -> None:
    await channels.subscribe(socket, name)


@group.command("leave")
async def leave(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
    await channels.unsubscribe(socket, name)


@group.command("publish")
async def publish(socket: Socket, news: News, *, channels: Channels) -> None:
    event = ClientEvent("news", news.what)
    await channels.publish(news.channel, event, exclude=socket if news.but_me else None)


@group.command("tell")
async def tell(socket: Socket, whom: Payload[str | int], *, channels: Channels) -> None:
    await channels.send_to(whom, ClientEvent("told", None))


@group.command("members")
async def members(socket: Socket, name: Payload[str], *, channels: Channels) -> list[str | int]:
    return sorted(await channels.members(name), key=str)


@group.command("online")
async def online(socket: Socket, *, channels: Channels) -> list[str | int]:
    return sorted(await channels.online(), key=str)


@group.command("who am i", protected=True)
async def who_am_i(socket: Socket, *, user: CurrentUser) -> tuple[str | int | None, Any]:
    return user.id, getattr(user, "role", None)


@group.command("revoke")
async def revoke(socket: Socket, whom: Payload[str | int], *, session: Session) -> None:
    await session.revoke(whom)


def app(**arguments: Any) -> WebSuckets:
    return app_with(group, **arguments)
