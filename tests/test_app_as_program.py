"""Tests of an app as the program: its end, the groups that it serves, and its log."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import anyio
import pytest
import trio
from echoing import echo_group
from harness import Client, app_with, connect, talk
from programs import listening
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.exc import ConfigurationError, DuplicateCommand
from websuckets.serving import definition
from websuckets.serving.process import console_logging

pytestmark = pytest.mark.anyio


@contextmanager
def unconfigured_logging() -> Iterator[None]:
    """Remove the logging that pytest sets up, as in a program that has not set up logging."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield


@contextmanager
def in_background(urls: "Queue[str]", then: Callable[[], None]) -> Iterator[list[Any]]:
    """Talk to a program from another thread, then call ``then`` to end it; yield the answers."""
    replies: list[Any] = []

    async def talk_to_it() -> None:
        async with connect(urls.get(timeout=TIMEOUT)) as connection:
            client = Client(connection, None)
            replies.append(await client.call("echo", id=1))
            then()
            replies.append(await client.closed())

    thread = threading.Thread(target=lambda: asyncio.run(talk_to_it()), daemon=True)
    thread.start()
    yield replies
    thread.join(TIMEOUT)


ANSWERED = [{"event": "echo", "payload": None, "id": 1}, (1012, "service restart")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "start",
    [
        lambda app: asyncio.run(app("127.0.0.1", 0)),
        lambda app: trio.run(app, "127.0.0.1", 0),
        lambda app: app.run("127.0.0.1", 0),
        lambda app: app.run("127.0.0.1", 0, backend="trio"),
    ],
)
def test_a_program_serves_until_it_is_told_to_stop(
    number: signal.Signals, start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Expect the program to log where it listens, to answer, and to end after a signal."""
    app = app_with(echo_group())
    with (
        unconfigured_logging(),
        listening() as urls,
        in_background(urls, lambda: os.kill(os.getpid(), number)) as replies,
    ):
        start(app)
    assert replies == ANSWERED
    lines = capfd.readouterr().err.splitlines()
    assert "INFO websuckets: listening on ws://127.0.0.1:" in lines[0]
    assert lines[0].endswith(", commands: 1")
    assert lines[-1].endswith("INFO websuckets: stopping")
    assert logging.getLogger("websuckets").handlers == []
    assert logging.getLogger("websuckets").level == logging.NOTSET


def test_outside_the_main_thread_a_program_leaves_signals_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect no signal handlers in another thread: the program is cancelled there."""
    caplog.set_level(logging.INFO, logger="websuckets")
    running: list[Any] = []

    async def main() -> None:
        running.extend((asyncio.get_running_loop(), asyncio.current_task()))
        await app_with(echo_group())("127.0.0.1", 0)

    def program() -> None:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())

    def cancel() -> None:
        loop, task = running
        loop.call_soon_threadsafe(task.cancel)

    thread = threading.Thread(target=program, daemon=True)
    with listening() as urls, in_background(urls, cancel) as replies:
        thread.start()
    thread.join(TIMEOUT)
    assert replies == ANSWERED


# Groups


async def until_listening(app: WebSuckets, *calls: str) -> tuple[list[Any], int | None]:
    """Run the app as a program; return its answers, and how it closes when cancelled."""
    replies = []
    with listening() as urls, anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            program = anyio.CancelScope()

            async def run() -> None:
                with program:
                    await app("127.0.0.1", 0)

            tasks.start_soon(run)
            while urls.empty():
                await anyio.sleep(0.001)
            async with connect(urls.get()) as connection:
                client = Client(connection, None)
                for event in calls:
                    replies.append(await client.call(event, id=1))
                program.cancel()
                close_code, _ = await client.closed()
    return replies, close_code


@pytest.fixture
def no_other_groups(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Hide the groups of other tests from apps without groups."""
    monkeypatch.setattr(definition, "_included_groups", [])
    caplog.set_level(logging.INFO, logger="websuckets")


async def test_cancelling_the_program_stops_it(no_other_groups: None) -> None:
    """Expect the same stop as on leaving `serve`."""
    _, close_code = await until_listening(app_with(echo_group()))
    assert close_code == 1012


async def test_an_app_without_groups_serves_those_of_the_program(
    no_other_groups: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the documented programs, which create the app twice, to run, with a warning."""
    groups = [echo_group(), echo_group("second")]
    for group in groups:
        app_with(group)  # the app is garbage at once, as in the documented programs
    replies, _ = await until_listening(WebSuckets(), "echo", "second echo")
    assert [reply.get("event") for reply in replies] == ["echo", "second echo"]
    messages = [r.getMessage() for r in caplog.records if r.name == "websuckets"]
    assert messages[0].startswith("listening on")
    assert messages[1].startswith("this app included no command group: serving the 2")


async def test_what_is_wrong_with_groups_of_the_program_says_whose_they_are(
    no_other_groups: None,
) -> None:
    """Expect the error to say why the app has groups that were included in another."""

    class Missing: ...

    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: ServerConnection, *, missing: Missing) -> None: ...

    app_with(group)
    with pytest.raises(ConfigurationError) as caught:
        await WebSuckets()("127.0.0.1", 0)
    assert "serving the 1 that the program included in another one" in caught.value.__notes__[0]
    with pytest.raises(ConfigurationError) as caught:
        await app_with(group)("127.0.0.1", 0)
    assert not hasattr(caught.value, "__notes__")


async def test_an_app_with_groups_serves_its_own_alone(
    no_other_groups: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect no warning, and no commands of other groups."""
    kept = echo_group("kept")
    app_with(kept)
    replies, _ = await until_listening(app_with(echo_group()), "echo", "kept echo")
    assert [reply.get("error") for reply in replies] == [None, "unknown command"]
    assert "included no command group" not in caplog.text


async def test_a_program_without_any_group_knows_no_command(
    no_other_groups: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error for every message, as in the first documented program, and no warning."""
    replies, _ = await until_listening(WebSuckets(), "echo")
    assert replies[0]["error"] == "unknown command"
    assert "included no command group" not in caplog.text


async def test_names_of_groups_so_merged_are_unique(no_other_groups: None) -> None:
    """Expect an error for a name that is taken, as within one app."""
    groups = [echo_group(), echo_group()]
    for group in groups:
        app_with(group)
    with pytest.raises(DuplicateCommand):
        await WebSuckets()("127.0.0.1", 0)


async def test_embedded_an_app_without_groups_serves_nothing() -> None:
    """Expect the groups of other apps to be used only when a program starts."""
    kept = echo_group()
    app_with(kept)
    async with talk(WebSuckets()) as client:
        assert (await client.call("echo"))["error"] == "unknown command"


# Logging


async def test_configured_logging_is_left_alone(no_other_groups: None) -> None:
    """Expect no other handler in a program that has set up handlers, as pytest has."""
    logger = logging.getLogger("websuckets")
    handlers: list[Any] = []
    group = echo_group()

    @group.command("look")
    async def look(socket: ServerConnection) -> None:
        handlers.append(list(logger.handlers))

    await until_listening(app_with(group), "look")
    with console_logging():
        handlers.append(list(logger.handlers))
    assert handlers == [[], []]


def test_a_level_that_was_set_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Expect a level higher than INFO to be kept."""
    logger = logging.getLogger("websuckets")
    logger.setLevel(logging.ERROR)
    try:
        with unconfigured_logging(), console_logging():
            logger.info("canary")
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(logging.NOTSET)
    assert "canary" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("root", "own", "websockets"),
    [
        (logging.DEBUG, logging.NOTSET, logging.INFO),
        (logging.WARNING, logging.NOTSET, logging.WARNING),
        (logging.WARNING, logging.DEBUG, logging.DEBUG),
    ],
)
async def test_the_log_of_websockets_is_only_made_quieter(
    monkeypatch: pytest.MonkeyPatch, root: int, own: int, websockets: int
) -> None:
    """Expect only the log below INFO, which shows messages, to be disabled."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", own)
    monkeypatch.setattr(logging.getLogger(), "level", root)
    async with app_with(echo_group()).serve("127.0.0.1", 0):
        assert logger.getEffectiveLevel() == websockets


@pytest.mark.parametrize("configured", [False, True])
async def test_what_websockets_would_log_of_messages_is_not_logged(
    configured: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect no messages in the log, even at DEBUG, unless that logger itself is set."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", logging.DEBUG if configured else logging.NOTSET)
    logger.manager._clear_cache()  # patching does not clear the cache that setLevel clears
    caplog.set_level(logging.DEBUG)
    async with talk(app_with(echo_group())) as client:
        await client.call("echo", token="canary", id=1)
    server_lines = [r for r in caplog.records if r.name == "websockets.server"]
    assert any("canary" in record.getMessage() for record in server_lines) == configured
    assert not any("canary" in r.getMessage() for r in caplog.records if r.name == "websuckets")
