"""Scenarios of clients, which the clients of other languages run with the same servers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
from client_scenarios import SCENARIOS, Scenario
from client_servers import LinkThread, ServerProcess

pytestmark = pytest.mark.anyio


Servers = tuple[ServerProcess, LinkThread]


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


@pytest.fixture
def servers(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """Yield a server that runs, and a link to it."""
    with ExitStack() as stack:
        if any("server" in step for step in SCENARIOS[name]):
            server = stack.enter_context(started(tmp_path))
        else:
            server = request.getfixturevalue("shared_server")
            server.control("reset")
        link = LinkThread(server.port)
        link.start()
        stack.callback(link.stop)
        yield server, link


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_takes_the_course_that_the_table_says(name: str, servers: Servers) -> None:
    async with anyio.create_task_group() as tasks:
        await Scenario(*servers, tasks).run(SCENARIOS[name])
        tasks.cancel_scope.cancel()
