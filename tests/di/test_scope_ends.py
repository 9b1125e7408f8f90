"""`ScopeFactory`: how scopes end, and what is left of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NewType

import anyio
import pytest
from census import census, until_as_before, without_tracebacks
from databases import (
    ONE_STEP,
    Databases,
    Db,
    app_calling,
    step,
)
from dishka import AsyncContainer, Provider, Scope, make_async_container
from dishka.exceptions import ExitError
from harness import Gate, app_with, errors, until

from websuckets import (
    AppTasks,
    CommandGroup,
    Limits,
    OnCommit,
    Socket,
)
from websuckets.di import ScopeFactory, lock_factory, provide_context, setup_dishka
from websuckets.exc import ClientError
from websuckets.security import SecurityProvider
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def databases(journal: list[str]) -> Databases:
    return Databases(journal)


Named = NewType("Named", str)


async def test_the_error_of_the_block_reaches_finalisers_and_is_raised(
    databases: Databases, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    databases.error = ValueError("of the finaliser")

    async def run(new_scope: ScopeFactory[Db]) -> str:
        with pytest.raises(ClientError, match="refused"):
            async with new_scope():
                raise ClientError("refused")
        return "caught"

    async with TestClient(app_calling(run, databases)) as client:
        assert (await client.call("run")).payload == "caught"
    assert journal == ["open 1", "rollback for ClientError 1"]
    [record] = errors(caplog)
    assert record.getMessage().startswith("finalisers of ScopeFactory[Db] failed, incident ")


async def test_an_error_of_a_finaliser_is_raised_itself_and_several_in_a_group(
    databases: Databases, journal: list[str]
) -> None:
    databases.error = KeyError("commit")

    def second() -> Iterator[Named]:
        yield Named("second")
        raise ValueError("second")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(second)
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: Socket,
        *,
        one: ScopeFactory[tuple[Db, OnCommit]],
        two: ScopeFactory[tuple[Db, Named]],
    ) -> str:
        with pytest.raises(KeyError, match="commit"):
            async with one() as (_, on_commit):
                on_commit(journal.append, "never")
        with pytest.raises(ExitError) as raised:
            async with two():
                pass
        assert {type(error) for error in raised.value.exceptions} == {KeyError, ValueError}
        return "done"

    async with TestClient(app_with(group, providers=[databases, provider])) as client:
        assert (await client.call("run")).payload == "done"
    assert "never" not in journal


async def test_an_error_of_a_finaliser_is_an_incident_of_the_command(databases: Databases) -> None:
    databases.error = KeyError("commit")

    async def run(new_scope: ScopeFactory[Db]) -> None:
        async with new_scope():
            pass

    async with TestClient(app_calling(run, databases)) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("run")


async def test_effects_of_a_scope_follow_its_commit_and_not_that_of_the_command(
    databases: Databases, journal: list[str]
) -> None:
    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: Socket,
        *,
        db: Db,
        on_commit: OnCommit,
        new_scope: ScopeFactory[tuple[Db, OnCommit]],
    ) -> None:
        on_commit(journal.append, "never")
        async with new_scope() as (inner, effects):
            assert inner is not db
            assert effects is not on_commit
            effects(journal.append, "effect")
        journal.append("after")
        with pytest.raises(RuntimeError, match="closed already"):
            effects(journal.append, "late")
        with suppress(ValueError):
            async with new_scope() as (_, effects):
                effects(journal.append, "never")
                raise ValueError
        raise ClientError("refused")

    async with TestClient(app_with(group, providers=[databases])) as client:
        with pytest.raises(CommandError, match="refused"):
            await client.call("run")
    assert journal == [
        *("open 1", "open 2", "commit 2", "effect", "after"),
        *("open 3", "rollback for ValueError 3", "rollback for ClientError 1"),
    ]


async def test_a_finaliser_that_hangs_ends_with_the_finalize_timeout(journal: list[str]) -> None:
    async def hangs() -> AsyncIterator[Db]:
        yield Db(1)
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("cancelled")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(hangs)

    async def run(new_scope: ScopeFactory[Db]) -> str:
        with pytest.raises(TimeoutError, match=r"finalisers took more than 0\.05 seconds"):
            async with new_scope():
                pass
        await anyio.sleep(0)
        async with anyio.create_task_group() as tasks:  # nothing of the cancellation is left
            tasks.start_soon(anyio.sleep, 0)
        return "done"

    app = app_calling(run, provider, limits=Limits(finalize_timeout=0.05))
    async with TestClient(app) as client:
        assert (await client.call("run")).payload == "done"
    assert journal == ["cancelled"]


async def test_providers_may_hold_task_groups_and_timeouts(journal: list[str]) -> None:
    """A cancel scope around a `yield` has to be left inside of the scopes around the opening."""

    @asynccontextmanager
    async def with_task_group() -> AsyncIterator[Db]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield Db(1)
            tasks.cancel_scope.cancel()
        journal.append("group ended")

    @asynccontextmanager
    async def with_timeout() -> AsyncIterator[Named]:
        with anyio.fail_after(30):
            yield Named("within")
        journal.append("timeout ended")

    group = CommandGroup()

    @group.command("run")
    async def run(
        socket: Socket, *, one: ScopeFactory[tuple[Db, Named]], other: ScopeFactory[Named]
    ) -> str:
        async with one(), other():
            pass
        with pytest.raises(ValueError, match="broken"):
            async with one():
                raise ValueError("broken")
        return "done"

    providers = [provide_context(with_task_group), provide_context(with_timeout)]
    async with TestClient(app_with(group, providers=providers)) as client:
        assert (await client.call("run")).payload == "done"
    assert journal.count("group ended") == 1
    assert journal.count("timeout ended") == 2


# Many scopes, and the ends that come early --------------------------------------------------------


async def test_scopes_open_within_each_other_and_beside_each_other(
    databases: Databases, journal: list[str]
) -> None:
    together = [anyio.Event() for _ in range(5)]

    async def hold(new_scope: ScopeFactory[Db], number: int) -> None:
        async with new_scope(), new_scope():
            together[number].set()
            for event in together:
                await event.wait()

    async def run(new_scope: ScopeFactory[Db]) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(hold, new_scope, number)

    async with TestClient(app_calling(run, databases)) as client:
        await client.call("run")
    assert databases.number == 10
    assert [entry for entry in journal if entry.startswith("rollback")] == []
    assert databases.open == 0


async def test_a_scope_is_opened_once(databases: Databases) -> None:
    async def run(new_scope: ScopeFactory[Db]) -> str:
        scope = new_scope()
        async with scope:
            with pytest.raises(RuntimeError, match=r"ScopeFactory\[Db\]: the scope was opened"):
                async with scope:
                    pass
        with pytest.raises(RuntimeError, match="call the factory again"):
            async with scope:
                pass
        return "done"

    async with TestClient(app_calling(run, databases)) as client:
        assert (await client.call("run")).payload == "done"
    assert databases.number == 1


async def test_a_factory_that_is_not_called_says_so(databases: Databases) -> None:
    async def run(new_scope: Any) -> str:
        with pytest.raises(TypeError, match=r"call it: `async with new_scope\(\) as \.\.\.`"):
            async with new_scope:
                pass
        return "done"

    async with TestClient(app_calling(run, databases)) as client:
        assert (await client.call("run")).payload == "done"


async def test_a_scope_that_is_cancelled_is_rolled_back(
    databases: Databases, journal: list[str]
) -> None:
    async def run(new_scope: ScopeFactory[Db]) -> None:
        with anyio.move_on_after(0):
            async with new_scope():
                await anyio.sleep_forever()
        await anyio.sleep(0)

    async with TestClient(app_calling(run, databases)) as client:
        await client.call("run")
    assert journal[0] == "open 1"
    assert journal[1].startswith("rollback for Cancelled")


async def test_a_block_that_has_ended_commits_though_it_is_cancelled(
    databases: Databases, journal: list[str]
) -> None:
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, new_scope: ScopeFactory[tuple[Db, OnCommit]]) -> None:
        with anyio.CancelScope() as scope:
            async with new_scope() as (_, on_commit):
                on_commit(journal.append, "effect")
                scope.cancel()
            journal.append("after")
            await anyio.sleep(0)
            journal.append("never")

    async with TestClient(app_with(group, providers=[databases])) as client:
        await client.call("run")
    assert journal == ["open 1", "commit 1", "effect", "after"]


@pytest.mark.parametrize("ending", ["error", "cancellation"])
async def test_what_was_opened_is_closed_when_the_rest_cannot_be_opened(
    ending: str, databases: Databases, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def second(db: Db) -> Named:
        if ending == "error":
            raise ClientError("refused")
        await anyio.sleep_forever()
        raise AssertionError

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(second)
    databases.error = KeyError("of the finaliser")
    group = CommandGroup()

    @group.command("run", timeout=0.05)
    async def run(socket: Socket, *, new_scope: ScopeFactory[Named]) -> None:
        scope = new_scope()
        try:
            async with scope:
                journal.append("never")
        finally:
            with pytest.raises(RuntimeError, match="opened before"):
                await scope.__aenter__()

    async with TestClient(app_with(group, providers=[databases, provider])) as client:
        with pytest.raises(CommandError, match="refused" if ending == "error" else "timeout"):
            await client.call("run")
    assert journal[0] == "open 1"
    assert journal[1].startswith("rollback for C")
    assert len(journal) == 2
    assert len(errors(caplog)) == 1


# An app that does not run, and a connection that is gone ------------------------------------------


async def test_nothing_can_be_opened_while_the_app_does_not_run(databases: Databases) -> None:
    kept: list[ScopeFactory[Db]] = []
    app = app_calling(lambda new_scope: keep(new_scope), databases)

    async def keep(new_scope: ScopeFactory[Db]) -> None:
        kept.append(new_scope)

    async with TestClient(app) as client:
        await client.call("run")
    with pytest.raises(RuntimeError, match=r"the app does not run; open scopes in handlers"):
        async with kept[0]():
            pass
    assert databases.number == 0


async def test_a_task_that_outlives_its_connection_opens_what_needs_no_connection(
    databases: Databases, journal: list[str], gate: Gate
) -> None:
    class Visit: ...

    visits = Provider(scope=Scope.SESSION)
    visits.provide(lambda: Visit(), provides=Visit)
    group = CommandGroup()

    async def outlive(db: ScopeFactory[Db], visit: ScopeFactory[Visit]) -> None:
        await gate()
        await step(db, journal)
        try:
            async with visit():
                journal.append("never")
        except RuntimeError as error:
            journal.append(str(error)[:29])

    @group.command("start")
    async def start(
        socket: Socket, *, tasks: AppTasks, db: ScopeFactory[Db], visit: ScopeFactory[Visit]
    ) -> None:
        tasks.start_soon(outlive, db, visit)

    async with TestClient(app_with(group, providers=[databases, visits])) as client:
        async with client.connect() as another:
            await another.call("start")
        await gate.reached.wait()
        gate.opened.set()
        await until(journal, "the Scope.SESSION has ended: ")
    assert journal[:3] == ONE_STEP


# A container that others use, too -----------------------------------------------------------------


async def test_a_scope_of_the_program_opens_scopes_while_the_app_runs(
    databases: Databases, journal: list[str]
) -> None:
    """An HTTP endpoint does, with which the app shares its container."""
    app = app_with(CommandGroup())
    container: AsyncContainer = make_async_container(
        SecurityProvider(), databases, *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    async with app.lifespan(), container() as request:
        new_scope = await request.get(ScopeFactory[tuple[Db, OnCommit]])
        async with new_scope() as (_, on_commit):
            on_commit(journal.append, "effect")
        with pytest.raises(RuntimeError, match=r"OnCommit: .* ask for ScopeFactory\[tuple\["):
            await request.get(OnCommit)
    assert journal == ["open 1", "commit 1", "effect"]
    async with container() as request:
        with pytest.raises(RuntimeError, match="the app does not run"):
            async with (await request.get(ScopeFactory[Db]))():
                pass
    await container.close()


# Nothing is left ----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_nothing_is_left_of_scopes_however_they_end(databases: Databases) -> None:
    async def run(new_scope: ScopeFactory[Db]) -> None:
        async with new_scope():
            pass
        with suppress(ValueError):
            async with new_scope():
                raise ValueError
        with anyio.move_on_after(0):
            async with new_scope():
                await anyio.sleep_forever()
        databases.error = KeyError()
        with suppress(KeyError):
            async with new_scope():
                pass
        databases.error = None

    with without_tracebacks("websuckets"):
        async with TestClient(app_calling(run, databases)) as client:
            await client.call("run")
            before = census()
            for _ in range(20):
                await client.call("run")
            await until_as_before(before, 10)
    assert databases.open == 0
