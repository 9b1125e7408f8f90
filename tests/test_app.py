"""Tests of an app: its runs, its groups and providers, and its errors."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from dishka import Provider, Scope
from echoing import echo_group
from harness import app_with, talk
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.commands.dispatcher import Dispatcher
from websuckets.exc import ConfigurationError
from websuckets.session import Session, current_session

pytestmark = pytest.mark.anyio


async def test_an_app_runs_again_but_once_at_a_time() -> None:
    """Expect runs one after the other to work, each with new APP objects."""

    class Thing: ...

    group = CommandGroup()
    seen: list[Thing] = []

    @group.command("thing")
    async def thing(socket: ServerConnection, *, thing: Thing) -> None:
        seen.append(thing)

    provider = Provider(scope=Scope.APP)
    provider.provide(Thing)
    app = app_with(group, providers=[provider])
    for _ in range(2):
        async with talk(app) as client:
            await client.call("thing", id=1)
            await client.call("thing", id=1)
            with pytest.raises(ConfigurationError, match="the app runs already"):
                async with app.serve("127.0.0.1", 0):
                    raise AssertionError("it started")
    assert seen[0] is seen[1] is not seen[2] is seen[3]


async def test_a_group_that_comes_too_late_is_refused() -> None:
    """Expect groups to be refused while the app runs; between two runs is early enough."""
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match=r"CommandGroup.*comes too late"):
            app.include_command_group(echo_group("late"))
    app.include_command_group(echo_group("late"))
    async with talk(app) as client:
        assert (await client.call("late echo", id=1))["id"] == 1


async def test_commands_that_are_added_to_an_included_group_are_served() -> None:
    """Expect the group to be read when the app starts."""
    group = echo_group()
    app = app_with(group)

    @group.command("more")
    async def more(socket: ServerConnection) -> int:
        return 1

    async with talk(app) as client:
        assert (await client.call("more"))["payload"] == 1


async def test_one_group_may_serve_two_apps() -> None:
    """Expect each app to use its own providers."""

    class Name(str): ...

    group = CommandGroup()

    @group.command("name")
    async def name(socket: ServerConnection, *, name: Name) -> str:
        return name

    def naming(name: str) -> Provider:
        provider = Provider(scope=Scope.APP)
        provider.provide(lambda: Name(name), provides=Name)
        return provider

    first = app_with(group, providers=[naming("first")])
    second = app_with(group, providers=[naming("second")])
    async with talk(first) as one, talk(second) as two:
        assert (await one.call("name"))["payload"] == "first"
        assert (await two.call("name"))["payload"] == "second"


async def test_later_providers_win() -> None:
    """Expect later providers to override earlier ones of the same app."""

    class Name(str): ...

    group = CommandGroup()

    @group.command("name")
    async def name(socket: ServerConnection, *, name: Name) -> str:
        return name

    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: Name("first"), provides=Name)
    later = Provider(scope=Scope.REQUEST)
    later.provide(lambda: Name("later"), provides=Name)
    async with talk(app_with(group, providers=[provider, later])) as client:
        assert (await client.call("name"))["payload"] == "later"


def test_reprs_name_what_was_registered() -> None:
    """Expect a short repr that names what was registered."""
    group = echo_group("a")
    assert repr(group) == "CommandGroup('a', commands=1)"
    assert repr(app_with(group)) == "WebSuckets(groups=1)"


async def test_an_error_of_the_framework_itself_closes_only_that_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect 1011 and an incident in the log."""
    read = Dispatcher.read

    def broken(self: Dispatcher, frame: Any) -> Any:
        if frame == "break":
            raise RuntimeError("bug canary")
        return read(self, frame)

    monkeypatch.setattr(Dispatcher, "read", broken)
    async with talk(app_with(echo_group())) as client, client.another() as other:
        await client.connection.send("break")
        assert (await client.closed())[0] == 1011
        assert "bug canary" in caplog.text
        assert (await other.call("echo", id=1))["id"] == 1


async def test_finalisers_of_the_app_see_its_session() -> None:
    """Expect `Session` to stand for the session of that app, even when another app runs."""
    seen: list[Any] = []

    class Pool: ...

    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        seen.append(current_session())

    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, pool: Pool, session: Session) -> None:
        seen.append(session)

    provider = Provider(scope=Scope.APP)
    provider.provide(pool)
    async with talk(app_with(echo_group())):
        async with talk(app_with(group, providers=[provider])) as client:
            await client.call("use", id=1)
    assert seen[0] is seen[1]
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [({"providers": Provider()}, "write a list"), ({"limits": {"streams": 1}}, "write Limits")],
)
def test_arguments_of_the_wrong_kind_are_refused(arguments: dict[str, Any], remedy: str) -> None:
    """Expect an error where the argument is given."""
    with pytest.raises(ConfigurationError, match=remedy):
        WebSuckets(**arguments)
