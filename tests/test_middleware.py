"""Middleware around every command, and the access log."""

import functools
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from dishka import AsyncContainer, Provider, Scope
from harness import app_with, dial, errors, talk, until
from serving import Serving

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket
from websuckets.exc import ClientError, CommandTimeout, ConfigurationError, NotAuthorized
from websuckets.middleware import CallNext, Outcome
from websuckets.security import CurrentUser

pytestmark = pytest.mark.anyio


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("fail")
    async def fail(socket: Socket) -> None:
        raise ClientError("no", {"why": 1})

    @group.command("break")
    async def break_(socket: Socket) -> None:
        raise ValueError("bug")

    @group.command("double")
    async def double(socket: Socket, model: Payload[int]) -> int:
        return 2 * model

    @group.command("count")
    async def count(socket: Socket) -> AsyncIterator[int]:
        yield 1
        yield 2

    @group.command("secret", protected=True)
    async def secret(socket: Socket, *, user: CurrentUser) -> None: ...

    @group.command("hang", timeout=0.05)
    async def hang(socket: Socket) -> None:
        await anyio.sleep_forever()

    return group


class Seen:
    """A middleware that records each message's outcome."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Any, Any]] = []
        self.seconds: list[float] = []

    async def __call__(self, socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        outcome = await call_next()
        exception = type(outcome.exception) if outcome.exception else None
        self.outcomes.append((message.event, outcome.error, exception))
        self.seconds.append(outcome.seconds)
        return outcome


async def test_it_sees_every_message_and_its_outcome(serving: Serving, group: CommandGroup) -> None:
    """A middleware sees invalid and unknown messages, too, and does not change the answers."""
    seen = Seen()
    app = app_with(group, middleware=[seen])
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("ping"))["payload"] == "pong"
        assert (await client.call("fail", id=1)) == {
            "error": "no",
            "details": {"why": 1},
            "id": 1,
        }
        assert (await client.call("break"))["error"] == "internal error"
        assert (await client.call("double", payload="x"))["error"] == "validation error"
        assert (await client.call("double"))["error"] == "payload required"
        assert (await client.call("unknown"))["error"] == "unknown command"
        assert (await client.call("secret"))["error"] == "not authorized"
        assert (await client.call("hang"))["error"] == "timeout"
        await client.connection.send("nonsense")
        assert (await client.receive())["error"] == "invalid message"
        assert (await client.call("ping"))["payload"] == "pong"
    assert seen.outcomes == [
        ("ping", None, None),
        ("fail", "no", ClientError),
        ("break", "internal error", ValueError),
        ("double", "validation error", ClientError),
        ("double", "payload required", ClientError),
        ("unknown", "unknown command", None),
        ("secret", "not authorized", NotAuthorized),
        ("hang", "timeout", CommandTimeout),
        ("", "invalid message", None),
        ("ping", None, None),
    ]
    assert seen.seconds[7] > 0.05 > seen.seconds[0] > 0


async def test_it_sees_a_stream_when_that_has_ended(group: CommandGroup) -> None:
    """The items of a stream are sent before the middleware sees the outcome."""
    seen = Seen()
    async with talk(app_with(group, middleware=[seen])) as client:
        assert (await client.call("count", id=1))["payload"] == 1
        assert (await client.receive())["payload"] == 2
        assert "more" not in await client.receive()
    assert seen.outcomes == [("count", None, None)]


async def test_they_stand_in_their_order(group: CommandGroup, journal: list[str]) -> None:
    """The first middleware is the outermost, and all of them get the same message."""

    def named(name: str) -> Any:
        async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
            journal.append(f"{name} before {message.event} {message.id}")
            outcome = await call_next()
            journal.append(f"{name} after")
            return outcome

        return middleware

    async with talk(app_with(group, middleware=[named("a"), named("b")])) as client:
        await client.call("ping", id=7)
    assert journal == ["a before ping 7", "b before ping 7", "b after", "a after"]


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ({"x": 1}, {"event": "ping", "payload": {"x": 1}, "id": 1}),
        (ClientEvent("other", 2), {"event": "other", "payload": 2, "id": 1}),
        (None, {"event": "ping", "payload": None, "id": 1}),
    ],
)
async def test_it_may_answer_itself(group: CommandGroup, answer: Any, reply: Any) -> None:
    """The result of a middleware is sent like that of a handler; the command does not run."""
    seen = Seen()

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        return answer

    async with talk(app_with(group, middleware=[seen, middleware])) as client:
        assert await client.call("ping", id=1) == reply
    assert seen.outcomes == [("ping", None, None)]


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (ClientError("closed on Sundays"), "closed on Sundays"),
        (NotAuthorized(), "not authorized"),
        (ValueError(), "internal error"),
    ],
)
async def test_it_may_refuse(
    group: CommandGroup, caplog: pytest.LogCaptureFixture, error: Exception, reply: str
) -> None:
    """A middleware may raise an error like a handler; outer ones see its outcome."""
    seen = Seen()

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        raise error

    async with talk(app_with(group, middleware=[seen, middleware])) as client:
        assert (await client.call("ping", id=1))["error"] == reply
    assert seen.outcomes == [("ping", reply, type(error))]
    assert len(errors(caplog)) == isinstance(error, ValueError)


async def test_it_may_be_silent_as_a_handler(group: CommandGroup) -> None:
    """A middleware that returns None sends no reply to a command without an id."""

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        return None if message.event == "ping" else await call_next()

    async with talk(app_with(group, middleware=[middleware])) as client:
        await client.send("ping")
        assert (await client.call("pong"))["error"] == "unknown command"


async def test_it_may_take_the_place_of_an_answer(group: CommandGroup) -> None:
    """A middleware may replace the answer to an unknown command, as to any other."""

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        outcome = await call_next()
        return "did you mean ping?" if outcome.error == "unknown command" else outcome

    async with talk(app_with(group, middleware=[middleware])) as client:
        assert (await client.call("pong"))["payload"] == "did you mean ping?"


async def test_it_runs_outside_of_the_scope(group: CommandGroup, journal: list[str]) -> None:
    """Dependencies are finalised before a middleware sees the outcome: it sees a failed commit."""

    class Transaction: ...

    async def transaction() -> AsyncIterator[Transaction]:
        yield Transaction()
        journal.append("finalised")
        raise ClientError("conflict")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)

    @group.command("commit")
    async def commit(socket: Socket, *, transaction: Transaction) -> None: ...

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        outcome = await call_next()
        journal.append(f"seen {outcome.error}")
        return outcome

    app = app_with(group, middleware=[middleware], providers=[provider])
    async with talk(app) as client:
        assert (await client.call("commit"))["error"] == "conflict"
    assert journal == ["finalised", "seen conflict"]


async def test_a_client_that_leaves_ends_it(group: CommandGroup, journal: list[str]) -> None:
    """A cancelled command cancels its middleware."""
    reached = anyio.Event()

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        try:
            return await call_next()
        finally:
            journal.append("left")

    @group.command("watch", cancel_on_disconnect=True)
    async def watch(socket: Socket) -> None:
        reached.set()
        await anyio.sleep_forever()

    async with talk(app_with(group, middleware=[middleware])) as client:
        await client.send("watch")
        await reached.wait()
        await client.vanish()
    assert journal == ["left"]


async def test_what_it_leaves_to_a_task_is_refused_when_it_has_ended(
    serving: Serving, group: CommandGroup, journal: list[str]
) -> None:
    """`call_next()` is refused once its middleware has ended, as nobody waits for the command."""
    answered = anyio.Event()

    async def late(call_next: CallNext) -> None:
        await answered.wait()
        try:
            await call_next()
        except RuntimeError as error:
            journal.append(str(error))

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        tasks.start_soon(late, call_next)
        return "later"

    async with anyio.create_task_group() as tasks:
        async with serving(app_with(group, middleware=[middleware])) as server:
            async with dial(server) as client:
                assert (await client.call("ping"))["payload"] == "later"
                answered.set()
                await until(journal, _LATE)
    assert journal == [_LATE]


_LATE = (
    "call_next() for 'ping' came when its middleware had ended: a task that a middleware starts "
    "has to end before the middleware returns"
)


async def test_what_runs_on_in_a_task_gets_nothing_of_a_connection_that_is_gone(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is built that would never be finalised; the task is not part of later messages."""
    group = CommandGroup()
    reached, gone, ended = anyio.Event(), anyio.Event(), anyio.Event()

    class Thing: ...

    async def thing() -> AsyncIterator[Thing]:
        journal.append("built")
        yield Thing()
        journal.append("finalised")

    @group.command("slow")
    async def slow(socket: Socket, *, container: AsyncContainer) -> None:
        reached.set()
        await gone.wait()
        await container.get(Thing)

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    async def run(call_next: CallNext) -> None:
        outcome = await call_next()
        journal.append(f"{outcome.error}")
        ended.set()

    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Any:
        if message.event == "ping":
            return await call_next()
        tasks.start_soon(run, call_next)
        await reached.wait()
        return "later"

    provider = Provider(scope=Scope.SESSION)
    provider.provide(thing)
    app = app_with(group, middleware=[middleware], providers=[provider])
    async with anyio.create_task_group() as tasks:
        async with talk(app) as client:
            async with client.another() as another:
                assert (await another.call("slow"))["payload"] == "later"
            assert (await client.call("ping"))["payload"] == "pong"
        gone.set()
        await ended.wait()
    assert journal == ["internal error"]
    assert "RuntimeError: the Scope.SESSION has ended" in caplog.text


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("event", ["ping", "unknown"])
async def test_it_may_take_too_long(group: CommandGroup, when: str, event: str) -> None:
    """The timeout of a command includes its middleware."""

    async def hang(socket: Socket, message: Message, call_next: CallNext) -> Any:
        if when == "before":
            await anyio.sleep_forever()
        outcome = await call_next()
        await anyio.sleep_forever()
        return outcome

    app = app_with(group, middleware=[hang], limits=Limits(handler_timeout=0.05))
    async with talk(app) as client:
        assert (await client.call(event, id=1)) == {"error": "timeout", "details": None, "id": 1}


async def test_it_may_bound_what_runs_inside(journal: list[str]) -> None:
    """A command that a middleware cancels by a cancel scope is finalised all the same."""

    class Transaction: ...

    async def transaction() -> AsyncIterator[Transaction]:
        yield Transaction()
        await anyio.sleep(0.01)
        journal.append("rollback")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    group = CommandGroup()

    @group.command("hang")
    async def hang(socket: Socket, *, transaction: Transaction) -> None:
        await anyio.sleep_forever()

    async def bound(socket: Socket, message: Message, call_next: CallNext) -> Any:
        with anyio.move_on_after(0.05):
            return await call_next()
        raise ClientError("too slow")

    async with talk(app_with(group, providers=[provider], middleware=[bound])) as client:
        for _ in range(2):
            assert (await client.call("hang"))["error"] == "too slow"
    assert journal == ["rollback"] * 2


async def test_it_may_go_on_after_what_took_too_long(
    group: CommandGroup, journal: list[str]
) -> None:
    """A command whose timeout has passed has ended when its middleware goes on."""

    async def note(socket: Socket, message: Message, call_next: CallNext) -> Any:
        outcome = await call_next()
        await anyio.sleep(0.001)
        journal.append(f"{message.event} {outcome.error}")
        return outcome

    async with talk(app_with(group, middleware=[note])) as client:
        assert (await client.call("hang"))["error"] == "timeout"
        assert (await client.call("ping"))["payload"] == "pong"
    assert journal == ["hang timeout", "ping None"]


async def test_one_that_forgets_to_return_is_a_bug(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware that returns None after `call_next()` is an incident, whatever the outcome
    was."""

    async def forgetful(socket: Socket, message: Message, call_next: CallNext) -> Any:
        await call_next()

    async with talk(app_with(group, middleware=[forgetful])) as client:
        for event in ("ping", "fail", "unknown"):
            assert (await client.call(event, id=1))["error"] == "internal error"
    assert len(errors(caplog)) == 3


async def test_one_that_forgets_to_await_is_told_so(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    async def forgetful(socket: Socket, message: Message, call_next: CallNext) -> Any:
        return call_next()

    async with talk(app_with(group, middleware=[forgetful])) as client:
        assert (await client.call("ping", id=1))["error"] == "internal error"
    assert "return await call_next()" in str(errors(caplog)[0].exc_info)


async def test_what_cannot_be_started_comes_by_too(group: CommandGroup) -> None:
    """A middleware sees a command that is refused because of the limit of streams."""
    seen = Seen()
    async with talk(app_with(group, middleware=[seen], limits=Limits(streams=0))) as client:
        assert (await client.call("count", id=1))["error"] == "too many streams"
    assert seen.outcomes == [("count", "too many streams", None)]


async def two(socket: Socket, message: Message) -> None: ...


async def four(socket: Socket, message: Message, call_next: CallNext, more: int) -> None: ...


def no_coroutine(socket: Socket, message: Message, call_next: CallNext) -> None: ...


@pytest.mark.parametrize("wrong", [5, [5], ["name"], [two], [four], [no_coroutine], [Seen]])
def test_what_is_no_middleware(wrong: Any) -> None:
    """A wrong middleware is refused before the app starts."""
    with pytest.raises(ConfigurationError, match="middleware="):
        app_with(middleware=wrong)


# The access log -----------------------------------------------------------------------------------


async def test_each_command_is_a_line(
    serving: Serving, group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """A line has the command's name, outcome, duration and connection, and no data of a client."""
    caplog.set_level(logging.DEBUG, logger="websuckets.access")
    app = app_with(group, limits=Limits(rate=0.001, burst=6))
    async with serving(app) as server, dial(server) as client:
        await client.call("ping")
        await client.call("double", payload=5, token="t0ken", id="an id")
        await client.call("double", payload="p4yload")
        await client.call("unknown")
        await client.connection.send("nonsense")
        await client.receive()
        await client.call("count", id=1)
        while "more" in await client.receive():
            pass
        await client.call("ping")
    lines = [r.getMessage() for r in caplog.records if r.name == "websuckets.access"]
    assert [line.rsplit(maxsplit=3)[0] for line in lines] == [
        "'ping' ok",
        "'double' ok",
        "'double' validation error",
        "'unknown' unknown command",
        "'' invalid message",
        "'count' ok",
        "'ping' rate limited",
    ]
    whose = {line.rsplit(maxsplit=1)[1] for line in lines}
    assert len(whose) == 1
    assert all(line.split()[-2] == "ms" for line in lines)
    assert "t0ken" not in caplog.text and "p4yload" not in caplog.text


async def test_a_command_that_is_cancelled_is_a_line_too(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """The line of a cancelled command says that the command was cancelled."""
    caplog.set_level(logging.DEBUG, logger="websuckets.access")
    reached = anyio.Event()

    @group.command("watch", cancel_on_disconnect=True)
    async def watch(socket: Socket) -> None:
        reached.set()
        await anyio.sleep_forever()

    async with talk(app_with(group)) as client:
        await client.send("watch")
        await reached.wait()
        await client.vanish()
    (line,) = [r.getMessage() for r in caplog.records if r.name == "websuckets.access"]
    assert line.startswith("'watch' cancelled ")


async def test_it_is_off_unless_asked_for(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no access log at the level INFO."""
    caplog.set_level(logging.INFO, logger="websuckets.access")
    async with talk(app_with(group)) as client:
        await client.call("ping")
    assert not [r for r in caplog.records if r.name == "websuckets.access"]


async def test_any_async_callable_is_middleware_and_a_wrong_one_is_named(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain wrappers and partials are accepted; an error names the middleware that returned it."""

    async def marked(mark: str, socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        passed.append(mark)
        return await call_next()

    def plainly(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return function(*arguments)

        return wrapper

    async def forgets(socket: Socket, message: Message, call_next: CallNext) -> None:
        await call_next()

    async def hands_on(socket: Socket, message: Message, call_next: CallNext) -> Any:
        return call_next()

    @functools.wraps(forgets)
    def gives_five(socket: Socket, message: Message, call_next: CallNext) -> Any:
        return 5

    passed: list[str] = []
    one = functools.partial(marked, "partial")
    two = plainly(functools.partial(marked, "wrapped"))
    async with talk(app_with(group, middleware=[one, two])) as client:
        assert (await client.call("ping"))["payload"] == "pong"
    assert passed == ["partial", "wrapped"]
    for wrong, says in {
        forgets: "it returned None; return what call_next() gave",
        hands_on: "it returned a coroutine; `return await call_next()`",
        gives_five: "it gave an object of type int",
    }.items():
        caplog.clear()
        async with talk(app_with(group, middleware=[one, wrong])) as client:
            assert (await client.call("ping"))["error"] == "internal error"
        (error,) = errors(caplog)
        assert error.exc_info is not None
        assert f"{wrong.__name__}` ({__file__}, line " in str(error.exc_info[1])
        assert says in str(error.exc_info[1])
