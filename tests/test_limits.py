"""Limits of one client, and the answers to a client that exceeds them."""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, errors, talk, until
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, InvalidStatus

from websuckets import CommandGroup, Limits, Payload, Socket
from websuckets.exc import ConfigurationError, Expired, NotAuthorized
from websuckets.security import CurrentUser
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def group(gate: Gate, journal: list[str]) -> CommandGroup:
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("log in")
    async def log_in(socket: Socket, model: Payload[str], user: User) -> None:
        user.id, user.token = model, "secret"

    @group.command("log out")
    async def log_out(socket: Socket, *, user: User) -> None:
        user.id = None

    @group.command("expire in")
    async def expire_in(socket: Socket, model: Payload[float], user: User) -> None:
        user.expires_at = time.time() + model

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket, *, user: CurrentUser) -> Any:
        return user.id

    @group.command("forbidden", protected=True)
    async def forbidden(socket: Socket) -> None:
        raise NotAuthorized("not yours")

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "at last"

    @group.command("hang", timeout=0.05)
    async def hang(socket: Socket) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("hang ended")

    @group.command("hang by default")
    async def hang_by_default(socket: Socket) -> None:
        await anyio.sleep_forever()

    return group


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


async def test_a_dependency_or_a_guard_that_takes_too_long_counts(journal: list[str]) -> None:
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


async def test_a_command_that_is_late_and_succeeds_all_the_same(
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
def test_a_timeout_is_some_time(timeout: float) -> None:
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


async def test_it_does_not_begin_after_its_client_has_left(
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


async def test_it_ends_with_its_client_alone(group: CommandGroup, gate: Gate) -> None:
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


async def test_one_of_several_ends_with_its_client(journal: list[str]) -> None:
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


# Concurrent commands ------------------------------------------------------------------------------


async def test_several_commands_may_run_at_once(serving: Serving) -> None:
    """At most `concurrency` commands run at once; each answer has its command's id."""
    running, most, all_in = 0, 0, anyio.Event()
    group = CommandGroup()

    @group.command("meet")
    async def meet(socket: Socket, model: Payload[int]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            all_in.set()
        await all_in.wait()
        await anyio.sleep(0.001)
        running -= 1
        return model

    app = app_with(group, limits=Limits(concurrency=3))
    async with serving(app) as server, dial(server) as client:
        for id in range(12):
            await client.send("meet", payload=id, id=id)
        answers = [await client.receive() for _ in range(12)]
    assert sorted(answer["id"] for answer in answers) == list(range(12))
    assert all(answer["id"] == answer["payload"] for answer in answers)
    assert most == 3


async def test_they_are_all_answered_before_the_server_stops(
    group: CommandGroup, gate: Gate
) -> None:
    """Each reply is sent, then the connection is closed with 1012."""
    app = app_with(group, limits=Limits(concurrency=4))
    async with anyio.create_task_group() as tasks:
        leave = anyio.Event()
        servers: list[Any] = []
        ready = anyio.Event()

        async def serve() -> None:
            async with app.serve("127.0.0.1", 0) as server:
                servers.append(server)
                ready.set()
                await leave.wait()

        tasks.start_soon(serve)
        await ready.wait()
        async with dial(servers[0]) as client:
            for id in range(4):
                await client.send("wait", id=id)
            await gate.reached.wait()
            leave.set()
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
            answers = [await client.receive() for _ in range(4)]
            assert sorted(answer["id"] for answer in answers) == [0, 1, 2, 3]
            assert (await client.closed())[0] == 1012


async def test_one_of_several_takes_too_long_alone(group: CommandGroup) -> None:
    """The timeout of one concurrent command does not end another."""
    app = app_with(group, limits=Limits(concurrency=4))
    async with talk(app) as client:
        await client.send("hang", id=1)
        assert (await client.call("ping", id=2))["id"] == 2
        assert await client.receive() == {"error": "timeout", "details": None, "id": 1}


async def test_several_commands_share_what_the_connection_has(journal: list[str]) -> None:
    """A dependency of the connection is built once and finalised after the last command."""

    class Shared: ...

    async def shared() -> AsyncIterator[Shared]:
        await anyio.sleep(0.01)
        journal.append("open")
        yield Shared()
        journal.append("close")

    provider = Provider(scope=Scope.SESSION)
    provider.provide(shared)
    group = CommandGroup()

    @group.command("use")
    async def use(socket: Socket, *, shared: Shared) -> None: ...

    @group.command("finish")
    async def finish(socket: Socket, *, shared: Shared) -> None:
        await anyio.sleep(0.05)
        journal.append("finish")

    app = app_with(group, providers=[provider], limits=Limits(concurrency=None))
    async with talk(app) as client:
        for id in range(5):
            await client.send("use", id=id)
        assert {(await client.receive())["id"] for _ in range(5)} == set(range(5))
        await client.send("finish")
        await client.call("use", id=6)
        await client.vanish()
        await until(journal, "close")
    assert journal == ["open", "finish", "close"]


# Rate and abuse -----------------------------------------------------------------------------------


async def test_more_messages_than_the_rate_are_refused(
    serving: Serving,
    group: CommandGroup,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a burst, the client is told when to go on; the log has one warning."""
    now = 1000.0
    monkeypatch.setattr("websuckets.connections.abuse.time", SimpleNamespace(monotonic=lambda: now))
    app = app_with(group, limits=Limits(rate=4, burst=3))
    async with serving(app) as server, dial(server) as client:
        answers = [await client.call("ping", id=id) for id in range(5)]
        assert [answer.get("error") for answer in answers] == [None] * 3 + ["rate limited"] * 2
        retry_after = answers[-1]["details"]["retry_after"]
        assert retry_after == 0.25
        now += retry_after
        assert (await client.call("ping"))["payload"] == "pong"
        async with dial(server) as other:
            assert (await other.call("ping"))["payload"] == "pong"
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "sends more than Limits(rate=4, burst=3) allows" in warning


@pytest.mark.parametrize(
    "frame", ["nonsense", '{"event": "unknown"}', '{"event": "ping"}', '{"cancel": 1}']
)
async def test_who_goes_on_regardless_is_sent_away(group: CommandGroup, frame: str) -> None:
    """A client that keeps exceeding the rate is closed with 4429, after its last answer."""
    app = app_with(group, limits=Limits(rate=0.001, burst=1, unknown_streak=None))
    async with talk(app) as client:
        await client.send("ping")
        await client.receive()
        for _ in range(100):
            await client.connection.send(frame)
            assert (await client.receive())["error"] == "rate limited"
        assert await client.closed() == (4429, "too many messages")


@pytest.mark.parametrize("limits", [Limits(rate=None), Limits(burst=None)])
async def test_the_rate_may_be_off(group: CommandGroup, limits: Limits) -> None:
    """Without a rate or a burst, no message is refused."""
    async with talk(app_with(group, limits=limits)) as client:
        for id in range(500):
            await client.send("ping", id=id)
        assert [(await client.receive())["id"] for _ in range(500)] == list(range(500))


@pytest.mark.parametrize("frame", ["nonsense", '{"event": "unknown"}'])
async def test_a_client_that_talks_nonsense_is_sent_away(
    serving: Serving, group: CommandGroup, frame: str
) -> None:
    """The client is closed with 1008; a known command in between resets the counter."""
    app = app_with(group, limits=Limits(unknown_streak=3))
    async with serving(app) as server, dial(server) as client:
        for streak in (2, 3):
            for _ in range(streak):
                await client.connection.send(frame)
                assert (await client.receive())["error"] in ("invalid message", "unknown command")
            if streak == 2:
                assert (await client.call("ping"))["payload"] == "pong"
        assert await client.closed() == (1008, "too many unknown commands")


async def test_a_client_that_is_refused_too_often_is_sent_away(
    serving: Serving, group: CommandGroup
) -> None:
    """The client is closed with 4401; only a protected command that succeeds resets the counter."""
    app = app_with(group, limits=Limits(auth_failures=3))
    async with serving(app) as server, dial(server) as client:
        for failures in (2, 3):
            for _ in range(failures):
                assert (await client.call("whoami", token="wrong"))["error"] == "not authorized"
            if failures == 2:
                await client.call("log in", payload="Ann", id=1)
                assert (await client.call("whoami", token="secret"))["payload"] == "Ann"
                await client.call("log out", id=2)
        assert await client.closed() == (4401, "too many refused commands")


async def test_with_several_commands_at_once_it_is_sent_away_as_well(group: CommandGroup) -> None:
    """The client is closed once the last of its concurrent commands is answered."""
    app = app_with(group, limits=Limits(auth_failures=3, concurrency=4))
    async with talk(app) as client:
        for _ in range(3):
            assert (await client.call("forbidden"))["error"] == "not authorized"
        assert await client.closed() == (4401, "too many refused commands")


async def test_what_has_expired_does_not_count_as_refused() -> None:
    """`Expired` does not count: an expired user has an identity, and only comes too late."""
    group = CommandGroup()
    provider = Provider(scope=Scope.REQUEST)

    @provider.provide
    async def late(user: User) -> CurrentUser:
        raise Expired

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket) -> None: ...

    app = app_with(group, providers=[provider], limits=Limits(auth_failures=1))
    async with talk(app) as client:
        for _ in range(3):
            assert (await client.call("whoami"))["error"] == "not authorized"


# Expiry and verification --------------------------------------------------------------------------


async def test_a_user_whose_time_is_over_is_sent_away(
    serving: Serving, group: CommandGroup
) -> None:
    """An idle client, too, is closed with 4401 when it expires, and is no longer verified."""
    app = app_with(group, limits=Limits(auth_timeout=None, handler_timeout=0.08))
    async with serving(app) as server, dial(server) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=0.1, id=2)
        assert await client.closed() == (4401, "expired")
        assert "Ann" not in Session.verified


async def test_what_it_still_asks_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protected command of an expired user is refused before the connection is closed."""
    for step in ("LONGEST_STEP", "SHORTEST_STEP"):
        monkeypatch.setattr(f"websuckets.runtime.clock.{step}", 3600)  # no check runs at all
    group = CommandGroup()

    @group.command("log in")
    async def log_in(socket: Socket, *, user: User) -> None:
        user.id, user.token, user.expires_at = "Ann", "secret", time.time() - 1

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket) -> None: ...

    without_timeouts = Limits(handler_timeout=None, finalize_timeout=None, send_timeout=None)
    app = app_with(group, limits=without_timeouts)
    async with talk(app, ping_interval=None, ping_timeout=None) as client:
        await client.call("log in", id=1)
        reply = await client.call("whoami", token="secret", id=2)
        assert reply == {"error": "not authorized", "details": None, "id": 2}


async def test_its_running_command_is_finished(group: CommandGroup, gate: Gate) -> None:
    """A running command of an expired user is answered before the connection is closed."""
    app = app_with(group, limits=Limits(handler_timeout=5, send_timeout=0.08))
    async with talk(app) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=0.05, id=2)
        await client.send("wait")
        await gate.reached.wait()
        with anyio.fail_after(TIMEOUT):
            while "Ann" in app._session.verified:
                await anyio.sleep(0.001)
        gate.opened.set()
        assert (await client.receive())["payload"] == "at last"
        assert await client.closed() == (4401, "expired")


async def test_another_user_has_time_of_its_own(group: CommandGroup) -> None:
    """Verifying another user discards the expiry of the previous one."""
    async with talk(app_with(group, limits=Limits(send_timeout=0.02))) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=0.05, id=2)
        await client.call("log in", payload="Bob", id=3)
        await anyio.sleep(0.1)
        assert (await client.call("whoami", token="secret"))["payload"] == "Bob"


async def test_a_user_whose_time_is_put_off_stays(group: CommandGroup) -> None:
    """A user whose expiry is postponed is closed at the new time, though checked at the old one."""
    async with talk(app_with(group)) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=0.05, id=2)
        await client.call("expire in", payload=0.2, id=3)
        await anyio.sleep(0.1)
        assert (await client.call("whoami", token="secret"))["payload"] == "Ann"
        assert await client.closed() == (4401, "expired")


@pytest.mark.parametrize("never", [1e400, 10**400, float("nan")])
async def test_a_time_that_does_not_come_is_not_waited_for(never: float) -> None:
    """An expiry that never comes is no reason to close, however great the number is."""
    group = CommandGroup()

    @group.command("log in")
    async def log_in(socket: Socket, *, user: User) -> None:
        user.expires_at = 0.5  # the user is not verified yet
        user.id, user.token, user.expires_at = "Ann", "secret", never

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket, *, user: CurrentUser) -> Any:
        return user.id

    async with talk(app_with(group)) as client:
        await client.call("log in", id=1)
        assert (await client.call("whoami", token="secret"))["payload"] == "Ann"


async def test_a_user_whose_time_is_over_since_the_wall_clock_was_set_is_sent_away(
    group: CommandGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user expires by the wall clock, even if less time has passed since it was set ahead."""
    ahead = 0.0

    def wall_clock() -> float:
        return time.time() + ahead

    for module in ("runtime.clock", "connections.verification_deadlines", "session"):
        monkeypatch.setattr(f"websuckets.{module}.time", wall_clock)
    async with talk(app_with(group)) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=3600, id=2)
        assert (await client.call("whoami", token="secret"))["payload"] == "Ann"
        ahead = 7200.0
        assert await client.closed() == (4401, "expired")


@pytest.mark.parametrize("wrong", ["tomorrow", True])
async def test_when_it_expires_is_a_time(wrong: Any) -> None:
    """An expiry is a number of seconds, or None."""
    group = CommandGroup()

    @group.command("set")
    async def set_it(socket: Socket, *, user: User) -> str:
        with pytest.raises(TypeError, match="a number or None"):
            user.expires_at = wrong
        return str(user.expires_at)

    async with talk(app_with(group)) as client:
        assert (await client.call("set"))["payload"] == "None"


async def test_who_is_not_verified_in_time_is_sent_away(
    serving: Serving, group: CommandGroup
) -> None:
    """An unverified client is closed with 4408; logging out starts the same timeout again."""
    app = app_with(group, limits=Limits(auth_timeout=0.2))
    async with serving(app) as server, dial(server) as client, dial(server) as other:
        await other.call("log in", payload="Ann", id=1)
        assert await client.closed() == (4408, "not verified in time")
        assert (await other.call("whoami", token="secret"))["payload"] == "Ann"
        await other.call("log out", id=2)
        assert (await other.call("ping"))["payload"] == "pong"
        assert await other.closed() == (4408, "not verified in time")


async def test_who_is_always_busy_is_not_spared(group: CommandGroup) -> None:
    """A busy client is closed after its running command, which might have verified the client."""

    @group.command("work")
    async def work(socket: Socket) -> None:
        await anyio.sleep(0.03)

    async with talk(app_with(group, limits=Limits(auth_timeout=0.1))) as client:
        with suppress(ConnectionClosed):
            for id in range(100):
                await client.send("work", id=id)
        assert await client.closed() == (4408, "not verified in time")


async def test_who_is_late_while_a_hook_runs_is_sent_away_after_it(group: CommandGroup) -> None:
    """The hook might have verified the client; after it, the client is closed without a message."""
    app = app_with(group, limits=Limits(auth_timeout=0.03))

    @app.on_connect
    async def think() -> None:
        await anyio.sleep(0.1)

    async with talk(app) as client:
        assert await client.closed() == (4408, "not verified in time")


async def test_being_verified_for_longer_does_not_take_the_time_to_be_verified(
    group: CommandGroup,
) -> None:
    """The timeout for verification runs only while the client is not verified."""
    async with talk(app_with(group, limits=Limits(auth_timeout=0.1))) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=3600, id=2)
        await anyio.sleep(0.2)
        assert (await client.call("whoami", token="secret"))["payload"] == "Ann"
        await client.call("log out", id=3)
        assert await client.closed() == (4408, "not verified in time")


# Number of connections ----------------------------------------------------------------------------


async def refused(server: Any, **options: Any) -> int:
    """Return the HTTP status that a client gets instead of a connection."""
    with pytest.raises(InvalidStatus) as refusal:
        async with dial(server, **options):
            pass
    return int(refusal.value.response.status_code)


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(max_connections=2), 503), (Limits(max_connections_per_ip=2), 429)],
)
async def test_more_connections_than_there_may_be_are_refused(
    on_sockets: Serving, group: CommandGroup, limits: Limits, status: int
) -> None:
    """Connections over the limit are refused until another connection is closed."""
    app = app_with(group, limits=limits)
    async with on_sockets(app) as server, dial(server) as client:
        async with dial(server) as other:
            await other.call("ping")
            assert await refused(server) == status
            assert await refused(server) == status
        with anyio.fail_after(TIMEOUT):
            while len(app._session.online) > 1:
                await anyio.sleep(0.001)
        async with dial(server) as other:
            assert (await other.call("ping"))["payload"] == "pong"
        assert (await client.call("ping"))["payload"] == "pong"


async def test_clients_behind_a_proxy_are_counted_by_their_own_address(
    group: CommandGroup,
) -> None:
    """A client's address is the one that a trusted proxy reports."""
    app = app_with(group, limits=Limits(max_connections_per_ip=1), trusted_proxies=["127.0.0.1"])

    def from_(address: str) -> dict[str, Any]:
        return {"additional_headers": {"X-Forwarded-For": address}}

    async with app.serve("127.0.0.1", 0) as server, dial(server, **from_("10.0.0.1")):
        assert await refused(server, **from_("10.0.0.1")) == 429
        async with dial(server, **from_("10.0.0.2")) as other:
            assert (await other.call("ping"))["payload"] == "pong"
        async with dial(server, **from_("2001:db8::1")) as other:
            assert await refused(server, **from_("2001:db8::2")) == 429
            assert await refused(server, **from_("::ffff:10.0.0.1")) == 429


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"rate": 0},
        {"burst": 0},
        {"send_timeout": 0},
        {"auth_failures": 0},
        {"unknown_streak": True},
        {"handler_timeout": float("nan")},
        {"outbox": 5},
        {"outbox": (1, "2")},
        {"outbox": (0, 1000)},
        {"outbox": (10, -1)},
        {"streams": 2.5},
        {"max_size": float("inf")},
        {"compression": "gzip"},
    ],
)
def test_limits_are_limits(wrong: dict[str, Any]) -> None:
    """A value that has no meaning as a limit is refused."""
    with pytest.raises(ValueError, match="or None"):
        Limits(**wrong)


@pytest.mark.parametrize("number", [0, -1, 1764355573123, 2.5, "a"])
async def test_a_ping_is_answered(
    serving: Serving, group: CommandGroup, gate: Gate, number: Any
) -> None:
    """A pong carries the value of its ping, and is sent while concurrent commands run."""
    async with serving(app_with(group, limits=Limits(concurrency=2))) as server:
        async with dial(server) as client:
            await client.send("wait", id=1)
            await client.connection.send(json.dumps({"ping": number}))
            assert await client.receive() == {"pong": number}
            gate.opened.set()
            assert (await client.receive())["payload"] == "at last"


async def test_pings_are_no_unknown_commands_but_count_for_the_rate(
    serving: Serving, group: CommandGroup
) -> None:
    """Pings are limited by the rate like commands, and none counts as an unknown command."""
    limits = Limits(unknown_streak=2, rate=0.01, burst=5)
    async with serving(app_with(group, limits=limits)) as server, dial(server) as client:
        for number in range(5):
            await client.connection.send(f'{{"ping": {number}}}')
            assert await client.receive() == {"pong": number}
        await client.connection.send('{"ping": 5}')
        assert (await client.receive())["error"] == "rate limited"


async def test_every_limit_may_be_off(group: CommandGroup) -> None:
    """`None` turns a limit off; `overflow` is not a limit, but how one is enforced."""
    none = dict.fromkeys(Limits.__dataclass_fields__.keys() - {"overflow"})
    async with talk(app_with(group, limits=Limits(**none))) as client:
        assert (await client.call("ping"))["payload"] == "pong"
