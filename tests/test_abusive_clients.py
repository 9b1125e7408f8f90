"""Clients that send too much, or nonsense, or are refused too often, are told so and sent away."""

import logging
from types import SimpleNamespace

import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, talk
from limited_commands import limited_commands
from serving import Serving

from websuckets import CommandGroup, Limits, Socket
from websuckets.exc import Expired, Forbidden
from websuckets.security import CurrentUser
from websuckets.session import User

pytestmark = pytest.mark.anyio


@pytest.fixture
def group(gate: Gate, journal: list[str]) -> CommandGroup:
    return limited_commands(gate, journal)


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
    assert "sends too many messages (Limits.rate is 4, Limits.burst is 3)" in warning


@pytest.mark.parametrize(
    "frame", ["nonsense", '{"event": "unknown"}', '{"event": "ping"}', '{"cancel": 1}']
)
async def test_a_client_that_keeps_exceeding_the_rate_is_sent_away(
    group: CommandGroup, frame: str
) -> None:
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


async def test_a_client_with_concurrent_commands_is_sent_away_after_too_many_refusals(
    group: CommandGroup,
) -> None:
    """The client is closed once the last of its concurrent commands is answered."""
    app = app_with(group, limits=Limits(auth_failures=3, concurrency=4))
    async with talk(app) as client:
        for _ in range(3):
            assert (await client.call("forbidden"))["error"] == "not authorized"
        assert await client.closed() == (4401, "too many refused commands")


async def test_commands_that_are_forbidden_to_a_known_user_do_not_count_as_refused(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the connection to stay, whether a guard or the handler forbids, and a line each."""
    caplog.set_level(logging.INFO, logger="websuckets")
    group, provider = CommandGroup(), Provider(scope=Scope.REQUEST)

    class Admin: ...

    @provider.provide
    def admin(user: CurrentUser) -> Admin:
        raise Forbidden

    @group.command("log in")
    async def log_in(socket: Socket, user: User) -> None:
        user.id, user.token = "ann", "secret"

    @group.command("guarded", protected=Admin)
    async def guarded(socket: Socket) -> None: ...

    @group.command("handled", protected=True)
    async def handled(socket: Socket) -> None:
        raise Forbidden("not yours", {"owner": "bob"})

    app = app_with(group, providers=[provider], limits=Limits(auth_failures=2))
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("guarded", token="secret"))["error"] == "not authorized"
        await client.call("log in", id=1)
        for _ in range(3):
            reply = await client.call("guarded", token="secret")
            assert reply == {"error": "forbidden", "details": None}
            reply = await client.call("handled", token="secret")
            assert reply == {"error": "not yours", "details": {"owner": "bob"}}
        for _ in range(2):
            assert (await client.call("guarded", token="wrong"))["error"] == "not authorized"
        assert await client.closed() == (4401, "too many refused commands")
    lines = [r.getMessage().split(" from ")[0] for r in caplog.records]
    assert lines.count("forbidden: 'guarded'") == lines.count("forbidden: 'handled'") == 3


async def test_commands_of_an_expired_user_do_not_count_as_refused() -> None:
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


async def test_pings_are_not_unknown_commands_but_count_for_the_rate(
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
