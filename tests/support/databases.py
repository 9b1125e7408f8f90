"""Databases that record how their connections are opened and closed, and who asks for them."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
from dishka import Provider, Scope, provide
from harness import app_with

from websuckets import (
    CommandGroup,
    Socket,
    WebSuckets,
)
from websuckets.di import ScopeFactory


class Db:
    """A connection to a database."""

    def __init__(self, number: int) -> None:
        self.number = number


class Repository:
    def __init__(self, db: Db) -> None:
        self.db = db


class Wide:
    def __init__(self, new_scope: ScopeFactory[Db]) -> None:
        self.new_scope = new_scope


class OfConnection(Wide): ...


class OfMessage(Wide): ...


class Above:
    def __init__(self, below: OfMessage) -> None:
        self.new_scope = below.new_scope


class Databases(Provider):
    """A provider of connections that record how they are opened and closed."""

    scope = Scope.REQUEST
    repository = provide(Repository)
    wide = provide(Wide, scope=Scope.APP)
    of_connection = provide(OfConnection, scope=Scope.SESSION)
    of_message = provide(OfMessage)
    above = provide(Above)

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal
        self.number = 0
        self.open = 0
        self.error: BaseException | None = None

    @provide
    async def db(self) -> AsyncIterator[Db]:
        self.number += 1
        self.open += 1
        number = self.number
        self.journal.append(f"open {number}")
        error = yield Db(number)
        await anyio.sleep(0)
        self.open -= 1
        end = "commit" if error is None else f"rollback for {type(error).__name__}"
        self.journal.append(f"{end} {number}")
        if self.error is not None:
            raise self.error


ONE_STEP = ["open 1", "step", "commit 1"]


async def step(new_scope: ScopeFactory[Db], journal: list[str]) -> None:
    async with new_scope() as db:
        assert isinstance(db, Db)
        journal.append("step")


def app_calling(function: Any, *providers: Provider, **options: Any) -> WebSuckets:
    """Return an app with the command ``run``, which calls a function with a factory."""
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, new_scope: ScopeFactory[Db]) -> Any:
        return await function(new_scope)

    return app_with(group, providers=providers, **options)
