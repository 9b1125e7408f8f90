"""A scope takes effect as a whole: an error of one finaliser reaches all that follow."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from dishka import BaseScope, Provider, Scope
from harness import app_with, dial, errors, talk, until
from serving import Serving
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.di import provide_context
from websuckets.exc import ClientError

pytestmark = pytest.mark.anyio


class First: ...


class Second: ...


class Third: ...


class CommitFailed(Exception): ...


class Transactions:
    """Three transactions in each scope, finalised in reverse; the third's commit may fail."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal
        self.fails = True

    async def first(self) -> AsyncIterator[First]:
        try:
            yield First()
        except BaseException as error:
            self.journal.append(f"first rolled back: {type(error).__name__}")
            raise
        else:
            self.journal.append("first committed")

    @asynccontextmanager
    async def _second(self) -> AsyncIterator[Second]:
        try:
            yield Second()
        except BaseException as error:
            self.journal.append(f"second rolled back: {type(error).__name__}")
            raise
        else:
            self.journal.append("second committed")

    async def second(self, first: First) -> AsyncIterator[Second]:
        async with self._second() as second:
            yield second

    def third(self, second: Second) -> Iterator[Third]:
        yield Third()
        if self.fails:
            raise CommitFailed

    def providers(self, scope: BaseScope) -> list[Provider]:
        provider = Provider(scope=scope)
        for source in (self.first, self.second, self.third):
            provider.provide(source)
        return [provider]


@pytest.fixture
def transactions(journal: list[str]) -> Transactions:
    return Transactions(journal)


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("save")
    async def save(socket: ServerConnection, *, third: Third) -> str:
        return "saved"

    @group.command("refuse")
    async def refuse(socket: ServerConnection, *, third: Third) -> str:
        raise ClientError("refused")

    @group.command("stream")
    async def stream(socket: ServerConnection, *, third: Third) -> AsyncIterator[int]:
        yield 1

    return group


def rolled_back(error: str) -> list[str]:
    return [f"second rolled back: {error}", f"first rolled back: {error}"]


async def test_a_commit_that_fails_rolls_back_what_is_still_open(
    serving: Serving, group: CommandGroup, transactions: Transactions, journal: list[str]
) -> None:
    """The transactions that follow a failed commit of the same message are rolled back."""
    app = app_with(group, providers=transactions.providers(Scope.REQUEST))
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("save"))["error"] == "internal error"
        assert journal == rolled_back("CommitFailed")
        transactions.fails = False
        assert (await client.call("save"))["payload"] == "saved"
        assert journal[2:] == ["second committed", "first committed"]


async def test_what_failed_is_rolled_back_by_whoever_expects_an_exception(
    serving: Serving,
    group: CommandGroup,
    transactions: Transactions,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A generator with its `yield` in a `try` or an `async with` gets the error there."""
    transactions.fails = False
    app = app_with(group, providers=transactions.providers(Scope.REQUEST))
    async with serving(app) as server, dial(server) as client:
        assert await client.call("refuse", id=1) == {"error": "refused", "details": None, "id": 1}
        assert journal == rolled_back("ClientError")
    assert not errors(caplog)


async def test_the_handlers_error_is_what_the_others_see(
    group: CommandGroup,
    transactions: Transactions,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All finalisers see the handler's error, even if one fails as well, which is logged."""
    async with talk(app_with(group, providers=transactions.providers(Scope.REQUEST))) as client:
        assert await client.call("refuse") == {"error": "refused", "details": None}
        assert journal == rolled_back("ClientError")
        assert len(errors(caplog)) == 1
    assert "CommitFailed" in caplog.text


async def test_a_stream_whose_commit_fails_has_failed(
    serving: Serving, group: CommandGroup, transactions: Transactions, journal: list[str]
) -> None:
    """The last reply of the stream is an error."""
    app = app_with(group, providers=transactions.providers(Scope.REQUEST))
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("stream", id=1))["payload"] == 1
        assert (await client.receive())["error"] == "internal error"
        assert journal == rolled_back("CommitFailed")


@pytest.mark.parametrize("kind", ["startup", "handshake", "connect", "disconnect"])
async def test_what_a_hook_used_is_rolled_back_with_it(
    kind: str, transactions: Transactions, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A hook has a REQUEST scope of its own, which is rolled back."""
    app = WebSuckets(providers=transactions.providers(Scope.REQUEST))

    async def hook(third: Third) -> None: ...

    getattr(app, f"on_{kind}")(hook)
    try:
        async with talk(app) as client:
            await client.closed() if kind == "connect" else await client.vanish()
            await until(journal, "first rolled back: CommitFailed")
    except Exception:
        assert kind in ("startup", "handshake")
    assert journal == rolled_back("CommitFailed")


@pytest.mark.parametrize("scope", [Scope.SESSION, Scope.APP])
async def test_wider_scopes_are_no_different(
    serving: Serving,
    group: CommandGroup,
    transactions: Transactions,
    journal: list[str],
    scope: BaseScope,
) -> None:
    """The scopes of a connection and of the app are rolled back alike."""
    app = app_with(group, providers=transactions.providers(scope))

    async def use() -> None:
        async with serving(app) as server, dial(server) as client:
            assert (await client.call("refuse"))["error"] == "refused"
            assert (await client.call("save"))["payload"] == "saved"

    if scope is Scope.SESSION:
        await use()
    else:
        with pytest.raises(Exception, match="finalisers failed") as failure:
            await use()
        assert isinstance(failure.value, ExceptionGroup)
    assert journal == rolled_back("CommitFailed")


async def test_a_context_manager_sees_the_error_of_another(
    journal: list[str], transactions: Transactions
) -> None:
    """Expect providers of `provide_context` to be finalised like any other."""
    group = CommandGroup()

    @asynccontextmanager
    async def failing() -> AsyncIterator[Third]:
        yield Third()
        raise CommitFailed

    @group.command("save")
    async def save(socket: ServerConnection, *, second: Second, third: Third) -> str:
        return "saved"

    providers = [
        provide_context(transactions._second, provides=Second),
        provide_context(failing, provides=Third),
    ]
    async with talk(app_with(group, providers=providers)) as client:
        assert (await client.call("save"))["error"] == "internal error"
    assert journal == ["second rolled back: CommitFailed"]
