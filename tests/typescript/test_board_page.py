"""The page of the board in TypeScript, built by Vite, as people use it in Chromium."""

import json
import shutil
import subprocess
import sys
from typing import Final

import chromium
import pytest
from board_process import BoardProcess
from chromium import Browser, Tab
from repository import EXAMPLES, ROOT
from static_site import serving
from typescript_package import PACKAGE, Package

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.on_asyncio,
]

PAGE: Final = PACKAGE / "examples" / "board"

TEXTS: Final = "[...document.querySelectorAll('li span')].map((one) => one.textContent).join()"

MEDIA_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


@pytest.fixture(scope="module")
def files(package: Package) -> dict[str, tuple[str, str]]:
    """Return the files of the page, checked and built, by their paths."""
    folder = package.folder / "examples" / "board"
    modules = folder / "node_modules"
    shutil.rmtree(modules, ignore_errors=True)
    modules.mkdir(parents=True)
    (modules / "websuckets").symlink_to(package.folder)
    package.tool("tsc", cwd=folder)
    package.tool("vite", "build", cwd=folder)
    built = folder / "dist"
    return {
        f"/{path.relative_to(built)}".replace("/index.html", "/"): (
            MEDIA_TYPES[path.suffix],
            path.read_text(),
        )
        for path in built.rglob("*.*")
    }


async def opened(browser: Browser, url: str, board: BoardProcess) -> Tab:
    tab = await browser.tab()
    await tab.open(f"{url}/?server={board.url}&board=tea")
    await tab.until("document.querySelector('ul')?.getAttribute('aria-busy') === 'false'")
    return tab


async def add(tab: Tab, text: str) -> None:
    await tab.run(
        f"document.querySelector('input').value = {json.dumps(text)};"
        "document.querySelector('form').requestSubmit()"
    )


def test_the_client_of_the_page_is_that_of_the_example() -> None:
    command = [sys.executable, "-m", "websuckets", "client", "typescript", "board:app"]
    options = ["--app-dir", str(EXAMPLES), "-o", str(PAGE / "src" / "api.ts"), "--check"]
    result = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


async def test_all_pages_show_what_one_of_them_changes(
    files: dict[str, tuple[str, str]], board: BoardProcess, chromium_address: str
) -> None:
    with serving(files) as url:
        async with chromium.profile(chromium_address) as browser:
            ann = await opened(browser, url, board)
            bob = await opened(browser, url, board)
            await add(ann, "oolong")
            await bob.until(f"{TEXTS} === 'oolong'")
            await add(bob, "assam")
            await ann.until(f"{TEXTS} === 'oolong,assam'")
            await ann.run("document.querySelector('[aria-label=\"Remove oolong\"]').click()")
            await bob.until(f"{TEXTS} === 'assam'")
            await bob.run(
                "const area = document.querySelector('ul').getBoundingClientRect();"
                "const [clientX, clientY] = [area.left + 300, area.top + 200];"
                "const place = { bubbles: true, clientX, clientY };"
                "document.querySelector('li').dispatchEvent(new DragEvent('dragend', place))"
            )
            await ann.until("document.querySelector('li').style.left === '300px'")


async def test_the_page_goes_on_after_its_server_was_killed(
    files: dict[str, tuple[str, str]], board: BoardProcess, chromium_address: str
) -> None:
    with serving(files) as url:
        async with chromium.profile(chromium_address) as browser:
            tab = await opened(browser, url, board)
            await add(tab, "oolong")
            await tab.until(f"{TEXTS} === 'oolong'")
            board.kill()
            await tab.until("document.querySelector('ul').getAttribute('aria-busy') === 'true'")
            await add(tab, "assam")  # sent when there is a server again
            board.start()
            await tab.run("dispatchEvent(new Event('online'))")  # instead of waiting for a pause
            await tab.until(f"{TEXTS} === 'oolong,assam'")
            await tab.until("document.querySelector('ul').getAttribute('aria-busy') === 'false'")


def test_the_page_follows_events_as_the_page_of_the_documentation_does() -> None:
    text = (ROOT / "docs" / "typescript.md").read_text("utf-8")
    shown = text.partition("export function follow(")[2].partition("\n}\n")[0]
    assert shown and shown in (PAGE / "src" / "follow.ts").read_text("utf-8")


def test_the_packages_of_the_page_are_those_of_the_client() -> None:
    of_page = json.loads((PAGE / "package.json").read_text())
    of_client = json.loads((PACKAGE / "package.json").read_text())["devDependencies"]
    wanted = {**of_page["dependencies"], **of_page["devDependencies"]}
    assert wanted.pop("websuckets") == "file:../.."
    assert {name: of_client[name] for name in wanted} == wanted
