"""Commands that take effect once while Redis is away, or refuses, at each of their steps."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from harness import Gate
from redis_claims import KEY, OWNER, PRINT, REPLY, Node, node_at, warnings
from redis_nodes import LONG_TIMEOUT, until
from redis_server import Proxy, RedisServer
from timeouts import TIMEOUT

from websuckets.exc import Unavailable
from websuckets.idempotency import StoredReply
from websuckets.redis import idempotency
from websuckets.redis.idempotency import RedisIdempotencyStore

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def neither_owner_nor_key_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "canary" not in caplog.text


@pytest.fixture
async def node(own_redis: RedisServer) -> AsyncIterator[Node]:
    async with node_at(own_redis.url) as node:
        yield node


async def away(node: Node, redis: RedisServer) -> None:
    """Kill the server, and wait until the node knows."""
    redis.kill()
    await until(lambda: node.broker.redis._connection is None)


async def back(node: Node, redis: RedisServer) -> None:
    """Start the server, which has lost all data, and wait until the node knows."""
    redis.start()
    await until(lambda: node.broker.redis._connection is not None)


def is_idle(node: Node) -> bool:
    claims = node.claims
    return not (claims._held or claims._turns or claims._unstored)


async def test_a_claim_is_refused_while_redis_is_away(node: Node, own_redis: RedisServer) -> None:
    """Expect nothing to be left of it on the node."""
    await away(node, own_redis)
    store = node.store()
    with pytest.raises(Unavailable):
        await store.claim(OWNER, KEY, PRINT)
    await store.settle(False)
    assert is_idle(node)
    await back(node, own_redis)
    assert await node.found() is None


async def test_a_message_that_waits_for_a_claim_is_refused_when_redis_goes_away(
    node: Node, own_redis: RedisServer
) -> None:
    """Test a message whose twin is on another node, and a message behind it on its own node."""
    own_redis.command("SET", node.name(), b"c" + b"0" * 16, "PX", "60000")
    refused = []

    async def wait() -> None:
        store = node.store()
        with pytest.raises(Unavailable):
            await store.claim(OWNER, KEY, PRINT)
        await store.settle(False)
        refused.append(store)

    with anyio.fail_after(LONG_TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(wait)
            await until(lambda: node.claims._turns)
            own_redis.kill()
    assert len(refused) == 2
    assert is_idle(node)


async def test_a_command_is_rolled_back_where_redis_goes_away_before_the_commit(
    node: Node, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = await node.claimed()
    await away(node, own_redis)
    with pytest.raises(Unavailable):
        await store.complete(REPLY)
    await store.settle(False)
    assert is_idle(node)
    assert warnings(caplog) == []


async def test_a_command_is_rolled_back_where_redis_has_lost_its_data(
    node: Node, own_redis: RedisServer
) -> None:
    store = await node.claimed()
    await away(node, own_redis)
    await back(node, own_redis)
    with pytest.raises(Unavailable):
        await store.complete(REPLY)
    await store.settle(False)
    assert await node.found() is None


async def test_a_lease_is_renewed_soon_after_redis_is_back(
    node: Node, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect more than one attempt, though the next renewal is far away."""
    monkeypatch.setattr(idempotency, "RETRY", 0.05)
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    store = await node.claimed()
    claim = store._claim
    assert claim is not None
    await away(node, own_redis)
    attempts, ask_all = [], node.broker.redis.ask_all

    async def counted(commands: object) -> object:
        attempts.append(commands)
        if len(attempts) == 1:
            monkeypatch.setattr(idempotency, "RENEWAL", 1000.0)
        return await ask_all(commands)

    monkeypatch.setattr(node.broker.redis, "ask_all", counted)
    await until(lambda: len(attempts) > 2)
    own_redis.start()
    own_redis.command("SET", claim.name, claim.value, "PX", "5000")
    await until(lambda: int(own_redis.command("PTTL", claim.name)[1:]) > 5000)
    await store.complete(REPLY)
    await store.settle(True)
    assert await node.found() == REPLY


async def test_a_command_that_fails_while_redis_is_away_leaves_nothing_on_the_node(
    node: Node, own_redis: RedisServer
) -> None:
    for complete in (False, True):
        store = await node.claimed()
        if complete:
            await store.complete(REPLY)
        await away(node, own_redis)
        await store.settle(False)
        assert is_idle(node)
        await back(node, own_redis)


async def test_an_effect_that_was_committed_while_redis_is_away_is_known_to_its_node(
    node: Node,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the reply on this node at once, and on other nodes when Redis is back."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    store = await node.completed()
    await away(node, own_redis)
    waiting = []

    async def wait() -> None:
        waiting.append(await node.store().claim(OWNER, KEY, PRINT))

    with anyio.fail_after(LONG_TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await store.settle(True)
        assert waiting == [REPLY]
        assert await node.store().claim(OWNER, KEY, PRINT) == REPLY
    assert "Redis does not answer, so the reply" in warnings(caplog)[-1]
    await back(node, own_redis)
    await until(lambda: is_idle(node))
    async with node_at(own_redis.url) as other:
        assert await other.found() == REPLY
    assert not any("again" in text or "twice" in text for text in warnings(caplog))


async def test_a_network_that_loses_everything_delays_a_success_by_a_second(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis may get what was sent, and may get it twice."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    monkeypatch.setattr(idempotency, "TIME_TO_SETTLE", 0.1)
    proxy = Proxy(own_redis.port)
    async with proxy.running(), node_at(proxy.url) as node, node_at(own_redis.url) as other:
        store = await node.completed()
        proxy.swallow()
        with anyio.fail_after(TIMEOUT):
            await store.settle(True)
        assert await node.found() == REPLY
        proxy.let_through()
        await until(lambda: is_idle(node))
        assert await other.found() == REPLY
    (warning,) = warnings(caplog)
    assert "Redis does not answer, so the reply" in warning


async def test_a_network_that_loses_everything_does_not_keep_a_command_that_failed(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "TIME_TO_SETTLE", 0.1)
    proxy = Proxy(own_redis.port)
    async with proxy.running(), node_at(proxy.url) as node:
        store = await node.claimed()
        proxy.swallow()
        with anyio.fail_after(TIMEOUT):
            await store.settle(False)
        assert is_idle(node)
        proxy.let_through()


async def test_a_redis_without_memory_refuses_claims_and_gets_a_reply_later(
    node: Node, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    store = await node.completed()
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    other = node.store()
    with pytest.raises(Unavailable):
        await other.claim(OWNER, "another key", PRINT)
    await other.settle(False)
    await store.settle(True)
    assert await node.found() == REPLY
    own_redis.command("CONFIG", "SET", "maxmemory", "0")
    await until(lambda: is_idle(node))
    assert await node.found() == REPLY


async def test_a_node_gives_up_a_reply_after_some_time_and_says_so(
    node: Node,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A claim of the node that is not settled yet goes on."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    monkeypatch.setattr(idempotency, "TIME_TO_STORE", 0.2)
    store, running = await node.completed(), await node.claimed("another key")
    await away(node, own_redis)
    await store.settle(True)
    await until(lambda: not node.claims._unstored)
    assert "sent again, the command takes effect again" in warnings(caplog)[-1]
    assert node.claims._held == {running._claim}
    await running.settle(False)
    await back(node, own_redis)
    assert await node.found() is None


async def test_a_reply_that_comes_too_late_does_not_replace_that_of_another_node(
    node: Node,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another node has claimed the key, and stored its reply, while this one was cut off."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    store = await node.completed()
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    await store.settle(True)
    own_redis.command("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
    others = b"r" + b"0" * 16 + PRINT
    own_redis.command("SET", node.name(), others, "PX", "60000")
    await until(lambda: is_idle(node))
    assert await node.found() == StoredReply(PRINT, "")
    assert "may have taken effect twice" in warnings(caplog)[-1]


async def test_an_app_that_stops_before_redis_is_back_says_which_replies_are_lost(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_at(own_redis.url) as node:
        for key in ("a", "b"):
            store = await node.claimed(key)
            await store.complete(REPLY)
            own_redis.command("CONFIG", "SET", "maxmemory", "1")
            await store.settle(True)
            own_redis.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: node.claims._is_keeping)
    assert "the replies of 2 commands that took effect" in warnings(caplog)[-1]


async def test_a_success_stays_one_when_the_tasks_of_the_app_have_ended(
    own_redis: RedisServer,
) -> None:
    """The reply is kept for those who ask this node."""
    async with node_at(own_redis.url) as node:
        async with anyio.create_task_group() as tasks:
            store = RedisIdempotencyStore(node.claims, tasks)
            assert await store.claim(OWNER, KEY, PRINT) is None
            await store.complete(REPLY)
            tasks.cancel_scope.cancel()
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        await store.settle(True)
        assert await node.found() == REPLY


@pytest.mark.on_asyncio
@pytest.mark.parametrize("committed", [False, True])
async def test_a_cancellation_that_no_shield_keeps_out_loses_no_reply(
    node: Node, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """Nobody knows if Redis has done what it was asked for."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    store, gate, ask = await node.completed(), Gate(), node.broker.redis.ask

    async def slow_answer(*command: object) -> object:
        answer = await ask(*command)
        await gate()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(node.broker.redis, "ask", slow_answer)
        task = asyncio.create_task(store.settle(committed))
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await node.found() == (REPLY if committed else None)
    await until(lambda: is_idle(node))
    assert await node.found() == (REPLY if committed else None)


async def test_an_answer_about_a_lease_is_not_taken_for_one_about_a_reply(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is settled, in vain, while Redis is asked to renew its lease."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    monkeypatch.setattr(idempotency, "TIME_TO_SETTLE", 0)
    store, gate, ask_all = await node.completed(), Gate(), node.broker.redis.ask_all
    claim = store._claim
    asked = []

    async def slow_answer(commands: object) -> object:
        asked.append(answers := await ask_all(commands))
        await gate()
        return answers

    with monkeypatch.context() as patch, anyio.fail_after(LONG_TIMEOUT):
        patch.setattr(node.broker.redis, "ask_all", slow_answer)
        node.tasks.start_soon(node.claims._keep_some, [claim])
        await gate.reached.wait()
        patch.undo()
        await store.settle(True)
        assert node.claims._unstored != {}
        gate.opened.set()
        await anyio.wait_all_tasks_blocked()
    await until(lambda: is_idle(node))
    assert await node.found() == REPLY
