"""The page about generated clients is true: its program, the parts of its client, its check."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pages
import pytest
from command_line import Project
from generated_clients import module_of, source_of
from timeouts import TIMEOUT

pytestmark = pytest.mark.anyio

PAGE = pages.ROOT / "docs" / "generated-clients.md"

APP, USE, LOG_IN = [text for language, text in pages.blocks(PAGE) if language == "python"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a directory with the app of the page, and its client."""
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    project.write(main=APP, api=source_of(module_of(APP).app))
    return project


def test_the_parts_of_the_client_are_in_it_in_their_order(project: Project) -> None:
    client = (project.directory / "api.py").read_text("utf-8")
    parts = [text for language, text in pages.blocks(PAGE) if language == "py"]
    places = [client.find(f"\n{part}") for part in parts]
    assert len(parts) >= 4 and -1 not in places and places == sorted(places)


async def test_the_client_does_as_the_page_says(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    api = module_of((project.directory / "api.py").read_text("utf-8"))
    monkeypatch.setitem(sys.modules, "api", api)
    app: Any = module_of(APP).app
    use = ModuleType("use")
    exec(compile(USE + LOG_IN, "use.py", "exec"), vars(use))
    async with app.serve("127.0.0.1", 0) as server:
        with anyio.fail_after(TIMEOUT):
            seen = await use.use(server.urls[0])
            name = await use.whoami(server.urls[0])
    page = PAGE.read_text("utf-8")
    assert f"`use` returns `{seen}`".replace("'", '"') in page
    assert f'`whoami` returns `"{name}"`' in page


@pytest.mark.slow
def test_the_check_tells_what_the_page_says(project: Project) -> None:
    (told,) = [text for language, text in pages.blocks(PAGE) if language == "txt"]
    before, after = "max_length=200", "max_length=500"
    assert before in APP and after in told
    project.write(main=APP.replace(before, after))
    result = project.run("client", "python", "main:app", "-o", "api.py", "--check")
    assert result.returncode == 1
    lines = [line.rstrip() for line in result.stderr.rstrip().splitlines()]
    assert lines == told.splitlines()
