"""Each error of a Redis server has one meaning, and nodes react to errors by their meaning."""

import re
import secrets
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from brokers import Node, linked
from coredis.exceptions import ConnectionError as NotConnected
from coredis.parser import Parser
from harness import errors
from redis_nodes import ANN, LONG_TIMEOUT, app_at, broker_at, servers, until
from redis_server import Proxy, RedisServer

from websuckets.exc import Unavailable
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection, asked_each
from websuckets.redis.errors import Meaning, Refusals, cause_of, meaning_of, text_of
from websuckets.redis.store import RedisSessionStore
from websuckets.store import Record, key_of
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


async def members(node: Node, expected: set[str | int]) -> None:
    """Wait until these are the members of the group ``a`` on other nodes."""
    with anyio.fail_after(LONG_TIMEOUT):
        while await node.link.members("a") != expected:
            await anyio.sleep(0.01)


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
                    await veteran.until(veteran.has_lost_its_link, LONG_TIMEOUT)
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


@pytest.mark.slow
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
