"""Transactions that record how they end, and an app whose command runs in one."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from dishka import Provider, Scope, provide
from harness import app_with

from websuckets import CommandGroup, OnCommit, Socket, WebSuckets


class Transaction: ...


class Transactions(Provider):
    """A provider of transactions that record their end, and fail as they are told."""

    scope = Scope.REQUEST

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal
        self.error: BaseException | None = None

    @provide
    async def transaction(self) -> AsyncIterator[Transaction]:
        error = yield Transaction()
        await anyio.sleep(0)
        self.journal.append("commit" if error is None else "rollback")
        if self.error is not None:
            raise self.error


Run = Callable[[OnCommit], Any]


def app_running(function: Run, *providers: Provider, **options: Any) -> WebSuckets:
    """Return an app with the command ``run``, which runs a function, sync or async."""
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, transaction: Transaction, on_commit: OnCommit) -> Any:
        result = function(on_commit)
        return await result if hasattr(result, "__await__") else result

    return app_with(group, providers=providers, **options)
