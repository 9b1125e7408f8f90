import pytest
from harness import Gate
from hostile import ON_SOCKETS, make_app
from serving import SERVINGS

from websuckets import WebSuckets


def runs_on(backends: str, anyio_backend: str) -> None:
    if anyio_backend not in backends.split():
        pytest.skip(f"it does not run on {anyio_backend}")


@pytest.fixture(params=ON_SOCKETS)
def server(request: pytest.FixtureRequest, anyio_backend: str) -> str:
    """Ways to serve an app to hostile peers."""
    name: str = request.param
    runs_on(SERVINGS[name][0], anyio_backend)
    return name


@pytest.fixture
def app(journal: list[str], gate: Gate) -> WebSuckets:
    """An app for hostile peers."""
    return make_app(journal, gate, send_timeout=1)
