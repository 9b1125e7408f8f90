"""Scenarios of clients, taken by the TypeScript client in Node: the same table as in Python."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from client_control import controlling
from client_scenarios import SCENARIOS
from client_servers import LinkThread, ServerProcess
from typescript_package import Package

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


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
    """Yield a server for all scenarios that do not end it, as starting one takes a while."""
    with started(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_takes_the_course_that_the_table_says(
    name: str, package: Package, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    steps = SCENARIOS[name]
    with ExitStack() as stack:
        if any("server" in step for step in steps):
            server = stack.enter_context(started(tmp_path))
        else:
            server = request.getfixturevalue("shared_server")
            server.control("reset")
        link = LinkThread(server.port)
        link.start()
        stack.callback(link.stop)
        files = {"/steps": ("application/json", json.dumps(steps))}
        control = stack.enter_context(controlling(server, link, files))
        url = f"ws://127.0.0.1:{link.port}"
        package.script("test/support/scenario.ts", url, control, timeout=60)
