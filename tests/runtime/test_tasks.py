"""Background tasks: their lifetime and their failures."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from anyio.abc import TaskStatus
from dishka import Provider, Scope, provide
from harness import app_with, dial, errors, on_trio, talk, until
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import AppTasks, CommandGroup, ConnectionTasks, Limits, Socket, WebSuckets
from websuckets.runtime.tasks import Background
from websuckets.session import Session

pytestmark = pytest.mark.anyio


class Pool: ...


class Visit: ...


class Journalling(Provider):
    """A provider that records when the objects that tasks may use are closed."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.APP)
    async def pool(self) -> AsyncIterator[Pool]:
        yield Pool()
        self.journal.append("close pool")

    @provide(scope=Scope.SESSION)
    async def visit(self) -> AsyncIterator[Visit]:
        yield Visit()
        self.journal.append("close visit")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in errors(caplog)]


class Worker:
    """A task that runs until it is cancelled."""

    def __init__(self, journal: list[str], name: str) -> None:
        self.journal = journal
        self.name = name

    async def __call__(self) -> None:
        self.journal.append(f"{self.name} begins")
        try:
            await anyio.sleep_forever()
        finally:
            self.journal.append(f"{self.name} ends")


async def fail() -> None:
    raise RuntimeError("canary")


@pytest.fixture
def app(journal: list[str]) -> WebSuckets:
    group = CommandGroup()

    @group.command("work")
    async def work(socket: ServerConnection, *, tasks: ConnectionTasks, visit: Visit) -> None:
        tasks.start_soon(Worker(journal, "command"))

    @group.command("fail")
    async def start_failing(
        socket: ServerConnection, *, tasks: ConnectionTasks, app_tasks: AppTasks
    ) -> None:
        tasks.start_soon(fail)
        app_tasks.start_soon(fail, name="the canary")

    @group.command("ping")
    async def ping(socket: ServerConnection, *, pool: Pool) -> str:
        return "pong"

    app = app_with(group, providers=[Journalling(journal)])

    @app.on_startup
    async def start(tasks: AppTasks, pool: Pool) -> None:
        tasks.start_soon(Worker(journal, "app"))

    @app.on_disconnect
    async def gone() -> None:
        journal.append("disconnect")

    return app


async def test_they_live_as_long_as_what_they_belong_to(
    app: WebSuckets, journal: list[str]
) -> None:
    """Tasks of a connection end after its disconnect hooks, those of the app after all
    connections."""
    async with app.serve("127.0.0.1", 0) as server, dial(server) as other:
        async with dial(server) as client:
            await client.call("work", id=1)
            await until(journal, "command begins")
        await until(journal, "close visit")
        assert journal == [
            *("app begins", "command begins", "disconnect", "command ends", "close visit"),
        ]
        await other.call("work", id=1)
        journal.clear()
    assert journal[-2:] == ["app ends", "close pool"]
    assert journal[-3] == "close visit" and journal[0] == "disconnect"


async def test_what_fails_is_logged_and_nobody_else_is_touched(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is an incident; other tasks, the connection and the app go on."""
    async with talk(app) as client:
        await client.call("work", id=1)
        await client.call("fail", id=2)
        with anyio.fail_after(TIMEOUT):
            while len(errors(caplog)) < 2:
                await anyio.sleep(0.001)
        assert (await client.call("ping"))["payload"] == "pong"
        assert "command ends" not in journal and "app ends" not in journal
        socket_id = next(iter(app._session.online))
    assert {message.partition(" failed, incident")[0] for message in messages(caplog)} == {
        f"fail of connection {socket_id}",
        "the canary of the app",
    }
    assert "canary" in caplog.text


async def test_start_waits_for_the_task_to_be_ready(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """An error before the task is ready is raised in its caller, a later one is logged."""
    go_on = anyio.Event()

    async def ready(value: int, *, task_status: TaskStatus[int]) -> None:
        task_status.started(value)
        await go_on.wait()
        raise RuntimeError("later")

    async def not_ready(*, task_status: TaskStatus[None]) -> None:
        raise RuntimeError("earlier")

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        assert await tasks.start(ready, 5) == 5
        with pytest.raises(RuntimeError, match="earlier"):
            await tasks.start(not_ready)
        assert repr(tasks) == "<tasks of the app>"

    async with app.serve("127.0.0.1", 0):
        assert errors(caplog) == []
        go_on.set()
        with anyio.fail_after(TIMEOUT):
            while not errors(caplog):
                await anyio.sleep(0.001)
    assert "ready of the app failed" in messages(caplog)[0]


async def test_they_know_the_session(app: WebSuckets) -> None:
    """`Session` stands for the app in a task, as in the hook that started the task."""
    seen: list[Any] = []
    done = anyio.Event()

    async def look() -> None:
        seen.append(Session.online)
        done.set()

    @app.on_startup
    async def start(tasks: AppTasks, session: Session) -> None:
        tasks.start_soon(look)
        seen.append(session.online)

    async with app.serve("127.0.0.1", 0):
        await done.wait()
    assert seen[0] is seen[1]


async def test_a_group_may_be_cancelled(app: WebSuckets, journal: list[str]) -> None:
    """A cancelled group starts no tasks any more, and other groups go on."""

    @app.on_connect
    async def cancel(socket: Socket, tasks: ConnectionTasks) -> None:
        tasks.start_soon(Worker(journal, "connection"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        await until(journal, "connection ends")

    async with talk(app) as client:
        assert (await client.call("ping"))["payload"] == "pong"
        assert (await client.call("work"))["error"] == "internal error"
        assert "app ends" not in journal


async def test_a_group_is_not_entered(app: WebSuckets) -> None:
    """Entering or leaving a group is refused: it is open already, and leaving would end all
    tasks."""

    @app.on_startup
    async def enter(tasks: AppTasks) -> None:
        with pytest.raises(RuntimeError, match="it is open already"):
            async with tasks:
                raise AssertionError("entered")
        with pytest.raises(RuntimeError, match="it ends with what it belongs to"):
            await tasks.__aexit__(None, None, None)

    async with app.serve("127.0.0.1", 0):
        pass


@pytest.mark.skipif(
    not hasattr(anyio.abc.TaskGroup, "create_task"), reason="anyio has it from 4.14 on"
)
async def test_tasks_of_coroutines(app: WebSuckets, caplog: pytest.LogCaptureFixture) -> None:
    """`create_task` returns a handle that may be awaited."""

    async def five() -> int:
        return 5

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        assert await tasks.create_task(five()) == 5
        assert await tasks.create_task(fail(), name="named") is None
        assert await tasks.start_soon(five) == 5

    async with app.serve("127.0.0.1", 0):
        pass
    (message,) = messages(caplog)
    assert message.startswith("named of the app failed")


@pytest.mark.parametrize("whose", ["the app", "connection"])
async def test_a_task_that_ignores_its_cancellation_is_left_behind(
    journal: list[str], caplog: pytest.LogCaptureFixture, whose: str
) -> None:
    """The log has an error, and closing goes on after `Limits.finalize_timeout`."""
    release = anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    app = WebSuckets(limits=Limits(finalize_timeout=0.05), providers=[Journalling(journal)])

    @app.on_connect
    async def start(tasks: ConnectionTasks, app_tasks: AppTasks, visit: Visit, pool: Pool) -> None:
        (app_tasks if whose == "the app" else tasks).start_soon(stubborn)

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server):
            pass
        await until(journal, "close visit")
    assert journal == ["close visit", "close pool"]
    (message,) = messages(caplog)
    assert message.startswith(f"tasks of {whose}")
    assert message.endswith("ignore their cancellation (Limits.finalize_timeout is 0.05)")
    release.set()
    await anyio.wait_all_tasks_blocked()


@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_task(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The cancelled task ends alone; a task that waited for another cancelled one has failed."""
    done = anyio.Event()

    async def suicide() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(10)
        finally:
            done.set()

    async def wait_for_cancelled() -> None:
        other = asyncio.ensure_future(asyncio.sleep(10))
        other.cancel()
        await other

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        tasks.start_soon(suicide)
        tasks.start_soon(wait_for_cancelled)

    async with talk(app) as client:
        await done.wait()
        await client.call("work", id=1)
        await until(journal, "command begins")
        assert "app ends" not in journal
    (message,) = messages(caplog)
    assert "wait_for_cancelled of the app failed" in message


@pytest.mark.on_asyncio
async def test_asyncios_own_cancellation_of_a_task_of_the_framework() -> None:
    """Only the cancelled task ends."""
    journal: list[str] = []

    async def suicide() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)

    async with Background(timeout=1) as background:
        background.start_soon(Worker(journal, "other"))
        background.start_soon(suicide)
        await anyio.wait_all_tasks_blocked()
        assert journal == ["other begins"]
    assert journal == ["other begins", "other ends"]


async def test_a_start_that_is_cancelled(app: WebSuckets, journal: list[str]) -> None:
    """A cancelled start leaves nothing behind, and the app may start again."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    assert scope.cancelled_caught and journal == []
    async with talk(app) as client:
        assert (await client.call("ping"))["payload"] == "pong"


class Fatal(BaseException): ...


async def test_even_what_is_no_exception_disturbs_nobody(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """An error that is not an `Exception` is an incident; only the end of the program is passed
    on."""

    async def die() -> None:
        raise Fatal

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        tasks.start_soon(die)

    async with talk(app) as client:
        assert (await client.call("ping"))["payload"] == "pong"
        assert "app ends" not in journal
    (message,) = messages(caplog)
    assert "die of the app failed" in message


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_may_end_the_program(app: WebSuckets, error: type[BaseException]) -> None:
    """On asyncio, a task may end the program like any other task."""

    async def die() -> None:
        raise error

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        tasks.start_soon(die)

    async def main() -> None:
        async with app.serve("127.0.0.1", 0):
            await asyncio.sleep(TIMEOUT)

    with pytest.raises(error):
        asyncio.run(main())


async def two(first: int, second: int) -> None: ...


def not_async() -> None: ...


async def test_what_cannot_be_started_is_told_who_starts_it(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong calls raise a TypeError at once, and other tasks go on."""

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'second'"):
            tasks.start_soon(two, 1)
        with pytest.raises(TypeError, match="pass a function and its arguments"):
            tasks.start_soon(two(1, 2))
        with pytest.raises(TypeError, match="pass a function and its arguments"):
            tasks.start_soon("two")
        with pytest.raises(TypeError, match="not_async is not an async function"):
            tasks.start_soon(not_async)
        with pytest.raises(TypeError, match="unexpected keyword argument 'task_status'"):
            await tasks.start(two, 1, 2)

    async with talk(app) as client:
        await client.call("work", id=1)
        await until(journal, "command begins")
        assert "app ends" not in journal
    assert errors(caplog) == []


async def test_the_arguments_of_a_task_stay_out_of_the_log(
    app: WebSuckets, caplog: pytest.LogCaptureFixture
) -> None:
    """Arguments may be secrets, also those of a partial, and of an object that is called."""

    class Caller:
        async def __call__(self) -> None:
            raise RuntimeError

        def __repr__(self) -> str:
            return "canary"

    async def log_in(password: str) -> None:
        raise RuntimeError

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        tasks.start_soon(partial(log_in, password="canary"))
        tasks.start_soon(Caller())

    async with app.serve("127.0.0.1", 0):
        await anyio.wait_all_tasks_blocked()
    assert sorted(
        message.split(" of the app")[0].split(".")[-1] for message in messages(caplog)
    ) == [
        "Caller",
        "log_in",
    ]
    assert "canary" not in "".join(messages(caplog))


async def test_a_task_whose_client_has_left_is_no_incident(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A task may end with the error that `send` raises on a closed connection."""
    app = WebSuckets(providers=[Journalling(journal)])

    @app.on_connect
    async def start(socket: Socket, tasks: ConnectionTasks, visit: Visit) -> None:
        async def tell() -> None:
            try:
                while True:
                    await socket.send("still there?")
                    await anyio.sleep(0.001)
            finally:
                journal.append("told")

        tasks.start_soon(tell)

    @app.on_disconnect
    async def wait() -> None:
        await until(journal, "told")

    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.receive_frame()
            await client.vanish()
        await until(journal, "close visit")
    assert errors(caplog) == []


async def test_a_task_with_a_group_of_its_own_ends_silently(
    app: WebSuckets, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A cancellation in a nursery, of which trio makes a group, is recognised."""

    async def work() -> None:
        if on_trio():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Worker(journal, "inner"))
                await trio.sleep_forever()
        async with anyio.create_task_group() as group:
            group.start_soon(Worker(journal, "inner"))
            await anyio.sleep_forever()

    @app.on_startup
    async def start(tasks: AppTasks) -> None:
        tasks.start_soon(work)

    async with app.serve("127.0.0.1", 0):
        await until(journal, "inner begins")
    assert "inner ends" in journal
    assert errors(caplog) == []


async def test_a_task_of_the_framework_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged as an incident, and the other tasks go on."""
    journal: list[str] = []
    async with Background(timeout=1) as background:
        background.start_soon(Worker(journal, "other"))
        background.start_soon(fail)
        await anyio.wait_all_tasks_blocked()
        assert journal == ["other begins"]
    (message,) = messages(caplog)
    assert message.startswith("fail failed, incident")


async def test_a_background_that_has_ended_starts_nothing() -> None:
    """A closed background starts no task, and leaves no coroutine that nobody would await."""
    background = Background(timeout=1)
    async with background:
        pass
    started: list[str] = []

    async def start() -> None:
        started.append("started")

    background.start_soon(start)
    await anyio.wait_all_tasks_blocked()
    assert started == []
