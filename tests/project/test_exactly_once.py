"""The page about commands that take effect once is true: its client in Chromium, its outbox."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import quote

import pages
import pytest
from chromium import Browser, Tab
from harness import app_with, until
from sql_databases import DATABASES, Database

from websuckets import ClientError, CommandGroup, Message, Payload, Socket, WebSuckets
from websuckets.app import Server
from websuckets.session import current_session
from websuckets.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]

PAGE = pages.ROOT / "docs" / "exactly-once.md"

(MODULE,) = [text for language, text in pages.blocks(PAGE) if language == "js"]


def programs(name: str) -> str:
    """Return the blocks of the page up to the one that defines ``name``."""
    texts: list[str] = []
    for language, text in pages.blocks(PAGE):
        if language == "python":
            texts.append(text)
            if name in text:
                break
    return "\n".join(texts)


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield the module of the page, still empty, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    main = ModuleType("main")
    monkeypatch.setitem(sys.modules, "main", main)
    yield main


def run(main: Any, name: str) -> WebSuckets:
    exec(compile(programs(name), "main.py", "exec"), vars(main))
    app: WebSuckets = main.app
    return app


async def test_the_test_of_the_page_passes_without_a_database_before_it(
    main: Any, tmp_path: Path
) -> None:
    run(main, "def test_an_order_is_placed_once(")
    for _ in range(2):  # as it leaves nothing behind
        await main.test_an_order_is_placed_once()
    assert (tmp_path / "shop.db").exists()


# The client


@pytest.fixture
async def tab(browser: Browser) -> Tab:
    return await browser.tab()


async def load_client(tab: Tab, server: Server) -> None:
    """Open a page of the server, and connect the client of our page there."""
    await tab.open(f"http://127.0.0.1:{server.port}/health")
    await tab.run(f"""(async () => {{
        const {{ Client }} = await import("data:text/javascript,{quote(MODULE)}");
        window.client = new Client("{server.urls[0]}", "a token");
    }})()""")


async def test_a_command_whose_reply_is_lost_takes_effect_once(tab: Tab, main: Any) -> None:
    """Expect the client to connect again, and to get the reply of the first run."""
    app = run(main, "def place(")
    receipts: list[Any] = []

    async def cut(placed: Any) -> None:  # after the commit, before the reply
        receipts.append(placed.order)
        if len(receipts) == 1:
            for user in list(current_session().online.values()):
                await user.socket.close(1012)

    main.send_receipt = cut
    async with app.serve("127.0.0.1", 0) as server:
        await load_client(tab, server)
        assert await tab.run("client.call('order place', 'soup')") == {"order": 1, "dish": "soup"}
        assert await tab.run("client.call('order place', 'soup')") == {"order": 2, "dish": "soup"}
    assert receipts == [1, 2]


async def test_the_client_sends_the_same_message_until_a_reply_comes(tab: Tab) -> None:
    """Expect it after a lost connection, and after each error that passes."""
    group = CommandGroup()
    errors = ["in progress", "rate limited", "unavailable"]
    sent: list[Any] = []

    @group.command("pay")
    async def pay(socket: Socket, cents: Payload[int], message: Message) -> int:
        sent.append((cents, message.token, message.key, message.id))
        if len(sent) == 1:
            await socket.close(1012)
        elif errors:
            raise ClientError(errors.pop(), {"retry_after": 0.01})
        return 7

    async with app_with(group).serve("127.0.0.1", 0) as server:
        await load_client(tab, server)
        assert await tab.run("client.call('pay', 5)") == 7
    assert len(sent) == 5
    assert set(sent) == {(5, "a token", sent[0][2], sent[0][2])}
    assert len(sent[0][2]) == 36


async def test_an_error_that_stays_is_an_error_of_the_call(tab: Tab, main: Any) -> None:
    app = run(main, "def place(")
    async with app.serve("127.0.0.1", 0) as server:
        await load_client(tab, server)
        errors = await tab.run("""(async () => {
            await client.call("order place", "soup", "a key");
            const reused = await client.call("order place", "bread", "a key").catch(e => e);
            const refused = await client.call("order place", 7).catch(e => e);
            return [reused.message, refused.message];
        })()""")
        assert errors == ["key reused", "validation error"]


# The outbox


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATABASES)
async def test_a_mail_is_sent_once_for_a_command_that_is_sent_twice(
    main: Any, sql_database: Callable[[str], Database], kind: str
) -> None:
    app = run(main, "def start_mails(")
    database = sql_database(kind)
    main.sqlite_engine = lambda path: database.engine()
    journal: list[str] = []

    async def send(id: str, text: str) -> None:
        journal.append(text)

    main.send_mail = send
    async with TestClient(app) as client:
        for _ in range(2):
            await client.call("mail send", "hello", key="k")
        await until(journal, "hello")
        await client.call("mail send", "goodbye", key="l")
        await until(journal, "goodbye")
    assert journal == ["hello", "goodbye"]


@pytest.mark.slow
async def test_a_mail_that_could_not_be_sent_is_sent_again(
    main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect it with the same id, and other mails to go on meanwhile."""
    app = run(main, "def start_mails(")
    later = 0.0  # seconds
    main.time = SimpleNamespace(time=lambda: time.time() + later)
    journal: list[str] = []
    ids: dict[str, set[str]] = {"bad": set(), "good": set()}
    fails = ["bad"]

    async def send(id: str, text: str) -> None:
        ids[text].add(id)
        if text in fails:
            fails.remove(text)
            raise OSError("the post office is closed")
        journal.append(text)

    main.send_mail = send
    async with TestClient(app) as client:
        for text in "bad", "good":
            await client.call("mail send", text, key=text)
        await until(journal, "good")
        later = main.LEASE
        await until(journal, "bad")
    assert journal == ["good", "bad"]
    assert len(ids["bad"]) == len(ids["good"]) == len(ids["bad"] | ids["good"]) - 1 == 1
    assert "tried again later: the post office is closed" in capsys.readouterr().out
