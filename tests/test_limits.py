"""Limits of concurrent commands and of connections, and the values that a limit may have."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, talk, until
from limited_commands import limited_commands
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import InvalidStatus

from websuckets import CommandGroup, Limits, Payload, Socket

pytestmark = pytest.mark.anyio


@pytest.fixture
def group(gate: Gate, journal: list[str]) -> CommandGroup:
    return limited_commands(gate, journal)


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


async def test_concurrent_commands_are_all_answered_before_the_server_stops(
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


async def test_a_concurrent_command_that_takes_too_long_ends_alone(group: CommandGroup) -> None:
    """The timeout of one concurrent command does not end another."""
    app = app_with(group, limits=Limits(concurrency=4))
    async with talk(app) as client:
        await client.send("hang", id=1)
        assert (await client.call("ping", id=2))["id"] == 2
        assert await client.receive() == {"error": "timeout", "details": None, "id": 1}


async def test_concurrent_commands_share_the_dependencies_of_the_connection(
    journal: list[str],
) -> None:
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


@pytest.mark.parametrize("number", [0, -1, 1764355573123, 2.5, "a"])
async def test_a_ping_is_answered_while_commands_run(
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


# Values -------------------------------------------------------------------------------------------


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
        {"presence_grace": -1},
        {"max_size": float("inf")},
        {"max_size": 0},
        {"max_size": (1000, 0)},
        {"compression": "gzip"},
    ],
)
def test_a_value_that_cannot_be_a_limit_is_refused(wrong: dict[str, Any]) -> None:
    """A value that has no meaning as a limit is refused."""
    with pytest.raises(ValueError, match="or None"):
        Limits(**wrong)


async def test_every_limit_may_be_off(group: CommandGroup) -> None:
    """`None` turns a limit off; `overflow` is not a limit, but how one is enforced."""
    none = dict.fromkeys(Limits.__dataclass_fields__.keys() - {"overflow"})
    async with talk(app_with(group, limits=Limits(**none))) as client:
        assert (await client.call("ping"))["payload"] == "pong"
