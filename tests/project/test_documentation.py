"""The documentation is true: its programs run, with the results that it states, and links lead on.

Each page is one program: its Python blocks run in their order, in one module.
"""

import hashlib
import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pages
import pytest
from harness import Client, dial, get, talk
from repository import EXAMPLES
from serving import uvicorn_running

from websuckets.exc import MissingProvider

pytestmark = pytest.mark.anyio

NOT_RUN = {
    "console": "`tests/cli/test_page.py` runs these",
    "html": "`tests/project/test_browser.py` runs these, in Chromium",
    "js": "`test_browser.py`, `test_catching_up_page.py` and `test_exactly_once.py` run these",
    "py": "lines that are not a program: to start one, and the client, whose own page runs",
    "sh": "`.ci/run` installs and starts as the README says; the rest starts servers that stay",
    "txt": "diagrams",
}
"""Languages of blocks that no test here runs, and the reasons."""

ONLY_IN_RUSSIAN = (2, "Если вы уже писали на websuckets")
"""Section of the README for users of the first documentation, which is in Russian."""


def name_of(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


class Wildcards:
    """`"..."` stands for any text in a reply, and for the last such text in a command."""

    def __init__(self) -> None:
        self.last = ""

    def sent(self, line: str) -> str:
        return line.replace('"..."', json.dumps(self.last))

    def same(self, said: Any, got: Any) -> bool:
        if said == "..." and isinstance(got, str):
            self.last = got
            return True
        if isinstance(said, dict) and isinstance(got, dict):
            return list(said) == list(got) and all(self.same(said[k], got[k]) for k in said)
        return bool(said == got)


def scrypt_in_a_thread(password: bytes, scrypt: Any = hashlib.scrypt, **options: Any) -> Any:
    """Hash as `hashlib.scrypt` does, but not in the event loop, where it holds up all clients."""
    assert threading.current_thread() is not threading.main_thread()
    return scrypt(password, **options)


async def hold_dialogue(client: Client, text: str) -> None:
    wildcards = Wildcards()
    for line in text.splitlines():
        if line.startswith("> "):
            await client.connection.send(wildcards.sent(line[2:]))
        else:
            got = await client.receive()
            assert wildcards.same(json.loads(line[2:]), got), f"{line}\nbut got {got}"


@pytest.mark.on_asyncio
@pytest.mark.parametrize("page", pages.RUN, ids=name_of)
async def test_the_program_of_a_page_does_as_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hashlib, "scrypt", scrypt_in_a_thread)
    main = ModuleType("main")
    monkeypatch.setitem(sys.modules, "main", main)
    for language, text in pages.blocks(page):
        if language == "text" and text.startswith((">", "<")):
            async with talk(main.app) as client:
                await hold_dialogue(client, text)
        elif language == "text":
            with pytest.raises(MissingProvider) as caught:
                async with main.broken.serve("localhost", 0):
                    raise AssertionError("it started")
            assert without_spaces(text).removeprefix("websuckets.exc.MissingProvider:") == (
                without_spaces(str(caught.value))
            )
        elif language == "python" and "asyncio.run(" not in text:
            exec(compile(text, "main.py", "exec"), vars(main))
            for name in re.findall(r"^async def (test_\w+)", text, re.MULTILINE):
                await getattr(main, name)()
            if "def visitors(" in text:
                await ask_both_sides(main.api)
            if "ready=" in text:
                async with main.app.serve("127.0.0.1", 0) as server:
                    assert await get(server, "/health") == 200
        else:
            assert language == "python" or language in NOT_RUN


async def ask_both_sides(api: Any) -> None:
    """Ask one application over HTTP and over WebSocket."""
    async with uvicorn_running(api) as server:
        async with dial(replace(server, urls=(f"{server.urls[0]}/ws",))) as client:
            counted = (await client.call("count me"))["payload"]
            assert counted == {"my messages": 1, "visitors": 1}
            async with httpx2.AsyncClient() as http:
                answer = await http.get(f"http://127.0.0.1:{server.port}/visitors")
            assert answer.json() == {"visitors": 1, "online": 1}


def test_the_route_of_the_page_about_fastapi_is_that_of_the_example() -> None:
    """Expect one text of the class, because the tests of the example are those of the page."""
    blocks = [text for _, text in pages.blocks(pages.ROOT / "docs" / "fastapi.md")]
    (text,) = [text for text in blocks if "class TransactionRoute" in text]
    route = re.search(r"^class TransactionRoute.*?^        return \w+$", text, re.M | re.S)
    assert route is not None
    assert route[0] in (EXAMPLES / "fastapi_app.py").read_text()


def without_spaces(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_the_pages_have_programs_and_dialogues() -> None:
    languages = [language for page in pages.RUN for language, _ in pages.blocks(page)]
    assert languages.count("python") >= 30
    assert languages.count("text") >= 14


def test_the_program_that_runs_an_event_loop_prints_its_port(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from websuckets import WebSuckets

    blocks = pages.blocks(pages.ROOT / "docs" / "serving.md")
    (text,) = [text for _, text in blocks if "asyncio.run(main" in text]
    exec(compile(text, "main.py", "exec"), {"app": WebSuckets()})
    assert re.fullmatch(r"listening on \d+\n", capsys.readouterr().out)


def test_the_readme_is_read_at_one_sitting() -> None:
    assert len(pages.README.read_text().splitlines()) <= 220


@pytest.mark.parametrize("page", pages.RUSSIAN, ids=name_of)
def test_a_russian_page_has_the_programs_of_the_english_one(page: Path) -> None:
    assert pages.blocks(pages.RUSSIAN[page]) == pages.blocks(page)


@pytest.mark.parametrize("page", pages.RUSSIAN, ids=name_of)
def test_a_russian_page_has_the_sections_of_the_english_one(page: Path) -> None:
    english, russian = pages.headings(page), pages.headings(pages.RUSSIAN[page])
    if page is pages.README:
        assert russian.pop(-2) == ONLY_IN_RUSSIAN
    assert [level for level, _ in russian] == [level for level, _ in english]


@pytest.mark.parametrize("page", pages.RUSSIAN, ids=name_of)
def test_a_russian_page_has_the_names_of_the_english_one(page: Path) -> None:
    assert pages.names_in_code(page) - pages.names_in_code(pages.RUSSIAN[page]) == set()


@pytest.mark.parametrize("page", pages.ALL, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in pages.links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link


def source() -> str:
    """Return the source of the package, with the parts of each text joined."""
    files = sorted((pages.ROOT / "websuckets").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))


def test_the_texts_of_the_troubleshooting_page_are_those_of_the_package() -> None:
    page = (pages.ROOT / "docs" / "troubleshooting.md").read_text().partition("## Clients")[0]
    texts = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    assert len(texts) >= 20
    code = source()
    assert [text for text in texts if text not in code] == []
