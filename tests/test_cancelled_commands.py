"""Commands are cancelled when they take too long, or when their client leaves if they say so."""

import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, errors, talk, until
from limited_commands import limited_commands
from serving import Serving
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Socket
from websuckets.exc import ConfigurationError
from websuckets.session import Session

pytestmark = pytest.mark.anyio


@pytest.fixture
def group(gate: Gate, journal: list[str]) -> CommandGroup:
    return limited_commands(gate, journal)


# Timeouts of commands -----------------------------------------------------------------------------


class Transaction: ...


@pytest.fixture
def transactions(journal: list[str]) -> Provider:
    async def transaction() -> AsyncIterator[Transaction]:
        error = yield Transaction()
        await anyio.sleep(0.01)
        journal.append("commit" if error is None else "rollback")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(transaction)
    return provider


async def test_a_command_that_takes_too_long_is_cancelled(
    serving: Serving, group: CommandGroup, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a timeout error and goes on; the log names the command."""
    app = app_with(group)
    async with serving(app) as server, dial(server) as client:
        for id in range(2):
            answer = await client.call("hang", id=id)
            assert answer == {"error": "timeout", "details": None, "id": id}
        assert (await client.call("ping"))["payload"] == "pong"
    assert journal == ["hang ended"] * 2
    (first, _) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert first.getMessage().startswith("'hang' from ")
    assert errors(caplog) == []


async def test_what_a_late_command_held_is_rolled_back(
    transactions: Provider, journal: list[str]
) -> None:
    """Finalisers have time to run, and see that the command failed."""
    group = CommandGroup()

    @group.command("hang", timeout=0.05)
    async def hang(socket: Socket, *, transaction: Transaction) -> None:
        await anyio.sleep_forever()

    @group.command("ping")
    async def ping(socket: Socket, *, transaction: Transaction) -> str:
        return "pong"

    async with talk(app_with(group, providers=[transactions])) as client:
        assert (await client.call("hang"))["error"] == "timeout"
        assert journal == ["rollback"]
        assert (await client.call("ping"))["payload"] == "pong"
        assert journal == ["rollback", "commit"]


async def test_the_time_of_a_dependency_counts_for_the_timeout_of_its_command(
    journal: list[str],
) -> None:
    """The time of a command begins before its dependencies and its guard."""
    provider = Provider(scope=Scope.REQUEST)

    @provider.provide
    async def slow() -> Transaction:
        await anyio.sleep_forever()
        return Transaction()

    group = CommandGroup()

    @group.command("slow", timeout=0.05)
    async def handler(socket: Socket, *, transaction: Transaction) -> None: ...

    async with talk(app_with(group, providers=[provider])) as client:
        assert (await client.call("slow"))["error"] == "timeout"


async def test_a_command_that_is_late_and_succeeds_all_the_same_is_committed_and_answered(
    transactions: Provider, journal: list[str]
) -> None:
    """A late result is committed and sent: a success is never reported as a failure."""
    group = CommandGroup()

    @group.command("stubborn", timeout=0.05)
    async def stubborn(socket: Socket, *, transaction: Transaction) -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        return "done"

    async with talk(app_with(group, providers=[transactions])) as client:
        for _ in range(2):
            assert (await client.call("stubborn"))["payload"] == "done"
    assert journal == ["commit"] * 2


async def test_a_bug_in_what_a_late_command_does_last_is_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error that a command raises after its timeout is not hidden behind the timeout."""
    group = CommandGroup()

    @group.command("broken", timeout=0.05)
    async def broken(socket: Socket) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    async with talk(app_with(group)) as client:
        assert (await client.call("broken"))["error"] == "internal error"
    assert len(errors(caplog)) == 1


async def test_commands_share_the_timeout_of_the_app(group: CommandGroup) -> None:
    """Commands without a timeout of their own have that of the app."""
    app = app_with(group, limits=Limits(handler_timeout=0.05))

    @group.command("patient", timeout=None)
    async def patient(socket: Socket) -> str:
        await anyio.sleep(0.3)
        return "done"

    async with talk(app) as client:
        assert (await client.call("hang by default"))["error"] == "timeout"
        assert (await client.call("patient"))["payload"] == "done"


async def test_the_time_of_a_stream_begins_anew_with_each_item() -> None:
    """A stream may run for ever, but not keep its client waiting for an item."""
    group = CommandGroup()

    @group.command("stream", timeout=0.2)
    async def stream(socket: Socket) -> AsyncIterator[int]:
        for n in range(4):
            yield n
            await anyio.sleep(0.1)
        await anyio.sleep_forever()

    async with talk(app_with(group)) as client:
        await client.send("stream", id=1)
        assert [(await client.receive())["payload"] for _ in range(4)] == [0, 1, 2, 3]
        assert (await client.receive()) == {"error": "timeout", "details": None, "id": 1}
        assert (await client.call("stream", id=1))["payload"] == 0


async def test_each_command_has_its_own_time(group: CommandGroup) -> None:
    """The timeout of a command depends neither on a longer nor on a shorter one before it."""

    @group.command("patient", timeout=60)
    async def patient(socket: Socket) -> str:
        return "done"

    @group.command("slow", timeout=10)
    async def slow(socket: Socket) -> str:
        await anyio.sleep(0.1)  # longer than `hang` may take
        return "done"

    async with talk(app_with(group)) as client:
        for _ in range(2):
            assert (await client.call("patient"))["payload"] == "done"
            assert (await client.call("hang"))["error"] == "timeout"
            assert (await client.call("slow"))["payload"] == "done"


async def test_a_short_time_does_not_make_the_clock_fine_for_those_who_are_idle(
    group: CommandGroup,
) -> None:
    """The clock keeps nothing of a command that ended in time, once the timeout has passed."""
    app = app_with(group)

    @group.command("quick", timeout=0.02)
    async def quick(socket: Socket) -> str:
        return "done"

    async with talk(app) as client:
        assert (await client.call("quick"))["payload"] == "done"
        clock = app._running.clock  # type: ignore[union-attr]  # it runs
        with anyio.fail_after(TIMEOUT):
            while clock._short:
                await anyio.sleep(0.001)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_not_positive_is_refused(timeout: float) -> None:
    """A timeout that is not positive is refused."""
    with pytest.raises(ConfigurationError, match="number of seconds, or None"):
        CommandGroup().command("x", timeout=timeout)


# Cancellation on disconnect -----------------------------------------------------------------------


async def test_a_command_is_cancelled_when_its_client_leaves_if_it_says_so(
    serving: Serving, transactions: Provider, journal: list[str]
) -> None:
    """Commands without `cancel_on_disconnect` are finished."""
    gate = Gate()
    group = CommandGroup()

    @group.command("for the client", cancel_on_disconnect=True)
    async def for_the_client(socket: Socket, *, transaction: Transaction) -> None:
        gate.reached.set()
        await anyio.sleep_forever()

    @group.command("for the world")
    async def for_the_world(socket: Socket, *, transaction: Transaction) -> None:
        await gate()
        journal.append("finished")

    async with serving(app_with(group, providers=[transactions])) as server:
        async with dial(server) as client:
            await client.send("for the client")
            await gate.reached.wait()
            await client.vanish()
            await until(journal, "rollback")
        async with dial(server) as client:
            gate.reached = anyio.Event()
            await client.send("for the world")
            await gate.reached.wait()
            await client.vanish()
            gate.opened.set()
            await until(journal, "finished")


async def test_a_command_that_is_for_its_client_alone_does_not_begin_after_the_client_has_left(
    group: CommandGroup, gate: Gate, journal: list[str]
) -> None:
    """A command with `cancel_on_disconnect` is not begun, though it had been read by then."""

    @group.command("work")
    async def work(socket: Socket) -> None:
        await gate()

    @group.command("watch", cancel_on_disconnect=True)
    async def watch(socket: Socket) -> None:
        journal.append("begun")

    async with talk(app_with(group)) as client:
        await client.send("work")
        await client.send("watch")
        await gate.reached.wait()
        await client.vanish()
        with anyio.fail_after(TIMEOUT):
            while any(user.socket.close_code is None for user in Session.online.values()):
                await anyio.sleep(0.001)
        gate.opened.set()
    assert journal == []


async def test_a_command_runs_to_its_end_for_a_later_client_after_one_has_left(
    group: CommandGroup, gate: Gate
) -> None:
    """A later client can run the same command to its end."""
    ended = anyio.Event()

    @group.command("watch", cancel_on_disconnect=True)
    async def watch(socket: Socket) -> None:
        gate.reached.set()
        try:
            await gate.opened.wait()
        finally:
            ended.set()

    async with talk(app_with(group)) as client, client.another() as other:
        await client.send("watch")
        await gate.reached.wait()
        await client.close()
        with anyio.fail_after(TIMEOUT):
            await ended.wait()
        gate.opened.set()
        assert await other.call("watch", id=1) == {"event": "watch", "payload": None, "id": 1}
        assert (await other.call("ping"))["payload"] == "pong"


async def test_one_of_several_concurrent_commands_is_cancelled_when_the_client_leaves(
    journal: list[str],
) -> None:
    """Other concurrent commands are finished, like consecutive ones."""
    gate = Gate()
    group = CommandGroup()

    @group.command("watch", cancel_on_disconnect=True)
    async def watch(socket: Socket) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("watch ended")

    @group.command("save")
    async def save(socket: Socket) -> None:
        await gate()
        journal.append("saved")

    async with talk(app_with(group, limits=Limits(concurrency=None))) as client:
        await client.send("watch")
        await client.send("save")
        await gate.reached.wait()
        await client.vanish()
        await until(journal, "watch ended")
        gate.opened.set()
        await until(journal, "saved")
