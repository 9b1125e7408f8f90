"""The page of the documentation about the TypeScript client: its files compile, and run."""

import json
import re
from pathlib import Path
from typing import Final

import chromium
import pytest
from board_process import BoardProcess
from chromium import Browser
from harness import load
from repository import ROOT
from static_site import serving
from typescript_package import Package

from websuckets.client import Client
from websuckets.client_generation import read_document, typescript_client

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600), pytest.mark.on_asyncio]

PAGE: Final = ROOT / "docs" / "typescript.md"

FILE: Final = re.compile(r"^[^\n]*`([\w.]+)`[^`\n]*:\n\n```tsx?\n(.*?)^```$", re.M | re.S)
"""A file of the page: its name above the block, and its text."""

MAIN: Final = """
import { createElement, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Client } from "websuckets";
import { Api } from "./api.js";
import { Board } from "./board.js";

const url = new URLSearchParams(location.search).get("server")!;
const api = new Api(new Client(url, { backoff: { first: 50, most: 200 } }));
Object.assign(window, { api });
const board = createElement(Board, { api, name: "plans" });
createRoot(document.querySelector("main")!).render(createElement(StrictMode, null, board));
"""

OPTIONS: Final = {
    "target": "ES2022",
    "module": "NodeNext",
    "lib": ["ES2023", "DOM"],
    "jsx": "react-jsx",
    "types": ["node"],
    "strict": True,
    "outDir": "built",
}


@pytest.fixture(scope="module")
def folder(package: Package) -> Path:
    """Return a folder with the files of the page, compiled."""
    folder = package.folder / "page"
    folder.mkdir(exist_ok=True)
    files = dict(FILE.findall(PAGE.read_text("utf-8")))
    assert {"first.ts", "follow.ts", "board.tsx", "watch.ts"} <= files.keys()
    document = json.loads(json.dumps(load("board").app.asyncapi()))
    files["api.ts"] = str(typescript_client(read_document(document)))
    files["main.ts"] = MAIN
    files["tsconfig.json"] = json.dumps({"compilerOptions": OPTIONS})
    for name, text in files.items():
        (folder / name).write_text(text)
    package.tool("tsc", "-p", str(folder))
    return folder


def note(text: str) -> dict[str, object]:
    return {"board": "plans", "text": text, "x": 1, "y": 2}


@pytest.mark.anyio
async def test_two_lines_give_a_typed_reply(
    package: Package, folder: Path, board: BoardProcess
) -> None:
    async with Client(board.url, proxy=None) as client:
        await client.call("board create", "plans", once=True)
    first = folder / "built" / "first.js"
    first.write_text(first.read_text().replace("ws://localhost:9000", board.url))
    written = package.script(str(first), timeout=60)
    assert re.fullmatch(r"[0-9a-f-]{36} tea\n", written)


@pytest.mark.anyio
async def test_a_loop_takes_events_until_it_is_left(
    package: Package, folder: Path, board: BoardProcess
) -> None:
    program = folder / "built" / "watching.js"
    program.write_text(
        'import { Client } from "websuckets"; import { Api } from "./api.js";'
        'import { watch } from "./watch.js";'
        f'const api = new Api(new Client("{board.url}"));'
        'await api.boardCreate("plans"); const watched = watch(api, 2);'
        'for (const text of ["tea", "milk"])'
        '  await api.noteAdd({ board: "plans", text, x: 1, y: 2 });'
        "console.log((await watched).sort().join()); await api.client.close();"
    )
    assert package.script(str(program), timeout=60) == "milk,tea\n"


@pytest.mark.anyio
async def test_ten_lines_of_react_are_a_live_board_that_survives_its_server(
    package: Package, folder: Path, board: BoardProcess, chromium_address: str
) -> None:
    bundle = package.tool(
        "esbuild",
        str(folder / "main.ts"),
        *("--bundle", "--format=esm", "--jsx=automatic", "--log-level=error"),
        '--define:process.env.NODE_ENV="production"',
    )
    html = '<meta charset="utf-8"><main></main><script type="module" src="main.js"></script>'
    files = {"/": ("text/html", html), "/main.js": ("text/javascript", bundle)}
    texts = "[...document.querySelectorAll('li')].map((li) => li.textContent).sort().join()"
    with serving(files) as url:
        async with chromium.profile(chromium_address) as browser:
            async with Client(board.url, proxy=None) as client:
                await client.call("board create", "plans", once=True)
                await client.call("note add", note("tea"), once=True)
            tab = await one_tab(browser, f"{url}/?server={board.url}")
            await tab.until(f"{texts} === 'tea'")
            board.kill()
            await tab.until("document.querySelector('ul').getAttribute('aria-busy') === 'true'")
            # The command is called without a server, and sent when a server runs again.
            await tab.run(f"void (globalThis.added = api.noteAdd({json.dumps(note('milk'))}))")
            board.start()
            await tab.until(f"{texts} === 'milk,tea'")
            assert await tab.run("added.then((note) => note.text)") == "milk"
            await tab.until("document.querySelector('ul').getAttribute('aria-busy') === 'false'")


async def one_tab(browser: Browser, url: str) -> chromium.Tab:
    tab = await browser.tab()
    await tab.open(url)
    return tab
