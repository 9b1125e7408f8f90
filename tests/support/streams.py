"""Streams of every kind, and a provider that records how the scope of each is closed."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
from dishka import Provider, Scope, provide
from harness import Gate
from pydantic import BaseModel
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import ClientEvent, CommandGroup, Payload
from websuckets.exc import ClientError
from websuckets.session import User


class Count(BaseModel):
    to: int


class Shared: ...


class Transaction: ...


class Journalling(Provider):
    """A provider that records when its objects are opened and closed, and with what error."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.SESSION)
    async def shared(self) -> AsyncIterator[Shared]:
        self.journal.append("open shared")
        await anyio.sleep(0.01)  # long enough for a second one to ask meanwhile
        yield Shared()
        self.journal.append("close shared")

    @provide(scope=Scope.REQUEST)
    async def transaction(self, shared: Shared) -> AsyncIterator[Transaction]:
        self.journal.append("open")
        error = yield Transaction()
        await anyio.sleep(0)
        self.journal.append("commit" if error is None else f"rollback {type(error).__name__}")


def streams(journal: list[str], gate: Gate) -> CommandGroup:
    """Return streams that write to the journal, and commands to call beside them."""
    group = CommandGroup()

    @group.command("count")
    async def count(
        socket: ServerConnection, model: Count, transaction: Transaction
    ) -> AsyncIterator[int]:
        for number in range(model.to):
            yield number

    @group.command("no scope")
    async def no_scope(socket: ServerConnection) -> AsyncIterator[Any]:
        yield None
        yield ClientEvent("other", [1])

    @group.command("fail")
    async def fail(
        socket: ServerConnection, model: Payload[str], transaction: Transaction
    ) -> AsyncIterator[int]:
        for number in range(3):
            yield number
        raise ClientError(model) if model != "bug" else RuntimeError("canary")

    @group.command("unserialisable")
    async def unserialisable(
        socket: ServerConnection, *, transaction: Transaction
    ) -> AsyncIterator[Any]:
        try:
            yield object()
        finally:
            journal.append("left")

    @group.command("never")
    async def never(socket: ServerConnection, *, transaction: Transaction) -> AsyncIterator[int]:
        try:
            await gate()
            yield 1
        finally:
            journal.append("left")

    @group.command("endless")
    async def endless(
        socket: ServerConnection, size: Payload[int] = 1, *, transaction: Transaction
    ) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * size
                journal.append("item")
        finally:
            journal.append("left")

    @group.command("protected", protected=True)
    async def protected(socket: ServerConnection) -> AsyncIterator[int]:
        yield 1

    @group.command("enter")
    async def enter(socket: ServerConnection, *, user: User) -> None:
        user.id, user.token = "ann", "secret"

    @group.command("ping")
    async def ping(socket: ServerConnection, *, shared: Shared) -> str:
        return "pong"

    return group


async def until_stuck(journal: list[str]) -> int:
    """Return how many items the stream yielded before it had to wait."""
    before = -1
    with anyio.fail_after(TIMEOUT):
        while journal.count("item") != before:
            before = journal.count("item")
            await anyio.sleep(0.05)
    return before
