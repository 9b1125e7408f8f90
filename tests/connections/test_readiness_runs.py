"""Runs of `WebSuckets(ready=...)`: for many who ask, in time, in the log, and at the end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, errors
from peers import handshake, tcp
from readiness import (
    NOT_READY,
    READY,
    STOPPING,
    Counting,
    Storage,
    Transaction,
    asked,
    health,
    lines,
)
from serving import Serving
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Socket
from websuckets.exc import ClientError

pytestmark = pytest.mark.anyio


# Many who ask, and those who leave ----------------------------------------------------------------


async def test_one_run_answers_all_who_wait(gate: Gate) -> None:
    """Expect one run, whoever leaves meanwhile, be it the client that asked first."""
    check = Counting(gate)
    app = app_with(ready=check.ready)
    answers = []

    async def ask() -> None:
        answers.append(await asked(app))

    async def ask_and_leave(leaving: anyio.CancelScope) -> None:
        with leaving:
            await ask()

    async with app.lifespan():
        async with anyio.create_task_group() as clients:
            clients.start_soon(ask_and_leave, leaving := anyio.CancelScope())
            await gate.reached.wait()
            for _ in range(10):
                clients.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            leaving.cancel()
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
        assert answers == [READY] * 10
        assert (check.runs, check.cancelled) == (1, 0)
        assert await asked(app) == READY
        assert check.runs == 2


async def test_a_run_goes_on_when_all_who_asked_have_left(gate: Gate) -> None:
    """Expect the next client to be answered by the same run."""
    check = Counting(gate)
    app = app_with(ready=check.ready)
    async with app.lifespan():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asked, app)
            await gate.reached.wait()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asked, app)
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
    assert (check.runs, check.cancelled) == (1, 0)


async def test_runs_follow_each_other_however_many_ask(on_sockets: Serving) -> None:
    """Expect no two runs at once, so that probes cannot overload a database."""
    running = most = 0
    answers = []

    async def ready() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1

    async with on_sockets(app_with(ready=ready)) as server:

        async def ask() -> None:
            answers.append(await health(server))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
    assert answers == [READY] * 10
    assert most == 1


@pytest.mark.parametrize("end", ["reset", "finish", "close"])
async def test_a_client_that_leaves_disturbs_nobody(
    on_sockets: Serving, gate: Gate, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    check = Counting(gate)
    async with on_sockets(app_with(ready=check.ready)) as server:
        async with tcp(server.port) as peer:
            await peer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await gate.reached.wait()
            getattr(peer, end)()
        gate.opened.set()
        assert await health(server) == READY
    assert check.cancelled == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("behind", [b"GET / HTTP/1.1\r\n\r\n", handshake(), b"x" * 300])
async def test_data_that_breaks_the_protocol_during_a_run_causes_no_error(
    gate: Gate, caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    """Expect ``websockets`` to take the data for frames, and no answer after that."""
    async with app_with(ready=Counting(gate).ready).serve("127.0.0.1", 0) as server:
        async with tcp(server.port) as peer:
            await peer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await gate.reached.wait()
            await peer.write(behind)
            with anyio.fail_after(TIMEOUT):
                await peer.read_to_end()
            gate.opened.set()
            assert await health(server) == READY  # while the connection is not closed yet
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_clients_connect_while_the_function_runs(on_sockets: Serving, gate: Gate) -> None:
    group = CommandGroup()

    @group.command("open")
    async def open_gate(socket: Socket) -> str:
        gate.opened.set()
        return "opened"

    answers = []
    async with on_sockets(app_with(group, ready=Counting(gate).ready)) as server:

        async def ask() -> None:
            answers.append(await health(server))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await gate.reached.wait()
            async with dial(server) as client:
                assert (await client.call("open"))["payload"] == "opened"
    assert answers == [READY]


# Time ---------------------------------------------------------------------------------------------


async def test_a_function_that_takes_too_long_is_cancelled(
    on_sockets: Serving, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect 503 when the time is over, finalisers that run, and one incident."""

    async def ready(transaction: Transaction) -> None:
        await anyio.sleep_forever()

    limits = Limits(ready_timeout=0.02)
    app = app_with(providers=[Storage(journal)], ready=ready, limits=limits)
    async with on_sockets(app) as server:
        for _ in range(2):
            assert await health(server) == NOT_READY
    assert [entry.partition(":")[0] for entry in journal[:2]] == ["begin", "rollback"]
    (record,) = errors(caplog)
    assert "took more than 0.02 seconds" in str(record.exc_info)


async def test_nobody_waits_for_a_function_that_ignores_its_cancellation(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an answer at once from then on, and no second run beside the first."""
    runs = 0

    async def ready() -> bool:
        nonlocal runs
        runs += 1
        with anyio.CancelScope(shield=True):
            await gate()
        return True

    app = app_with(ready=ready, limits=Limits(ready_timeout=0.02))
    async with app.serve("127.0.0.1", 0) as server:
        for _ in range(3):
            assert await health(server) == NOT_READY
        assert runs == 1
        gate.opened.set()
        with anyio.fail_after(TIMEOUT):
            while await health(server) == NOT_READY:
                pass
        assert runs == 2
    assert len(errors(caplog)) == 1


async def test_an_error_after_the_time_is_over_is_not_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ready() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise RuntimeError("another error")

    async with app_with(ready=ready, limits=Limits(ready_timeout=0.02)).serve(port=0) as server:
        assert await health(server) == NOT_READY
    (record,) = errors(caplog)
    assert "took more than 0.02 seconds" in str(record.exc_info)


async def test_without_a_limit_of_time_the_answer_waits(gate: Gate) -> None:
    app = app_with(ready=Counting(gate).ready, limits=Limits(ready_timeout=None))
    async with app.lifespan(), anyio.create_task_group() as tasks:
        tasks.start_soon(asked, app)
        await gate.reached.wait()
        gate.opened.set()


# The log ------------------------------------------------------------------------------------------


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="websuckets"):
        yield


@pytest.mark.usefixtures("info")
async def test_a_check_that_goes_on_failing_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect a line when a kind of failure begins, and one when the app is ready again."""
    results: list[Any] = []

    async def my_check() -> Any:
        result = results.pop()
        if isinstance(result, Exception):
            raise result
        return result

    app = app_with(ready=my_check)

    async def log_of(*given: Any) -> list[str]:
        results[:] = reversed(given)
        caplog.clear()
        while results:
            await asked(app)
        return lines(caplog)

    name = f"readiness check {my_check.__qualname__}"
    failed, refused, again = f"ERROR {name} failed", f"INFO {name}: not ready", f"{name}: ready"
    broken, not_yet = RuntimeError("broken"), ClientError("not yet")
    async with app.lifespan():
        assert await log_of(True, True) == []
        assert await log_of(broken, broken, False, broken) == [failed]
        assert await log_of(True, True) == [f"WARNING {again} again"]
        assert await log_of(False, not_yet, False) == [refused]
        assert await log_of(None, None) == [f"INFO {again} again"]
        assert await log_of(not_yet, broken, not_yet, broken) == [refused, failed]
    caplog.clear()
    async with app.lifespan():
        assert await log_of(broken, True) == [f"WARNING {again} again"]


# The end of the app -------------------------------------------------------------------------------


async def test_who_waits_when_the_app_stops_is_told_so(
    serving: Serving, gate: Gate, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the run to be cancelled, and its scope to be closed before the objects of the app."""

    async def ready(transaction: Transaction) -> None:
        await gate()

    app = app_with(providers=[Storage(journal)], ready=ready)
    answers = []

    async def ask() -> None:
        answers.append(await asked(app))

    async with anyio.create_task_group() as tasks:
        async with serving(app):
            tasks.start_soon(ask)
            await gate.reached.wait()
        assert [entry.partition(":")[0] for entry in journal] == [
            *("begin", "rollback", "close database")
        ]
    assert answers == [STOPPING]
    assert errors(caplog) == []


async def test_a_request_over_a_socket_is_answered_when_the_server_stops(gate: Gate) -> None:
    answers = []
    async with anyio.create_task_group() as tasks:
        async with app_with(ready=Counting(gate).ready).serve("127.0.0.1", 0) as server:

            async def ask() -> None:
                answers.append(await health(server))

            tasks.start_soon(ask)
            await gate.reached.wait()
    assert answers == [STOPPING]


async def test_nobody_is_asked_while_the_app_stops(gate: Gate) -> None:
    """Expect 503 at once, while a command holds up the stop."""
    check, group = Counting(Gate()), CommandGroup()
    check.gate.opened.set()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        await gate()

    serving, stop = anyio.Event(), anyio.Event()
    servers: list[Any] = []

    async def serve() -> None:
        async with app_with(group, ready=check.ready).serve("127.0.0.1", 0) as server:
            servers.append(server)
            serving.set()
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await serving.wait()
        async with dial(servers[0]) as client:
            await client.send("wait")
            await gate.reached.wait()
            assert await health(servers[0]) == READY
            stop.set()
            with anyio.fail_after(TIMEOUT):
                while await health(servers[0]) == READY:
                    pass
            runs = check.runs
            assert await health(servers[0]) == STOPPING
            assert check.runs == runs
            gate.opened.set()


async def test_a_run_that_ignores_the_stop_is_left_behind(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the app to stop after some time, and an error in the log."""

    async def ready() -> None:
        with anyio.CancelScope(shield=True):
            await gate()

    app = app_with(ready=ready, limits=Limits(finalize_timeout=0.02))
    async with anyio.create_task_group() as tasks:
        async with app.lifespan():
            tasks.start_soon(asked, app)
            await gate.reached.wait()
        gate.opened.set()
    (record,) = errors(caplog)
    assert "ready ignores its cancellation (Limits.finalize_timeout is " in record.getMessage()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_the_function_may_end_the_program(error: type[BaseException]) -> None:
    """Expect the function to end the program as any other task does on asyncio."""

    async def ready() -> None:
        raise error

    async def main() -> None:
        app = app_with(ready=ready)
        async with app.lifespan():
            await asked(app)
            await anyio.sleep(TIMEOUT)

    with pytest.raises(error):
        asyncio.run(main())


async def test_a_stop_without_a_limit_waits_for_the_finalisers_of_a_run(gate: Gate) -> None:
    provider, journal = Provider(scope=Scope.REQUEST), []

    @provider.provide
    async def transaction() -> AsyncIterator[Transaction]:
        yield Transaction()
        await anyio.sleep(0.01)
        journal.append("finalised")

    async def ready(transaction: Transaction) -> None:
        await gate()

    app = app_with(providers=[provider], ready=ready, limits=Limits(finalize_timeout=None))
    async with anyio.create_task_group() as tasks:
        async with app.lifespan():
            tasks.start_soon(asked, app)
            await gate.reached.wait()
        assert journal == ["finalised"]
