"""The orders example, on each kind of database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Client, load, talk

from websuckets import WebSuckets
from websuckets.testing import CommandError, TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio, pytest.mark.usefixtures("database")]

SOUP = {"dish": "soup", "count": 2}
RECEIPT = {"order": 1, "paid": 900, "left": 1100}
COOKED = {"id": 1, "dish": "soup", "count": 2}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Make an empty database of the test's own, for the example to use."""
    if request.param == "sqlite":
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'orders.db'}")
        yield
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            monkeypatch.setenv("DATABASE_URL", url)
            yield


@pytest.fixture
def app() -> WebSuckets:
    app: WebSuckets = load("orders").app
    return app


async def enter(client: Client, name: str = "ann") -> str:
    """Return the token of a customer."""
    token: str = (await client.call("enter", payload=name))["payload"]
    return token


async def orders_of(client: Client, token: str) -> Any:
    """Return the orders of the kitchen, which the client watches from now on."""
    return (await client.call("kitchen watch", token=token))["payload"]


async def test_an_order_that_is_sent_three_times_is_paid_once(
    app: WebSuckets, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect one row, equal replies on three connections, and one event for the kitchen."""
    async with talk(app) as cook:
        cooks = await enter(cook, "cook")
        assert await orders_of(cook, cooks) == []
        async with cook.another() as ann:
            token = await enter(ann)
        replies = []
        for _ in range(3):
            async with cook.another() as ann:
                sent = {"payload": SOUP, "token": token, "key": "k", "id": 7}
                replies.append(await ann.call("order place", **sent))
        assert replies == [{"event": "order place", "payload": RECEIPT, "id": 7}] * 3
        assert await cook.receive() == {"event": "ordered", "payload": COOKED}
        assert await orders_of(cook, cooks) == [COOKED]
    assert capsys.readouterr().out == "To ann: order 1, 900 cents, thank you!\n"


async def test_a_watcher_finds_the_row_when_the_event_comes(app: WebSuckets) -> None:
    """Expect the event after the commit, and the reply after both."""
    async with TestClient(app) as cook, cook.connect() as ann:
        cook.token = (await cook.call("enter", "cook")).payload
        ann.token = (await ann.call("enter", "ann")).payload
        assert (await cook.call("kitchen watch")).payload == []
        await ann.send("order place", SOUP, key="k")
        event = await cook.receive()
        assert (event.event, event.payload) == ("ordered", COOKED)
        assert (await cook.call("kitchen watch")).payload == [COOKED]
        assert (await ann.receive()).payload == RECEIPT
        assert (await ann.call("order place", SOUP, key="k")).payload == RECEIPT


async def test_an_order_that_is_not_paid_leaves_nothing(
    app: WebSuckets, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect its key to be free for another order."""
    async with TestClient(app) as client:
        client.token = (await client.call("enter", "ann")).payload
        for _ in range(2):
            with pytest.raises(CommandError, match="too little money"):
                await client.call("order place", {"dish": "soup", "count": 5}, key="k")
        assert (await client.call("kitchen watch")).payload == []
        reply = await client.call("order place", SOUP, key="k")
        assert reply.payload["left"] == 1100
        assert [order["dish"] for order in (await client.call("kitchen watch")).payload] == ["soup"]
    assert capsys.readouterr().out.count("thank you") == 1


async def test_an_order_is_known_after_a_restart() -> None:
    """Expect the first reply from another app, where the customer has another token."""
    for _ in range(2):
        async with talk(load("orders").app) as client:
            placed = await client.call(
                "order place", payload=SOUP, token=await enter(client), key="k"
            )
            assert placed["payload"] == RECEIPT
            assert await orders_of(client, await enter(client, "cook")) == [COOKED]


async def test_keys_are_those_of_their_customer(app: WebSuckets) -> None:
    async with talk(app) as client:
        for name in "ann", "bob":
            token = await enter(client, name)
            placed = await client.call("order place", payload=SOUP, token=token, key="k")
            assert placed["payload"]["left"] == 1100
        reused = await client.call("order place", payload={"dish": "bread"}, token=token, key="k")
        assert reused == {"error": "key reused", "details": None}
