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


app = WebSuckets()
