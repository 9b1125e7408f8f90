"""Tests of what a group sets for all of its commands: a timeout, and middleware."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from harness import app_with, dial, talk
from serving import Serving
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Message, Socket
from websuckets.exc import ClientError, ConfigurationError
from websuckets.middleware import CallNext, Middleware, Outcome

pytestmark = pytest.mark.anyio


async def test_the_timeout_of_a_group_is_that_of_its_commands(serving: Serving) -> None:
    """Expect it for commands and streams; commands of another group have that of the app."""
    group, other = CommandGroup("short", timeout=0.05), CommandGroup("other")

    async def hang(socket: Socket) -> None:
        await anyio.sleep(TIMEOUT)

    async def stream(socket: Socket) -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(TIMEOUT)

    async def wait(socket: Socket) -> str:
        await anyio.sleep(0.1)
        return "waited"

    group.command("hang")(hang)
    group.command("stream")(stream)
    other.command("wait")(wait)
    async with serving(app_with(group, other)) as server, dial(server) as client:
        assert (await client.call("short hang"))["error"] == "timeout"
        assert (await client.call("short stream", id=1))["payload"] == 1
        assert (await client.receive())["error"] == "timeout"
        assert (await client.call("other wait"))["payload"] == "waited"


@pytest.mark.parametrize("of_group", [0.05, None])
async def test_the_timeout_of_a_command_wins_over_that_of_its_group(of_group: float | None) -> None:
    """Expect also ``None`` to win, in either place."""
    group = CommandGroup(timeout=of_group)

    async def wait(socket: Socket) -> str:
        await anyio.sleep(0.2)
        return "waited"

    async def hang(socket: Socket) -> None:
        await anyio.sleep_forever()

    group.command("inherits")(wait if of_group is None else hang)
    group.command("short", timeout=0.05)(hang)
    group.command("long", timeout=60)(wait)
    group.command("any", timeout=None)(wait)
    async with talk(app_with(group, limits=Limits(handler_timeout=0.05))) as client:
        reply = await client.call("inherits")
        assert reply.get("error") == (None if of_group is None else "timeout")
        assert (await client.call("short"))["error"] == "timeout"
        assert (await client.call("long"))["payload"] == "waited"
        assert (await client.call("any"))["payload"] == "waited"


@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan")])
def test_a_timeout_that_is_not_a_number_of_seconds_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"CommandGroup\('a', timeout=.*number of seconds"):
        CommandGroup("a", timeout=timeout)


def noting(journal: list[str], name: str) -> Middleware:
    async def middleware(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        journal.append(f"{name}: {message.event}")
        outcome = await call_next()
        journal.append(f"{name}: {outcome.error or 'ok'}")
        return outcome

    return middleware


def pinging(prefix: str, **options: Any) -> CommandGroup:
    group = CommandGroup(prefix, **options)

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[int]:
        yield 1

    return group


async def test_middleware_of_a_group_runs_inside_of_that_of_the_app(
    serving: Serving, journal: list[str]
) -> None:
    """Expect the app's outermost, then the group's in their order, for that group alone."""
    app = app_with(
        pinging("a", middleware=[noting(journal, "first"), noting(journal, "second")]),
        pinging("b"),
        middleware=[noting(journal, "app")],
    )
    async with serving(app) as server, dial(server) as client:
        assert (await client.call("a ping"))["payload"] == "pong"
        assert journal == [
            *("app: a ping", "first: a ping", "second: a ping"),
            *("second: ok", "first: ok", "app: ok"),
        ]
        journal.clear()
        assert (await client.call("b ping"))["payload"] == "pong"
        assert journal == ["app: b ping", "app: ok"]
        journal.clear()
        assert (await client.call("a stream", id=1))["payload"] == 1
        assert (await client.receive())["payload"] is None
        assert journal[:3] == ["app: a stream", "first: a stream", "second: a stream"]


async def test_middleware_of_a_group_needs_none_of_the_app(journal: list[str]) -> None:
    """Expect no answer to be changed, and messages that are not run not to be seen."""
    app = app_with(
        pinging("a", middleware=[noting(journal, "group")]),
        pinging("b"),
        limits=Limits(rate=0.001, burst=4),
    )
    async with talk(app) as client:
        assert (await client.call("a ping"))["payload"] == "pong"
        assert (await client.call("b ping"))["payload"] == "pong"
        assert (await client.call("a unknown"))["error"] == "unknown command"
        assert (await client.call("a ping", id=2))["id"] == 2
        assert (await client.call("a ping"))["error"] == "rate limited"
    assert journal == ["group: a ping", "group: ok"] * 2


async def test_middleware_of_a_group_may_refuse(journal: list[str]) -> None:
    async def closed(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        raise ClientError("closed")

    app = app_with(pinging("a", middleware=[closed]), middleware=[noting(journal, "app")])
    async with talk(app) as client:
        assert (await client.call("a ping")) == {"error": "closed", "details": None}
    assert journal == ["app: a ping", "app: closed"]


@pytest.mark.parametrize("middleware", [[print], [None], 1])
def test_anything_but_middleware_is_refused(middleware: Any) -> None:
    with pytest.raises(ConfigurationError, match="middleware"):
        CommandGroup(middleware=middleware)
