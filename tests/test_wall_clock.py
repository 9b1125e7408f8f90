"""Tests of the wall clock, by which users expire, and which a program may replace."""

import time
from typing import Any

import pytest
from dishka import Provider, Scope, make_async_container, provide
from harness import app_with, dial
from serving import Serving

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.clock import WallClock
from websuckets.di import lock_factory, setup_dishka
from websuckets.resuming import ResumeProvider
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity, SecurityProvider
from websuckets.session import Session, User
from websuckets.store import MemorySessionStore, Record
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

START = 1_000_000.0
"""A time long ago, in seconds since the epoch."""


class SetClock:
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("log in")
    async def log_in(socket: Socket, seconds: Payload[float], user: User, clock: WallClock) -> None:
        user.id, user.token, user.expires_at = "ann", "secret", clock.time() + seconds

    @group.command("save")
    async def save(socket: Socket, *, user: User, session: Session) -> None:
        await session.save(user)

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket, *, user: CurrentUser) -> Any:
        return [user.id, user.has_expired]

    @group.command("time")
    async def tell(socket: Socket, *, clock: WallClock) -> float:
        return clock.time()

    return group


async def test_a_user_expires_by_the_clock_that_replaces_the_wall_clock(
    serving: Serving, group: CommandGroup, clock: SetClock
) -> None:
    """Expect the client to stay until the clock is set, and then to be closed with 4401."""
    app = app_with(group)
    with app.override(values={WallClock: clock}):
        async with serving(app) as server, dial(server) as client:
            await client.call("log in", payload=3600, id=1)
            clock.now += 3599
            assert (await client.call("whoami", token="secret"))["payload"] == ["ann", False]
            clock.now += 1
            assert await client.closed() == (4401, "expired")
            assert "ann" not in app._session.verified


async def test_a_protected_command_is_refused_by_the_clock_at_once(
    group: CommandGroup, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("LONGEST_STEP", "SHORTEST_STEP"):
        monkeypatch.setattr(f"websuckets.runtime.clock.{step}", 3600)  # no check runs at all
    app = app_with(group)
    with app.override(values={WallClock: clock}):
        async with TestClient(app, token="secret") as client:
            await client.call("log in", 3600)
            clock.now += 3600
            with pytest.raises(CommandError, match="not authorized"):
                await client.call("whoami")


async def test_the_clock_of_the_system_is_injected_where_no_other_is(group: CommandGroup) -> None:
    """Expect it also after a run with another clock."""
    app = app_with(group)
    with app.override(values={WallClock: SetClock()}):
        async with TestClient(app) as client:
            assert (await client.call("time")).payload == START
    before = time.time()
    async with TestClient(app, token="secret") as client:
        assert before <= (await client.call("time")).payload <= time.time()
        await client.call("log in", 3600)
        assert (await client.call("whoami")).payload == ["ann", False]


async def test_a_provider_of_the_program_replaces_the_clock(group: CommandGroup) -> None:
    """Expect it in an app with providers, and in one with a container of the program's."""

    class Clocks(Provider):
        @provide(scope=Scope.APP)
        def clock(self) -> WallClock:
            return SetClock()

    async def check(app: WebSuckets) -> None:
        async with TestClient(app, token="secret") as client:
            assert (await client.call("time")).payload == START
            await client.call("log in", 0)
            await client.wait_closed()
            assert client.close_code == 4401

    await check(app_with(group, providers=[Clocks()]))
    app = app_with(group)
    container = make_async_container(
        SecurityProvider(), *app.providers, Clocks(), lock_factory=lock_factory
    )
    setup_dishka(container, app)
    await check(app)
    await container.close()


async def test_an_identity_of_the_handshake_expires_by_the_clock(
    group: CommandGroup, clock: SetClock
) -> None:
    async def authenticate() -> Identity:
        return Identity("ann", expires_at=START + 60)

    app = app_with(
        group, providers=[HandshakeSecurityProvider(authenticate)], origins=[None, "https://a.org"]
    )
    with app.override(values={WallClock: clock}):
        async with TestClient(app) as client:
            assert (await client.call("whoami")).payload == ["ann", False]
            clock.now += 60
            await client.wait_closed()
            assert client.close_code == 4401


async def test_a_record_of_a_user_ends_by_the_clock(group: CommandGroup, clock: SetClock) -> None:
    """Expect a saved user to continue until its time is over, on another connection."""
    app = app_with(group, providers=[ResumeProvider()])
    with app.override(values={WallClock: clock}):
        async with TestClient(app, token="secret") as client:
            await client.call("log in", 3600)
            await client.call("save")
            async with client.connect(token="secret") as other:
                assert (await other.call("whoami")).payload == ["ann", False]
            clock.now += 3600
            async with client.connect(token="secret") as other:
                with pytest.raises(CommandError, match="not authorized"):
                    await other.call("whoami")


async def test_the_lifetime_of_a_record_ends_by_the_clock(clock: SetClock) -> None:
    store = MemorySessionStore(lifetime=60, clock=clock)
    assert await store.save("key", Record("ann", START + 1000))
    clock.now += 59
    assert await store.load("key") == Record("ann", START + 1000)
    clock.now += 60
    assert await store.load("key") is None
    assert await store.save("key", Record("ann", START + 200))
    clock.now = START + 200 - 60
    assert await store.load("key") is not None
    clock.now += 59
    assert await store.load("key") is not None
    clock.now += 1
    assert await store.load("key") is None


def test_a_record_tells_by_the_clock_of_the_system_whether_its_time_is_over() -> None:
    """Expect it for stores of a program's own, which may know no other clock."""
    assert Record("ann", time.time() - 1).is_over
    assert not Record("ann", time.time() + 3600).is_over
    assert not Record("ann").is_over
