"""`OnCommit`: effects of a message that happen after, and only after, its scope has closed."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from harness import Gate, app_with, dial, errors, until
from serving import Serving
from transactions import Transaction, Transactions, app_running

from websuckets import AppTasks, ClientEvent, CommandGroup, Limits, OnCommit, Socket, WebSuckets
from websuckets.app import Server
from websuckets.channels import Channels
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import ClientError
from websuckets.middleware import CallNext, Outcome
from websuckets.security import SecurityProvider
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def stoppable(app: WebSuckets) -> AsyncIterator[tuple[Server, Callable[[], None]]]:
    """Serve an app, and yield the server and a function that stops it."""
    stopping = anyio.Event()

    async def serve(*, task_status: TaskStatus[Server]) -> None:
        async with app.serve("127.0.0.1", 0) as server:
            task_status.started(server)
            await stopping.wait()

    async with anyio.create_task_group() as tasks:
        yield await tasks.start(serve), stopping.set
        stopping.set()


@pytest.fixture
def transactions(journal: list[str]) -> Transactions:
    return Transactions(journal)


class ByContainer:
    """A dependency that only dishka resolves, because it asks for the container itself."""

    def __init__(self, container: AsyncContainer) -> None:
        self.container = container


class Containing(Provider):
    asks = provide(ByContainer, scope=Scope.REQUEST)


def own_container(app: WebSuckets, *providers: Provider) -> None:
    container = make_async_container(
        SecurityProvider(), *providers, *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)


# Order --------------------------------------------------------------------------------------------


async def test_a_client_sees_published_events_before_the_reply(serving: Serving) -> None:
    group = CommandGroup()

    @group.command("join")
    async def join(socket: Socket, *, channels: Channels, user: User) -> None:
        user.id = 7
        await channels.subscribe(socket, "news")

    @group.command("announce")
    async def announce(socket: Socket, *, on_commit: OnCommit) -> str:
        on_commit.publish("news", ClientEvent("first", 1))
        on_commit.send_to(7, ClientEvent("second", 2))
        on_commit.publish("news", ClientEvent("hidden"), exclude=socket)
        return "done"

    app = app_with(group)
    async with serving(app) as server, dial(server) as one, dial(server) as other:
        for client in (one, other):
            await client.call("join", id="join")
        await one.send("announce", id=1)
        seen = [(await one.receive())["event"] for _ in range(3)]
        assert seen == ["first", "second", "announce"]
        assert [(await other.receive())["event"] for _ in range(3)] == ["first", "second", "hidden"]


@pytest.mark.parametrize("way", ["plain", "by container", "own container"])
async def test_effects_run_in_order_between_the_commit_and_the_reply(
    way: str, transactions: Transactions, journal: list[str]
) -> None:
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, transaction: Transaction, on_commit: OnCommit) -> str:
        on_commit(journal.append, "first")
        on_commit(later, "second")
        journal.append("handled")
        return "done"

    async def later(entry: str) -> None:
        await anyio.sleep(0)
        journal.append(entry)

    @group.command("run by container")
    async def by_container(
        socket: Socket, *, transaction: Transaction, container: ByContainer
    ) -> str:
        return await run(
            socket, transaction=transaction, on_commit=await container.container.get(OnCommit)
        )

    providers = (transactions, Containing())
    app = app_with(group, providers=() if way == "own container" else providers)
    if way == "own container":
        own_container(app, *providers)
    async with TestClient(app) as client:
        for _ in range(2):  # the first message of a command is resolved in another way
            await client.call("run by container" if way == "by container" else "run")
            journal.append("reply")
    assert journal == ["handled", "commit", "first", "second", "reply"] * 2


async def test_each_attempt_of_a_middleware_has_effects_of_its_own(
    transactions: Transactions, journal: list[str]
) -> None:
    async def twice(message: Any, socket: Socket, call_next: CallNext) -> Outcome:
        await call_next()
        return await call_next()

    attempts: list[int] = []

    def run(on_commit: OnCommit) -> None:
        attempts.append(1)
        on_commit(journal.append, f"effect {len(attempts)}")
        if len(attempts) == 1:
            raise ClientError("try again")

    async with TestClient(app_running(run, transactions, middleware=[twice])) as client:
        await client.call("run")
    assert journal == ["rollback", "commit", "effect 2"]


async def test_concurrent_commands_have_effects_of_their_own(
    transactions: Transactions, journal: list[str]
) -> None:
    gates = [Gate(), Gate()]

    async def run(on_commit: OnCommit) -> None:
        number = 0 if not gates[0].reached.is_set() else 1
        on_commit(journal.append, f"effect {number}")
        await gates[number]()

    app = app_running(run, transactions, limits=Limits(concurrency=2))
    async with TestClient(app) as client:
        for number, gate in enumerate(gates):
            await client.send("run", id=number)
            await gate.reached.wait()
        for gate in reversed(gates):
            gate.opened.set()
            await client.receive()
    assert journal == ["commit", "effect 1", "commit", "effect 0"]


class Audit:
    """A service that announces itself what it does, also when it is finalised."""

    def __init__(self, on_commit: OnCommit, journal: list[str]) -> None:
        self.on_commit = on_commit
        self.journal = journal


async def test_services_below_a_handler_use_the_effects_of_its_message(journal: list[str]) -> None:
    class Audits(Provider):
        @provide(scope=Scope.REQUEST)
        def audit(self, on_commit: OnCommit) -> Iterator[Audit]:
            yield Audit(on_commit, journal)
            on_commit(journal.append, "by the finaliser")

    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, on_commit: OnCommit, audit: Audit) -> None:
        assert audit.on_commit is on_commit
        audit.on_commit(journal.append, "by the service")

    async with TestClient(app_with(group, providers=[Audits()])) as client:
        await client.call("run")
    assert journal == ["by the service", "by the finaliser"]


async def test_hooks_and_error_functions_have_effects(journal: list[str]) -> None:
    group = CommandGroup()

    @group.command("fail")
    async def fail(socket: Socket) -> None:
        raise ValueError

    app = app_with(group)

    @app.on_startup
    async def startup(on_commit: OnCommit) -> None:
        on_commit(journal.append, "startup")

    @app.on_handshake
    async def handshake(user: User, on_commit: OnCommit) -> None:
        on_commit(journal.append, "handshake")

    @app.on_connect
    async def connect(socket: Socket, on_commit: OnCommit) -> None:
        on_commit(socket.send, "hello")

    @app.on_disconnect
    async def disconnect(user: User, on_commit: OnCommit) -> None:
        on_commit(journal.append, "disconnect")

    @app.on_error(ValueError)
    async def refuse(error: ValueError, on_commit: OnCommit) -> ClientError:
        on_commit(journal.append, "error")
        return ClientError("no")

    async with TestClient(app) as client:
        assert await client.receive_frame() == "hello"
        with pytest.raises(CommandError, match="no"):
            await client.call("fail")
    assert journal == ["startup", "handshake", "error", "disconnect"]


async def test_a_hook_that_fails_has_no_effects(journal: list[str]) -> None:
    kept: list[OnCommit] = []
    app = app_with(CommandGroup())

    @app.on_startup
    async def startup(on_commit: OnCommit) -> None:
        kept.append(on_commit)
        on_commit(journal.append, "startup")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async with TestClient(app):
            pass
    assert journal == []
    with pytest.raises(RuntimeError, match="closed already"):
        kept[0](journal.append, "late")


# No effect without a commit -----------------------------------------------------------------------


class Unserialisable: ...


@pytest.mark.parametrize(
    "result",
    [ValueError("broken"), ClientError("refused"), Unserialisable()],
    ids=lambda r: type(r).__name__,
)
async def test_no_effect_of_a_handler_that_fails(
    result: Any, transactions: Transactions, journal: list[str]
) -> None:
    def run(on_commit: OnCommit) -> Any:
        on_commit(journal.append, "never")
        if isinstance(result, Exception):
            raise result
        return result

    async with TestClient(app_running(run, transactions)) as client:
        with pytest.raises(CommandError):
            await client.call("run")
    assert journal == ["rollback"]


async def test_no_effect_of_a_message_whose_finaliser_fails(
    transactions: Transactions, journal: list[str]
) -> None:
    transactions.error = ValueError("the commit fails")
    app = app_running(lambda on_commit: on_commit(journal.append, "never"), transactions)
    async with TestClient(app) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("run")
    assert journal == ["commit"]


async def test_no_effect_of_a_transaction_that_the_database_refuses_to_commit(
    tmp_path: Path, journal: list[str]
) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE parents (name TEXT PRIMARY KEY);"
            "CREATE TABLE children"
            " (parent TEXT REFERENCES parents (name) DEFERRABLE INITIALLY DEFERRED);"
        )

    def database() -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(database)
    group = CommandGroup()

    @group.command("add an orphan")
    async def add_orphan(socket: Socket, *, db: sqlite3.Connection, on_commit: OnCommit) -> None:
        db.execute("INSERT INTO children VALUES ('no such parent')")
        on_commit(journal.append, "orphan")

    @group.command("add a parent")
    async def add_parent(socket: Socket, *, db: sqlite3.Connection, on_commit: OnCommit) -> None:
        db.execute("INSERT INTO parents VALUES ('one')")
        on_commit(journal.append, "parent")

    async with TestClient(app_with(group, providers=[provider])) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("add an orphan")
        await client.call("add a parent")
    assert journal == ["parent"]


async def test_no_effect_of_a_command_that_takes_too_long(
    transactions: Transactions, journal: list[str]
) -> None:
    async def run(on_commit: OnCommit) -> None:
        on_commit(journal.append, "never")
        await anyio.sleep_forever()

    app = app_running(run, transactions, limits=Limits(handler_timeout=0.05))
    async with TestClient(app) as client:
        with pytest.raises(CommandError, match="timeout"):
            await client.call("run")
    assert journal == ["rollback"]


async def test_no_effect_of_a_command_that_is_cancelled_with_its_client(
    transactions: Transactions, journal: list[str], gate: Gate
) -> None:
    group = CommandGroup()

    @group.command("run", cancel_on_disconnect=True)
    async def run(socket: Socket, *, transaction: Transaction, on_commit: OnCommit) -> None:
        on_commit(journal.append, "never")
        await gate()

    async with TestClient(app_with(group, providers=[transactions])) as client:
        await client.send("run")
        await gate.reached.wait()
        await client.close()
        await until(journal, "rollback")
    assert journal == ["rollback"]


async def test_no_effect_of_a_command_that_the_end_of_the_app_cancels(
    transactions: Transactions, journal: list[str], gate: Gate
) -> None:
    async def run(on_commit: OnCommit) -> None:
        on_commit(journal.append, "never")
        await gate()

    app = app_running(run, transactions, limits=Limits(drain_timeout=0.05))
    async with stoppable(app) as (server, stop), dial(server) as client:
        await client.send("run")
        await gate.reached.wait()
        stop()
        await client.closed()
    assert journal == ["rollback"]


# All effects after a commit -----------------------------------------------------------------------


async def test_effects_happen_though_the_client_has_left(
    serving: Serving, transactions: Transactions, journal: list[str], gate: Gate
) -> None:
    async def run(on_commit: OnCommit) -> None:
        on_commit(journal.append, "effect")
        await gate()

    app = app_running(run, transactions)
    async with serving(app) as server:
        async with dial(server) as client:
            await client.send("run")
            await gate.reached.wait()
            await client.vanish()
            gate.opened.set()
            await until(journal, "effect")
    assert journal == ["commit", "effect"]


@pytest.mark.parametrize("cause", ["disconnect", "stop", "timeout"])
async def test_a_cancellation_after_the_commit_waits_for_the_effects(
    cause: str,
    transactions: Transactions,
    journal: list[str],
    gate: Gate,
) -> None:
    group = CommandGroup()

    async def slow() -> None:
        await gate()
        journal.append("first")

    timeout = 0.05 if cause == "timeout" else 30

    @group.command("run", cancel_on_disconnect=cause == "disconnect", timeout=timeout)
    async def run(socket: Socket, *, transaction: Transaction, on_commit: OnCommit) -> None:
        on_commit(slow)
        on_commit(journal.append, "second")

    limits = Limits(drain_timeout=0.05 if cause == "stop" else 30)
    app = app_with(group, providers=[transactions], limits=limits)
    async with stoppable(app) as (server, stop), dial(server) as client:
        await client.send("run", id=1)
        await gate.reached.wait()
        if cause == "disconnect":
            await client.close()
        elif cause == "stop":
            stop()
        await anyio.sleep(0.15)  # the cancellation comes meanwhile
        assert journal == ["commit"]
        gate.opened.set()
        await until(journal, "second")
        if cause == "timeout":
            assert (await client.receive())["payload"] is None
    assert journal == ["commit", "first", "second"]


async def test_an_effect_that_hangs_delays_the_reply_for_the_finalize_timeout(
    transactions: Transactions, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def run(on_commit: OnCommit) -> str:
        on_commit(anyio.sleep_forever)
        on_commit(journal.append, "never")
        return "done"

    app = app_running(run, transactions, limits=Limits(finalize_timeout=0.05))
    async with TestClient(app) as client:
        assert (await client.call("run")).payload == "done"
        assert (await client.call("run")).payload == "done"
    assert journal == ["commit"] * 2
    assert len(errors(caplog)) == 2


async def test_an_effect_that_starts_a_task_does_not_wait_for_the_task(anyio_backend: str) -> None:
    group = CommandGroup()
    gate = Gate()

    @group.command("begin")
    async def begin(socket: Socket, *, tasks: AppTasks, on_commit: OnCommit) -> None:
        on_commit(tasks.start_soon, gate)

    async with TestClient(app_with(group)) as client:
        await client.call("begin")
        await gate.reached.wait()
        gate.opened.set()


async def test_effects_that_fail_change_neither_the_others_nor_the_reply(
    transactions: Transactions, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: Exception) -> None:
        raise error

    def run(on_commit: OnCommit) -> str:
        on_commit(fail, ValueError("broken"))
        on_commit(fail, ClientError("refused"))
        on_commit(partial(journal.append, "effect"))
        return "done"

    async with TestClient(app_running(run, transactions)) as client:
        assert (await client.call("run")).payload == "done"
    assert journal == ["commit", "effect"]
    for record in errors(caplog):
        assert ".fail` (" in record.getMessage()
    assert len(errors(caplog)) == 2
