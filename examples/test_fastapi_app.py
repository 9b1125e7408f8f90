"""How to test handlers of one's own: those of ``fastapi_app.py``, with a database of the test's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi_app import Database, make_api, make_container, sockets
from httpx2 import ASGITransport, AsyncClient

from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio  # the plugin comes with anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # which SQLAlchemy needs


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    container = make_container(Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"))
    transport = ASGITransport(make_api(container))
    async with AsyncClient(transport=transport, base_url="http://test") as http:
        yield http
    await container.close()


@pytest.fixture
async def client(http: AsyncClient) -> AsyncIterator[TestClient]:
    async with TestClient(sockets) as client:
        yield client


async def test_what_is_signed_by_websocket_is_read_by_http(
    client: TestClient, http: AsyncClient
) -> None:
    entry = {"name": "Ann", "text": "Lovely!"}
    await client.call("entry sign", entry)
    assert (await client.call("entry list")).payload == [entry]
    assert (await http.get("/entries")).json() == [entry]


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
