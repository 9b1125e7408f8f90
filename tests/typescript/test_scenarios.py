"""Scenarios of clients, taken by the TypeScript client: the same table as in Python."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import chromium
import pytest
import typescript_package
from client_control import controlling
from client_scenarios import SCENARIOS
from client_servers import LinkThread, ServerProcess
from typescript_package import Package

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600), pytest.mark.on_asyncio]


@contextmanager
def started(directory: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(directory / "effects.db")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Yield a server for scenarios that leave it as it was, as starting one takes a while."""
    with started(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def places(
    name: str, bundle: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """Yield the URLs of a link to a server that runs, and of their control."""
    steps = SCENARIOS[name]
    with ExitStack() as stack:
        if any("server" in step or "link" in step for step in steps):
            server = stack.enter_context(started(tmp_path))
        else:
            server = request.getfixturevalue("shared_server")
            server.control("reset")
        link = LinkThread(server.port)
        link.start()
        stack.callback(link.stop)
        files = {
            "/": ("text/html", '<script src="scenarios.js"></script>'),
            "/scenarios.js": ("text/javascript", bundle),
            "/steps": ("application/json", json.dumps(steps)),
        }
        control = stack.enter_context(controlling(server, link, files))
        yield f"ws://127.0.0.1:{link.port}", control


@pytest.fixture(scope="module")
def bundle(package: Package) -> str:
    """Return the interpreter of the scenarios as a script for browsers."""
    options = ["--bundle", "--format=iife", "--global-name=scenarios", "--log-level=error"]
    return package.tool("esbuild", "test/support/scenarios.ts", *options)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_takes_its_course_in_node(
    name: str, package: Package, places: tuple[str, str]
) -> None:
    package.script("test/support/scenario.ts", *places, timeout=60)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize(
    ("runtime", "arguments"), [("bun", ()), ("deno", ("run", "--allow-all", "--no-check"))]
)
def test_a_scenario_takes_its_course_in_another_runtime(
    name: str,
    runtime: str,
    arguments: tuple[str, ...],
    package: Package,
    places: tuple[str, str],
    request: pytest.FixtureRequest,
) -> None:
    program = typescript_package.runtime(request.config, runtime)
    result = package.run(program, *arguments, "test/support/scenario.ts", *places, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.mark.anyio
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_takes_its_course_in_chromium(
    name: str, places: tuple[str, str], chromium_address: str
) -> None:
    url, control = places
    async with chromium.profile(chromium_address) as browser:
        tab = await browser.tab()
        await tab.open(control)
        run = f"scenarios.run({json.dumps(SCENARIOS[name])}, {url!r}, {control!r})"
        assert await tab.run(f"{run}.then(() => 'passed')") == "passed"
