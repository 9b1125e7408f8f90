"""Each limit that acts is named in the log, with its value."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import fields
from itertools import count
from typing import Any, Final

import anyio
import pytest
import rooms
from dishka import Provider, Scope
from harness import Client, app_with, dial, get
from peers import SMALL, command, opened
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import ConnectionClosed, InvalidStatus

from websuckets import AppTasks, ClientEvent, CommandGroup, Limits, Payload, Socket, WebSuckets
from websuckets.app import Server
from websuckets.channels import Channel, Channels, History
from websuckets.exc import Unavailable
from websuckets.limits import Overflow, limit_text
from websuckets.resuming import ResumeProvider
from websuckets.store import MemorySessionStore

pytestmark = pytest.mark.anyio

UNHEARD: Final = {
    "concurrency": "past it commands wait, and none is refused or lost",
    "compression": "it bounds nothing",
    "presence_grace": "past it users have left, which subscribers are told",
}
"""Limits that no line in the log can name, with the reasons."""

Provoke = Callable[[WebSuckets, Server, Client], Awaitable[None]]

group = CommandGroup()


@group.command("ping")
async def ping(socket: Socket) -> None: ...


@group.command("refuse", protected=True)
async def refuse(socket: Socket) -> None: ...


@group.command("endless")
async def endless(socket: Socket) -> AsyncIterator[int]:
    for number in count():
        yield number
        await anyio.sleep_forever()


@group.command("hang")
async def hang(socket: Socket) -> None:
    await anyio.sleep_forever()


@group.command("begin to hang")
async def begin_to_hang(socket: Socket) -> None:
    await socket.send("begun")
    await anyio.sleep_forever()


class Slow: ...


async def slow() -> AsyncIterator[Slow]:
    yield Slow()
    await anyio.sleep_forever()


@group.command("finalise")
async def finalise(socket: Socket, *, slow: Slow) -> None: ...


@group.command("push")
async def push(socket: Socket) -> None:
    while True:
        await socket.send("x" * 100_000)


@group.command("push at once")
async def push_at_once(socket: Socket, *, tasks: AppTasks) -> None:
    for _ in range(100):
        tasks.start_soon(send, socket)


@group.command("publish many")
async def publish_many(socket: Socket, number: Payload[int], *, channels: Channels) -> None:
    for _ in range(number):
        await channels.publish("a", ClientEvent("news", "x" * 100_000))


news = Channel("news", history=History())


def app_with_history(limits: Limits) -> WebSuckets:
    commands = CommandGroup()

    @commands.command("watch", subscribes=[news])
    async def watch(socket: Socket, *, channels: Channels) -> None:
        await channels.publish("news", ClientEvent("news"))
        await channels.subscribe(socket, "news")

    return app_with(commands, channels=[news], limits=limits)


async def miss_events(app: WebSuckets, server: Server, client: Client) -> None:
    epoch = (await client.call("watch", id=1))["subscribed"]["news"]["epoch"]
    reply = {"event": "news", "payload": None, "channel": "news", "offset": 2}
    await client.send("watch", id=2, since={"news": [epoch, 0]})
    got = [await client.receive() for _ in range(2)]
    assert reply in got
    assert [f["subscribed"]["news"]["recovered"] for f in got if "subscribed" in f] == [False]


async def send(socket: Socket) -> None:
    with suppress(ConnectionClosed):
        await socket.send("x" * 100_000)


async def never_ready() -> None:
    await anyio.sleep_forever()


class Away(MemorySessionStore):
    """A store that cannot be asked for revocations."""

    async def revocations(self) -> int:
        raise Unavailable


# Ways to provoke limits ---------------------------------------------------------------------------


async def exceed_size(app: WebSuckets, server: Server, client: Client) -> None:
    await client.send("ping", payload="x" * 100)
    assert (await client.closed())[0] == 1009


async def start_two_streams(app: WebSuckets, server: Server, client: Client) -> None:
    assert (await client.call("endless", id=1))["payload"] == 0
    for id in (2, 3):
        assert (await client.call("endless", id=id))["error"] == "too many streams"


async def flood(app: WebSuckets, server: Server, client: Client) -> None:
    with suppress(ConnectionClosed):
        while True:
            await client.call("ping", id=1)
    assert (await client.closed())[0] == 4429


async def take_too_long(app: WebSuckets, server: Server, client: Client) -> None:
    assert (await client.call("hang", id=1))["error"] == "timeout"


async def finalise_too_long(app: WebSuckets, server: Server, client: Client) -> None:
    await client.call("finalise", id=1)


async def ask_whether_it_is_ready(app: WebSuckets, server: Server, client: Client) -> None:
    assert await get(server, "/health") == 503


def do_not_read(event: str) -> Provoke:
    async def provoke(app: WebSuckets, server: Server, client: Client) -> None:
        async with opened(server.port, receive_buffer=SMALL) as stalled:
            await stalled.call("ping", id=1)
            await stalled.write(command(event))
            await until_one_is_online(app)

    return provoke


async def until_one_is_online(app: WebSuckets) -> None:
    with anyio.fail_after(TIMEOUT):
        while len(app._session.online) > 1:
            await anyio.sleep(0.01)


async def do_not_read_events(app: WebSuckets, server: Server, client: Client) -> None:
    async with opened(server.port, receive_buffer=SMALL) as stalled:
        await stalled.call("join", payload="a", id=1)
        assert (await client.call("publish many", payload=200, id=1))["payload"] is None
        await until_one_is_online(app)


def fail(event: str, error: str, times: int = 1, **fields: Any) -> Provoke:
    async def provoke(app: WebSuckets, server: Server, client: Client) -> None:
        for id in range(times):
            reply = await client.call(event, id=id, **fields)
        assert reply["error"] == error

    return provoke


def be_closed(event: str, times: int, code: int) -> Provoke:
    async def provoke(app: WebSuckets, server: Server, client: Client) -> None:
        for id in range(times):
            await client.call(event, id=id)
        assert (await client.closed())[0] == code

    return provoke


async def guess(app: WebSuckets, server: Server, client: Client) -> None:
    for token in ("a", "b", "c"):
        reply = await client.call("who am i", id=1, token=token)
    assert reply["error"] == "rate limited"


async def lose_the_store(app: WebSuckets, server: Server, client: Client) -> None:
    await client.call("enter", payload="ann", id=1)
    await client.call("keep", payload={}, id=1)
    assert (await client.closed())[0] == 1013


async def lose_revocations(app: WebSuckets, server: Server, client: Client) -> None:
    await client.call("enter", payload="ann", id=1)
    node = app._channels._node
    assert node is not None
    node.missed_announcements()
    assert (await client.closed())[0] == 1013


async def never_verify(app: WebSuckets, server: Server, client: Client) -> None:
    assert (await client.closed())[0] == 4408


async def connect_once_more(app: WebSuckets, server: Server, client: Client) -> None:
    with pytest.raises(InvalidStatus):
        async with dial(server):
            pass


async def stop_while_a_command_runs(app: WebSuckets, server: Server, client: Client) -> None:
    await client.send("begin to hang")
    assert await client.receive_frame() == "begun"


def app_for(limits: Limits) -> WebSuckets:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(slow)
    return app_with(
        group, rooms.group, providers=[provider, ResumeProvider()], limits=limits, ready=never_ready
    )


def app_without_a_store(limits: Limits) -> WebSuckets:
    return app_with(rooms.group, providers=[ResumeProvider(Away())], limits=limits)


def case(
    *names: str,
    provoke: Provoke,
    app: Callable[[Limits], WebSuckets] = app_for,
    times: int = 1,
    about: str = "",
    **limits: Any,
) -> Any:
    """Return what is expected: ``times`` lines with the values of the limits ``names``."""
    return pytest.param(names, provoke, app, times, limits, id=about or " and ".join(names))


CASES = [
    case("max_size", provoke=exceed_size, max_size=100),
    case("max_size", provoke=exceed_size, max_size=(100, 50), about="max_size of two"),
    case("streams", provoke=start_two_streams, streams=1),
    case("rate", "burst", provoke=flood, rate=1, burst=2),
    case("rate", provoke=flood, times=2, about="rate, twice", rate=1, burst=2),
    case("handler_timeout", provoke=take_too_long, handler_timeout=0.01),
    case("finalize_timeout", provoke=finalise_too_long, finalize_timeout=0.01),
    case("ready_timeout", provoke=ask_whether_it_is_ready, ready_timeout=0.01),
    case("send_timeout", provoke=do_not_read("push"), send_timeout=0.05),
    case("outbox", provoke=do_not_read("push at once"), outbox=(5, 10**6)),
    case("outbox", "overflow", provoke=do_not_read_events, outbox=(5, 10**6)),
    case(
        *("overflow",),
        provoke=do_not_read_events,
        about="overflow that loses",
        outbox=(5, 10**6),
        overflow=Overflow.DROP_OLDEST,
        send_timeout=0.2,
    ),
    case("channel_name", provoke=fail("join", "invalid channel", payload="long"), channel_name=3),
    case(
        "subscriptions",
        provoke=fail("join", "too many subscriptions", payload="a"),
        subscriptions=0,
    ),
    case("recovery", provoke=miss_events, app=app_with_history, recovery=1),
    case("revocation_lag", provoke=lose_revocations, revocation_lag=0.1),
    case(
        "revocation_lag",
        provoke=lose_the_store,
        app=app_without_a_store,
        about="revocation_lag of a store",
        revocation_lag=0.1,
    ),
    case("unknown_tokens", provoke=guess, unknown_tokens=1),
    case("auth_timeout", provoke=never_verify, auth_timeout=0.01),
    case("auth_failures", provoke=be_closed("refuse", 2, 4401), auth_failures=2),
    case("unknown_streak", provoke=be_closed("nothing", 2, 1008), unknown_streak=2),
    case("max_connections", provoke=connect_once_more, max_connections=1),
    case("max_connections_per_ip", provoke=connect_once_more, max_connections_per_ip=1),
    case("drain_timeout", provoke=stop_while_a_command_runs, drain_timeout=0.05),
]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "websuckets")
    return caplog


@pytest.mark.parametrize(("names", "provoke", "make", "times", "limits"), CASES)
async def test_a_limit_that_acts_is_named_with_its_value(
    names: tuple[str, ...],
    provoke: Provoke,
    make: Callable[[Limits], WebSuckets],
    times: int,
    limits: dict[str, Any],
    log: pytest.LogCaptureFixture,
) -> None:
    given = Limits(**limits)
    app = make(given)
    async with app.serve("127.0.0.1", 0) as server, dial(server) as client:
        await provoke(app, server, client)
    told = [limit_text(name, getattr(given, name)) for name in names]
    lines = [line for line in log.text.splitlines() if all(text in line for text in told)]
    assert len(lines) == times, log.text


async def test_a_message_that_is_too_large_is_logged_on_every_transport(
    serving: Serving, log: pytest.LogCaptureFixture
) -> None:
    async with serving(app_for(Limits(max_size=100))) as server, dial(server) as client:
        await client.send("ping", payload="x" * 100)
        assert (await client.closed())[0] == 1009
    assert log.text.count("sent too large a message: closed (Limits.max_size is 100)") == 1


async def test_a_timeout_of_a_command_is_not_told_as_a_limit(
    log: pytest.LogCaptureFixture,
) -> None:
    commands = CommandGroup(timeout=0.01)

    @commands.command("hang")
    async def hang(socket: Socket) -> None:
        await anyio.sleep_forever()

    async with app_with(commands).serve("127.0.0.1", 0) as server, dial(server) as client:
        assert (await client.call("hang", id=1))["error"] == "timeout"
    assert "(the timeout= of its command or group is 0.01)" in log.text
    assert "handler_timeout" not in log.text


def test_each_limit_is_provoked() -> None:
    """A new limit stands in the table above, or in the list of those that no line can name."""
    provoked = {name for parameters in CASES for name in parameters.values[0]}
    assert not provoked & UNHEARD.keys()
    assert provoked | UNHEARD.keys() == {field.name for field in fields(Limits)}
