"""Events that cannot be appended in the transaction of a handler, which is then rolled back."""

from collections.abc import Iterator, Sequence

import pytest
import tickets
from dishka import Provider, Scope
from harness import app_with, errors
from tickets import NAME, Commented, ticket

from websuckets import CommandGroup, OnCommit, Socket
from websuckets.di import ScopeFactory
from websuckets.history import (
    LoggedEvent,
    MemoryLog,
    MessageLog,
    PlainMessageLog,
    Position,
    Publication,
)
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class FailingLog:
    """A log of a message that fails at the end of each transaction."""

    is_transactional = True
    has_committed = False

    async def append(self, publications: Sequence[Publication]) -> Sequence[Position]:
        raise KeyError("the end of a transaction")

    async def position(self, channel: str) -> Position:
        return Position("epoch", 0)

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        return []


def provider(journal: list[str]) -> Provider:
    def closing() -> Iterator[str]:
        try:
            yield "resource"
            journal.append("committed")
        except KeyError:
            journal.append("rolled back")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(FailingLog, provides=MessageLog)
    provider.provide(closing)
    return provider


async def test_a_failed_append_fails_the_command_and_rolls_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal: list[str] = []
    group = CommandGroup()

    @group.command("publish")
    async def publish(socket: Socket, *, on_commit: OnCommit, resource: str) -> None:
        on_commit.publish(NAME, Commented(text="lost"))

    @group.command("publish in a scope")
    async def in_a_scope(socket: Socket, *, new: ScopeFactory[tuple[OnCommit, str]]) -> None:
        async with new() as (on_commit, _):
            on_commit.publish(NAME, Commented(text="lost"))

    app = app_with(group, channels=[ticket], providers=[provider(journal)])

    @app.on_disconnect
    async def publish_the_end(on_commit: OnCommit, resource: str) -> None:
        on_commit.publish(NAME, Commented(text="lost"))

    async with TestClient(app) as client:
        for event in "publish", "publish in a scope":
            with pytest.raises(CommandError, match="internal error"):
                await client.call(event)
        async with client.connect():
            pass
    assert journal == ["rolled back"] * 4
    assert all("the end of a transaction" in str(record.exc_info) for record in errors(caplog))


async def test_a_log_outside_of_transactions_reads_what_the_app_has_appended() -> None:
    log = MemoryLog()
    plain = PlainMessageLog(log)
    assert not plain.is_transactional
    assert not plain.has_committed
    history = tickets.ticket.history
    assert history is not None
    await log.append(Publication("a", history, b"{}"))
    position = await plain.position("a")
    assert position.offset == 1
    events = await plain.read("a", Position(position.epoch, 0), 10)
    assert [event.offset for event in events] == [1]
    with pytest.raises(NotImplementedError):
        await plain.append([])
