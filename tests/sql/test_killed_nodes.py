"""Tests of commands that take effect once on nodes that are killed at any point."""

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGCONT
from typing import Any, Final

import anyio
import pytest
from once_processes import LEASE, POINTS, Nodes, create_all, effects
from postgres import Postgres
from redis_server import RedisServer
from timeouts import TIMEOUT
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads the state of processes")

KILLS: Final = int(os.environ.get("WEBSUCKETS_KILLS", "5"))
"""Number of nodes that are killed at each point."""

TWINS: Final = 50


class Pair:
    """Two nodes with one database, of which the first is killed again and again."""

    def __init__(self, nodes: Nodes, url: str) -> None:
        self._nodes = nodes
        self.url = url
        self.second = nodes.start()
        self._first: str | None = None

    @property
    def first(self) -> str:
        """URL of the first node, which is started anew after it was killed."""
        if self._first is None:
            self._first = self._nodes.start()
        return self._first

    def first_was_killed(self) -> None:
        self._first = None


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path / 'orders.db'}"
        else:
            url = stack.enter_context(request.getfixturevalue("postgres_server").database())
        create_all(url)
        yield url


@pytest.fixture
def pair(database_url: str, tmp_path: Path) -> Iterator[Pair]:
    with Nodes(database=database_url, directory=str(tmp_path)) as nodes:
        yield Pair(nodes, database_url)


async def call(connection: ClientConnection, event: str, payload: Any, **fields: Any) -> Any:
    await connection.send(json.dumps({"event": event, "payload": payload, "id": 1, **fields}))
    with anyio.fail_after(TIMEOUT):
        return json.loads(await connection.recv())


async def pay(url: str, order: str, key: str) -> Any:
    async with connect(url) as connection:
        return await call(connection, "pay", order, key=key)


async def pay_and_be_killed(url: str, point: str, order: str, key: str) -> None:
    async with connect(url) as connection:
        assert (await call(connection, "arm", point))["payload"] > 0
        with pytest.raises(ConnectionClosed):
            await call(connection, "pay", order, key=key)


@pytest.mark.parametrize("point", POINTS)
async def test_a_command_takes_effect_once_whenever_its_node_is_killed(
    pair: Pair, point: str
) -> None:
    """Expect one effect and the undisturbed reply, from the node that was restarted or another."""
    for number in range(KILLS):
        order, key = f"order {number}", secrets.token_hex(16)
        await pay_and_be_killed(pair.first, point, order, key)
        pair.first_was_killed()
        nodes = [pair.first, pair.second] if number % 2 else [pair.second, pair.first]
        replies = [await pay(url, order, key) for url in nodes]
        undisturbed = await pay(pair.second, f"undisturbed {number}", secrets.token_hex(16))
        expected = {**undisturbed, "payload": {**undisturbed["payload"], "order": order}}
        assert replies == [expected, expected]
    paid = effects(pair.url)
    assert len(paid) == 2 * KILLS
    assert set(paid.values()) == {1}


async def test_a_first_node_that_stops_for_long_does_not_take_effect_twice(pair: Pair) -> None:
    """Expect nothing of the node that was killed with its transaction open."""
    order, key = "an order", secrets.token_hex(16)
    await pay_and_be_killed(pair.first, "in the handler", order, key)
    assert effects(pair.url) == {}
    reply = await pay(pair.second, order, key)
    assert reply["payload"]["times"] == 1
    assert effects(pair.url) == {order: 1}


@pytest.mark.parametrize("order", ["twins", "refused first, and then paid"])
async def test_twins_over_two_nodes_take_effect_once(pair: Pair, order: str) -> None:
    """Expect equal replies with a pool of five connections; one that fails first is rolled back."""
    for number in range(3):
        await send_twins(pair, f"{order} {number}")


async def send_twins(pair: Pair, order: str) -> None:
    key = secrets.token_hex(16)
    all_connected = anyio.Event()
    connections: list[ClientConnection] = []
    replies: list[Any] = []

    async def send(url: str) -> None:
        async with connect(url) as connection:
            connections.append(connection)
            if len(connections) == TWINS:
                all_connected.set()
            await all_connected.wait()
            replies.append(await call(connection, "pay", order, key=key))

    async with anyio.create_task_group() as tasks:
        for number in range(TWINS):
            tasks.start_soon(send, (pair.first, pair.second)[number % 2])
    refused = [reply["error"] for reply in replies if "error" in reply]
    paid = [reply for reply in replies if "error" not in reply]
    assert refused == (["refused"] if order.startswith("refused") else [])
    assert len(paid) == TWINS - len(refused)
    assert all(reply == paid[0] for reply in paid)
    assert paid[0]["payload"]["times"] == 1
    assert effects(pair.url)[order] == 1


@on_linux
async def test_a_node_that_is_stopped_keeps_its_claim_in_a_database(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    """Expect a resend to be in progress meanwhile, and one effect when the node goes on."""
    with (
        postgres_server.database() as url,
        Nodes(database=url, directory=str(tmp_path)) as nodes,
    ):
        create_all(url)
        first, second = nodes.start(), nodes.start()
        key = secrets.token_hex(16)
        async with stopped_in_the_handler(first, key) as connection:
            reply = await pay(second, "an order", key)
            assert (reply["error"], reply["details"]) == ("in progress", {"retry_after": 1.0})
        with anyio.fail_after(TIMEOUT):
            reply = json.loads(await connection.recv())
        assert reply["payload"]["times"] == 1
        assert await pay(second, "an order", key) == reply
        assert effects(url) == {"an order": 1}
        await connection.close()


@on_linux
async def test_with_redis_a_node_that_is_stopped_for_longer_than_its_lease_rolls_back(
    own_redis: RedisServer, postgres_server: Postgres, tmp_path: Path
) -> None:
    """Expect the effect of the other node alone, and no success of the one that was stopped."""
    options = {"redis": own_redis.url, "prefix": secrets.token_hex(8)}
    with (
        postgres_server.database() as url,
        Nodes(database=url, directory=str(tmp_path), **options) as nodes,
    ):
        create_all(url)
        first, second = nodes.start(), nodes.start()
        key = secrets.token_hex(16)
        async with stopped_in_the_handler(first, key) as connection:
            paid = await pay(second, "an order", key)
        with anyio.fail_after(TIMEOUT):
            reply = json.loads(await connection.recv())
        assert reply["error"] in ("unavailable", "timeout")
        assert await pay(first, "an order", key) == paid
        assert effects(url) == {"an order": 1}
        await connection.close()


@asynccontextmanager
async def stopped_in_the_handler(url: str, key: str) -> AsyncIterator[ClientConnection]:
    """Yield the connection of a command whose node is stopped until the context ends."""
    connection = await connect(url, ping_interval=None)
    pid = (await call(connection, "arm", "stop in the handler"))["payload"]
    command = {"event": "pay", "payload": "an order", "id": 1, "key": key}
    await connection.send(json.dumps(command))
    try:
        with anyio.fail_after(TIMEOUT):
            while "T" not in state_of(pid):
                await anyio.sleep(0.01)
        yield connection
    finally:
        os.kill(pid, SIGCONT)


def state_of(pid: int) -> str:
    """Return the state of a process, as Linux shows it: ``T`` if it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("point", POINTS)
async def test_with_redis_a_command_runs_again_only_between_commit_and_reply(
    own_redis: RedisServer, tmp_path: Path, point: str
) -> None:
    """Expect two effects where the documentation says so, and one at all other points."""
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    create_all(url)
    options = {"redis": own_redis.url, "prefix": secrets.token_hex(8)}
    with Nodes(database=url, directory=str(tmp_path), **options) as nodes:
        pair = Pair(nodes, url)
        order, key = "an order", secrets.token_hex(16)
        await pay_and_be_killed(pair.first, point, order, key)
        pair.first_was_killed()
        reply = await pay(pair.second, order, key)  # after the lease of the node that was killed
        assert reply == await pay(pair.first, order, key)
    twice = point == "after the commit"
    assert effects(url) == {order: 2 if twice else 1}
    assert LEASE < TIMEOUT
