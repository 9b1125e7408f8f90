"""The program of the page about browsers: its server, and the page as a person uses it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pages
from chromium import Tab
from ports import free_port
from serving import uvicorn_running

from websuckets.session import Session

PAGE = pages.ROOT / "docs" / "browser.md"
LOGIN, PASSWORD = "ann", "correct horse"


class Site:
    """The server, which may be started again on the same port; requests are counted."""

    def __init__(self) -> None:
        self.port = self.listens_on = free_port()  # they differ behind a proxy
        self.main: Any = None
        self.requests: list[str] = []
        self.refreshing_takes = 0.0  # seconds

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the program anew; what it keeps in a table and in its settings stays."""
        before, self.main = self.main, ModuleType("main")
        for language, text in pages.blocks(PAGE):
            if language == "python":
                text = text.replace("localhost:8000", f"localhost:{self.port}")
                exec(compile(text, "main.py", "exec"), vars(self.main))
        if before is not None:
            self.main.KEY, self.main.SIGNED_IN = before.KEY, before.SIGNED_IN
        options = {"interface": "asgi3", "timeout_graceful_shutdown": 5}  # if a handshake hangs
        async with uvicorn_running(self._count, self.listens_on, **options):
            yield

    async def _count(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            request = f"{scope.get('method', 'connect')} {scope['path']}"
            if request != "GET /favicon.ico":  # which the browser asks for at any time
                self.requests.append(request)
            if request == "POST /session/refresh":
                await anyio.sleep(self.refreshing_takes)
        await self.main.api(scope, receive, send)

    def count(self, request: str) -> int:
        return self.requests.count(request)

    @property
    def connections(self) -> int:
        return self.count("connect /ws")

    @property
    def refreshes(self) -> int:
        return self.count("POST /session/refresh")

    @property
    def user(self) -> Any:
        """The user of the newest connection."""
        return Session.verified[LOGIN]


def write_files(directory: Path) -> None:
    """Write the files for the browser, as a reader of the page does."""
    texts = dict(pages.blocks(PAGE))
    (directory / "client.js").write_text(texts["js"])
    (directory / "index.html").write_text(texts["html"])


class Visitor:
    """A person who looks at the page."""

    def __init__(self, tab: Tab, site: Site) -> None:
        self.tab = tab
        self.site = site

    async def opens(self) -> None:
        await self.tab.open(self.site.url)

    async def signs_in(self, password: str = PASSWORD) -> None:
        await self.sees("signed out")
        await self.tab.run(
            f"entry.elements.login.value = {LOGIN!r};"
            f"entry.elements.password.value = {password!r};"
            "entry.requestSubmit()"
        )

    async def says(self, text: str) -> None:
        """Say something, and wait until the reply and the event have come."""
        await self.tab.run(
            f"result.textContent = ''; chat.elements.text.value = {text!r}; chat.requestSubmit()"
        )
        await self.tab.until(f"lines.lastElementChild?.textContent === '{LOGIN}: {text}'")
        await self.tab.until("result.textContent.startsWith('heard by ')")

    async def sees(self, state: str) -> None:
        """Wait until the page shows this state, and the form that belongs to it."""
        await self.tab.until(f"state.textContent === {state!r}")
        forms = await self.tab.run("[entry.hidden, chat.hidden]")
        assert forms == [state != "signed out", state != "online"]
