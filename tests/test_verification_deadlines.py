"""Clients are sent away when their user expires, or when they are not verified in time."""

import time
from contextlib import suppress
from typing import Any

import anyio
import pytest
from harness import Gate, app_with, dial, talk
from limited_commands import limited_commands
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed

from websuckets import CommandGroup, Limits, Socket
from websuckets.security import CurrentUser
from websuckets.session import Session, User

pytestmark = pytest.mark.anyio


@pytest.fixture
def group(gate: Gate, journal: list[str]) -> CommandGroup:
    return limited_commands(gate, journal)


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


async def test_a_protected_command_of_an_expired_user_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


async def test_a_running_command_of_an_expired_user_is_finished(
    group: CommandGroup, gate: Gate
) -> None:
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

    @group.command("change")
    async def change(socket: Socket, *, user: User) -> None:
        user.id, user.expires_at = "Ann", time.time() + 0.05
        user.id, user.token = "Bob", "secret"

    async with talk(app_with(group, limits=Limits(send_timeout=0.02))) as client:
        await client.call("change", id=1)
        await anyio.sleep(0.1)
        assert (await client.call("whoami", token="secret"))["payload"] == "Bob"


async def test_a_user_whose_time_is_put_off_stays_until_the_new_time(group: CommandGroup) -> None:
    """A user whose expiry is postponed is closed at the new time, though checked at the old one."""

    @group.command("put off")
    async def put_off(socket: Socket, *, user: User) -> float:
        user.expires_at = time.time() + 0.05
        user.expires_at = new = time.time() + 0.3
        return new

    async with talk(app_with(group)) as client:
        await client.call("log in", payload="Ann", id=1)
        new = (await client.call("put off", id=2))["payload"]
        assert await client.closed() == (4401, "expired")
        assert time.time() >= new


@pytest.mark.parametrize("never", [1e400, 10**400, float("nan")])
async def test_a_time_that_does_not_come_is_not_waited_for(never: float) -> None:
    """An expiry that never comes is not a reason to close, however great the number is."""
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
    ahead, system_time = 0.0, time.time

    def wall_clock() -> float:
        return system_time() + ahead

    monkeypatch.setattr("websuckets.clock.time.time", wall_clock)
    monkeypatch.setattr("websuckets.runtime.clock.time", wall_clock)
    async with talk(app_with(group)) as client:
        await client.call("log in", payload="Ann", id=1)
        await client.call("expire in", payload=3600, id=2)
        assert (await client.call("whoami", token="secret"))["payload"] == "Ann"
        ahead = 7200.0
        assert await client.closed() == (4401, "expired")


@pytest.mark.parametrize("wrong", ["tomorrow", True])
async def test_an_expiry_is_a_number_or_none(wrong: Any) -> None:
    """An expiry is a number of seconds, or None."""
    group = CommandGroup()

    @group.command("set")
    async def set_it(socket: Socket, *, user: User) -> str:
        with pytest.raises(TypeError, match="a number or None"):
            user.expires_at = wrong
        return str(user.expires_at)

    async with talk(app_with(group)) as client:
        assert (await client.call("set"))["payload"] == "None"


async def test_a_client_that_is_not_verified_in_time_is_sent_away(
    serving: Serving, group: CommandGroup
) -> None:
    """An unverified client is closed with 4408; logging out starts the same timeout again."""
    app = app_with(group, limits=Limits(auth_timeout=1))
    async with serving(app) as server, dial(server) as client, dial(server) as other:
        await other.call("log in", payload="Ann", id=1)
        assert await client.closed() == (4408, "not verified in time")
        assert (await other.call("whoami", token="secret"))["payload"] == "Ann"
        await other.call("log out", id=2)
        assert (await other.call("ping"))["payload"] == "pong"
        assert await other.closed() == (4408, "not verified in time")


async def test_a_client_that_is_always_busy_is_sent_away_too(group: CommandGroup) -> None:
    """A busy client is closed after its running command, which might have verified the client."""

    @group.command("work")
    async def work(socket: Socket) -> None:
        await anyio.sleep(0.03)

    async with talk(app_with(group, limits=Limits(auth_timeout=0.1))) as client:
        with suppress(ConnectionClosed):
            for id in range(100):
                await client.send("work", id=id)
        assert await client.closed() == (4408, "not verified in time")


async def test_a_client_that_is_late_while_a_hook_runs_is_sent_away_after_the_hook(
    group: CommandGroup,
) -> None:
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
    app = app_with(group, limits=Limits(auth_timeout=0.5))

    @app.on_connect
    async def verified(user: User) -> None:
        user.id, user.token, user.expires_at = "Ann", "secret", time.time() + 3600

    async with talk(app) as client:
        await anyio.sleep(0.6)
        assert (await client.call("whoami", token="secret"))["payload"] == "Ann"
        await client.call("log out", id=3)
        assert await client.closed() == (4408, "not verified in time")
