from collections.abc import Iterator

import postgres
import pytest

from websuckets import session


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every asynchronous test runs on both, unless it is marked `on_asyncio`."""
    backend: str = request.param
    if backend != "asyncio" and request.node.get_closest_marker("on_asyncio"):
        pytest.skip("it is about asyncio, or about what needs it")
    return backend


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    """One for all tests of a worker, started for the first that asks."""
    binaries = postgres.find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres.running(binaries) as server:
        yield server


@pytest.fixture
def journal() -> list[str]:
    """What happened, in order."""
    return []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """No test leaves an app running."""
    yield
    assert session._running == []
