"""The table of failures: what was raised, where, and what had been cancelled, in all combinations.

The first part asks `judge` itself; the rest is seen by clients, on every transport.
"""

import logging
from collections.abc import AsyncIterator, Callable

import anyio
import pytest
from dishka import Provider, Scope
from harness import app_with, dial, errors
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosedOK

from websuckets import CommandGroup, ConnectionTasks, Limits, Socket
from websuckets.exc import ClientError, CommandTimeout, NotAuthorized
from websuckets.runtime.failures import Cancelled, Failure, Meaning, judge, judge_mapped

pytestmark = pytest.mark.anyio


class OwnError(BaseException):
    """An error of a program that is not an `Exception`."""


def group_of(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", errors)


# Meanings by `judge` ------------------------------------------------------------------------------

REFUSAL = ClientError("no")
BUG = ValueError("bug")
LEFT = ConnectionClosedOK(None, None)
SEVERAL = ExceptionGroup("several", [REFUSAL, BUG])

JUDGED: list[tuple[Callable[[BaseException], BaseException], Meaning | None]] = [
    (lambda cancellation: REFUSAL, Meaning.REPLY),
    (lambda cancellation: NotAuthorized(), Meaning.REPLY),
    (lambda cancellation: BUG, Meaning.INCIDENT),
    (lambda cancellation: OwnError(), Meaning.INCIDENT),
    (lambda cancellation: LEFT, Meaning.IGNORE),
    (lambda cancellation: KeyboardInterrupt(), Meaning.PROPAGATE),
    (lambda cancellation: SystemExit(), Meaning.PROPAGATE),
    (lambda cancellation: GeneratorExit(), Meaning.PROPAGATE),
    (lambda cancellation: group_of(REFUSAL), Meaning.REPLY),
    (lambda cancellation: group_of(group_of(LEFT)), Meaning.IGNORE),
    (lambda cancellation: group_of(BUG), Meaning.INCIDENT),
    (lambda cancellation: group_of(OwnError()), Meaning.INCIDENT),
    (lambda cancellation: group_of(REFUSAL, BUG), Meaning.INCIDENT),
    (lambda cancellation: group_of(REFUSAL, cancellation, GeneratorExit()), Meaning.REPLY),
    (lambda cancellation: group_of(BUG, cancellation), Meaning.INCIDENT),
    (lambda cancellation: group_of(GeneratorExit(), BUG), Meaning.INCIDENT),
    (lambda cancellation: group_of(GeneratorExit()), Meaning.INCIDENT),
    (lambda cancellation: group_of(BUG, KeyboardInterrupt()), Meaning.PROPAGATE),
    (lambda cancellation: group_of(cancellation, SystemExit()), Meaning.PROPAGATE),
    (lambda cancellation: cancellation, None),
    (lambda cancellation: group_of(cancellation), None),
    (lambda cancellation: group_of(cancellation, GeneratorExit()), None),
]
"""Errors, made with a cancellation of the running event loop, and their meanings.

``None`` stands for a meaning that depends on what had been cancelled.
"""

OF_A_CANCELLATION = {
    Cancelled.NOTHING: Meaning.INCIDENT,
    Cancelled.TIMED_OUT: Meaning.REPLY,
    Cancelled.ENDED: Meaning.PROPAGATE,
    Cancelled.ALONE: Meaning.IGNORE,
}


async def a_cancellation() -> BaseException:
    """Return a cancellation that has been handled already."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException as error:
            return error
    raise AssertionError("it was not cancelled")


@pytest.mark.parametrize("cancelled", Cancelled)
@pytest.mark.parametrize("number", range(len(JUDGED)))
async def test_an_error_means_what_the_table_says(number: int, cancelled: Cancelled) -> None:
    """The meaning follows from the error and from what had been cancelled alone."""
    make, meaning = JUDGED[number]
    error = make(await a_cancellation())
    failure = judge(error, lambda: cancelled, lambda raised: raised is LEFT)
    assert failure.meaning is (meaning or OF_A_CANCELLATION[cancelled])
    if meaning is None and cancelled is Cancelled.TIMED_OUT:
        assert isinstance(failure.error, CommandTimeout)
    elif failure.meaning in (Meaning.PROPAGATE, Meaning.INCIDENT):
        assert failure.error is error  # the log shows the whole


MAPPED: list[tuple[Callable[[BaseException], BaseException], BaseException]] = [
    (lambda cancellation: BUG, BUG),
    (lambda cancellation: group_of(BUG), BUG),
    (lambda cancellation: group_of(group_of(BUG)), BUG),
    (lambda cancellation: group_of(BUG, cancellation), BUG),
    (lambda cancellation: group_of(GeneratorExit(), BUG), BUG),
    (lambda cancellation: SEVERAL, SEVERAL),
    (lambda cancellation: group_of(SEVERAL), SEVERAL),
]
"""Errors, made with a cancellation, of which a function makes a reply, and the error it gets."""


async def judged(
    error: BaseException, cancelled: Cancelled, result: ClientError | BaseException | None
) -> tuple[Failure, list[BaseException]]:
    """Return the meaning of an error by a function that returns or raises ``result``.

    Returns also the errors with which the function was called.
    """
    given: list[BaseException] = []

    async def map_error(error: Exception) -> ClientError | None:
        given.append(error)
        if result is None or isinstance(result, ClientError):
            return result
        raise result

    failure = await judge_mapped(error, map_error, lambda: cancelled, lambda raised: raised is LEFT)
    return failure, given


@pytest.mark.parametrize("cancelled", Cancelled)
@pytest.mark.parametrize("number", range(len(MAPPED)))
async def test_an_incident_that_a_function_maps_is_a_reply(
    number: int, cancelled: Cancelled
) -> None:
    make, cause = MAPPED[number]
    error = make(await a_cancellation())
    reply = ClientError("mapped")
    failure, given = await judged(error, cancelled, reply)
    assert (failure.meaning, failure.error, failure.mapped) == (Meaning.REPLY, reply, error)
    assert given == [cause]


@pytest.mark.parametrize("cancelled", Cancelled)
@pytest.mark.parametrize("number", range(len(JUDGED)))
async def test_a_function_is_asked_about_exceptions_that_would_be_incidents_alone(
    number: int, cancelled: Cancelled
) -> None:
    """Expect any other error to mean what it means without a function."""
    make, meaning = JUDGED[number]
    error = make(await a_cancellation())
    failure, given = await judged(error, cancelled, ClientError("mapped"))
    meaning = meaning or OF_A_CANCELLATION[cancelled]
    if given:
        assert meaning is Meaning.INCIDENT
        assert isinstance(given[0], Exception)
    else:
        assert failure.meaning is meaning
        assert failure.mapped is None


async def test_a_function_that_fails_leaves_an_incident_of_both_errors() -> None:
    second = OSError()
    failure, _ = await judged(BUG, Cancelled.NOTHING, second)
    assert failure.meaning is Meaning.INCIDENT
    assert isinstance(failure.error, BaseExceptionGroup)
    assert failure.error.exceptions == (BUG, second)


@pytest.mark.parametrize("result", [None, BUG, group_of(BUG)])
async def test_a_function_may_leave_an_error_the_incident_that_it_was(
    result: BaseException | None,
) -> None:
    """Expect the error alone: for ``None``, and for the error raised again."""
    failure, _ = await judged(BUG, Cancelled.NOTHING, result)
    assert failure == Failure(Meaning.INCIDENT, BUG)


async def test_a_function_that_is_ended_propagates_its_end() -> None:
    end = SystemExit()
    assert (await judged(BUG, Cancelled.NOTHING, end))[0] == Failure(Meaning.PROPAGATE, end)
    cancellation = await a_cancellation()
    failure, _ = await judged(BUG, Cancelled.ENDED, cancellation)
    assert failure == Failure(Meaning.PROPAGATE, cancellation)


# Replies, and lines in the log -------------------------------------------------------------------

RAISED: dict[str, Callable[[], BaseException]] = {
    "refusal": lambda: ClientError("no", {"because": 1}),
    "bug": lambda: ValueError("canary"),
    "own": lambda: OwnError("canary"),
    "group with a refusal": lambda: group_of(ClientError("no", {"because": 1})),
    "group of several": lambda: group_of(ClientError("no"), ValueError("canary")),
}
"""Errors by name: those with "refusal" in their names reach the client, others are incidents."""


class Dependency: ...


class Finalised: ...


class Providing(Provider):
    """A provider of objects that fail when they are built, or when they are finalised."""

    scope = Scope.REQUEST

    def __init__(self) -> None:
        super().__init__()
        self.raised: BaseException = ValueError()
        self.provide(self.dependency)
        self.provide(self.finalised)

    async def dependency(self) -> Dependency:
        raise self.raised

    async def finalised(self) -> AsyncIterator[Finalised]:
        yield Finalised()
        raise self.raised


def commands(provider: Providing) -> CommandGroup:
    """Return commands that fail with the error that the provider has, each in another place."""
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: Socket) -> None:
        raise provider.raised

    @group.command("dependency")
    async def dependency(socket: Socket, *, dependency: Dependency) -> None: ...

    @group.command("finaliser")
    async def finaliser(socket: Socket, *, finalised: Finalised) -> None: ...

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        yield 1
        raise provider.raised

    @group.command("task")
    async def task(socket: Socket, *, tasks: ConnectionTasks) -> str:
        async def fail() -> None:
            raise provider.raised

        tasks.start_soon(fail)
        return "started"

    @group.command("slow")
    async def slow(socket: Socket) -> None:
        await anyio.sleep(TIMEOUT)

    @group.command("slow stream")
    async def slow_stream(socket: Socket) -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(TIMEOUT)

    @group.command("fine")
    async def fine(socket: Socket) -> str:
        return "fine"

    return group


@pytest.mark.parametrize("place", ["handler", "dependency", "finaliser", "stream"])
async def test_a_command_that_fails_is_answered(
    place: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a refusal as it is, and of anything else the incident that the log has."""
    provider = Providing()
    async with serving(app_with(commands(provider), providers=[provider])) as server:
        async with dial(server) as client:
            for name, make in RAISED.items():
                caplog.clear()
                provider.raised = make()
                reply = await client.call(place, id=name)
                if place == "stream":
                    assert reply == {"event": "stream", "payload": 1, "id": name, "more": True}
                    reply = await client.receive()
                assert reply.pop("id") == name
                if "refusal" in name:
                    assert reply == {"error": "no", "details": {"because": 1}}
                    assert not errors(caplog)
                else:
                    assert reply["error"] == "internal error"
                    (record,) = errors(caplog)
                    assert reply["details"]["incident"] in record.getMessage()
                    assert "canary" not in record.getMessage()
                assert (await client.call("fine"))["payload"] == "fine"


@pytest.mark.parametrize("place", ["slow", "slow stream"])
async def test_a_command_that_takes_too_long_is_answered(place: str, serving: Serving) -> None:
    """The client gets the error ``timeout``, and its connection goes on."""
    provider, limits = Providing(), Limits(handler_timeout=0.05)
    app = app_with(commands(provider), providers=[provider], limits=limits)
    async with serving(app) as server, dial(server) as client:
        reply = await client.call(place, id=1)
        if place == "slow stream":
            assert reply["payload"] == 1
            reply = await client.receive()
        assert reply == {"error": "timeout", "details": None, "id": 1}
        assert (await client.call("fine"))["payload"] == "fine"


async def test_a_task_that_fails_is_logged_and_ends_nothing_else(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for a task of a connection, so even a refusal is an incident."""
    provider = Providing()
    async with serving(app_with(commands(provider), providers=[provider])) as server:
        async with dial(server) as client:
            for make in RAISED.values():
                caplog.clear()
                provider.raised = make()
                assert (await client.call("task"))["payload"] == "started"
                with anyio.fail_after(TIMEOUT):
                    while not errors(caplog):
                        assert (await client.call("fine"))["payload"] == "fine"
                assert len(errors(caplog)) == 1


@pytest.mark.parametrize("name", RAISED)
async def test_a_hook_that_fails_closes_the_connection(
    name: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """The close frame has the text of a refusal, and of anything else the incident."""
    caplog.set_level(logging.INFO, logger="websuckets")
    app = app_with(CommandGroup())

    @app.on_connect
    async def refuse() -> None:
        raise RAISED[name]()

    async with serving(app) as server, dial(server) as client:
        code, reason = await client.closed()
    if "refusal" in name:
        assert (code, reason) == (1008, "no")
        assert not errors(caplog)
    else:
        assert code == 1011
        (record,) = errors(caplog)
        assert reason is not None and reason in record.getMessage()
