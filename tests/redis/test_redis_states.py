"""Reactions of nodes to the states of a Redis server, and to mistakes in its configuration."""

import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import rooms
from brokers import Node, linked
from coredis.exceptions import ConnectionError as NotConnected
from coredis.parser import Parser
from harness import errors
from ports import free_port
from redis_server import Proxy, RedisServer, find_binary, running
from timeouts import TIMEOUT

from websuckets import Limits, WebSuckets
from websuckets.exc import ConfigurationError, Unavailable
from websuckets.redis import RedisProvider, announcements
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection, asked_each
from websuckets.redis.errors import Meaning, Refusals, cause_of, meaning_of, text_of
from websuckets.redis.store import RedisSessionStore
from websuckets.store import Record, key_of
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

LONG_TIMEOUT = 3 * TIMEOUT
"""Seconds for an operation that takes several heartbeats on a busy machine."""

HEARTBEAT = 0.2

ANN = key_of("ann's")


def broker_at(url: str, prefix: str = "test") -> RedisBroker:
    return RedisBroker(RedisConnection(url, HEARTBEAT), prefix)


def app_at(url: str, **options: Any) -> WebSuckets:
    provider = RedisProvider(url, resume=True, heartbeat=HEARTBEAT, **options)
    return rooms.app(providers=[provider], limits=Limits(revocation_lag=None))


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds."""
    with anyio.fail_after(LONG_TIMEOUT):
        while not condition():
            await anyio.sleep(0.01)


async def members(node: Node, expected: set[str | int]) -> None:
    """Wait until these are the members of the group ``a`` on other nodes."""
    with anyio.fail_after(LONG_TIMEOUT):
        while await node.link.members("a") != expected:
            await anyio.sleep(0.01)


@contextmanager
def servers(*options: tuple[str, ...]) -> Iterator[list[RedisServer]]:
    """Start one server for each of these options."""
    binary = find_binary()
    if binary is None:
        pytest.skip("no redis-server is installed")
    with ExitStack() as stack:
        yield [stack.enter_context(running(binary, *given)) for given in options]


def error_of(answer: str) -> Exception:
    """Return the error that the client makes of an answer."""
    parser = Parser()
    parser.feed(f"-{answer}\r\n".encode())
    response: Any = parser.parse()
    error: Exception = response[1]
    return error


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ("READONLY You can't write against a read only replica.", Meaning.ELSEWHERE),
        ("LOADING Redis is loading the dataset in memory", Meaning.ELSEWHERE),
        ("MASTERDOWN Link with MASTER is down", Meaning.ELSEWHERE),
        ("CLUSTERDOWN The cluster is down", Meaning.ELSEWHERE),
        ("MOVED 3999 127.0.0.1:6381", Meaning.ELSEWHERE),
        ("OOM command not allowed when used memory > 'maxmemory'.", Meaning.NOT_NOW),
        ("NOREPLICAS Not enough good replicas to write.", Meaning.NOT_NOW),
        ("MISCONF Redis is configured to save RDB snapshots", Meaning.NOT_NOW),
        ("BUSY Redis is busy running a script.", Meaning.NOT_NOW),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Meaning.NOT_NOW),
        ("ASK 3999 127.0.0.1:6381", Meaning.NOT_NOW),
        ("NOAUTH Authentication required.", Meaning.MISCONFIGURED),
        ("WRONGPASS invalid username-password pair", Meaning.MISCONFIGURED),
        ("NOPERM this user has no permissions to run the 'eval' command", Meaning.MISCONFIGURED),
        ("NOPROTO unsupported protocol version", Meaning.MISCONFIGURED),
        ("CROSSSLOT Keys in request don't hash to the same slot", Meaning.MISCONFIGURED),
        ("ERR unknown command 'EVAL', with args beginning with: 'canary'", Meaning.MISCONFIGURED),
        ("ERR DB index is out of range", Meaning.MISCONFIGURED),
        ("ERR The user executing the script can't run this command", Meaning.MISCONFIGURED),
        (
            "ERR Error running script (call to f_1): @user_script:9: -OOM command not allowed",
            Meaning.NOT_NOW,
        ),
        ("ERR max number of clients reached", Meaning.LOST),
        ("ERR user_script:2: Script attempted to access", Meaning.UNEXPECTED),
        ("WRONGTYPE Operation against a key holding the wrong kind", Meaning.UNEXPECTED),
    ],
)
def test_an_error_of_redis_has_one_meaning(answer: str, meaning: Meaning) -> None:
    """Expect the code of the error in the text, and nothing that was sent."""
    error = error_of(answer)
    assert meaning_of(error) is meaning
    code = answer.split()[0]
    assert code in ("ERR", "WRONGTYPE") or code in text_of(error)
    assert "canary" not in text_of(error)


def test_a_mistake_of_configuration_is_told_with_its_remedy() -> None:
    """An error's text has the remedy, and a lost connection's text the cause of its cause."""
    assert "RESP3" in text_of(error_of("ERR unknown command 'HELLO', with args beginning with: 3"))
    assert "RESP3" in text_of(error_of("NOPROTO unsupported protocol version"))
    assert "ACL SETUSER" in text_of(error_of("NOPERM this user has no permissions"))
    error = NotConnected("no connection")
    error.__cause__ = OSError("no certificate")
    assert cause_of(error) == "ConnectionError: no connection; OSError: no certificate"


def test_what_is_refused_again_and_again_is_logged_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each kind is logged by itself: at once after a heartbeat without it, else ever more
    seldom."""
    refusals = Refusals()
    full, few = error_of("OOM full"), error_of("NOREPLICAS few")
    for _ in range(10):
        for _ in range(5):
            refusals.found(full)
        refusals.beat()
    assert [record.getMessage() for record in errors(caplog)] == [
        f"Redis refuses: OOM full (heartbeat {number})" for number in (1, 2, 4, 8)
    ]
    refusals.found(few)
    refusals.beat()
    refusals.found(full)
    assert errors(caplog)[-2].getMessage() == "Redis refuses: NOREPLICAS few (heartbeat 1)"
    assert errors(caplog)[-1].getMessage() == "Redis refuses: OOM full (heartbeat 1)"
    assert refusals.count == 52


# A server that cannot serve any more


async def test_a_primary_that_became_a_replica_is_left(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection to a replica is closed, and the URL may lead to the new primary."""
    with servers(()) as (new,):
        async with Proxy(own_redis.port).running() as proxy:
            async with linked(broker_at(proxy.url)) as veteran:
                await veteran.link.subscribe("a")
                veteran.link.enter("a", "ann")
                own_redis.command("REPLICAOF", "127.0.0.1", str(new.port))
                proxy.redirect(new.port)
                async with linked(broker_at(new.url)) as newcomer:
                    await veteran.until(lambda: veteran.gaps == [None], LONG_TIMEOUT)
                    newcomer.link.publish("a", b"[1]")
                    await veteran.until(lambda: veteran.got == [("a", b"[1]")], LONG_TIMEOUT)
                    await members(newcomer, {"ann"})
    assert re.search("Redis is away: .*replica", caplog.text)
    assert "Redis is back" in caplog.text


async def test_a_write_that_a_replica_refuses_ends_the_connection(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets `Unavailable`, and the connection ends sooner than a heartbeat would
    notice."""
    redis = RedisBroker(RedisConnection(own_redis.url, 60), "test")
    store = RedisSessionStore(redis, 1000)
    async with linked(redis):
        own_redis.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(Unavailable):
            await store.save(ANN, Record("ann"))
        await until(lambda: redis.redis._connection is None)
    assert "READONLY" in caplog.text
    assert "Redis refuses" not in caplog.text


async def test_an_app_at_a_replica_starts_and_waits_for_the_primary(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Wait as for a Redis that is away, because a replica may become the primary."""
    own_redis.command("REPLICAOF", "127.0.0.1", "1")
    async with TestClient(app_at(own_redis.url)) as client:
        await client.call("enter", "ann")
        with pytest.raises(CommandError, match="unavailable"):
            await client.call("keep", {})
        own_redis.command("REPLICAOF", "NO", "ONE")
        await until(lambda: "Redis is back" in caplog.text)
        await client.call("enter", "ann")
        await client.call("keep", {})
    assert "it is a replica, which cannot write" in caplog.text


# A server that cannot do something now

Fault = tuple[list[str], list[str]]

FULL: Fault = (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"])
NO_REPLICAS: Fault = (
    ["CONFIG", "SET", "min-replicas-to-write", "1"],
    ["CONFIG", "SET", "min-replicas-to-write", "0"],
)
NO_RIGHT: Fault = (
    ["ACL", "SETUSER", "default", "-sadd", "-srem"],
    ["ACL", "SETUSER", "default", "+@all"],
)
NO_SCRIPTS: Fault = (["ACL", "SETUSER", "default", "-eval"], ["ACL", "SETUSER", "default", "+@all"])
NO_ECHO: Fault = (["ACL", "SETUSER", "default", "-echo"], ["ACL", "SETUSER", "default", "+@all"])


@pytest.mark.parametrize(
    "fault", [FULL, NO_REPLICAS, NO_RIGHT], ids=["out of memory", "too few replicas", "no right"]
)
async def test_refused_changes_of_presence_are_made_when_they_can_be(
    own_redis: RedisServer, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused changes are made with a heartbeat after Redis accepts them, on the same
    connection."""
    one_broker = broker_at(own_redis.url)
    async with linked(one_broker) as one, linked(broker_at(own_redis.url)) as two:
        for name in ("old", "leaver"):
            one.link.enter("a", name)
        await members(two, {"old", "leaver"})
        own_redis.command(*fault[0])
        one.link.enter("a", "new")
        one.link.leave("a", "leaver")
        await until(lambda: one_broker.redis.refusals.count)
        own_redis.command(*fault[1])
        await members(two, {"old", "new"})
        assert one.gaps == two.gaps == []
    assert "Redis refuses" in caplog.text


async def test_what_is_published_while_memory_is_full_arrives(own_redis: RedisServer) -> None:
    """Events arrive with a refused change of presence beside them, as publishing needs no
    memory."""
    async with linked(broker_at(own_redis.url)) as one, linked(broker_at(own_redis.url)) as two:
        await two.link.subscribe("a")
        own_redis.command(*FULL[0])
        one.link.publish("a", b"[1]")
        one.link.enter("a", "ann")
        one.link.publish("a", b"[2]")
        await two.until(lambda: two.got == [("a", b"[1]"), ("a", b"[2]")], LONG_TIMEOUT)
        own_redis.command(*FULL[1])
        await members(two, {"ann"})
        assert two.gaps == []


@pytest.mark.parametrize(
    ("fault", "can_resume", "can_revoke"),
    [
        (FULL, True, True),
        (NO_REPLICAS, True, False),
        (NO_SCRIPTS, False, False),
        (NO_ECHO, False, False),
    ],
    ids=["out of memory", "too few replicas", "no right to scripts", "no right to echo"],
)
async def test_what_redis_refuses_is_unavailable_for_now(
    own_redis: RedisServer,
    fault: Fault,
    can_resume: bool,
    can_revoke: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A refusal is not an incident; a record that can be read is used, even if not prolonged."""
    async with TestClient(app_at(own_redis.url)) as ann, ann.connect() as admin:
        await ann.call("enter", "ann")
        await ann.call("keep", {"role": "editor"})
        own_redis.command(*fault[0])

        async def does(client: TestClient, event: str, payload: Any, token: Any = None) -> bool:
            try:
                await client.call(event, payload, token)
            except CommandError as error:
                assert error.error == "unavailable"
                return False
            return True

        await admin.call("enter", "bob")
        assert not await does(admin, "keep", {})
        async with ann.connect() as again:
            assert await does(again, "who am i", None, "secret of ann") is can_resume
        assert await does(admin, "revoke", "nobody") is can_revoke
        assert await does(ann, "who am i", None, "secret of ann")
        own_redis.command(*fault[1])
        async with ann.connect() as again:
            with anyio.fail_after(LONG_TIMEOUT):
                while not await does(again, "who am i", None, "secret of ann"):
                    await anyio.sleep(0.01)
            await again.call("keep", {"role": "reader"})
    assert "incident" not in caplog.text
    assert "secret" not in caplog.text
    assert key_of("secret of ann") not in caplog.text


async def test_a_script_that_keeps_redis_busy_is_waited_for(own_redis: RedisServer) -> None:
    """Callers get `Unavailable`; the connection stays."""
    own_redis.command("CONFIG", "SET", "lua-time-limit", "1")
    redis = RedisBroker(RedisConnection(own_redis.url, 5), "test")
    store = RedisSessionStore(redis, 1000)
    async with linked(redis) as node, anyio.create_task_group() as tasks:
        loop = ("EVAL", "while true do end", "0")
        tasks.start_soon(anyio.to_thread.run_sync, own_redis.command, *loop)
        await until(lambda: b"BUSY" in own_redis.command("GET", "a"))
        with pytest.raises(Unavailable):
            await store.load(ANN)
        own_redis.command("SCRIPT", "KILL")
        await until(lambda: b"BUSY" not in own_redis.command("GET", "a"))
        assert await store.load(ANN) is None
    assert node.gaps == []


async def test_a_mistake_of_ours_is_an_error_that_quotes_nothing(
    shared_redis: RedisServer,
) -> None:
    """An error in a command is not taken for an outage."""
    redis = broker_at(shared_redis.url, secrets.token_hex(8))
    async with linked(redis):
        with pytest.raises(Exception, match="wrong number of arguments"):
            await redis.redis.ask(b"GET")
        shared_redis.command("SET", f"{redis.root}:text", "canary")
        with pytest.raises(Unavailable):
            await redis.redis.ask_each([(b"UNKNOWN", "canary")])
    assert redis.redis.refusals.count == 1


async def test_after_a_refused_subscription_nobody_gets_an_answer_of_others(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is lost, as the client takes the refusal for the answer to the next
    command."""
    redis = RedisBroker(RedisConnection(own_redis.url, 60), "test")
    async with linked(redis) as node:
        own_redis.command("SET", "{0/test}:a", "of a")
        refuse = ("ACL", "SETUSER", "default", "resetchannels", "&{0/test}:topic:nodes")
        own_redis.command(*refuse)
        async with anyio.create_task_group() as tasks:
            own_redis.pause()  # so that both come before any answer
            tasks.start_soon(node.link.subscribe, "refused")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(ask, redis)
            await anyio.wait_all_tasks_blocked()
            own_redis.go_on()
            await until(lambda: "it refuses subscriptions: NOPERM" in caplog.text)


async def ask(redis: RedisBroker) -> None:
    with pytest.raises(Unavailable):
        await redis.redis.ask_all([(b"GET", "{0/test}:a"), (b"GET", "{0/test}:b")])


async def test_a_refused_subscription_is_logged(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection stays if nothing else was asked at the same time."""
    async with linked(RedisBroker(RedisConnection(own_redis.url, 5), "test")) as node:
        own_redis.command("ACL", "SETUSER", "default", "resetchannels", "&{0/test}:topic:nodes")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.link.subscribe, "refused")
            await until(lambda: "Redis refuses: NOPERM" in caplog.text)
            node.link.unsubscribe("refused")
            tasks.cancel_scope.cancel()
    assert node.gaps == []


class Unrelated:
    """A connection whose answers are to something else."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def create_request(self, *command: Any) -> Any:
        return self.answers.pop(0)


async def test_a_connection_that_is_being_closed_is_lost() -> None:
    """Raise the error of anyio that the client lets through."""

    class Closing:
        def create_request(self, *command: Any) -> Any:
            raise anyio.ClosedResourceError

    connection: Any = Closing()
    with pytest.raises(NotConnected, match="closed"):
        await asked_each(connection, [(b"GET", "a")])


async def test_a_server_that_never_answers_is_away(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The app starts without Redis, and the log says so."""
    async with Proxy(own_redis.port).running() as proxy:
        proxy.swallow()
        async with TestClient(app_at(proxy.url)) as client:
            await client.call("join", "a")
        proxy.let_through()
    texts = "(TimeoutError: no connection within 2.0 seconds|ConnectionError: Unable to establish)"
    assert re.search(f"Redis is away: {texts}", caplog.text)  # coredis has its own on trio


async def test_answers_to_something_else_are_noticed() -> None:
    """Wrong answers are noticed by requests and by the heartbeat, even without an error of
    Redis."""
    connection: Any = Unrelated(b"OK", b"OK")
    with pytest.raises(NotConnected, match="to something else"):
        await asked_each(connection, [(b"GET", "a")])
    line = RedisConnection("redis://localhost", 0.001)

    class Heartbeat(Unrelated):
        def create_request(self, *command: Any) -> Any:
            return Answered(self.answers.pop(0))

    connection = Heartbeat(b"OK")
    user: Any = None
    with pytest.raises(NotConnected, match="to something else"):
        await line._watch(connection, user)


class Answered:
    complete = True

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __await__(self) -> Any:
        yield from anyio.lowlevel.checkpoint().__await__()
        return self._answer


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
        await node.until(lambda: node.gaps == [None], LONG_TIMEOUT)
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


@contextmanager
def cluster() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Start two servers, each of which has one half of the slots."""
    options = [("--cluster-enabled", "yes", "--cluster-port", str(free_port())) for _ in range(2)]
    with servers(*options) as (one, two):
        one.command("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        two.command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        bus = two.command("CONFIG", "GET", "cluster-port").split()[-1]
        one.command("CLUSTER", "MEET", "127.0.0.1", str(two.port), bus)
        for server in (one, two):
            for _ in range(600):
                if b"cluster_state:ok" in server.command("CLUSTER", "INFO"):
                    break
                time.sleep(0.05)  # no server reports when the cluster is ready
        yield one, two


def server_of(redis: RedisBroker, one: RedisServer, two: RedisServer) -> RedisServer:
    """Return the server that has the keys of this app."""
    return two if b"MOVED" in one.command("GET", redis.root) else one


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
            await node.until(lambda: node.gaps == [None], LONG_TIMEOUT)
            with anyio.fail_after(LONG_TIMEOUT):
                assert await store.save(ANN, Record("ann"))  # only its slot has moved


def move_slot(key: str, source: RedisServer, target: RedisServer) -> None:
    slot = source.command("CLUSTER", "KEYSLOT", key).decode().strip(":\r\n")
    for name in source.command("CLUSTER", "GETKEYSINSLOT", slot, "1000").split(b"\r\n")[2::2]:
        source.command("DEL", name)
    node = target.command("CLUSTER", "MYID").split()[-1]
    for server in (target, source):
        server.command("CLUSTER", "SETSLOT", slot, "NODE", node)


async def test_a_cluster_has_one_database() -> None:
    """A URL with another database than 0 is refused."""
    with cluster() as (one, _):
        with pytest.raises(ConfigurationError, match="SELECT is not allowed in cluster mode"):
            async with TestClient(app_at(f"{one.url}/1")):
                raise AssertionError("it started")


# Announcements


@pytest.fixture
async def cut_off(own_redis: RedisServer) -> AsyncIterator[tuple[Node, Node, Proxy]]:
    """Yield a node, another one, and the proxy between the second node and Redis."""
    async with Proxy(own_redis.port).running() as proxy:
        async with linked(broker_at(own_redis.url)) as one, linked(broker_at(proxy.url)) as two:
            yield one, two, proxy


async def test_announcements_of_the_time_without_a_link_are_replayed(
    cut_off: tuple[Node, Node, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missed announcements are replayed in order, each once, page by page, without a loss."""
    monkeypatch.setattr(announcements, "AT_ONCE", 3)
    one, two, proxy = cut_off
    await one.link.announce(b"before")
    await two.until(lambda: bool(two.announcements))
    losses = two.losses
    proxy.swallow()
    expected = [b"%d" % number for number in range(7)]
    for announcement in expected:
        await one.link.announce(announcement)
    with pytest.raises(Unavailable):
        await two.link.announce(b"cannot be kept")
    proxy.let_through()
    await two.until(lambda: len(two.announcements) == 8, LONG_TIMEOUT)
    assert two.announcements == [b"before", *expected]
    assert two.losses == losses


async def test_a_hint_that_is_lost_delays_an_announcement_by_a_heartbeat(
    own_redis: RedisServer,
) -> None:
    """Run where Redis does not let nodes publish."""
    async with linked(broker_at(own_redis.url)) as one, linked(broker_at(own_redis.url)) as two:
        own_redis.command("ACL", "SETUSER", "default", "-publish")
        await one.link.announce(b"a")
        await two.until(lambda: two.announcements == [b"a"], LONG_TIMEOUT)


async def test_more_announcements_than_are_kept_are_told_as_lost(
    cut_off: tuple[Node, Node, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was away for too long reports the loss."""
    monkeypatch.setattr(announcements, "MOST", 3)
    one, two, proxy = cut_off
    losses = two.losses
    proxy.swallow()
    for number in range(5):
        await one.link.announce(b"%d" % number)
    with pytest.raises(Unavailable):
        await two.link.announce(b"noticed")
    proxy.let_through()
    await two.until(lambda: two.losses == losses + 1, LONG_TIMEOUT)
    await one.link.announce(b"next")
    await two.until(lambda: two.announcements == [b"next"])


def emptied(server: RedisServer) -> None:
    server.kill()
    server.start()


def without_the_last(server: RedisServer) -> None:
    """Remove the last announcement, like a replica that took over too early."""
    server.command("HSET", "{0/test}:announced", "count", "1")
    server.command("LTRIM", "{0/test}:announcements", "0", "0")


def with_another_last(server: RedisServer) -> None:
    """Replace the last announcement, like a replica that went on afterwards."""
    server.command("LSET", "{0/test}:announcements", "1", "another")


def without_its_list(server: RedisServer) -> None:
    server.command("SET", "{0/test}:announcements", "none")


def without_its_count(server: RedisServer) -> None:
    server.command("SET", "{0/test}:announced", "none")


@pytest.mark.parametrize(
    "loss", [emptied, without_the_last, with_another_last, without_its_list, without_its_count]
)
async def test_lost_announcements_are_noticed(
    own_redis: RedisServer, loss: Callable[[RedisServer], None]
) -> None:
    """Test each kind of loss; expect later announcements to arrive."""
    async with linked(broker_at(own_redis.url)) as one, linked(broker_at(own_redis.url)) as two:
        for number in range(2):
            await one.link.announce(b"%d" % number)
        await two.until(lambda: len(two.announcements) == 2)
        losses = two.losses
        loss(own_redis)
        await two.until(lambda: two.losses == losses + 1, LONG_TIMEOUT)
        with anyio.fail_after(LONG_TIMEOUT):
            while b"next" not in two.announcements:
                try:
                    await one.link.announce(b"next")
                except Unavailable:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.01)


async def test_malformed_announcements_are_ignored_and_counted(own_redis: RedisServer) -> None:
    """Expect the announcements that follow to arrive."""
    app = app_at(own_redis.url, prefix="test")
    async with TestClient(app) as ann, TestClient(app_at(own_redis.url, prefix="test")) as admin:
        await ann.call("enter", "ann")
        for announcement in ("nonsense", "a b\nrevoked\n[]"):
            own_redis.command("RPUSH", "{0/test}:announcements", announcement)
            own_redis.command("HINCRBY", "{0/test}:announced", "count", "1")
        await admin.call("revoke", "ann")
        await ann.wait_closed()
        assert ann.close_code == 4401
        node: Any = app._channels._node
        assert node.link._malformed.count == 2


@pytest.mark.parametrize("resume", [True, False])
async def test_a_revocation_reaches_a_node_that_was_cut_off(
    own_redis: RedisServer, resume: bool
) -> None:
    """The connection is closed with and without a session store."""

    def app(url: str) -> WebSuckets:
        provider = RedisProvider(url, resume=resume, heartbeat=HEARTBEAT)
        return rooms.app(providers=[provider], limits=Limits(revocation_lag=None))

    async with Proxy(own_redis.port).running() as proxy:
        async with TestClient(app(own_redis.url)) as admin, TestClient(app(proxy.url)) as ann:
            await ann.call("enter", "ann")
            proxy.swallow()
            await admin.call("revoke", "ann")
            assert ann.close_code is None
            proxy.let_through()
            with anyio.fail_after(LONG_TIMEOUT):
                await ann.wait_closed()
            assert (ann.close_code, ann.close_reason) == (4401, "revoked")


async def test_revoking_while_redis_is_away_is_unavailable_without_a_store(
    own_redis: RedisServer,
) -> None:
    """Expect a user of this node to be revoked in any case."""
    provider = RedisProvider(own_redis.url, heartbeat=HEARTBEAT)
    async with TestClient(rooms.app(providers=[provider])) as admin, admin.connect() as ann:
        await ann.call("enter", "ann")
        own_redis.kill()
        with pytest.raises(CommandError, match="unavailable"):
            await admin.call("revoke", "ann")
        await ann.wait_closed()
        assert ann.close_code == 4401
        own_redis.start()


async def test_forgetting_while_redis_is_away_is_unavailable(own_redis: RedisServer) -> None:
    """The token is refused on this node in any case."""
    async with TestClient(app_at(own_redis.url)) as ann, ann.connect() as beside:
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        await beside.call("who am i", token="secret of ann")
        own_redis.kill()
        with pytest.raises(CommandError, match="unavailable"):
            await ann.call("forget")
        with pytest.raises(CommandError, match="unavailable"):
            await beside.call("who am i", token="secret of ann")
        own_redis.start()
