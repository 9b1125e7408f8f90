"""Objects that hooks ask for, and commands that tell of the hooks' effects."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
from dishka import Provider, Scope, provide
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup
from websuckets.security import CurrentUser


class Visit: ...


class Job: ...


class Account: ...


class Journalling(Provider):
    """Providers that record when objects of a connection and of a message are opened and closed."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.SESSION)
    async def visit(self) -> AsyncIterator[Visit]:
        self.journal.append("open visit")
        yield Visit()
        await anyio.sleep(0)
        self.journal.append("close visit")

    @provide(scope=Scope.REQUEST)
    async def job(self) -> AsyncIterator[Job]:
        self.journal.append("open job")
        error = yield Job()
        await anyio.sleep(0)
        self.journal.append("close job" + (f" with {type(error).__name__}" if error else ""))

    @provide(scope=Scope.REQUEST)
    def account(self, user: CurrentUser) -> Account:
        return Account()


def hooked_commands(journal: list[str]) -> CommandGroup:
    """Return a command for verified users, and one that writes to the journal."""
    group = CommandGroup()

    @group.command("who", protected=True)
    async def who(socket: ServerConnection, *, user: CurrentUser) -> Any:
        return user.id

    @group.command("run")
    async def run(socket: ServerConnection) -> None:
        journal.append("run")

    return group
