"""Wrong URLs and options are refused; apps in two databases are apart; clusters are followed."""

import re
from enum import Enum
from typing import Any

import anyio
import pytest
from brokers import linked
from harness import errors
from redis_nodes import ANN, LONG_TIMEOUT, app_at, broker_at, cluster, servers, until
from redis_server import RedisServer

from websuckets.exc import ConfigurationError
from websuckets.redis import RedisProvider
from websuckets.redis.broker import RedisBroker
from websuckets.redis.store import RedisSessionStore
from websuckets.store import Record
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


# Mistakes of configuration


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://:wrong@{host}", "password"),
        ("redis://{host}", "password"),
        ("redis://:right@{host}/99", "DB index"),
    ],
    ids=["wrong password", "no password", "no such database"],
)
async def test_an_app_does_not_start_where_redis_says_that_the_url_is_wrong(
    own_redis: RedisServer, url: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says what to change, and quotes no password."""
    own_redis.command("CONFIG", "SET", "requirepass", "right")
    url = url.format(host=f"127.0.0.1:{own_redis.port}")
    with pytest.raises(ConfigurationError, match=word) as caught:
        async with TestClient(app_at(url)):
            raise AssertionError("it started")
    assert "RedisProvider(url)" in str(caught.value)
    assert not re.search(r":(wrong|right)@|'(wrong|right)'", str(caught.value) + caplog.text)


async def test_an_app_does_not_start_at_a_server_without_resp3() -> None:
    """Connect to a Redis without HELLO, as before 6.0."""
    with servers(("--rename-command", "HELLO", "")) as (server,):
        with pytest.raises(ConfigurationError, match="RESP3"):
            async with TestClient(app_at(server.url)):
                raise AssertionError("it started")


async def test_a_password_that_changes_later_is_told_with_the_remedy(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The remedy is logged with the loss; the node reconnects when Redis accepts the URL again."""
    own_redis.command("ACL", "SETUSER", "node", "on", ">right", "~*", "&*", "+@all")
    async with linked(broker_at(f"redis://node:right@127.0.0.1:{own_redis.port}")) as node:
        own_redis.command("ACL", "SETUSER", "node", "resetpass", ">other")
        own_redis.command("CLIENT", "KILL", "USER", "node")
        await until(lambda: "WRONGPASS" in caplog.text)
        assert "write the right user and password in the URL" in caplog.text
        own_redis.command("ACL", "SETUSER", "node", "resetpass", ">right")
        await node.until(node.has_lost_its_link, LONG_TIMEOUT)
    assert "Redis is back" in caplog.text


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://localhost/canary", "number of a database"),
        ("redis://localhost/1/2", "number of a database"),
        ("redis://localhost/-1", "number of a database"),
        ("redis://localhost?db=canary", "number of a database"),
        ("redis:///0", "no host"),
        ("redis://localhost?decode_responses=True", "decode_responses"),
        ("redis://localhost/0?noreply=1", "noreply"),
        ("redis://localhost?protocol=2", "unknown option 'protocol'"),
        ("redis://localhost?stream_timeout=1", "unknown option"),
        ("redis://localhost?ssl_cert_reqs=none", "rediss://"),
        ("rediss://localhost?ssl_ca_certs=/canary", "FileNotFoundError"),
        ("rediss://localhost?ssl_cert_reqs=canary", "KeyError"),
    ],
)
def test_a_url_that_can_never_work_is_refused(url: str, word: str) -> None:
    """A wrong URL is refused when the provider is made, and the error quotes no secret."""
    with pytest.raises(ConfigurationError, match=word) as caught:
        RedisProvider(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:p%40ss@[::1]:6380/15?client_name=node&noevict=1&notouch=1",
        "redis://localhost/?db=3",
        "rediss://localhost/1?ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_a_url_that_may_work_is_accepted(url: str) -> None:
    """Test the URL alone, without a server."""
    assert RedisProvider(url)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": 0},
        {"heartbeat": float("inf")},
        {"heartbeat": "2"},
        {"lifetime": float("nan")},
        {"lifetime": -1},
        {"records_per_user": 0},
        {"once_lifetime": 0},
        {"once_lifetime": "a day"},
        {"prefix": 7},
        {"prefix": b"shop"},
    ],
)
def test_values_that_can_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    """The error names the argument."""
    (name,) = options
    with pytest.raises(ConfigurationError, match=rf"RedisProvider\({name}="):
        RedisProvider("redis://localhost", **options)


class Prefix(str, Enum):  # noqa: UP042  # they differ in how they are formatted
    SHOP = "shop"


async def test_a_prefix_may_be_the_member_of_an_enum(shared_redis: RedisServer) -> None:
    """The app with the member is the same as the app with its value."""
    async with (
        TestClient(app_at(shared_redis.url, prefix=Prefix.SHOP)) as one,
        TestClient(app_at(shared_redis.url, prefix="shop")) as two,
    ):
        await one.call("join", "a")
        await two.call("publish", {"channel": "a", "what": 1})
        assert (await one.receive()).payload == 1


# Databases and clusters


async def test_apps_in_two_databases_know_nothing_of_each_other(own_redis: RedisServer) -> None:
    """Apps in two databases share no events, no presence and no revocations."""
    production, staging = (f"{own_redis.url}/{number}" for number in (0, 1))
    async with (
        TestClient(app_at(production)) as ann,
        TestClient(app_at(production)) as bob,
        TestClient(app_at(staging)) as eve,
    ):
        await ann.call("join", "a")
        await ann.call("enter", "ann")
        with anyio.fail_after(LONG_TIMEOUT):
            while (await bob.call("members", "a")).payload != ["ann"]:
                await anyio.sleep(0.01)
        assert (await eve.call("members", "a")).payload == []
        await eve.call("revoke", "ann")
        await eve.call("publish", {"channel": "a", "what": "of staging"})
        await bob.call("publish", {"channel": "a", "what": "of production"})
        assert (await ann.receive()).payload == "of production"
        assert (await ann.call("who am i", token="secret of ann")).payload == ["ann", None]


def server_of(redis: RedisBroker, one: RedisServer, two: RedisServer) -> RedisServer:
    """Return the server that has the keys of this app."""
    return two if b"MOVED" in one.command("GET", redis.root) else one


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["ip", "unknown-endpoint"])
async def test_an_app_works_in_a_cluster(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app may connect to any server, as all its keys are on one of them.

    A redirection may name the port of that server alone.
    """
    with cluster() as (one, two):
        for server in (one, two):
            server.command("CONFIG", "SET", "cluster-preferred-endpoint-type", endpoint)
        async with (
            TestClient(app_at(one.url)) as ann,
            TestClient(app_at(two.url)) as bob,
            bob.connect() as again,
        ):
            await ann.call("join", "a")
            await ann.call("enter", "ann")
            await ann.call("keep", {"role": "editor"})
            reply = await again.call("who am i", token="secret of ann")
            assert reply.payload == ["ann", "editor"]
            await bob.call("publish", {"channel": "a", "what": 1})
            assert (await ann.receive()).payload == 1
            with anyio.fail_after(LONG_TIMEOUT):
                while (await bob.call("members", "a")).payload != ["ann"]:
                    await anyio.sleep(0.01)
            await bob.call("revoke", "ann")
            await ann.wait_closed()
    assert errors(caplog) == []


@pytest.mark.slow
async def test_keys_that_move_to_another_server_are_followed() -> None:
    """A node reconnects with a gap, as after every lost connection."""
    with cluster() as (one, two):
        redis = broker_at(one.url)
        store = RedisSessionStore(redis, 1000)
        source = server_of(redis, one, two)
        target = one if source is two else two
        async with linked(redis) as node:
            assert await store.save(ANN, Record("ann"))
            move_slot(redis.root, source, target)
            await node.until(node.has_lost_its_link, LONG_TIMEOUT)
            with anyio.fail_after(LONG_TIMEOUT):
                assert await store.save(ANN, Record("ann"))  # only its slot has moved


def move_slot(key: str, source: RedisServer, target: RedisServer) -> None:
    slot = source.command("CLUSTER", "KEYSLOT", key).decode().strip(":\r\n")
    for name in source.command("CLUSTER", "GETKEYSINSLOT", slot, "1000").split(b"\r\n")[2::2]:
        source.command("DEL", name)
    node = target.command("CLUSTER", "MYID").split()[-1]
    for server in (target, source):
        server.command("CLUSTER", "SETSLOT", slot, "NODE", node)


@pytest.mark.slow
async def test_a_url_with_another_database_than_0_is_refused_by_a_cluster() -> None:
    """A URL with another database than 0 is refused."""
    with cluster() as (one, _):
        with pytest.raises(ConfigurationError, match="SELECT is not allowed in cluster mode"):
            async with TestClient(app_at(f"{one.url}/1")):
                raise AssertionError("it started")
