"""The page about clients that catch up is true: its client in Chromium, its new epoch."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pages
import pytest
from chromium import Browser, Tab
from harness import app_with

from websuckets import ClientError, CommandGroup, Message, Socket, WebSuckets
from websuckets.app import Server
from websuckets.channels import Channel, Channels, History
from websuckets.session import current_session
from websuckets.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]

PAGE = pages.ROOT / "docs" / "catching-up.md"

(MODULE,) = [text for language, text in pages.blocks(PAGE) if language == "js"]

NAME = "ticket/1"


def programs(first: str, last: str) -> str:
    """Return the blocks of the page in Python, from the one with one text to that with another."""
    texts = [text for language, text in pages.blocks(PAGE) if language == "python"]
    (begin,) = [at for at, text in enumerate(texts) if first in text]
    (end,) = [at for at, text in enumerate(texts) if last in text]
    return "\n".join(texts[begin : end + 1])


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of the page, still empty, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    main = ModuleType("main")
    monkeypatch.setitem(sys.modules, "main", main)
    return main


def run(main: Any, first: str, last: str) -> WebSuckets:
    exec(compile(programs(first, last), "main.py", "exec"), vars(main))
    app: WebSuckets = main.app
    return app


# The client


@pytest.fixture
async def tab(browser: Browser) -> Tab:
    return await browser.tab()


async def load_watcher(tab: Tab, server: Server, command: str, payload: Any) -> None:
    """Open a page of the server that watches, and lists what it is told in ``log``."""
    await tab.open(f"http://127.0.0.1:{server.port}/health")
    await tab.run(f"""(async () => {{
        const {{ BoardWatch }} = await import("data:text/javascript,{quote(MODULE)}");
        window.log = [];
        window.until = async (length) => {{
            while (log.length < length) await new Promise(done => setTimeout(done, 5));
            return log;
        }};
        window.watcher = new BoardWatch("{server.urls[0]}", {json.dumps(command)},
            {json.dumps(payload)}, {{
                reload: (state) => log.push(["reload", state]),
                apply: (event, payload) => log.push([event, payload]),
                fail: (error) => log.push(["failed", error]),
            }});
    }})()""")


async def disconnect_watchers() -> None:
    for user in list(current_session().online.values()):
        await user.socket.close(1012)


async def comment(app: WebSuckets, main: Any, number: int) -> None:
    """Comment as a command of another client does."""
    known = main.comments.setdefault(1, [])
    known.append(main.Commented(number=number, text="hi"))
    await app._channels.publish(NAME, known[-1])


def commented(number: int) -> list[Any]:
    return ["commented", {"number": number, "text": "hi"}]


async def test_a_client_that_was_away_is_told_of_each_event_once(tab: Tab, main: Any) -> None:
    app = run(main, "class Commented", "def watch_in_memory")
    async with app.serve("127.0.0.1", 0) as server:
        await load_watcher(tab, server, "ticket watch", 1)
        assert await tab.run("until(1)") == [["reload", []]]
        await comment(app, main, 1)
        assert await tab.run("until(2)") == [["reload", []], commented(1)]
        await disconnect_watchers()
        for number in 2, 3:
            await comment(app, main, number)
        expected = [["reload", []], *map(commented, (1, 2, 3))]
        assert await tab.run("until(4)") == expected
        await comment(app, main, 4)
        assert await tab.run("until(5)") == [*expected, commented(4)]


async def test_a_client_loads_its_state_anew_when_events_are_lost(tab: Tab, main: Any) -> None:
    """Expect that of a client that is connected, and of one that comes back."""
    app = run(main, "class Commented", "def watch_in_memory")
    async with app.serve("127.0.0.1", 0) as server:
        await load_watcher(tab, server, "ticket watch", 1)
        await tab.run("until(1)")
        await comment(app, main, 1)
        await tab.run("until(2)")
        log = app._channels._running._log
        state = [{"number": 1, "text": "hi"}]
        await log.new_epoch()
        app._channels._running._delivery.compare_soon()
        assert (await tab.run("until(3)"))[2] == ["reload", state]
        await log.new_epoch()
        await disconnect_watchers()
        assert (await tab.run("until(4)"))[3] == ["reload", state]
        await comment(app, main, 2)
        assert (await tab.run("until(5)"))[4] == commented(2)


async def test_a_client_watches_again_where_an_offset_is_missing(tab: Tab) -> None:
    """Expect it to send its last position, and to heed nothing before the reply."""
    channel = Channel("numbers", history=History())
    group = CommandGroup()
    seen: list[Any] = []

    def event(offset: int) -> str:
        return json.dumps(
            {"event": "number", "payload": offset, "channel": "numbers", "offset": offset}
        )

    @group.command("watch")
    async def watch(socket: Socket, message: Message) -> None:
        seen.append(message.since)
        if len(seen) == 2:
            await socket.send(event(4))  # on its way before the reply
        position = {"epoch": "e", "offset": 0, "recovered": len(seen) > 1}
        reply = {"event": "watch", "payload": None, "id": message.id}
        await socket.send(json.dumps(reply | {"subscribed": {"numbers": position}}))
        for offset in (1, 2, 1, 3, 7, 8) if len(seen) == 1 else (4, 5):
            await socket.send(event(offset))

    async with app_with(group, channels=[channel]).serve("127.0.0.1", 0) as server:
        await load_watcher(tab, server, "watch", None)
        log = await tab.run("until(6)")
    assert log == [["reload", None], *(["number", offset] for offset in range(1, 6))]
    assert seen == [None, {"numbers": ("e", 3)}]


async def test_a_client_tries_again_after_an_error_that_passes(tab: Tab) -> None:
    errors = ["forbidden", "unavailable"]
    group = CommandGroup()

    @group.command("watch")
    async def watch(socket: Socket) -> None:
        raise ClientError(errors.pop(), {"retry_after": 0.01})

    async with app_with(group).serve("127.0.0.1", 0) as server:
        await load_watcher(tab, server, "watch", None)
        assert await tab.run("until(1)") == [["failed", "forbidden"]]
    assert errors == []


async def test_an_event_that_excludes_the_client_counts(tab: Tab, main: Any) -> None:
    app = run(main, "class Commented", "def watch_in_memory")
    group = CommandGroup()

    @group.command("say")
    async def say(socket: Socket, channels: Channels) -> None:
        (other,) = [u.socket for u in current_session().online.values() if u.socket is not socket]
        await channels.publish(NAME, main.Commented(number=1, text="hi"), exclude=other)

    app.include_command_group(group)
    async with app.serve("127.0.0.1", 0) as server:
        await load_watcher(tab, server, "ticket watch", 1)
        await tab.run("until(1)")
        await tab.run(f"""new Promise(done => {{
            const socket = new WebSocket("{server.urls[0]}");
            socket.onopen = () => socket.send('{{"event": "say", "id": 1}}');
            socket.onmessage = () => done();
        }})""")
        await comment(app, main, 2)
        assert await tab.run("until(2)") == [["reload", []], commented(2)]


# Operators


@pytest.mark.parametrize("is_restored", [True, False])
async def test_a_new_epoch_begins_where_the_operator_says_so(
    main: Any, monkeypatch: pytest.MonkeyPatch, is_restored: bool
) -> None:
    """Expect the client to be told to load its state anew, and only then."""
    app = run(main, "class Commented", "def add_comment")
    async with TestClient(app) as client:
        reply = await client.call("ticket watch", 1)
        await client.call("ticket comment", {"ticket": 1, "text": "hi"}, key="k")
        since = {NAME: (reply.subscribed[NAME]["epoch"], 0)}
    if is_restored:
        monkeypatch.setenv("NEW_EPOCH", "1")
    from websuckets.history import EventLog

    main.EventLog = EventLog
    exec(compile(programs("NEW_EPOCH", "NEW_EPOCH"), "main.py", "exec"), vars(main))
    async with TestClient(app) as client:
        reply = await client.call("ticket watch", 1, since=since)
        assert reply.subscribed[NAME]["recovered"] is not is_restored
