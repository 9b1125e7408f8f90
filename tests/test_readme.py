"""Everything in the README runs, with the results that the README states."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from harness import Client, dial, talk
from serving import uvicorn_running

from websuckets.exc import MissingProvider

README = Path(__file__).parent.parent / "README.md"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.anyio


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


async def hold_dialogue(client: Client, text: str) -> None:
    wildcards = Wildcards()
    for line in text.splitlines():
        if line.startswith("> "):
            await client.connection.send(wildcards.sent(line[2:]))
        else:
            got = await client.receive()
            assert wildcards.same(json.loads(line[2:]), got), f"{line}\nbut got {got}"


def test_there_is_something_to_test() -> None:
    """The README has programs, dialogues and commands."""
    languages = [language for language, _ in BLOCK.findall(README.read_text())]
    assert languages.count("python") >= 7
    assert languages.count("text") >= 6


@pytest.mark.on_asyncio
async def test_the_programs_and_dialogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks follow each other as in one file; each dialogue is held with the last app."""
    monkeypatch.chdir(tmp_path)
    main = ModuleType("main")
    monkeypatch.setitem(sys.modules, "main", main)
    for language, text in BLOCK.findall(README.read_text()):
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
            if "FastAPI(" in text:
                await ask_both_sides(main.api)


async def ask_both_sides(api: Any) -> None:
    """Ask one application over HTTP and over WebSocket."""
    async with uvicorn_running(api) as server:
        async with dial(replace(server, urls=(f"{server.urls[0]}/ws",))) as client:
            counted = (await client.call("count me"))["payload"]
            assert counted == {"my messages": 1, "visitors": 1}
            async with httpx2.AsyncClient() as http:
                answer = await http.get(f"http://127.0.0.1:{server.port}/visitors")
            assert answer.json() == {"visitors": 1, "online": 1}


def without_spaces(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_the_embedded_server(capsys: pytest.CaptureFixture[str]) -> None:
    """The block that runs an event loop of its own prints its port."""
    from websuckets import WebSuckets

    (text,) = [text for _, text in BLOCK.findall(README.read_text()) if "asyncio.run(main" in text]
    exec(compile(text, "main.py", "exec"), {"app": WebSuckets()})
    assert re.fullmatch(r"listening on \d+\n", capsys.readouterr().out)
