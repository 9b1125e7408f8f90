"""Types of events and channels, for mypy --strict and pyright; this file is never run."""
# pyright: strict

from collections.abc import AsyncIterator
from typing import Generic, TypeVar, assert_type

from pydantic import BaseModel, ConfigDict

from websuckets import (
    Channels,
    ClientEvent,
    CommandGroup,
    Event,
    OnCommit,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channel, ChannelName, History

T = TypeVar("T")

group = CommandGroup()


class Ticket(BaseModel):
    id: int


# Events


class Commented(Event):
    ticket: int
    text: str = ""
    name: str = "a field may have any name"


class Closed(Event, name="ticket closed", title="A ticket was closed"):
    model_config = ConfigDict(frozen=True)

    ticket: int


class Changed(Event, Generic[T]):
    value: T


assert_type(Commented(ticket=1).text, str)
assert_type(Commented.__event_name__, str)
assert_type(Changed[int](value=1).value, int)
Commented(ticket="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Commented()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@group.command("comment")
async def comment(socket: Socket, model: Commented) -> Commented | Closed | None:
    return model if model.text else Closed(ticket=model.ticket)


@group.command("mixed")
async def mixed(socket: Socket, model: Payload[Commented | None]) -> Ticket | ClientEvent | Closed:
    return Ticket(id=1)


@group.command("follow")
async def follow(socket: Socket) -> AsyncIterator[Commented]:
    yield Commented(ticket=1)


async def publish(channels: Channels, on_commit: OnCommit, socket: Socket) -> None:
    await channels.publish("news", Commented(ticket=1), exclude=socket)
    await channels.publish("news", ClientEvent("news"))
    await channels.send_to("ann", Closed(ticket=1))
    on_commit.publish("news", Changed(value=1))
    on_commit.send_to(7, Changed[str](value="a"))
    await channels.publish("news", Ticket(id=1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    on_commit.publish("news", Commented)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Channels

ticket = Channel(
    "ticket/{id}", events=[Commented, Closed], history=History(size=1000, seconds=86_400)
)
Channel("news", presence=True)
Channel("all", events=(Commented, Changed[int]), history=None)
assert_type(ticket(id=5), ChannelName)
assert_type(ticket(id=5).channel, Channel)
assert_type(ticket.events, tuple[type[Event], ...] | None)
assert_type(ticket.event_of(b""), ClientEvent | Event)
Channel(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Channel("a", events=[Ticket])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Channel("a", events=Commented)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ticket(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

app = WebSuckets(channels=[ticket])
WebSuckets(channels=["news"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


@group.command("watch", protected=True, subscribes=[ticket, Channel("news")])
async def watch_ticket(socket: Socket, id: Payload[int], *, channels: Channels) -> Ticket:
    await channels.subscribe(socket, ticket(id=id))
    return Ticket(id=id)


group.command("watch", subscribes=["news"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
assert_type(app.commands["watch"].subscribes, tuple[Channel, ...])


async def watch(channels: Channels, on_commit: OnCommit, socket: Socket) -> None:
    name: str = ticket(id=5)
    await channels.subscribe(socket, ticket(id=5))
    await channels.publish(name, Commented(ticket=1))
    on_commit.publish(ticket(id="a"), Closed(ticket=1), exclude=socket)
