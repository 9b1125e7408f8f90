from collections.abc import Iterator

import pytest

from websuckets import session


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every asynchronous test runs on both, unless it is marked `on_asyncio`."""
    backend: str = request.param
    if backend != "asyncio" and request.node.get_closest_marker("on_asyncio"):
        pytest.skip("it is about asyncio itself")
    return backend


@pytest.fixture
def journal() -> list[str]:
    """What happened, in order."""
    return []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """No test leaves an app running."""
    yield
    assert session._running == []
