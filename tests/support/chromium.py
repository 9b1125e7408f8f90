"""A headless Chromium, told by the DevTools protocol to open pages and to run JavaScript in them.

https://chromedevtools.github.io/devtools-protocol/ describes the methods that are called here.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from timeouts import TIMEOUT
from websockets.asyncio.client import ClientConnection, connect

BINARIES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

OPTIONS = (
    "--headless",
    "--remote-debugging-port=0",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # which is small in containers
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--host-resolver-rules=MAP localhost 127.0.0.1",  # servers of tests listen there
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
    # Pages of which none is in the foreground keep their timers.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)

TRIES, PAUSE = 1200, 0.05  # a minute: a cold start reads hundreds of megabytes

ADDRESS = "DevToolsActivePort"
"""File in which Chromium writes the port and the path of its DevTools."""


def find_binary() -> str | None:
    return next(filter(None, map(shutil.which, BINARIES)), None)


@contextmanager
def running(binary: str) -> Iterator[str]:
    """Run a browser with an empty profile, and yield the URL of its DevTools.

    Raises `RuntimeError` with the browser's own words if the browser does not start.
    """
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as directory:
        profile, log = Path(directory) / "profile", Path(directory) / "log"
        command = [binary, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        if os.geteuid() == 0:  # Chromium refuses to sandbox processes of root
            command.insert(1, "--no-sandbox")
        if shutil.which("setpriv"):  # so that the browser ends even if the tests are killed
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=DEVNULL, stdout=output, stderr=STDOUT)
        try:
            yield _address(process, profile / ADDRESS, log)
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[bytes], file: Path, log: Path) -> str:
    for _ in range(TRIES):
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            port, path = lines
            return f"ws://127.0.0.1:{port}{path}"
        if process.poll() is not None:
            break
        time.sleep(PAUSE)  # Chromium announces its port nowhere else
    raise RuntimeError(f"Chromium does not start:\n{log.read_text(errors='replace')[-4000:]}")


class JavaScriptError(AssertionError):
    """An error that was thrown in a page, with its stack."""


class DevTools:
    """A connection to the browser. Methods are called one after the other."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last_id = 0

    async def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Return the result of a method. Raises `RuntimeError` for an error of the protocol."""
        self._last_id += 1
        request: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            request["sessionId"] = session
        await self._connection.send(json.dumps(request))
        with anyio.fail_after(TIMEOUT):
            while True:
                answer = json.loads(await self._connection.recv())
                if answer.get("id") == self._last_id:  # others are events
                    break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]


class Tab:
    """A page of the browser."""

    def __init__(self, tools: DevTools, session: str) -> None:
        self._tools = tools
        self._session = session

    async def before_each_page(self, script: str) -> None:
        """Run this script in each page that is opened from now on, before the page's own."""
        await self._call("Page.enable")
        await self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def open(self, url: str) -> None:
        """Load a page, with its modules."""
        loaded = await self._call("Page.navigate", url=url)
        assert "errorText" not in loaded, loaded
        await self.run(
            "new Promise(loaded => document.readyState === 'complete' ? loaded()"
            " : addEventListener('load', loaded))"
        )

    async def run(self, expression: str) -> Any:
        """Return the value of an expression, or the one of the promise that it is, as JSON has it.

        Raises `JavaScriptError` for an error.
        """
        answer = await self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise JavaScriptError(f"{expression}\n{answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until a condition about the elements of the page is true; they are watched.

        Raises `TimeoutError` with the text of the page.
        """
        try:
            await self.run(f"""new Promise(resolve => {{
                const check = () => ({condition}) && (observer.disconnect(), resolve());
                const observer = new MutationObserver(check);
                const all = {{subtree: true, childList: true, attributes: true}};
                observer.observe(document, {{...all, characterData: true}});
                check();
            }})""")
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise TimeoutError(f"never true: {condition}\nthe page has:\n{text}") from None

    async def _call(self, method: str, **params: Any) -> Any:
        return await self._tools.call(method, self._session, **params)


class Browser:
    """Tabs that share their cookies with each other, and with no others."""

    def __init__(self, tools: DevTools, context: str) -> None:
        self._tools = tools
        self._context = context

    async def tab(self) -> Tab:
        target = await self._tools.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )
        attached = await self._tools.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        return Tab(self._tools, attached["sessionId"])


@asynccontextmanager
async def profile(address: str) -> AsyncIterator[Browser]:
    """Yield a browser without cookies, whose tabs are closed in the end."""
    async with connect(address, max_size=None, proxy=None) as connection:
        tools = DevTools(connection)
        context = (await tools.call("Target.createBrowserContext"))["browserContextId"]
        yield Browser(tools, context)
        await tools.call("Target.disposeBrowserContext", browserContextId=context)
