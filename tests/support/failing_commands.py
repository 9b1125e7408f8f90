"""Commands that fail in every way, and a provider that records how each scope is closed."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from dishka import Provider, Scope, provide
from pydantic import BaseModel, field_validator
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup
from websuckets.exc import ClientError, NotAuthorized


def cancelled() -> str:
    """Return the type of a cancellation on the running event loop."""
    return anyio.get_cancelled_exc_class().__name__


class AppThing: ...


class SessionThing: ...


class Outer: ...


class Inner: ...


class Broken: ...


class Closing: ...


class Journalling(Provider):
    """A provider of a thing in each scope that records when, and with what error, it is closed."""

    def __init__(self, journal: list[str], closing_error: Exception | None = None) -> None:
        super().__init__()
        self.journal = journal
        self.closing_error = closing_error

    def _closed(self, name: str, error: BaseException | None) -> None:
        self.journal.append(f"close {name}" + (f" with {type(error).__name__}" if error else ""))

    @provide(scope=Scope.APP)
    async def app_thing(self) -> AsyncIterator[AppThing]:
        self.journal.append("open app")
        error = yield AppThing()
        self._closed("app", error)

    @provide(scope=Scope.SESSION)
    async def session_thing(self, app: AppThing) -> AsyncIterator[SessionThing]:
        self.journal.append("open session")
        error = yield SessionThing()
        self._closed("session", error)

    @provide(scope=Scope.REQUEST)
    async def outer(self, session: SessionThing) -> AsyncIterator[Outer]:
        self.journal.append("open outer")
        error = yield Outer()
        await anyio.sleep(0)  # a real finaliser waits for something
        self._closed("outer", error)

    @provide(scope=Scope.REQUEST)
    def inner(self, outer: Outer) -> Iterator[Inner]:
        self.journal.append("open inner")
        error = yield Inner()
        self._closed("inner", error)

    @provide(scope=Scope.REQUEST)
    def broken(self, inner: Inner) -> Broken:
        raise RuntimeError("provider canary")

    @provide(scope=Scope.REQUEST)
    async def closing(self, inner: Inner) -> AsyncIterator[Closing]:
        error = yield Closing()
        self._closed("closing", error)
        if self.closing_error is not None:
            raise self.closing_error


class Picky(BaseModel):
    value: str

    @field_validator("value")
    @classmethod
    def check(cls, value: str) -> str:
        if value == "bug":
            raise KeyError("validator canary")
        if value == "refused":
            raise ClientError("refused by the validator")
        raise ValueError("this text is for the client")


class Unserialisable: ...


def commands(journal: list[str]) -> CommandGroup:
    """Return commands that succeed or fail; their handlers write to the journal."""
    group = CommandGroup()

    @group.command("fine")
    async def fine(socket: ServerConnection, *, inner: Inner) -> str:
        journal.append("handler")
        return "fine"

    @group.command("raise")
    async def raise_(socket: ServerConnection, *, inner: Inner) -> None:
        raise RuntimeError("handler canary")

    @group.command("raise for client")
    async def raise_for_client(socket: ServerConnection, *, inner: Inner) -> None:
        raise ClientError("no", {"because": 1})

    @group.command("refuse")
    async def refuse(socket: ServerConnection, *, inner: Inner) -> None:
        raise NotAuthorized

    @group.command("broken provider")
    async def broken_provider(socket: ServerConnection, *, broken: Broken) -> None:
        journal.append("never")

    @group.command("closing")
    async def closing(socket: ServerConnection, *, closing: Closing) -> str:
        return "not sent when closing fails"

    @group.command("raise, closing")
    async def raise_closing(socket: ServerConnection, *, closing: Closing) -> None:
        raise ClientError("no", {"because": 1})

    @group.command("crash, closing")
    async def crash_closing(socket: ServerConnection, *, closing: Closing) -> None:
        raise RuntimeError("handler canary")

    @group.command("validate")
    async def validate(socket: ServerConnection, model: Picky, inner: Inner) -> None:
        journal.append("never")

    @group.command("unserialisable")
    async def unserialisable(socket: ServerConnection, *, inner: Inner) -> object:
        journal.append("handler")
        return Unserialisable()

    @group.command("circular")
    async def circular(socket: ServerConnection, *, inner: Inner) -> Any:
        circle: list[Any] = []
        circle.append(circle)
        return circle

    return group


def incident_of(reply: dict[str, Any]) -> str:
    """Return the incident of an internal error that says nothing else."""
    assert reply["error"] == "internal error"
    assert list(reply["details"]) == ["incident"]
    incident: str = reply["details"]["incident"]
    return incident
