"""How to test handlers of one's own: those of ``fastapi_app.py``, with a database of the test's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dishka import Provider
from fastapi_app import Database, make_api, make_container, sockets
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from websuckets.di import provide_context
from websuckets.testing import CommandError, TestClient

ANN = {"name": "Ann", "text": "Lovely!"}
BOB = {"name": "Bob", "text": "I was here."}

pytestmark = pytest.mark.anyio  # the plugin comes with anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # which SQLAlchemy needs


@asynccontextmanager
async def running(directory: Path, *overrides: Provider) -> AsyncIterator[AsyncClient]:
    """Run the application, with a database in this directory, and yield a client for HTTP."""
    database = Database(f"sqlite+aiosqlite:///{directory / 'test.db'}")
    container = make_container(database, *overrides)
    # An error of the application is a response with the status 500, as a server sends it.
    transport = ASGITransport(make_api(container), raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as http:
        yield http
    await container.close()


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with running(tmp_path) as http:
        yield http


@pytest.fixture
async def client(http: AsyncClient) -> AsyncIterator[TestClient]:
    async with TestClient(sockets) as client:
        yield client


async def test_what_is_signed_by_websocket_is_read_by_http(
    client: TestClient, http: AsyncClient
) -> None:
    await client.call("entry sign", ANN)
    assert (await client.call("entry list")).payload == [ANN]
    assert (await http.get("/entries")).json() == [ANN]


async def test_an_entry_needs_a_text(client: TestClient, http: AsyncClient) -> None:
    with pytest.raises(CommandError) as refused:
        await client.call("entry sign", {"name": "Ann", "text": ""})
    assert refused.value.error == "validation error"
    assert refused.value.details[0]["loc"] == ["text"]
    assert (await http.get("/entries")).json() == []


async def test_who_is_connected_is_counted(client: TestClient, http: AsyncClient) -> None:
    async with client.connect():
        assert (await http.get("/online")).json() == 2
    assert (await http.get("/online")).json() == 1


async def test_what_is_posted_by_http_is_committed(client: TestClient, http: AsyncClient) -> None:
    assert (await http.post("/entries", json=[ANN, BOB])).status_code == 201
    assert (await client.call("entry list")).payload == [ANN, BOB]


async def test_an_http_exception_rolls_back_what_the_endpoint_has_done(http: AsyncClient) -> None:
    refused = await http.post("/entries", json=[BOB, ANN, ANN])
    assert (refused.status_code, refused.json()) == (409, {"detail": "Ann has signed already"})
    assert (await http.get("/entries")).json() == []


async def test_a_commit_that_fails_is_told_to_the_client(tmp_path: Path) -> None:
    @asynccontextmanager
    async def transaction(
        sessions: async_sessionmaker[AsyncSession],
    ) -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as session:
            yield session
            raise OSError("the disk is full")

    async with running(tmp_path, provide_context(transaction)) as http:
        assert (await http.post("/entries", json=[ANN])).status_code == 500
    async with running(tmp_path) as http:
        assert (await http.get("/entries")).json() == []
