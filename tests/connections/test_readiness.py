"""`WebSuckets(ready=...)`: a function of the program decides about the health of the app."""

import contextvars
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, make_async_container
from harness import Gate, app_with, errors, in_another_loop
from peers import Gone, tcp
from readiness import (
    NOT_READY,
    READY,
    Counting,
    Database,
    Storage,
    Transaction,
    asked,
    health,
    lines,
)
from serving import Serving
from timeouts import TIMEOUT

from websuckets import AppTasks, CommandGroup, Message, Payload, Socket, WebSuckets
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import ClientError, ConfigurationError, InvalidHandlerSignature, MissingProvider
from websuckets.security import SecurityProvider
from websuckets.session import Session

pytestmark = pytest.mark.anyio

SECRET = "postgresql://user:secret@database"


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError(SECRET)


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("result", "expected", "incidents"),
    [
        (lambda: None, READY, 0),
        (lambda: True, READY, 0),
        (lambda: "yes", READY, 0),
        (lambda: False, NOT_READY, 0),
        (lambda: 0, NOT_READY, 0),
        (Undecided, NOT_READY, 1),
        (raising(ClientError(SECRET)), NOT_READY, 0),
        (raising(ExceptionGroup("", [ClientError(SECRET)])), NOT_READY, 0),
        (raising(RuntimeError(SECRET)), NOT_READY, 1),
        (raising(BaseException(SECRET)), NOT_READY, 1),
        (raising(GeneratorExit()), NOT_READY, 1),
        (raising(TimeoutError(SECRET)), NOT_READY, 1),
    ],
)
async def test_the_function_decides_about_the_answer(
    on_sockets: Serving,
    caplog: pytest.LogCaptureFixture,
    result: Callable[[], Any],
    expected: Any,
    incidents: int,
) -> None:
    """Expect a fixed text, so that no secret of an error is told; nothing else is affected."""

    async def ready() -> Any:
        return result()

    async with on_sockets(app_with(ready=ready, path="/ws")) as server:
        assert await health(server) == expected
        assert await health(server, "/health?verbose=1") == expected
        assert (await health(server, "/"))[0] == 404
        assert (await health(server, "/ws"))[0] == 426
    assert len(errors(caplog)) == incidents


async def test_the_answer_comes_at_the_path_of_health(on_sockets: Serving) -> None:
    async def ready() -> bool:
        return False

    async with on_sockets(app_with(ready=ready, health="/ready")) as server:
        assert await health(server, "/ready") == NOT_READY
        assert (await health(server))[0] == 426


async def test_asking_for_the_head_alone_gets_no_body(on_sockets: Serving) -> None:
    async def ready() -> bool:
        return False

    async with on_sockets(app_with(ready=ready)) as server, tcp(server.port) as peer:
        await peer.write(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with anyio.fail_after(TIMEOUT):
            head = await peer.read_head()
            assert head.startswith("HTTP/1.1 503") and "content-length: 10" in head.lower()
            with pytest.raises(Gone):
                await peer.read()


# Dependencies -------------------------------------------------------------------------------------


class Down(Database):
    is_up = False


async def test_dependencies_have_a_scope_of_their_own_for_each_question(
    on_sockets: Serving, journal: list[str]
) -> None:
    """Expect the scope to be closed before the answer, and to learn of an error."""
    fails = False

    async def ready(transaction: Transaction, *, database: Database, session: Session) -> bool:
        if fails:
            raise ClientError("not yet")
        return database.is_up

    async with on_sockets(app_with(providers=[Storage(journal)], ready=ready)) as server:
        for _ in range(2):
            assert await health(server) == READY
        assert journal == ["begin", "commit"] * 2
        fails = True
        assert await health(server) == NOT_READY
        assert journal[4:] == ["begin", "rollback: ClientError"]


async def test_a_dependency_or_a_finaliser_that_fails_means_not_ready(
    on_sockets: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    provider, places = Provider(scope=Scope.REQUEST), iter(["before", "behind"])

    @provider.provide
    async def transaction() -> AsyncIterator[Transaction]:
        place = next(places, None)
        if place == "before":
            raise RuntimeError(SECRET)
        yield Transaction()
        if place == "behind":
            raise RuntimeError(SECRET)

    async def ready(transaction: Transaction) -> None: ...

    async with on_sockets(app_with(providers=[provider], ready=ready)) as server:
        assert [await health(server) for _ in range(3)] == [NOT_READY, NOT_READY, READY]
    assert len(errors(caplog)) == 1


async def test_an_override_replaces_what_the_function_gets(journal: list[str]) -> None:
    async def ready(database: Database) -> bool:
        return database.is_up

    app = app_with(providers=[Storage(journal)], ready=ready)
    with app.override(values={Database: Down()}):
        async with app.serve("127.0.0.1", 0) as server:
            assert await health(server) == NOT_READY
    async with app.serve("127.0.0.1", 0) as server:
        assert await health(server) == READY


async def test_a_container_of_the_program_fills_the_parameters(journal: list[str]) -> None:
    async def ready(transaction: Transaction) -> None: ...

    app = app_with(ready=ready)
    container = make_async_container(
        SecurityProvider(), Storage(journal), *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    async with app.serve("127.0.0.1", 0) as server:
        assert await health(server) == READY
    assert journal == ["begin", "commit"]
    await container.close()


def test_the_graph_shows_the_function(journal: list[str]) -> None:
    async def my_check(database: Database) -> None: ...

    assert "my_check" in app_with(providers=[Storage(journal)], ready=my_check).graph()


VARIABLE = contextvars.ContextVar("VARIABLE", default="of the app")


async def test_the_context_of_who_asks_is_not_that_of_the_function() -> None:
    """Expect a copy of the app's context for each run, so that nothing leaks between requests."""
    seen = []

    async def ready() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("of a run")

    app = app_with(ready=ready)
    async with app.lifespan():
        VARIABLE.set("of a request")
        for _ in range(2):
            assert await asked(app) == READY
        assert VARIABLE.get() == "of a request"
    assert seen == ["of the app"] * 2


# Functions that are refused -----------------------------------------------------------------------


def test_a_function_that_is_not_async_is_refused_at_once() -> None:
    def sync(unannotated) -> bool: ...  # type: ignore[no-untyped-def]

    async def stream() -> AsyncIterator[int]:
        yield 1

    async def payload(model: Payload[int]) -> None: ...

    given: Any
    for given, problem in (
        (sync, "it is not an async function; declare it with `async def`"),
        (sync, "`unannotated` has no annotation"),
        (stream, "it yields; a hook is an `async def` without `yield`"),
        (payload, "there is no payload"),
        (True, "ready=True: write an async function"),
    ):
        with pytest.raises(InvalidHandlerSignature) as caught:
            WebSuckets(ready=given)
        assert problem in "\n".join(caught.value.problems)


def test_a_function_without_a_path_to_answer_at_is_refused() -> None:
    async def ready() -> None: ...

    with pytest.raises(ConfigurationError, match=r"health=\.\.\., which is None"):
        WebSuckets(ready=ready, health=None)


async def refused(app: WebSuckets) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    with pytest.raises(ConfigurationError, match=re.escape(str(caught.value))):
        app.graph()
    return caught.value


async def test_a_dependency_that_is_missing_is_in_the_report_of_the_start() -> None:
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: Socket, *, database: Database) -> None: ...

    async def my_check(database: Database) -> None: ...

    error = await refused(app_with(group, ready=my_check))
    assert isinstance(error, MissingProvider) and len(error.problems) == 2
    assert "my_check` (" in error.problems[1]
    assert "parameter `database: Database` cannot be provided" in error.problems[1]


async def test_objects_of_connections_and_messages_are_refused() -> None:
    async def ready(socket: Socket, message: Message, tasks: AppTasks) -> None: ...

    error = await refused(app_with(ready=ready))
    assert len(error.problems) == 2
    assert "that belongs to a connection, and a readiness check has none" in error.problems[0]
    assert "that belongs to a message" in error.problems[1]


async def test_a_name_may_be_defined_after_the_app() -> None:
    async def ready(later: "Later") -> bool:
        return later.is_up

    provider = Provider(scope=Scope.APP)
    app = app_with(providers=[provider], ready=ready)
    with pytest.raises(InvalidHandlerSignature, match="name 'Later' is not defined"):
        app.graph()

    class Later:
        is_up = True

    provider.provide(Later)
    async with app.serve("127.0.0.1", 0) as server:
        assert await health(server) == READY


# Under an ASGI server, before the start -----------------------------------------------------------


async def test_a_question_starts_an_app_that_starts_by_itself(gate: Gate) -> None:
    """Expect an answer of the function; otherwise a proxy would send no client, ever."""
    check = Counting(gate)
    gate.opened.set()
    app = app_with(ready=check.ready)
    assert await asked(app, "/elsewhere") == (
        426,
        "This address serves WebSocket; connect with a WebSocket client.\n",
    )
    assert check.runs == 0
    assert await asked(app) == READY
    assert check.runs == 1


async def test_an_app_that_its_host_has_not_started_is_not_ready(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect one incident that says why, and the answer of the function after the start."""

    async def ready(database: Database) -> None: ...

    app = app_with(providers=[Storage(journal)], ready=ready)
    for _ in range(2):
        assert await asked(app) == NOT_READY
    (record,) = errors(caplog)
    assert "the start of the app for a health check failed" in record.getMessage()
    assert "the app has not started" in str(record.exc_info)
    async with app.lifespan():
        assert await asked(app) == READY
    assert f"WARNING readiness check {ready.__qualname__}: ready again" in lines(caplog)
    assert await asked(app) == NOT_READY


async def test_without_a_function_an_app_that_has_not_started_is_healthy() -> None:
    app = app_with()
    assert await asked(app) == READY
    async with app.lifespan():
        assert await asked(app) == READY


async def test_an_app_of_another_event_loop_is_not_ready(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident with the remedy, rather than an answer that never comes."""
    gate.opened.set()
    app = app_with(ready=Counting(gate).ready)
    async with app.lifespan():
        assert await in_another_loop(asked, app) == NOT_READY
        assert await asked(app) == READY
    (record,) = errors(caplog)
    assert "the app runs in another event loop" in str(record.exc_info)


async def test_an_app_that_cannot_start_by_itself_is_not_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ready(database: Database) -> None: ...

    app = app_with(ready=ready)
    for _ in range(2):
        assert await asked(app) == NOT_READY
    (record,) = errors(caplog)
    assert "cannot be provided" in str(record.exc_info)
