from collections.abc import Iterator

import pytest

from websuckets import session


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def journal() -> list[str]:
    """What happened, in order."""
    return []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """No test leaves an app running."""
    yield
    assert session._running == []
