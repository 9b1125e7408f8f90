"""Tests of failures while a command runs: what the client sees, what is logged, what is closed."""

import asyncio
import json
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, provide
from harness import Gate, app_with, dial, errors, on_trio, talk
from pydantic import BaseModel, field_validator
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, Limits, WebSuckets
from websuckets.app import Server
from websuckets.di import provide_context
from websuckets.exc import ClientError, NotAuthorized
from websuckets.session import Session

pytestmark = pytest.mark.anyio


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


def journalled(journal: list[str], closing_error: Exception | None = None) -> WebSuckets:
    return app_with(commands(journal), providers=[Journalling(journal, closing_error)])


BUILT = ["open app", "open session", "open outer", "open inner"]


async def test_scopes_open_once_and_close_in_reverse(journal: list[str]) -> None:
    """Expect REQUEST per message, SESSION per connection, APP per run; closed before the reply."""
    async with talk(journalled(journal)) as client:
        await client.call("fine")
        assert journal == [*BUILT, "handler", "close inner", "close outer"]
        journal.clear()
        await client.call("fine")
        assert journal == ["open outer", "open inner", "handler", "close inner", "close outer"]
        async with client.another() as other:
            journal.clear()
            await other.call("fine")
            assert journal[:2] == ["open session", "open outer"]
        journal.clear()
    assert sorted(journal) == ["close app", "close session", "close session"]
    assert journal[-1] == "close app"


def incident_of(reply: dict[str, Any]) -> str:
    """Return the incident of an internal error that says nothing else."""
    assert reply["error"] == "internal error"
    assert list(reply["details"]) == ["incident"]
    incident: str = reply["details"]["incident"]
    return incident


@pytest.mark.parametrize(
    ("event", "payload", "logged", "after_inner"),
    [
        ("raise", None, "handler canary", "RuntimeError"),
        ("broken provider", None, "provider canary", "RuntimeError"),
        ("validate", {"value": "bug"}, "validator canary", "KeyError"),
        ("unserialisable", None, "Unserialisable", "PydanticSerializationError"),
        ("circular", None, "Circular reference", "PydanticSerializationError"),
    ],
)
async def test_a_bug_is_an_incident_and_rolls_back(
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    event: str,
    payload: Any,
    logged: str,
    after_inner: str,
) -> None:
    """Expect the incident's id alone at the client; the log has the id with the traceback."""
    async with talk(journalled(journal)) as client:
        reply = await client.call(event, payload=payload, id=1)
        incident = incident_of(reply)
        assert reply["id"] == 1
        opened = [line for line in journal if line != "handler"]
        assert opened == [
            *BUILT,
            f"close inner with {after_inner}",
            f"close outer with {after_inner}",
        ]
        (record,) = errors(caplog)
        assert incident in record.getMessage()
        assert record.exc_info is not None
        assert logged in caplog.text
        assert "canary" not in record.getMessage()
        assert ("while encoding what" in caplog.text) == (event in ("unserialisable", "circular"))
        assert (await client.call("fine"))["payload"] == "fine"


@pytest.mark.parametrize(
    ("event", "payload", "reply"),
    [
        ("raise for client", None, {"error": "no", "details": {"because": 1}}),
        ("refuse", None, {"error": "not authorized", "details": None}),
        ("validate", {"value": "refused"}, {"error": "refused by the validator", "details": None}),
        (
            "validate",
            {"value": "x"},
            {
                "error": "validation error",
                "details": [
                    {
                        "loc": ["value"],
                        "msg": "Value error, this text is for the client",
                        "type": "value_error",
                    }
                ],
            },
        ),
        ("validate", None, {"error": "payload required", "details": None}),
    ],
)
async def test_an_error_for_the_client_is_no_incident_but_rolls_back(
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    event: str,
    payload: Any,
    reply: dict[str, Any],
) -> None:
    """Expect the client and the finalisers to get the error as it is, and none in the log."""
    caplog.set_level(logging.INFO, logger="websuckets")
    async with talk(journalled(journal)) as client:
        assert await client.call(event, payload=payload) == reply
        name = "NotAuthorized" if event == "refuse" else "ClientError"
        assert journal == [*BUILT, f"close inner with {name}", f"close outer with {name}"]
        assert not errors(caplog)
        refusals = [r for r in caplog.records if "not authorized" in r.getMessage()]
        assert [r.levelno for r in refusals] == ([logging.INFO] if event == "refuse" else [])


async def test_a_finaliser_that_fails_turns_success_into_an_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the result not to be sent; the other finalisers run nevertheless."""
    async with talk(journalled(journal, RuntimeError("finaliser canary"))) as client:
        incident = incident_of(await client.call("closing"))
        others = ["close inner with RuntimeError", "close outer with RuntimeError"]
        assert journal == [*BUILT, "close closing", *others]
        (record,) = errors(caplog)
        assert incident in record.getMessage()
        assert "finaliser canary" in caplog.text


async def test_a_finaliser_may_refuse_with_an_error_for_the_client(journal: list[str]) -> None:
    """Expect a ClientError of a commit that fails at the client."""
    async with talk(journalled(journal, ClientError("conflict", 409))) as client:
        assert await client.call("closing", id=1) == {"error": "conflict", "details": 409, "id": 1}


@pytest.mark.parametrize("event", ["raise, closing", "crash, closing"])
async def test_the_handlers_error_wins_over_that_of_a_finaliser(
    journal: list[str], caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """Expect a finaliser's error in the log, under the incident of the handler's, if any."""
    async with talk(journalled(journal, RuntimeError("finaliser canary"))) as client:
        reply = await client.call(event)
        assert "finaliser canary" in caplog.text
        if event == "raise, closing":
            assert reply == {"error": "no", "details": {"because": 1}}
            assert len(errors(caplog)) == 1
        else:
            incident = incident_of(reply)
            messages = [record.getMessage() for record in errors(caplog)]
            assert len(messages) == 2
            assert all(incident in message for message in messages)


async def test_a_finaliser_that_raises_the_handlers_error_again_is_no_second_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect `error = yield; raise error` not to log the error twice."""
    group = CommandGroup()

    @group.command("raise")
    async def raise_(socket: ServerConnection, *, thing: Outer) -> None:
        raise ClientError("once")

    async def reraising() -> AsyncIterator[Outer]:
        error = yield Outer()
        if error is not None:
            raise error

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(reraising)
    async with talk(app_with(group, providers=[provider])) as client:
        assert await client.call("raise") == {"error": "once", "details": None}
        assert not errors(caplog)


async def test_a_finaliser_of_the_connection_that_fails_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an error in the log, as no client is left; the server goes on."""
    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, thing: Outer) -> str:
        return "used"

    def failing() -> Iterator[Outer]:
        yield Outer()
        raise RuntimeError("session canary")

    provider = Provider(scope=Scope.SESSION)
    provider.provide(failing)
    app = app_with(group, providers=[provider])
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.call("use")
        async with dial(server) as client:
            await client.call("use")
    assert len(errors(caplog)) == 2
    assert "session canary" in caplog.text


async def test_a_finaliser_of_the_app_that_fails_reaches_whoever_runs_it() -> None:
    """Expect the context manager to raise the error at its end."""
    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, thing: Outer) -> str:
        return "used"

    def failing() -> Iterator[Outer]:
        yield Outer()
        raise RuntimeError("app canary")

    provider = Provider(scope=Scope.APP)
    provider.provide(failing)
    with pytest.RaisesGroup(RuntimeError):
        async with talk(app_with(group, providers=[provider])) as client:
            await client.call("use")


# A real database ---------------------------------------------------------------------------------


class Row(BaseModel):
    name: str


def database_commands() -> CommandGroup:
    group = CommandGroup()

    def insert(database: sqlite3.Connection, name: str) -> None:
        database.execute("INSERT INTO rows VALUES (?)", (name,))

    @group.command("add")
    async def add(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> str:
        insert(db, model.name)
        return "added"

    @group.command("add and fail")
    async def add_and_fail(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> None:
        insert(db, model.name)
        raise RuntimeError("after the insert")

    @group.command("add and refuse")
    async def add_and_refuse(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> None:
        insert(db, model.name)
        raise ClientError("refused")

    @group.command("add and return nonsense")
    async def nonsense(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> Any:
        insert(db, model.name)
        return Unserialisable()

    @group.command("add an orphan")
    async def add_orphan(socket: ServerConnection, model: Row, db: sqlite3.Connection) -> str:
        """Break the constraint that is only checked by the commit."""
        db.execute("INSERT INTO children VALUES ('no such parent')")
        return "false success"

    return group


def with_provide_context(path: Path) -> Provider:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[sqlite3.Connection]:
        connection = open_database(path)
        try:
            with connection:  # commits, or rolls back if there is an exception
                yield connection
        finally:
            connection.close()

    return provide_context(transaction)


def with_yield(path: Path) -> Provider:
    async def transaction() -> AsyncIterator[sqlite3.Connection]:
        connection = open_database(path)
        error = yield connection
        try:
            if error is None:
                connection.commit()
        finally:
            connection.close()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


def with_a_with(path: Path) -> Provider:
    def transaction() -> Iterator[sqlite3.Connection]:
        with closing(open_database(path)) as connection, connection:
            yield connection

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


def with_except_and_else(path: Path) -> Provider:
    async def transaction() -> AsyncIterator[sqlite3.Connection]:
        connection = open_database(path)
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        else:
            connection.commit()
        finally:
            connection.close()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


TRANSACTIONS = [with_provide_context, with_yield, with_a_with, with_except_and_else]


def open_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level="DEFERRED")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def rows(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [name for (name,) in connection.execute("SELECT name FROM rows")]
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE rows (name TEXT PRIMARY KEY);"
        "CREATE TABLE children"
        " (parent TEXT REFERENCES rows (name) DEFERRABLE INITIALLY DEFERRED);"
    )
    connection.close()
    return path


@pytest.mark.parametrize("make_provider", TRANSACTIONS)
async def test_only_a_command_that_succeeded_leaves_a_row(path: Path, make_provider: Any) -> None:
    """Expect a handler that fails, or whose result has no JSON form, to be rolled back."""
    app = app_with(database_commands(), providers=[make_provider(path)])
    async with talk(app) as client:
        assert (await client.call("add", payload={"name": "a"}))["payload"] == "added"
        assert rows(path) == ["a"]
        incident_of(await client.call("add and fail", payload={"name": "b"}))
        assert (await client.call("add and refuse", payload={"name": "c"}))["error"] == "refused"
        incident_of(await client.call("add and return nonsense", payload={"name": "d"}))
        incident_of(await client.call("add", payload={"name": "a"}))
        assert rows(path) == ["a"]
        assert (await client.call("add", payload={"name": "e"}))["payload"] == "added"
        assert rows(path) == ["a", "e"]


@pytest.mark.parametrize("make_provider", TRANSACTIONS)
async def test_a_commit_that_fails_is_never_a_success(path: Path, make_provider: Any) -> None:
    """Expect an error if the handler returned, but its transaction could not be committed."""
    app = app_with(database_commands(), providers=[make_provider(path)])
    async with talk(app) as client:
        incident_of(await client.call("add an orphan", payload={"name": "a"}, id=1))
        assert (await client.call("add", payload={"name": "e"}))["payload"] == "added"
        assert rows(path) == ["e"]


# Clients that vanish, and servers that stop ------------------------------------------------------


def gated(journal: list[str], gate: Gate) -> CommandGroup:
    group = commands(journal)

    @group.command("wait")
    async def wait(socket: ServerConnection, *, inner: Inner) -> str:
        await gate()
        journal.append("handler went on")
        return "done"

    @group.command("wait for the end")
    async def wait_for_the_end(socket: ServerConnection, *, inner: Inner) -> str:
        gate.reached.set()
        await socket.wait_closed()
        for _ in range(10):
            await anyio.sleep(0)
        journal.append("handler went on")
        gate.opened.set()
        return "nobody is there to read this"

    @group.command("wait and send")
    async def wait_and_send(socket: ServerConnection, *, inner: Inner) -> None:
        await gate()
        await socket.wait_closed()
        await socket.send("x")

    @group.command("send to the first")
    async def send_to_first(socket: ServerConnection, *, session: Session) -> None:
        first = next(iter(session.online.values()))
        await first.socket.close()
        await first.socket.send("x")

    return group


def closed_in_order(journal: list[str], error: str | None) -> bool:
    suffix = f" with {error}" if error else ""
    index = journal.index(f"close inner{suffix}")
    return journal[index + 1 : index + 3] == [f"close outer{suffix}", "close session"]


async def test_a_client_that_vanishes_does_not_stop_its_command(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the handler to end, its changes to be kept, every scope closed, and no error."""
    gate = Gate()
    app = app_with(gated(journal, gate), providers=[Journalling(journal)])
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.send("wait for the end")
            await gate.reached.wait()
            await client.vanish()
            await gate.opened.wait()  # the handler opens the gate when it has seen the end
    assert "handler went on" in journal
    assert closed_in_order(journal, None)
    assert journal[-1] == "close app"
    assert not errors(caplog)


async def test_sending_to_a_client_that_vanished_rolls_back_without_an_incident(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no incident for the caller's own connection, which has ended."""
    caplog.set_level(logging.DEBUG, logger="websuckets")
    gate = Gate()
    app = app_with(gated(journal, gate), providers=[Journalling(journal)])
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.send("wait and send")
            await gate.reached.wait()
            await client.vanish()
            gate.opened.set()
    assert closed_in_order(journal, "ConnectionClosedError")
    assert not errors(caplog)
    assert "left while 'wait and send' ran" in caplog.text


async def test_a_bug_after_closing_ones_own_connection_is_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an incident, though no client is there to be told."""
    group = CommandGroup()

    @group.command("close and fail")
    async def close_and_fail(socket: ServerConnection) -> None:
        await socket.close()
        raise RuntimeError("canary")

    async with talk(app_with(group)) as client:
        await client.send("close and fail")
        await client.closed()
    [incident] = errors(caplog)
    assert incident.exc_info is not None and incident.exc_info[0] is RuntimeError


async def test_sending_to_another_client_that_is_gone_is_an_internal_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an internal error at the caller; the handler should expect that error."""
    app = app_with(gated(journal, Gate()), providers=[Journalling(journal)])
    async with talk(app) as first, first.another() as second:
        incident_of(await second.call("send to the first"))
        assert len(errors(caplog)) == 1


async def test_a_server_that_stops_lets_the_running_command_finish(journal: list[str]) -> None:
    """Expect the reply before the connection is closed with 1012; no further command starts."""
    gate = Gate()
    app = app_with(gated(journal, gate), providers=[Journalling(journal)])
    async with anyio.create_task_group() as tasks, app.serve("127.0.0.1", 0) as server:

        async def client() -> None:
            async with dial(server) as idle, dial(server) as busy:
                await idle.call("fine")
                await busy.send("wait")
                await busy.send("fine")
                connected.set()
                assert (await busy.receive())["payload"] == "done"
                assert await busy.closed() == (1012, "service restart")
                assert await idle.closed() == (1012, "service restart")
                clients_done.set()

        connected, clients_done = anyio.Event(), anyio.Event()
        tasks.start_soon(client)
        await connected.wait()
        await gate.reached.wait()
        release_when_blocked(tasks, gate)
    assert clients_done.is_set()
    assert journal[-1] == "close app"
    assert journal.count("handler") == 1


def release_when_blocked(tasks: Any, gate: Gate) -> None:
    """Open the gate once the server is stopping."""

    async def release() -> None:
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    tasks.start_soon(release)


async def test_a_command_that_does_not_finish_is_cancelled_at_the_deadline(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the command to be cancelled past `drain_timeout`, and every scope closed."""
    group = commands(journal)
    started = anyio.Event()

    @group.command("forever")
    async def forever(socket: ServerConnection, *, inner: Inner) -> None:
        started.set()
        await anyio.sleep_forever()

    app = app_with(group, providers=[Journalling(journal)], limits=Limits(drain_timeout=0.05))
    async with talk(app) as client:
        await client.send("forever")
        await started.wait()
    assert journal[-4:] == [
        f"close inner with {cancelled()}",
        f"close outer with {cancelled()}",
        f"close session with {cancelled()}",
        "close app",
    ]
    assert "aborting 1 connections that did not close, 'forever' (1)" in caplog.messages
    assert not errors(caplog)


@pytest.mark.on_asyncio  # on trio such a handler stops the whole event loop
async def test_a_command_that_ignores_its_cancellation_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the server to stop nevertheless, with an error in the log."""
    group = CommandGroup()
    started, enough, ended = anyio.Event(), anyio.Event(), anyio.Event()

    @group.command("forever")
    async def forever(socket: ServerConnection) -> None:
        started.set()
        while not enough.is_set():
            try:
                await enough.wait()
            except BaseException:
                continue
        ended.set()

    limits = Limits(drain_timeout=0.05, finalize_timeout=0.05)
    async with talk(app_with(group, limits=limits)) as client:
        await client.send("forever")
        await started.wait()
    assert caplog.messages[-1] == "1 connections ignore their cancellation, 'forever' (1)"
    enough.set()
    await ended.wait()


class Late:
    """A provider of things that hang when they are finalised."""


def hanging(scope: Scope) -> Provider:
    async def late() -> AsyncIterator[Late]:
        yield Late()
        await anyio.sleep_forever()

    provider = Provider(scope=scope)
    provider.provide(late)
    return provider


def late_commands() -> CommandGroup:
    group = CommandGroup()

    @group.command("succeed")
    async def succeed(socket: ServerConnection, *, inner: Inner, late: Late) -> str:
        return "a false success"

    @group.command("fail")
    async def fail(socket: ServerConnection, *, inner: Inner, late: Late) -> str:
        raise ClientError("failed")

    @group.command("fine")
    async def fine(socket: ServerConnection) -> str:
        return "fine"

    return group


SOON = Limits(finalize_timeout=0.05, drain_timeout=5)


async def test_finalisers_that_take_too_long_turn_success_into_an_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error for a commit that was cancelled; the other finalisers run."""
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    async with talk(app_with(late_commands(), providers=providers, limits=SOON)) as client:
        for number in range(2):
            incident = incident_of(await client.call("succeed", id=number))
            assert incident in caplog.messages[-1]
            assert "TimeoutError: finalisers took more than 0.05 seconds" in caplog.text
            # the next finaliser has to wait, so it is cancelled, too
            assert journal[-1] == f"close inner with {cancelled()}"
            assert (await client.call("fine"))["payload"] == "fine"


async def test_the_handlers_error_wins_over_finalisers_that_take_too_long(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the handler's error at the client; the delay is logged, too."""
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    async with talk(app_with(late_commands(), providers=providers, limits=SOON)) as client:
        assert await client.call("fail") == {"error": "failed", "details": None}
        assert "TimeoutError: finalisers took more than 0.05 seconds" in caplog.text
        assert journal[-1] == "close inner with ClientError"
        assert (await client.call("fine"))["payload"] == "fine"


async def test_a_server_that_stops_sends_what_is_left_to_say(journal: list[str]) -> None:
    """Expect the reply also of a command whose finalisers took too long."""
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    app = app_with(late_commands(), providers=providers, limits=SOON)

    async def talk_to_it(server: Server) -> None:
        async with dial(server) as client:
            await client.send("succeed")
            while "open inner" not in journal:
                await anyio.sleep(0)
            stop.set()
            incident_of(await client.receive())
            assert await client.closed() == (1012, "service restart")

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with app.serve("127.0.0.1", 0) as server:
            tasks.start_soon(talk_to_it, server)
            await stop.wait()


@pytest.mark.parametrize("scope", [Scope.SESSION, Scope.APP])
async def test_finalisers_of_wider_scopes_are_bounded_too(
    journal: list[str], caplog: pytest.LogCaptureFixture, scope: Scope
) -> None:
    """Expect an error in the log; the other finalisers run."""
    providers = [Journalling(journal), hanging(scope)]
    async with talk(app_with(late_commands(), providers=providers, limits=SOON)) as client:
        assert (await client.call("succeed"))["payload"] == "a false success"
    assert "took more than 0.05 seconds" in caplog.text
    if scope is Scope.SESSION:
        assert journal[-2:] == [f"close session with {cancelled()}", "close app"]
    else:
        assert journal[-2:] == ["close session", f"close app with {cancelled()}"]


async def test_finalisers_may_use_anyio(journal: list[str]) -> None:
    """Expect timeouts, task groups and locks to work before and after their first `await`."""
    group = CommandGroup()

    class Busy: ...

    @group.command("use")
    async def use(socket: ServerConnection, *, busy: Busy) -> str:
        return "used"

    @group.command("fail")
    async def fail(socket: ServerConnection, *, busy: Busy) -> str:
        raise ClientError("failed")

    async def busy() -> AsyncIterator[Busy]:
        async with anyio.create_task_group() as around:
            around.start_soon(anyio.sleep_forever)
            try:
                yield Busy()
            finally:
                with anyio.fail_after(5), anyio.CancelScope(shield=True):
                    async with anyio.Lock(), anyio.create_task_group() as tasks:
                        tasks.start_soon(anyio.sleep, 0)
                    await anyio.to_thread.run_sync(journal.append, "finalised")
                around.cancel_scope.cancel()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(busy)
    async with talk(app_with(group, providers=[provider])) as client:
        for number in range(1, 4):
            assert (await client.call("use"))["payload"] == "used"
            assert (await client.call("fail"))["error"] == "failed"
            assert journal == ["finalised"] * 2 * number


@pytest.mark.parametrize("fails", [False, True])
async def test_a_late_finaliser_that_ends_normally_disturbs_nobody(
    journal: list[str], fails: bool
) -> None:
    """Expect an error if a finaliser ignores its cancellation; waiting commands are answered."""
    group = CommandGroup()
    go_on = threading.Event()

    class Commit: ...

    async def commit() -> AsyncIterator[Commit]:
        yield Commit()
        threading.Timer(0.2, go_on.set).start()
        with suppress(BaseException):
            await anyio.to_thread.run_sync(go_on.wait, TIMEOUT)
        if fails:
            raise RuntimeError("commit canary")
        journal.append("committed")

    @group.command("save")
    async def save(socket: ServerConnection, *, commit: Commit) -> str:
        return "a false success"

    @group.command("wait")
    async def wait(socket: ServerConnection) -> str:
        await anyio.sleep(0)
        return "fine"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(commit)
    async with talk(app_with(group, providers=[provider], limits=SOON)) as client:
        await client.send("save", id=1)
        for number in range(2, 5):
            await client.send("wait", id=number)
        replies = [await client.receive() for _ in range(4)]
    incident_of(replies[0])
    assert [reply["id"] for reply in replies] == [1, 2, 3, 4]
    assert [reply.get("payload") for reply in replies[1:]] == ["fine"] * 3
    assert journal == ([] if fails else ["committed"])


async def test_a_stopping_server_closes_connections_whose_finalisers_are_late(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the connection's own scope to be closed, whatever the message's finalisers did."""
    limits = Limits(finalize_timeout=0.2, drain_timeout=0.05)
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    async with talk(app_with(late_commands(), providers=providers, limits=limits)) as client:
        await client.send("succeed")
        while "open inner" not in journal:
            await anyio.sleep(0)
    assert journal[-1] == "close app"
    assert any(line.startswith("close session") for line in journal)
    assert "took more than 0.2 seconds" in caplog.text


async def test_a_late_finaliser_may_end_with_what_is_no_exception(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect a failure of the finaliser; every other one runs, and the connection goes on."""
    group = late_commands()

    class Stubborn: ...

    async def stubborn(inner: Inner) -> AsyncIterator[Stubborn]:
        yield Stubborn()
        try:
            await anyio.sleep_forever()
        except BaseException:
            raise Fatal from None

    @group.command("use")
    async def use(socket: ServerConnection, *, stubborn: Stubborn) -> None: ...

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(stubborn)
    provider.provide(Late)
    providers = [Journalling(journal), provider]
    async with talk(app_with(group, providers=providers, limits=SOON)) as client:
        incident_of(await client.call("use"))
        assert journal[-1] == "close inner with Fatal"
        assert (await client.call("fine"))["payload"] == "fine"
    assert "Fatal" in caplog.text


async def test_a_timeout_that_a_provider_holds_is_an_error_like_any_other(
    journal: list[str],
) -> None:
    """Expect the timeout to cancel only the handler and finalisers below the provider."""
    group = CommandGroup()

    class Hurried: ...

    class Below: ...

    async def hurried() -> AsyncIterator[Hurried]:
        with anyio.fail_after(0.02):
            yield Hurried()

    async def below(hurried: Hurried) -> AsyncIterator[Below]:
        yield Below()
        await anyio.sleep(0)

    @group.command("too slow")
    async def too_slow(socket: ServerConnection, *, below: Below) -> None:
        await anyio.sleep_forever()

    @group.command("fine")
    async def fine(socket: ServerConnection) -> str:
        return "fine"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(hurried)
    provider.provide(below)
    async with talk(app_with(group, providers=[provider])) as client:
        for number in range(2):
            incident_of(await client.call("too slow", id=number))
            assert (await client.call("fine"))["payload"] == "fine"


async def test_a_finaliser_that_ends_with_a_cancellation_that_nobody_meant(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error instead of success; the other finalisers run."""
    group = CommandGroup()

    class Odd: ...

    async def odd(inner: Inner) -> AsyncIterator[Odd]:
        yield Odd()
        raise anyio.get_cancelled_exc_class()

    @group.command("use")
    async def use(socket: ServerConnection, *, odd: Odd) -> str:
        return "a false success"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(odd)
    app = app_with(group, providers=[Journalling(journal), provider])
    async with talk(app) as client:
        incident_of(await client.call("use"))
        assert [line.split(" with ")[0] for line in journal[-2:]] == ["close inner", "close outer"]


async def test_a_send_that_is_cancelled_leaves_no_garbage() -> None:
    """Expect unread data to end the handler alone, or the connection; others are not affected."""
    group = CommandGroup()

    @group.command("flood")
    async def flood(socket: ServerConnection) -> None:
        with anyio.move_on_after(0.05):
            while True:
                await socket.send("x" * 2**20)

    @group.command("fine")
    async def fine(socket: ServerConnection) -> str:
        return "fine"

    async with talk(app_with(group)) as client, client.another() as other:
        await client.send("flood", id=1)
        with anyio.fail_after(TIMEOUT):
            try:
                while (frame := await client.connection.recv())[0] == "x":
                    assert frame == "x" * 2**20
                assert json.loads(frame)["id"] == 1
            except ConnectionClosed:
                assert on_trio()
        assert (await other.call("fine"))["payload"] == "fine"


@pytest.mark.on_asyncio
async def test_a_cancellation_that_nobody_meant_is_a_bug_like_any_other(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident for a handler that waits for a task which other code cancelled."""
    group = commands(journal)

    @group.command("wait for a cancelled task")
    async def wait(socket: ServerConnection, *, inner: Inner) -> None:
        task = asyncio.ensure_future(anyio.sleep_forever())
        await asyncio.sleep(0)
        task.cancel()
        await task

    async with talk(app_with(group, providers=[Journalling(journal)])) as client:
        incident = incident_of(await client.call("wait for a cancelled task", id=1))
        assert incident in caplog.messages[-1]
        assert journal[-1] == f"close outer with {cancelled()}"
        assert (await client.call("fine"))["payload"] == "fine"


@pytest.mark.parametrize("scope", [Scope.REQUEST, Scope.SESSION])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_finaliser_lets_the_others_run(
    journal: list[str], scope: Scope, fails: bool
) -> None:
    """Expect the cancelled finaliser to end, then the connection, and no other."""
    tasks: list[Any] = []
    waiting = anyio.Event()

    class Slow: ...

    async def slow(thing: SessionThing) -> AsyncIterator[Slow]:
        yield Slow()
        tasks.append(asyncio.current_task())
        waiting.set()
        await anyio.sleep_forever()

    group = commands(journal)

    @group.command("use")
    async def use(socket: ServerConnection, *, slow: Slow) -> None:
        if fails:
            raise ClientError("failed")

    provider = Provider(scope=scope)
    provider.provide(slow)
    app = app_with(group, providers=[Journalling(journal), provider])
    async with talk(app) as client:
        async with client.another() as other:
            await other.send("use")
            if scope is Scope.SESSION:
                await other.connection.close()
            await waiting.wait()
            tasks[0].cancel()
            await other.closed()
            while not any(line.startswith("close session") for line in journal):
                await anyio.sleep(0)
        assert (await client.call("fine"))["payload"] == "fine"


class Fatal(BaseException): ...


@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_connection_closes_its_scopes(
    journal: list[str],
) -> None:
    """Expect everything to be finalised, as when an event loop is torn down; others go on."""
    group = commands(journal)
    tasks: list[Any] = []
    waiting = anyio.Event()

    @group.command("forever")
    async def forever(socket: ServerConnection, *, inner: Inner) -> None:
        tasks.append(asyncio.current_task())
        waiting.set()
        await anyio.sleep_forever()

    async with talk(app_with(group, providers=[Journalling(journal)])) as client:
        async with client.another() as other:
            await other.send("forever")
            await waiting.wait()
            tasks[0].cancel()
            await other.closed()
        assert journal[-3:] == [
            f"close inner with {cancelled()}",
            f"close outer with {cancelled()}",
            f"close session with {cancelled()}",
        ]
        assert (await client.call("fine"))["payload"] == "fine"


async def test_closing_by_the_handler(journal: list[str]) -> None:
    """Expect the handler's own close code."""
    group = CommandGroup()

    @group.command("bye")
    async def bye(socket: ServerConnection, *, inner: Inner) -> None:
        await socket.close(4000, "bye")

    async with talk(app_with(group, providers=[Journalling(journal)])) as client:
        await client.send("bye", id=1)
        assert await client.closed() == (4000, "bye")
    assert closed_in_order(journal, None)


async def test_a_send_of_the_handler_after_closing_is_its_own_connection(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no incident for ConnectionClosed of the own socket, whoever closed it."""
    group = CommandGroup()

    @group.command("bye")
    async def bye(socket: ServerConnection) -> None:
        await socket.close()
        with pytest.raises(ConnectionClosed):
            await socket.send("x")
        await socket.send("x")

    async with talk(app_with(group)) as client:
        await client.send("bye")
        assert await client.closed() == (1000, "")
    assert not errors(caplog)
