"""Peers that leave at any moment are noticed, and nothing of their connections is left."""

import random
from itertools import product

import anyio
import pytest
from census import census, until_as_before, without_tracebacks
from harness import Gate, app_with, until
from hostile import assert_serves, errors, heavy, make_app
from peers import client_process, command, opened
from serving import SERVINGS, Serving
from target import group as commands_of_the_target
from timeouts import TIMEOUT
from visits import HALF_A_COMMAND, LONG_VISITS, VISITS, Visit, pay

from websuckets import CommandGroup, Limits, Socket, WebSuckets

pytestmark = pytest.mark.anyio


@pytest.fixture
def serving(server: str) -> Serving:
    """Serve an app, for as long as the context lasts."""
    return SERVINGS[server][1]


# Peers that leave without a word.


ENDS = ["reset", "finish", "close"]


@pytest.mark.parametrize(
    ("busy", "end"),
    [
        *product(["wait", "stream", "ping", "half"], ENDS),
        ("wait and send", "reset"),
        ("wait and send", "close"),
        pytest.param("wait and send", "finish", marks=heavy),
    ],
)
async def test_a_peer_that_leaves_in_the_middle_of_a_command_causes_no_error(
    serving: Serving,
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    busy: str,
    end: str,
) -> None:
    """Expect the handlers to end and the connection to close, without an error."""
    async with serving(app) as server:
        async with opened(server.port) as peer:
            if busy == "half":
                await peer.write(HALF_A_COMMAND)
            else:
                await peer.write(command(busy))
            if busy not in ("half", "ping"):
                await gate.reached.wait()
            getattr(peer, end)()
            gate.opened.set()
            # A peer that reads nothing more has close_timeout, 10 seconds, for data on its way.
            await until(journal, "disconnect", 2 * TIMEOUT)
        assert journal == ["connect", "disconnect"]
        await assert_serves(server.port)
    assert errors(caplog) == []


@pytest.mark.parametrize("end", ["reset", "finish", "close"])
async def test_a_peer_that_leaves_behind_many_commands_is_noticed_while_a_command_runs(
    journal: list[str], gate: Gate, end: str
) -> None:
    """Expect what runs for this client alone to be cancelled, though nothing is read meanwhile."""
    group = CommandGroup()

    @group.command("wait", cancel_on_disconnect=True)
    async def wait(socket: Socket) -> None:
        try:
            await gate()
        finally:
            journal.append("cancelled")

    @group.command("note")
    async def note(socket: Socket) -> None:
        journal.append("note")

    app = app_with(group)

    @app.on_disconnect
    async def disconnect() -> None:
        journal.append("disconnect")

    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port) as peer:
            await peer.write(command("wait") + command("note") * 40)
            await gate.reached.wait()
            getattr(peer, end)()
            await until(journal, "disconnect")
        assert journal[0] == "cancelled"
        assert journal[-1] == "disconnect"


async def test_a_peer_that_has_left_is_noticed_by_the_next_read_where_the_system_does_not_tell(
    journal: list[str], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run without the poll event that macOS and Windows lack."""
    monkeypatch.setattr("websuckets.transports.departure.PEER_HAS_SHUT_DOWN", 0)
    app = make_app(journal, gate)
    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port) as peer:
            await peer.write(command("sleep", payload=1.5) + command("ping") * 40)
            peer.finish()
            await until(journal, "disconnect")
    assert journal == ["connect", "slept", "disconnect"]


@pytest.mark.parametrize("end", ["reset", "finish", "close"])
async def test_a_handler_can_notice_that_its_peer_has_left(
    serving: Serving, app: WebSuckets, gate: Gate, end: str
) -> None:
    """Expect a handler to be able to check whether its client is still there."""
    noticed = anyio.Event()
    group = CommandGroup()

    @group.command("notice")
    async def notice(socket: Socket) -> None:
        gate.reached.set()
        while socket.close_code is None:
            await anyio.sleep(0.001)
        noticed.set()

    app.include_command_group(group)
    async with serving(app) as server, opened(server.port) as peer:
        await peer.write(command("notice"))
        await gate.reached.wait()
        getattr(peer, end)()
        with anyio.fail_after(TIMEOUT):
            await noticed.wait()


FROZEN = {"ping_interval": 0.1, "ping_timeout": 0.1, "close_timeout": 0.1}


@pytest.mark.parametrize("frames", [[], ['{"event": "wait"}'], ['{"event": "stream"}']])
async def test_a_peer_whose_machine_hangs_is_noticed_by_missing_pongs(
    app: WebSuckets,
    journal: list[str],
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    frames: list[str],
) -> None:
    """Expect missing pongs to show that the peer is gone, even while one of its commands runs."""
    async with app.serve("127.0.0.1", 0, **FROZEN) as server:
        async with client_process(server.port, *frames) as client:
            if frames:
                await gate.reached.wait()
            client.freeze()
            if "wait" in "".join(frames):
                with anyio.fail_after(TIMEOUT):
                    await until_offline(app)
                gate.opened.set()
            await until(journal, "disconnect")
        await assert_serves(server.port)
    assert errors(caplog) == []


async def until_offline(app: WebSuckets) -> None:
    """Wait until every connection is closed, though a handler may still run."""
    while any(user.socket.close_code is None for user in app._session.online.values()):
        await anyio.sleep(0.01)


# Nothing is left.


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=heavy)])
async def test_nothing_is_left_of_connections_that_are_gone(
    serving: Serving, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """Expect no objects, tasks or descriptors to be left, however connections ended."""
    visits = random.Random(count).choices(VISITS, k=count)
    await assert_nothing_is_left(serving, visits)
    assert errors(caplog) == []


@heavy
@pytest.mark.parametrize("visit", LONG_VISITS, ids=lambda visit: visit.__name__)
async def test_nothing_is_left_of_long_visits(serving: Serving, visit: Visit) -> None:
    """Expect nothing to be left by visits that take longer, either."""
    await assert_nothing_is_left(serving, [visit] * 3)


async def assert_nothing_is_left(serving: Serving, visits: list[Visit]) -> None:
    app = app_with(commands_of_the_target, limits=Limits(send_timeout=1))
    with without_tracebacks("uvicorn.error"):
        await assert_nothing_is_left_in(app, serving, visits)


async def assert_nothing_is_left_in(app: WebSuckets, serving: Serving, visits: list[Visit]) -> None:
    async with serving(app) as server:
        for visit in VISITS * 2:
            await pay(server.port, visit)
        before = census()
        for visit in visits:
            await pay(server.port, visit)
        await until_as_before(before, TIMEOUT)
        await assert_serves(server.port)
