import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import postgres
import pytest
import redis_server
from brokers import BROKERS, Make
from caches import CACHES, Caches
from canaries import told
from dishka.code_tools import code_builder
from dishka.graph_builder import activation
from harness import Gate
from hypothesis import HealthCheck, settings
from selection import KEY, add_option, left_out, takes_a_part
from serving import HEAVY, SERVINGS, Serving
from sql_databases import Database, database
from stores import STORES, Stores

from websuckets import session

# Else each of a hundred processes of this run compiles the package, and each worker all tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# An example, and its making, may take long where other programs keep the machine busy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", patient, max_examples=15)
settings.register_profile("thorough", patient)
settings.load_profile("quick")  # `.ci/run` tries more: --hypothesis-profile=thorough

SOCKETS_OF_COREDIS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A mark for a test that ends its Redis, and may leave a socket to be collected.

coredis leaves a socket, with anyio before 4.16 on trio, when it aborts a connection.
"""
HEAVY_FIXTURES: Final = frozenset({"chromium_address", "recipe"})
"""Fixtures with programs that take seconds of processor time to start."""

HEAVY_DATABASES: Final = frozenset({"postgresql with asyncpg"})
"""Databases that are tested with the heavy tests: another driver uses the same server before."""

ANYIO = tuple(int(part) for part in version("anyio").split(".")[:2])


def pytest_addoption(parser: pytest.Parser) -> None:
    add_option(parser)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which tests run."""
    node.workerinput[KEY] = takes_a_part(node.config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Collect no garbage while tests are collected: nearly all that is made then stays."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep the tests themselves, and all modules, out of each collection of garbage.

    Searching them again and again took an eighth of the time of all tests.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the servers and fixtures that they use, and leave out those that cannot run."""
    impossible = [item for item in items if _is_impossible(item)]
    config.hook.pytest_deselected(items=impossible)
    items[:] = [item for item in items if not _is_impossible(item)]
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        backend = parameters.get("anyio_backend")
        names = [value for value in parameters.values() if type(value) is str]
        if any(
            (name, backend) in HEAVY or name in HEAVY_DATABASES for name in names
        ) or HEAVY_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.heavy)
        if ANYIO < (4, 16) and "own_redis" in getattr(item, "fixturenames", ()):
            item.add_marker(SOCKETS_OF_COREDIS)
    if takes_a_part(config):
        out = left_out(item for item in items if not item.get_closest_marker("heavy"))
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]


def _is_impossible(item: pytest.Item) -> bool:
    """Tell whether a test has a server that does not run in its event loop, or that has no port."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    parameters = item.callspec.params
    backend, serving = parameters.get("anyio_backend"), parameters.get("serving")
    if backend == "trio" and item.get_closest_marker("on_asyncio"):
        return True
    if not isinstance(serving, str) or serving not in SERVINGS:
        return False
    backends, _ = SERVINGS[serving]
    return (backend is not None and backend not in backends.split()) or (
        serving == "memory" and "on_sockets" in item.fixturenames
    )


@pytest.fixture(autouse=True, scope="session")
def compiled_once() -> Iterator[None]:
    """Let dishka do less for each container: every app of every test has one of its own.

    Each source that dishka generates is compiled once for all containers of a worker. Factories
    without a condition are taken for active without a function that is generated to find that out.
    Together that took a fifth of the time of all tests.
    """
    is_active = activation.ActivationContainer.is_active

    def is_active_or_has_no_condition(container: Any, factory: Any) -> bool:
        return factory.when_active is None or is_active(container, factory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_builder, "compile", cache(compile), raising=False)
        patch.setattr(activation.ActivationContainer, "is_active", is_active_or_has_no_condition)
        yield


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every asynchronous test on both event loops, unless it is marked `on_asyncio`."""
    backend: str = request.param
    if backend != "asyncio" and request.node.get_closest_marker("on_asyncio"):
        pytest.skip("it is about asyncio, or about what needs it")
    return backend


@pytest.fixture(params=SERVINGS)
def serving(request: pytest.FixtureRequest, anyio_backend: str) -> Serving:
    """Return a context that serves an app, for every transport."""
    backends, serving = SERVINGS[request.param]
    if anyio_backend not in backends.split():
        pytest.skip(f"it does not run on {anyio_backend}")
    return serving


@pytest.fixture
def on_sockets(serving: Serving) -> Serving:
    """Return a context that serves an app, for every transport with a port."""
    if serving is SERVINGS["memory"][1]:
        pytest.skip("it has no port")
    return serving


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    """Yield a server for all tests of a worker, started for the first test that uses it."""
    binaries = postgres.find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres.running(binaries) as server:
        yield server


@pytest.fixture
def sql_database(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Database]]:
    """Yield a function that makes an empty database of the kind with this name."""
    with ExitStack() as databases:
        yield lambda name: databases.enter_context(database(name, request))


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[redis_server.RedisServer]:
    """Yield a server for all tests of a worker that do not disturb it; each uses its own prefix."""
    binary = redis_server.find_binary()
    if binary is None:
        pytest.skip("no redis-server is installed")
    with redis_server.running(binary) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[redis_server.RedisServer]:
    """Yield a server for one test, which may do anything to it."""
    binary = redis_server.find_binary()
    if binary is None:
        pytest.skip("no redis-server is installed")
    with redis_server.running(binary) as server:
        yield server


@pytest.fixture(params=BROKERS)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Yield a function that returns a broker for a node; all these brokers are connected."""
    async with BROKERS[request.param](request) as make:
        yield make


@pytest.fixture(params=STORES)
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """Yield stores of sessions that share their records."""
    async with STORES[request.param](request) as stores:
        yield stores


@pytest.fixture(params=CACHES)
async def caches(request: pytest.FixtureRequest) -> AsyncIterator[Caches]:
    """Yield the caches of two nodes that share their values."""
    async with CACHES[request.param](request) as caches:
        yield caches


@pytest.fixture
def gate() -> Gate:
    """A gate at which handlers wait until the test opens it."""
    return Gate()


@pytest.fixture
def journal() -> list[str]:
    """A list of what happened, in order."""
    return []


@pytest.fixture
def log_without_secrets(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Log at any level, and expect no secret of `canaries` in the log of our loggers."""
    logger = logging.getLogger("websockets")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()  # type: ignore[attr-defined]  # patching skips it
    caplog.set_level(logging.DEBUG)
    yield
    assert told(caplog) == []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Check that the test has left no app running."""
    yield
    assert session._running == []
