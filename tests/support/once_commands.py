"""An app whose commands take effect once, and a ledger of their effects."""

from collections.abc import AsyncIterator
from typing import Any

from dishka import Provider, Scope
from harness import Gate, app_with
from pydantic import BaseModel, Field

from websuckets import (
    ClientEvent,
    CommandGroup,
    CurrentUser,
    Payload,
    Socket,
    Token,
    User,
)


class Order(BaseModel):
    item: str
    count: int = Field(default=1, ge=1)


class Ledger:
    """The effects of commands: entries that scopes have committed."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.rolled_back: list[str] = []
        self.opened = 0


class Entry:
    """A transaction, which a scope commits or rolls back."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> None:
        self.written.append(text)


class Desk:
    """An app whose commands take effect once."""

    def __init__(self, **options: Any) -> None:
        self.ledger = Ledger()
        self.gate = Gate()
        self.fails: list[BaseException] = []
        """Errors that the next runs of a handler raise."""
        self.app = app_with(self._commands(), providers=[self._provider()], **options)

    def _provider(self) -> Provider:
        ledger = self.ledger
        provider = Provider(scope=Scope.REQUEST)

        async def entry() -> AsyncIterator[Entry]:
            entry = Entry()
            ledger.opened += 1
            error = yield entry
            (ledger.entries if error is None else ledger.rolled_back).extend(entry.written)

        provider.provide(entry)
        return provider

    def _commands(self) -> CommandGroup:
        group = CommandGroup()

        @group.command("log in")
        async def log_in(socket: Socket, name: Payload[str], user: User) -> str:
            user.id, user.token = name, Token.generate()
            return user.token

        @group.command("order", once=True)
        async def order(socket: Socket, order: Order, entry: Entry) -> str:
            entry.write(order.item)
            if self.fails:
                raise self.fails.pop(0)
            return f"{order.count} {order.item}"

        @group.command("pay", protected=True, once=True)
        async def pay(socket: Socket, user: CurrentUser, entry: Entry) -> str:
            entry.write(f"{user.id} pays")
            return f"{len(self.ledger.entries)}"

        @group.command("wait", once=True)
        async def wait(socket: Socket, entry: Entry) -> int:
            await self.gate()
            if self.fails:
                raise self.fails.pop(0)
            entry.write("waited")
            return len(self.ledger.entries)

        @group.command("nothing", once=True)
        async def nothing(socket: Socket, entry: Entry) -> None:
            entry.write("nothing")

        @group.command("event", once=True)
        async def event(socket: Socket, entry: Entry) -> ClientEvent:
            entry.write("event")
            return ClientEvent("eventful", {"entries": len(self.ledger.entries)})

        return group
