"""Tests of the log of commands that no app has: bounded, escaped, and with the nearest name."""

import logging

import pytest
from harness import app_with, talk
from programs import hello_group

from websuckets import CommandGroup, Limits, Socket
from websuckets.commands import unknown
from websuckets.commands.unknown import UnknownCommands
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines about unknown commands."""
    return [r.getMessage() for r in caplog.records if "unknown command" in r.getMessage()]


async def test_an_unknown_command_is_logged_once_with_the_nearest_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect a single line for two connections that send the same name."""
    caplog.set_level(logging.INFO)
    async with TestClient(app_with(hello_group())) as client, client.connect() as other:
        for one in (client, other):
            with pytest.raises(CommandError, match=r"^unknown command$"):
                await one.call("helo", {"password": "secret"}, token="secret")
    assert logged(caplog) == ["unknown command 'helo'; the nearest is 'hello'"]
    assert "secret" not in caplog.text


async def test_a_forgotten_prefix_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """Expect the whole name of a command, of which a client has sent the last word."""
    caplog.set_level(logging.INFO)
    group = CommandGroup("discussion of posts")

    @group.command("add")
    async def add(socket: Socket) -> None: ...

    async with TestClient(app_with(group)) as client:
        for name in ("add", "something else entirely"):
            with pytest.raises(CommandError):
                await client.call(name)
    assert logged(caplog) == [
        "unknown command 'add'; the nearest is 'discussion of posts add'",
        "unknown command 'something else entirely'; is its group included, and its prefix part of "
        "the name?",
    ]


async def test_a_name_from_outside_is_cut_and_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """Expect one short line of ASCII for a long name with line breaks and control characters."""
    caplog.set_level(logging.INFO)
    async with talk(app_with(hello_group())) as client:
        await client.call("a\n2026 ERROR forged\x1b[31m\u202eé" + "x" * 5000)
    [line] = logged(caplog)
    assert len(line) < 250
    assert line.isascii()
    assert line.isprintable()
    assert r"'a\n2026 ERROR forged\x1b[31m\u202e\xe9xxx" in line


async def test_only_so_many_names_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Expect a last line that says that no more follow."""
    caplog.set_level(logging.INFO)
    app = app_with(hello_group(), limits=Limits(unknown_streak=None))
    async with TestClient(app) as client:
        for number in range(unknown.MOST + 50):
            with pytest.raises(CommandError):
                await client.call(f"command {number}")
    lines = logged(caplog)
    assert len(lines) == unknown.MOST + 1
    assert lines[-1] == "no more unknown commands are logged within 60 minutes"


def test_a_name_is_logged_again_in_the_next_period(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect a second line once the period is over."""
    caplog.set_level(logging.INFO)
    commands = UnknownCommands(["hello"])
    for _ in range(2):
        commands.note("x")
    monkeypatch.setattr(unknown, "PERIOD", -1)
    commands.note("x")
    assert len(logged(caplog)) == 2
