"""An app with a channel that has a history, for the tests of catching up."""

from typing import Any

from harness import Gate, app_with

from websuckets import CommandGroup, Event, Limits, OnCommit, Payload, Socket, WebSuckets
from websuckets.channels import Channel, Channels, History
from websuckets.exc import ClientError
from websuckets.session import User


class Commented(Event):
    text: Any


class Closed(Event):
    by: str


ticket = Channel("ticket/{id}", events=[Commented, Closed], history=History(size=1000))
short = Channel("short/{id}", history=History(size=5))

NAME = "ticket/1"


def app(gate: Gate | None = None, **arguments: Any) -> WebSuckets:
    """Return an app whose clients watch tickets and comment on them.

    ``gate`` is between the position and the reply of ``watch slowly``.
    """
    group = CommandGroup()

    @group.command("enter")
    async def enter(socket: Socket, name: Payload[str | None], user: User) -> None:
        user.id, user.token = name, None if name is None else f"secret of {name}"

    @group.command("watch", subscribes=[ticket, short])
    async def watch(socket: Socket, names: Payload[list[str]], *, channels: Channels) -> str:
        for name in names:
            await channels.subscribe(socket, name)
        return "state"

    @group.command("watch quietly", subscribes=[ticket, short])
    async def watch_quietly(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.subscribe(socket, name)

    @group.command("watch slowly", subscribes=[ticket, short])
    async def watch_slowly(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.subscribe(socket, name)
        assert gate is not None
        await gate()

    @group.command("watch and fail", subscribes=[ticket, short])
    async def watch_and_fail(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.subscribe(socket, name)
        await channels.publish(name, Commented(text="while it fails"))
        raise ClientError("no")

    @group.command("leave")
    async def leave(socket: Socket, name: Payload[str], *, channels: Channels) -> None:
        await channels.unsubscribe(socket, name)

    @group.command("comment")
    async def comment(socket: Socket, text: Payload[Any], *, channels: Channels) -> None:
        await channels.publish(NAME, Commented(text=text))

    @group.command("comment to others")
    async def comment_to_others(socket: Socket, text: Payload[Any], *, channels: Channels) -> None:
        await channels.publish(NAME, Commented(text=text), exclude=socket)

    @group.command("comment on commit")
    async def comment_on_commit(socket: Socket, text: Payload[Any], *, on_commit: OnCommit) -> None:
        on_commit.publish(NAME, Commented(text=text))

    @group.command("publish")
    async def publish(socket: Socket, count: Payload[int], *, channels: Channels) -> None:
        for number in range(count):
            await channels.publish(NAME, Commented(text=number))
            await channels.publish("short/1", Commented(text=number))

    @group.command("publish long")
    async def publish_long(socket: Socket, count: Payload[int], *, channels: Channels) -> None:
        for _ in range(count):
            await channels.publish(NAME, Commented(text="x" * 2000))

    arguments.setdefault("channels", [ticket, short])
    # Clients of these tests may read nothing for as long as a slow machine needs for the rest.
    arguments.setdefault("limits", Limits(rate=None, send_timeout=None))
    return app_with(group, **arguments)


def commented(text: Any, offset: int, name: str = NAME) -> dict[str, Any]:
    """Return the frame of a comment."""
    payload = {"text": text}
    return {"event": "commented", "payload": payload, "channel": name, "offset": offset}
